"""python -m benchmarks.supernet.against_plain [--resolution 32 64 224] [--threads 1 2]

Steps of the supernet against `benchmarks.supernet.plain`, the published one as anyone would write
it: same weights, images, paths and noise, and gradients that agree within the tolerances below
before anything is timed. What runs of ours is what a search runs: `Search.weight_step`,
`Search.arch_step`, and epochs of `TFNAS.run`, whose ratio of weight to architecture steps is 2 : 1.

Times are medians (quartiles) over rounds in which the two sides take turns; a ratio is the median
of those within a round, with its 95 % interval. Memory is the peak of a fresh process less what it
held before its first step. Images are noise: no step depends on what they show.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.supernet import steps
from benchmarks.supernet.plain import PlainSearch
from tfnas.space.search_space import SearchSpace
from tfnas.strategies.contract import Task
from tfnas.strategies.tfnas import Search

# Norm of the difference over the norm of a gradient, by precision. Batch statistics magnify the
# rounding of float32, the more the fewer pixels they are taken over; float64 shows that what
# remains is rounding.
TOLERANCE = {torch.float32: 2e-2, torch.float64: 1e-9}
TINY = 1e-6  # of the norm of all gradients: smaller ones hold nothing but rounding
STEPS = ("weight", "arch", "epoch")
SIDES = ("ours", "plain")

Named = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True)
class Case:
    space: str
    resolution: int  # pixels
    batch: int
    widths: str  # initial | scaled
    channels_last: bool = False  # the plain side too, which is a line more in its code


@dataclass(frozen=True)
class Line:
    """One step in one case, ours against the plain one; times are quartiles."""

    case: Case
    threads: int
    step: str
    ours_ms: tuple[float, float, float]
    plain_ms: tuple[float, float, float]
    speedup: steps.Ratio
    ours_mib: float | None
    plain_mib: float | None


def assert_equal_gradients(ours: Named, plain: Named, tolerance: float) -> float:
    """The largest relative difference between gradients, parameter by parameter.

    Raises:
        AssertionError: naming a parameter that differs more than `tolerance`, or that only one
            side has a gradient of.
    """
    total = torch.stack([p.grad.norm() for _, p in plain if p.grad is not None]).norm()
    worst = 0.0
    for (name, a), (other, b) in zip(ours, plain, strict=True):
        if (a.grad is None) != (b.grad is None):
            raise AssertionError(f"only one side has a gradient of {name} ({other} of the other)")
        if a.grad is None or b.grad is None:
            continue
        scale = torch.maximum(b.grad.norm(), TINY * total)
        difference = float((a.grad - b.grad).norm() / scale)
        if not difference <= tolerance:  # a nan is no agreement
            raise AssertionError(
                f"gradients of {name} differ by {difference:.3g} of their norm, {tolerance:g} is "
                "allowed"
            )
        worst = max(worst, difference)
    return worst


def vectors(search: Search | PlainSearch) -> Named:
    named = [(f"alpha {i}", v) for i, v in enumerate(search.alphas)]
    return [*named, *((f"beta {i}", v) for i, v in enumerate(search.betas))]


def check_gradients(case: Case, dtype: torch.dtype) -> float:
    """Largest relative difference after a weight step on two paths and an architecture step.

    Raises:
        AssertionError: see `assert_equal_gradients`.
    """
    space, tolerance = steps.load_space(case.space), TOLERANCE[dtype]
    with steps.precision(dtype):
        search = new_search(case, space)
        x, y = steps.one_batch(search.task)
        x, paths = x.to(dtype), search.paths(single=False)
        plain = PlainSearch(search)
        search.weight_step(x, y, paths)
        plain.weight_step(x.contiguous(), y, paths)
        pairs = list(search.net.named_parameters()), list(plain.net.named_parameters())
        worst = assert_equal_gradients(*pairs, tolerance)
        plain = PlainSearch(search)
        search.arch_step(x, y)
        plain.arch_step(x.contiguous(), y)
        return max(worst, assert_equal_gradients(vectors(search), vectors(plain), tolerance))


def new_search(case: Case, space: SearchSpace, epochs: int = 1) -> Search:
    task = steps.random_task(space, case.resolution, case.batch, epochs=epochs)
    return steps.new_search(task, case.widths)


def our_epochs(search: Search) -> Callable[[int], None]:
    """Epochs of the search itself, one a call, from where `search` stands."""
    events = steps.paper_knobs(width="fixed").run(search.task, search.state())

    def epoch(_: int) -> None:
        while getattr(next(events), "record", None) is None:
            pass

    return epoch


def plain_epochs(
    plain: PlainSearch, task: Task, form: torch.memory_format
) -> Callable[[int], None]:
    def epoch(index: int) -> None:
        for step, (x, y) in enumerate(task.train.epoch(index + 1)):
            plain.weight_step(x.contiguous(memory_format=form), y, plain.paths())
            if step % plain.knobs.arch_every == 0:
                held_out, labels = steps.one_batch(task)
                plain.arch_step(held_out.contiguous(memory_format=form), labels)

    return epoch


def arms(case: Case, step: str, repeats: int) -> list[Callable[[int], None]]:
    """The two sides of a step, as `steps.rounds` takes them."""
    search = new_search(case, steps.load_space(case.space), epochs=repeats + 1)
    plain = PlainSearch(search)
    form = torch.channels_last if case.channels_last else torch.contiguous_format
    plain.net.to(memory_format=form)  # type: ignore[call-overload]
    if step == "epoch":
        return [our_epochs(search), plain_epochs(plain, search.task, form)]
    x, y = steps.one_batch(search.task)
    theirs = x.contiguous(memory_format=form)
    if step == "arch":
        return [lambda _: search.arch_step(x, y), lambda _: plain.arch_step(theirs, y)]
    paths = [search.paths(single=False) for _ in range(repeats + 1)]
    return [
        lambda i: search.weight_step(x, y, paths[i]),
        lambda i: plain.weight_step(theirs, y, paths[i]),
    ]


def print_peak(case: Case, side: str, step: str) -> None:
    """What two steps of one side add to the peak memory of this process, in bytes."""
    our, theirs = arms(case, step, repeats=1)
    before = steps.peak_bytes()
    for index in range(2):
        (our if side == "ours" else theirs)(index)
    print(steps.peak_bytes() - before)


def peak_mib(case: Case, side: str, step: str, threads: int) -> float:
    """As `print_peak`, in a process of its own, in MiB."""
    printed = steps.in_fresh_process(
        "benchmarks.supernet.against_plain", "--space", case.space, "--resolution", case.resolution,
        "--batch", case.batch, "--widths", case.widths, "--threads", threads,
        "--steps", step, "--peak-of", side, *(["--channels-last"] if case.channels_last else []),
    )  # fmt: skip
    return int(printed) / steps.MIB


def measure(
    case: Case, threads: int, step: str, repeats: int, peaks: tuple[float | None, float | None]
) -> Line:
    torch.set_num_threads(threads)
    seconds = steps.rounds(arms(case, step, repeats), repeats)
    ours_ms, plain_ms = (steps.quartiles(1e3 * seconds[:, i]) for i in (0, 1))
    ratio = steps.Ratio.of(seconds[:, 1], seconds[:, 0])
    return Line(case, threads, step, ours_ms, plain_ms, ratio, *peaks)


HEADER = (
    f"{'px':>4} {'threads':>7} {'widths':<8} {'step':<6} {'ours ms':>26} {'plain ms':>26} "
    f"{'plain / ours':>22} {'MiB ours':>9} {'plain':>7} {'ours/plain':>10}"
)


def text(line: Line) -> str:
    def spread(ms: tuple[float, float, float]) -> str:
        return f"{ms[1]:.0f} ({ms[0]:.0f} to {ms[2]:.0f})"

    start = (
        f"{line.case.resolution:4} {line.threads:7} {line.case.widths:<8} {line.step:<6} "
        f"{spread(line.ours_ms):>26} {spread(line.plain_ms):>26} {line.speedup!s:>22}"
    )
    if line.ours_mib is None or line.plain_mib is None:
        return start
    share = line.ours_mib / line.plain_mib
    return f"{start} {line.ours_mib:9.0f} {line.plain_mib:7.0f} {share:10.2f}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--space", default="tfnas", type=steps.space_name, help="a file of conf/space/"
    )
    parser.add_argument("--resolution", type=steps.positive, nargs="+", default=[32, 64, 224])
    parser.add_argument("--threads", type=steps.positive, nargs="+", default=[1, 2])
    parser.add_argument("--widths", nargs="+", choices=steps.WIDTHS, default=list(steps.WIDTHS))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--batch", type=steps.positive, default=32)
    parser.add_argument("--repeats", type=steps.positive, default=10, help="rounds")
    parser.add_argument(
        "--channels-last", action="store_true", help="give the plain side that memory format"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--json", type=steps.new_file, help="file to write the lines to")
    parser.add_argument("--peak-of", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    if args.peak_of:
        torch.set_num_threads(args.threads[0])
        case = Case(args.space, args.resolution[0], args.batch, args.widths[0], args.channels_last)
        print_peak(case, args.peak_of, args.steps[0])
        return 0
    cases = [
        Case(args.space, resolution, args.batch, widths, args.channels_last)
        for resolution in args.resolution
        for widths in args.widths
    ]
    print(
        f"torch {torch.__version__}, space {args.space}, batch {args.batch}, rounds: {args.repeats}"
    )
    wanted = [(c, t, s) for c in cases for t in args.threads for s in args.steps]
    # Before this process grows: at 224 px both sides and a fresh process don't fit into 24 GB.
    peaks = {
        (case, threads, step): tuple(
            None if args.no_memory else peak_mib(case, side, step, threads) for side in SIDES
        )
        for case, threads, step in wanted
    }
    print("gradients: largest relative difference, float32 and float64")
    for case in cases:
        differences = [f"{check_gradients(case, dtype):.1e}" for dtype in dtypes_of(case)]
        print(f"{case.resolution:4} px, {case.widths} widths: {', '.join(differences)}", flush=True)
    print(HEADER, flush=True)
    lines = []
    for case, threads, step in wanted:
        lines.append(measure(case, threads, step, args.repeats, peaks[case, threads, step]))
        print(text(lines[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    return 0


def dtypes_of(case: Case) -> Iterable[torch.dtype]:
    """Float64 is left out where it takes minutes and many gigabytes."""
    return (torch.float32, torch.float64) if case.resolution <= 64 else (torch.float32,)


if __name__ == "__main__":
    steps.run(main)

"""python -m tests.support.same_numbers OTHER_CHECKOUT

Shows that a refactor changes no numbers: runs the same small searches, trainings and exports in
this checkout (the current folder) and in another one, and compares what they write byte for byte.
It prints a line a case, and exits with 1 on any difference.

    python -m tests.support.same_numbers --save FOLDER       # this checkout alone, once
    python -m tests.support.same_numbers --compare FOLDER    # another one against what was kept

`--only NAME` takes the cases whose name contains it, and those they need; `--jobs 2` runs two at a
time. Everything goes through the command line of a checkout, and nothing of it is imported here, so
its modules may move. Latencies come from a made-up table, so nothing is measured. What is compared
depends on the CPU and on the versions of torch and numpy too: keep both sides on one machine. ONNX
files name the versions, that of tfnas among them. Runs that were interrupted and gone on with must
end where the uninterrupted ones do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

QUANTUM = 8  # of the made-up device: searched widths are multiples of it
CLASSES = 10  # of the images
COLUMNS = (
    "kind", "size", "c_in", "c_mid", "c_se", "c_out", "kernel", "stride", "act", "median_ms",
    "spread_ms", "runs",
)  # fmt: skip
Row = tuple[str, int, int, int, int, int, int, int, str]  # an op: the columns up to `act`

# What differs between two runs that do the same: times, versions, and where files lie.
IGNORED = {"seconds", "versions", "table", "weights"}
SEARCH_FILES = (
    "subnet.json", "history.jsonl", "supernet_weights.safetensors", "model.onnx", "result.json",
)  # fmt: skip
OPTIONAL = "supernet_weights.safetensors"  # not of a narrow supernet, nor of all nets with skips
TRAIN_FILES = ("weights.safetensors", "train.json")
DONE, OUTSIDE_TOLERANCE, INTERRUPTED = 0, 1, 130  # exit statuses
CHECKPOINTS = 5  # the two that lie there and three more, before a run is interrupted
LIMIT_S = 900  # for one process, on a busy machine


@dataclass(frozen=True)
class MadeUpSpace:
    """A space of conf/space/ as far as its table needs it: 32 px, kernels 3 and 5, with and without
    squeeze-excite.

    Attributes:
        expansions: least and largest mid width and squeeze-excite channels, as multiples of the
            input channels.
        stages: output channels, blocks, stride of the first one, activation.
        head: output channels of the last convolution.
    """

    expansions: tuple[tuple[int, int, int], ...]
    stages: tuple[tuple[int, int, int, str], ...]
    head: int

    def ops(self) -> Iterator[Row]:
        """All that it can hold, some of them more than once."""
        size, c_in = 16, 16
        yield "conv", 32, 3, 0, 0, c_in, 3, 2, "relu"
        for c_out, depth, first_stride, act in self.stages:
            for stride in (first_stride, *[1] * (depth - 1)):
                for (low, high, se), kernel in product(self.expansions, (3, 5)):
                    widths = range(low * c_in, high * c_in + 1, QUANTUM)
                    for c_mid, c_se in product(widths, (0, se * c_in)):
                        yield "mbconv", size, c_in, c_mid, c_se, c_out, kernel, stride, act
                size, c_in = ceil(size / stride), c_out
        yield "conv", size, c_in, 0, 0, self.head, 1, 1, "swish"
        yield "classifier", size, self.head, 0, 0, CLASSES, 1, 1, "none"


SPACES = (
    MadeUpSpace(((2, 4, 1),), ((16, 2, 1, "relu"), (32, 2, 2, "hard_swish")), 64),  # tiny
    MadeUpSpace(
        ((2, 4, 1), (4, 8, 2)),
        ((16, 2, 2, "relu"), (24, 3, 1, "swish"), (48, 3, 2, "swish"), (80, 3, 1, "swish")),
        320,
    ),  # small
)


def made_up_ms(op: Row) -> float:
    """A latency that grows with multiply-accumulates, and not with them alone."""
    kind, size, c_in, c_mid, c_se, c_out, kernel, stride, _ = op
    pixels = ceil(size / stride) ** 2
    if kind == "classifier":
        return round(0.002 + c_in * c_out / 5e7, 9)
    if kind == "conv":
        return round(0.002 + kernel**2 * c_in * c_out * pixels / 5e7, 9)
    macs = c_in * c_mid * size**2 + (kernel**2 + c_out) * c_mid * pixels + 2 * c_mid * c_se
    return round(0.002 + macs / 5e7 + 1e-6 * c_se + 2e-5 * kernel * (size % 3), 9)


def write_table(path: Path) -> None:
    """A table of all spaces, of a device that can't be reached from here."""
    ops = dict.fromkeys(op for space in SPACES for op in space.ops())
    rows = [[*op, made_up_ms(op), None, 1] for op in ops]
    device = {
        "kind": "imported", "name": "made up", "backend": "none", "precision": "fp32", "batch": 1,
        "threads": 1, "fingerprint": "made-up", "versions": {}, "quantum": QUANTUM,
    }  # fmt: skip
    table = {
        "format": "tfnas.table/2", "unit": "ms", "device": device, "spaces": {},
        "columns": COLUMNS, "rows": rows,
    }  # fmt: skip
    path.write_text(json.dumps(table) + "\n")


@dataclass(frozen=True)
class Case:
    """One thing to run.

    Attributes:
        options: of the command line; places of files come on top.
        files: what it writes and what is compared.
        stop_at: SIGTERM is sent some steps after a line that begins so, and the run gone on with.
        like: the case of the same checkout that this one must equal as well.
        subnet_of, weights_of: cases whose subnet and trained weights this one takes.
    """

    name: str
    options: tuple[str, ...]
    module: str = "tfnas.search"
    files: tuple[str, ...] = SEARCH_FILES
    stop_at: str | None = None
    like: str | None = None
    subnet_of: str | None = None
    weights_of: str | None = None

    @property
    def needs(self) -> set[str]:
        return {n for n in (self.like, self.subnet_of, self.weights_of) if n is not None}


COMMON = ("accelerator=cpu", "data.root=shipped", "tensorboard=false")
SEARCH = (
    *COMMON, "cores=1", "budget=test", "strategy=tfnas",
    "profile=test", "verify=test", "loop_minutes=0",
    "stage_minutes=0",
)  # fmt: skip
TINY = ("space=tiny", "target_ms=0.052", "budget.max_train=260", "budget.epochs=3")
SMALL = ("space=small", "target_ms=0.13", "budget.max_train=300", "budget.epochs=2")
TRAIN = (*COMMON, "threads=1", "recipe=test", "recipe.max_train=400")
SPOS = (
    "strategy=spos", "strategy.population=6", "strategy.generations=3", "strategy.parents=3",
    "strategy.score_images=80",
)  # fmt: skip
RANDOM = ("strategy=random", "strategy.subnets=12", "strategy.score_images=80")
CANDIDATES = ("strategy.candidates=8", "strategy.score_images=80")

VARIANTS: dict[str, tuple[str, ...]] = {
    "sink": (),
    "skip_op": ("strategy.depth=skip_op",),
    "separated_skip": ("strategy.depth=separated_skip",),
    "fixed depth": ("strategy.depth=fixed", *CANDIDATES),
    "candidates": CANDIDATES,
    "greedy": ("derive=greedy",),
    "greedy skip_op": ("derive=greedy", "strategy.depth=skip_op"),
    "no second path": ("strategy.second_path=none", "strategy.latency_loss=mnasnet"),
    "gumbel second path": ("strategy.second_path=gumbel", "strategy.latency_loss=fbnet"),
    "max second path": ("strategy.second_path=max", "strategy.latency_loss=proxyless_linear"),
    "min second path": ("strategy.second_path=min", "strategy.latency_loss=proxyless_log"),
    "uniform first path": ("strategy.first_path=uniform", "strategy.latency_loss=hard_bound"),
    "2 ops sampled": ("strategy.arch_ops=2",),
    "1 op sampled": ("strategy.arch_ops=1", "budget.start_alike=false", "seed=3"),
    "constrained width": (
        "strategy.width=constrained", "strategy.arch_ops=2", "strategy.arch_ops_by=top",
    ),
    "fixed width": ("strategy.width=fixed", "budget.channel_factor=0.5"),
    "at most": (
        "derive.at_most=true", "target_ms=0.06", "on_nonfinite=skip", "budget.warmup_epochs=0",
    ),
    "spos": SPOS,
    "random": RANDOM,
}  # fmt: skip
ON_SMALL = ("sink", "separated_skip", "greedy", "2 ops sampled", "candidates", "spos", "random")
# Stopped amid the epoch after that line or, after the last of three, while subnets are scored.
STOPPED = {
    "sink": "epoch 1/", "separated_skip": "epoch 2/", "candidates": "epoch 3/",
    "spos": "epoch 3/", "random": "epoch 1/",
}  # fmt: skip


def cases() -> list[Case]:
    """In an order in which each comes after those that it needs."""
    found = [Case(f"tiny {name}", (*SEARCH, *TINY, *more)) for name, more in VARIANTS.items()]
    found += [Case(f"small {name}", (*SEARCH, *SMALL, *VARIANTS[name])) for name in ON_SMALL]
    for name, line in STOPPED.items():
        options = (*SEARCH, *TINY, *VARIANTS[name])
        resumed = Case(f"tiny {name}, resumed", options, stop_at=line, like=f"tiny {name}")
        found.append(resumed)
    train = Case(
        "train", TRAIN, module="tfnas.train", files=TRAIN_FILES, subnet_of="tiny candidates"
    )
    export = Case(
        "export", ("batch=null",), module="tfnas.export", files=("model.onnx",),
        subnet_of=train.subnet_of, weights_of="train",
    )  # fmt: skip
    resumed = replace(train, name="train, resumed", stop_at="epoch 1/", like="train")
    return [*found, train, resumed, export]


def chosen(only: str | None) -> list[Case]:
    """The cases whose name contains that, and those that they need."""
    every = cases()
    names = {case.name for case in every if only is None or only in case.name}
    for case in reversed(every):
        if case.name in names:
            names |= case.needs
    return [case for case in every if case.name in names]


@dataclass(frozen=True)
class Side:
    """A checkout, and the folder that takes what its cases write."""

    checkout: Path
    runs: Path

    def folder(self, name: str) -> Path:
        return self.runs / name.replace(",", "").replace(" ", "_")

    @property
    def environment(self) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        return {**os.environ, **threads, "PYTHONPATH": str(self.checkout), "TERM": "dumb"}

    def check(self) -> None:
        """Raises SystemExit if Python would take the code from elsewhere."""
        for package in ("tfnas", "profilers"):
            code = f"import {package}; print({package}.__file__)"
            with self._started("-c", code) as process:
                found = process.communicate()[0].strip()
            if not Path(found).is_relative_to(self.checkout):
                sys.exit(f"{self.checkout}: its {package} isn't taken, but {found}")

    def run(self, case: Case) -> str | None:
        """Run a case into its folder; what went wrong, or None."""
        folder = self.folder(case.name)
        try:
            command = ["-m", case.module, *self._options(case, folder)]
            if case.stop_at is not None:
                if wrong := self._interrupt(command, folder, case.stop_at):
                    return wrong
                command = ["-m", case.module, _override("resume", folder)]
            return self._finish(command, folder, case.files)
        except OSError as error:  # what it needs isn't there
            return str(error)

    def _options(self, case: Case, folder: Path) -> list[str]:
        if case.module == "tfnas.search":
            table = _override("table", self.runs / "table.json")
            return [*case.options, table, _override("hydra.run.dir", folder)]
        assert case.subnet_of is not None
        # Away from its run: what an export says of the search holds the table's place.
        folder.mkdir(parents=True)
        shutil.copy(self.folder(case.subnet_of) / "subnet.json", folder)
        options = [*case.options, _override("subnet", folder / "subnet.json")]
        if case.weights_of is not None:
            weights = self.folder(case.weights_of) / "weights.safetensors"
            options.append(_override("weights", weights))
        return options

    def _finish(self, command: Sequence[str], folder: Path, files: Iterable[str]) -> str | None:
        with self._started(*command) as process:
            text, _ = process.communicate()
        _append(folder / "output.txt", text)
        missing = [name for name in files if name != OPTIONAL and not (folder / name).is_file()]
        if process.returncode in (DONE, OUTSIDE_TOLERANCE) and not missing:
            return None
        return f"exit status {process.returncode}: {_last_line(text)}"

    def _interrupt(self, command: Sequence[str], folder: Path, line: str) -> str | None:
        """Run until some steps after it tells that line; what went wrong, or None."""
        with self._started(*command, "checkpoint_minutes=1e-5") as process:
            assert process.stdout is not None
            text = ""
            for each in process.stdout:
                text += each
                if each.startswith(line):
                    break
            _wait_for_checkpoints(process, folder)
            process.send_signal(signal.SIGTERM)
            text += process.communicate()[0]
        _append(folder / "output.txt", text)
        if process.returncode == INTERRUPTED:
            return None
        return f"not interrupted, exit status {process.returncode}: {_last_line(text)}"

    @contextmanager
    def _started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Python in this checkout, killed after `LIMIT_S`."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()  # where an exception came between
            process.wait()


def _wait_for_checkpoints(process: subprocess.Popen[str], folder: Path) -> None:
    """Until some were written, of a process that writes one a step, or it has ended."""
    seen: set[tuple[int, int]] = set()
    while len(seen) < CHECKPOINTS and process.poll() is None:
        for file in folder.glob("*.ckpt"):
            with suppress(FileNotFoundError):  # it is being replaced
                seen.add((file.stat().st_ino, file.stat().st_mtime_ns))
        time.sleep(0.001)


def _override(key: str, value: Path) -> str:
    """As Hydra reads it, whatever the path holds."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{text}'"


def _append(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(text)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")


def differences(case: Case, one: Path, two: Path) -> list[str]:
    """What differs between two folders of a case's runs."""
    found = []
    for name in case.files:
        a, b = one / name, two / name
        if not (a.is_file() and b.is_file()):
            if name != OPTIONAL or a.is_file() or b.is_file():
                found += [f"{file} is missing" for file in (a, b) if not file.is_file()]
        elif name in ("result.json", "train.json"):
            found += [f"{name}: {key}" for key in _changed(_plain(a), _plain(b))]
        elif a.read_bytes() != b.read_bytes():
            found.append(name)
    return found


def _plain(file: Path) -> dict[str, str]:
    """A result by dotted key, without what differs between two runs that do the same."""
    return dict(_flat(json.loads(file.read_text()), ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in IGNORED:
                yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{index}")
    else:
        yield name, json.dumps(value)  # as text: -0.0 isn't 0.0, and nan is nan


def _changed(one: dict[str, str], two: dict[str, str]) -> Iterator[str]:
    for key in sorted(one.keys() | two.keys()):
        a, b = one.get(key, "missing"), two.get(key, "missing")
        if a != b:
            yield f"{key}: {a} and {b}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("other", nargs="?", type=Path, metavar="OTHER_CHECKOUT")
    against.add_argument("--save", type=Path, metavar="FOLDER", help="keep what this one writes")
    against.add_argument("--compare", type=Path, metavar="FOLDER", help="with what was kept there")
    parser.add_argument("--only", metavar="NAME", help="the cases whose name contains it")
    parser.add_argument("--jobs", type=int, default=1, help="so many cases at a time")
    given = parser.parse_args(arguments)
    selected = chosen(given.only)
    if not selected:
        parser.error(f"--only {given.only}: no case has that in its name")
    if given.save is not None and given.save.is_dir() and any(given.save.iterdir()):
        parser.error(f"--save {given.save}: it isn't empty")
    with tempfile.TemporaryDirectory(prefix="same-numbers-") as scratch:
        runs = Path(scratch) / "this" if given.save is None else given.save.resolve()
        sides = [Side(Path.cwd(), runs)]
        if given.other is not None:
            sides.append(Side(given.other.resolve(), Path(scratch) / "other"))
        kept = None if given.compare is None else Side(Path(), given.compare.resolve())
        for side in sides:
            side.check()
            side.runs.mkdir(parents=True, exist_ok=True)
            write_table(side.runs / "table.json")
        return compare(selected, sides, kept, given.jobs)


def compare(selected: Sequence[Case], sides: Sequence[Side], kept: Side | None, jobs: int) -> int:
    """Run the cases on all sides and tell how they compare; the exit status.

    Args:
        kept: what was run before.
    """
    started, failed = time.monotonic(), 0

    def outcome(case: Case) -> tuple[list[str], float]:
        start = time.monotonic()
        wrong = [text for side in sides if (text := side.run(case)) is not None]
        seconds = time.monotonic() - start
        if wrong:
            return wrong, seconds
        this, *others = (*sides, *([] if kept is None else [kept]))
        for other in others:
            wrong += differences(case, this.folder(case.name), other.folder(case.name))
        if case.like is not None:
            for side in sides:
                pair = side.folder(case.name), side.folder(case.like)
                wrong += [f"not like {case.like!r}: {text}" for text in differences(case, *pair)]
        return wrong, seconds

    told = "ran" if len(sides) == 1 and kept is None else "same"
    for case, (wrong, seconds) in in_turn(selected, outcome, jobs):
        print(f"{'DIFFERS' if wrong else told:8} {case.name} ({seconds:.1f} s)", flush=True)
        for text in wrong:
            print(f"         {text}", flush=True)
        failed += bool(wrong)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(selected)} cases, {failed} differ or failed, {minutes:.1f} min")
    return 1 if failed else 0


def in_turn(
    selected: Sequence[Case], run: Callable[[Case], tuple[list[str], float]], jobs: int
) -> Iterator[tuple[Case, tuple[list[str], float]]]:
    """Each case with its outcome, `jobs` at a time; none before those that it needs."""
    with ThreadPoolExecutor(jobs) as pool:
        started: dict[str, Future[tuple[list[str], float]]] = {}

        def after(case: Case) -> tuple[list[str], float]:
            for name in case.needs:
                started[name].result()
            return run(case)

        for case in selected:
            started[case.name] = pool.submit(after, case)
        try:
            for case in selected:
                yield case, started[case.name].result()
        finally:  # after Ctrl-C: what hasn't begun doesn't
            pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())

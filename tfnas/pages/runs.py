"""report.html of several runs of `tfnas.search`: what they found, and what differs between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from markupsafe import Markup

from tfnas.comparison.record import FILE as COMPARISON
from tfnas.comparison.record import Accuracies, load_accuracies
from tfnas.intervals import Interval, mean_interval, plus_minus
from tfnas.pages import page
from tfnas.pages.front import front
from tfnas.pages.page import Part
from tfnas.pages.plots import HEIGHT, Chart, Level, Point, draw, rows_height
from tfnas.pages.run import option
from tfnas.runs.files import options_of
from tfnas.runs.folder import RunFolder
from tfnas.runs.int8 import INT8
from tfnas.runs.nets import Net
from tfnas.runs.result import Result
from tfnas.runs.run import Run, clean
from tfnas.space.subnet import Subnet

MOST_OPTIONS = 40  # that differ: columns of a table
FIRST_OPTIONS = ("target_ms", "strategy.name", "space.name", "seed")  # of those that differ
NOT_COMPARED = ("resume",)  # how a run was started, not what it is
MOST_LABELS = 12  # points that are named
MOST_RUNS = 500
BESIDE = 2  # levels up from a run, or from a member of a sweep, that comparisons lie beside


@dataclass(frozen=True)
class RunLine:
    """One run among several.

    Attributes:
        name: its folder, relative to the page's where it lies below.
        link: to its own page, where that lies below.
        options: of a finished run; None where there is no result to believe.
        top1: by the comparison, else of its one training; of an int8 net in int8 always. None if
            there is none.
    """

    run: Run
    name: str
    link: PurePosixPath | None
    options: Mapping[str, Any] | None
    top1: Interval | None

    @property
    def finished(self) -> bool:
        return self.run.gap is not None

    @property
    def last_ms(self) -> float:
        """The measured latency, or the table's where none was measured; of a finished run."""
        ms = self.run.table_ms if self.run.measured_ms is None else self.run.measured_ms
        assert ms is not None
        return ms


@dataclass(frozen=True)
class Runs:
    """What the page shows.

    Attributes:
        lines: those of the first `MOST_RUNS` runs.
        comparison: of most of their nets, if there is one.
        source: its name.
    """

    number: int
    lines: Sequence[RunLine]
    comparison: Accuracies | None
    source: str

    @property
    def finished(self) -> list[RunLine]:
        return [line for line in self.lines if line.finished]


def gather_runs(runs: Sequence[Run], base: Path) -> Runs:
    """
    Args:
        base: folder that the page will lie in.
    """
    root = base.resolve()

    def name_of(folder: Path) -> str:
        whole = folder.resolve()
        return clean(str(whole.relative_to(root) if whole.is_relative_to(root) else folder))

    def line_of(run: Run) -> RunLine:
        own, link = RunFolder(run.folder.resolve()).report, None
        if own.is_relative_to(root) and own.is_file():
            link = PurePosixPath(own.relative_to(root).as_posix())
        deployed = run.top1_deployed
        top1 = None if deployed is None else mean_interval([deployed])
        if comparison is not None and run.precision != INT8:  # trained and tested in float
            top1 = means.get(run)
        return RunLine(run, name_of(run.folder), link, _options(run), top1)

    shown = runs[:MOST_RUNS]
    comparison, means = _compared([run for run in shown if run.gap is not None])
    source = "" if comparison is None else name_of(comparison.folder)
    return Runs(len(runs), [line_of(run) for run in shown], comparison, source)


def _compared(runs: Sequence[Run]) -> tuple[Accuracies | None, dict[Run, Interval]]:
    """The comparison that holds most of the runs, the latest of such, and what it says of them."""
    folders = {p for run in runs for p in list(run.folder.resolve().parents)[:BESIDE]}
    files = [file for folder in folders for file in folder.glob(f"*/{COMPARISON}")]
    best: tuple[Accuracies | None, dict[Run, Interval]] = None, {}
    if not files:
        return best
    from tfnas.nets.weights import fingerprint  # needs torch

    nets = {}
    for run in runs:
        with suppress(ValueError):
            nets[run] = fingerprint(Subnet.load(RunFolder(run.folder).subnet))
    for file in sorted(files, key=lambda f: (f.stat().st_mtime, str(f))):
        with suppress(ValueError):
            found = load_accuracies(file)
            values = {run: found.top1[net] for run, net in nets.items() if net in found.top1}
            if values and len(values) >= len(best[1]):
                best = found, {run: mean_interval(top1) for run, top1 in values.items()}
    return best


def _options(run: Run) -> Mapping[str, Any] | None:
    if run.gap is None:
        return None
    try:
        return options_of(run.folder, Result.load(RunFolder(run.folder).result))
    except ValueError:
        return None


def differing(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of plain values that all have, and that aren't the same in all, in order: first
    what a reader looks for first.

    What only some have are knobs of a strategy, and lists are parts of a search space: the names of
    these say as much.
    """
    if not options:
        return []
    common = set.intersection(*map(set, options)).difference(NOT_COMPARED)
    first = [key for key in FIRST_OPTIONS if key in common]
    return [
        key
        for key in (*first, *sorted(common.difference(first)))
        if not any(isinstance(o[key], list | dict) for o in options)
        and len({option(o[key]) for o in options}) > 1
    ]


def runs_page(runs: Sequence[Run], base: Path, nets: Sequence[Net] = ()) -> str:
    """The page.

    Args:
        base: folder that the page will lie in; links and names are relative to it.
        nets: all that the runs know of.
    """
    data = gather_runs(runs, base)
    within = sum(line.run.within is True for line in data.finished)
    parts: list[Part] = [
        page.paragraph(
            f"{page.count(data.number, 'run')}, {len(data.finished)} finished, {within} within "
            "their tolerance."
        )
    ]
    if len(data.lines) < data.number:
        parts.append(page.note(f"The first {MOST_RUNS} are shown."))
    parts += [_figures(data), front(nets), _table(data), _options_table(data)]
    return page.document(page.count(data.number, "search", "searches"), *parts)


def _figures(data: Runs) -> Markup:
    finished = data.finished
    groups = list(dict.fromkeys(map(_group, finished)))
    trained = [line for line in finished if line.top1 is not None]
    measured = [line for line in finished if line.run.measured_ms is not None]
    figures = []
    if trained:
        figures.append(_accuracy(data, trained, groups))
    if measured:
        figures.append(_gaps(measured, groups, named=len(finished) <= MOST_LABELS))
    unknown = sum(line.run.top1 is not None and line.top1 is None for line in finished)
    if unknown and data.comparison is None:
        figures.append(
            page.paragraph(
                f"Of {page.count(unknown, 'net')} the top-1 isn't known at the precision that the "
                "latency is of: python -m tfnas.export precision=int8 tells it.",
                kind="muted",
            )
        )
    elif finished and not trained:
        figures.append(
            page.paragraph(
                "None is trained yet, so there is no accuracy to compare: "
                "python -m tfnas.train subnet=RUN/subnet.json, then this report again.",
                kind="muted",
            )
        )
    return page.figures(*figures)


def _group(line: RunLine) -> str:
    """The strategy; where latencies and accuracies aren't of fp32, the precision too."""
    parts = line.run.strategy or "", line.run.precision
    return ", ".join(part for part in parts if part and part != "fp32")


def _accuracy(data: Runs, trained: Sequence[RunLine], groups: Sequence[str]) -> Markup:
    """Accuracy against latency, each with its interval where that is known."""
    named, points = len(data.finished) <= MOST_LABELS, []
    for line in trained:
        assert line.top1 is not None
        interval = 100 * line.top1.low, 100 * line.top1.high
        points.append(
            Point(
                line.last_ms,
                100 * line.top1.mean,
                label=line.name if named else "",
                x_interval=line.run.measured_ci_ms,
                y_interval=interval if math.isfinite(line.top1.half_width) else None,
                group=_group(line),
            )
        )
    if data.comparison is not None:
        counts = sorted({line.top1.n for line in trained if line.top1 is not None})
        seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        caption = (
            f"Accuracy against latency, each with its 95 % interval: means of {seeds} trainings by "
            f"the recipe {clean(data.comparison.recipe)} at {data.comparison.resolution} px, from "
            f"{data.source}; the table's latency where none was measured. Differences, paired by "
            "seed, stand there."
        )
    else:
        caption = (
            "Accuracy of the trained nets against their latency, with the latency's 95 % interval; "
            "the table's latency where none was measured. Each accuracy is of one training, and "
            "another seed would move it: python -m tfnas.compare trains several, with intervals."
        )
        if len({line.run.top1_resolution for line in trained}) > 1:
            caption += " Accuracies are of images of several resolutions, see the table."
    chart = Chart(points=points, groups=groups, x_label="latency (ms)", y_label="top-1 (%)")
    return draw("accuracy", caption, chart)


def _gaps(lines: Sequence[RunLine], groups: Sequence[str], *, named: bool) -> Markup:
    """How far from its target each run was measured: a row for each of few, else by target."""
    points = []
    for place, line in enumerate(lines):
        run = line.run
        assert run.measured_ms is not None
        assert run.target_ms is not None
        around = run.measured_ci_ms or (run.measured_ms, run.measured_ms)
        low, gap, high = (
            100 * (ms / run.target_ms - 1) for ms in (around[0], run.measured_ms, around[1])
        )
        group = _group(line)
        if named:
            points.append(Point(gap, place, x_interval=(low, high), group=group))
        else:
            points.append(Point(run.target_ms, gap, y_interval=(low, high), group=group))
    caption = "Measured latency against the target, with its 95 % interval."
    off = "off the target (%)"
    if not named:
        chart = Chart(
            points=points, groups=groups, levels=[Level(0, "target")], x_label="target (ms)",
            y_label=off,
        )  # fmt: skip
        return draw("gap", caption, chart)
    rows = [line.name for line in lines]
    chart = Chart(points=points, groups=groups, rows=rows, levels=[Level(0)], x_label=off)
    return draw("gap", caption, chart, height=max(HEIGHT, rows_height(chart)))


def _table(data: Runs) -> Markup:
    header = (
        "run", "status", "precision", "target, ms", "table, ms", "measured, ms", "95 %", "off",
        "top-1",
    )  # fmt: skip
    rows = map(_row, data.lines)
    table = page.table(header, rows, numeric=range(3, 9), name="runs-table")
    return page.section("Runs", table, name="runs")


def _row(line: RunLine) -> tuple[Part, ...]:
    run, kind = line.run, None
    if line.finished:
        kind = "good" if run.within and run.measured_ms is not None else "doubt"
        kind = kind if run.within else "bad"
    status = page.coloured(run.status, kind, title=run.reason or None)
    if run.doubtful:
        status += page.coloured(" doubtful", "doubt", title=run.doubtful)
    if line.finished and run.measured_ms is None:
        status += page.coloured(" unverified", "doubt")
    off = page.NOTHING
    if line.finished and run.target_ms is not None:
        off = page.off(line.last_ms, run.target_ms)
    return (
        line.name if line.link is None else page.link(line.link, line.name),
        status,
        run.precision or page.NOTHING,
        page.ms(run.target_ms),
        page.ms(run.table_ms),
        page.ms(run.measured_ms),
        plus_minus(*run.measured_ci_ms) if run.measured_ci_ms else page.NOTHING,
        off,
        run.told_top1 or page.NOTHING,
    )


def _options_table(data: Runs) -> Markup | None:
    """None where no options are known to differ."""
    known = [(line.name, line.options) for line in data.lines if line.options is not None]
    keys = differing([options for _, options in known])
    if not keys:
        return None
    kept = keys[:MOST_OPTIONS]
    rows = [(name, *(clean(option(o[key]))[:80] for key in kept)) for name, o in known]
    caption = f"The first {len(kept)} of {len(keys)}." if len(keys) > len(kept) else None
    table = page.table(("run", *kept), rows, name="options-table", caption=caption)
    return page.section("Options that differ", table, name="options")

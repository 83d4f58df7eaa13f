"""report.html of several runs of `tfnas.search`: what they found, and what differs between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tfnas.comparison.record import FILE as COMPARISON
from tfnas.comparison.record import Accuracies, load_accuracies
from tfnas.intervals import Interval, mean_interval, plus_minus
from tfnas.pages import page, plots
from tfnas.pages.latency_sections import off
from tfnas.pages.page import Part
from tfnas.pages.plots import Point, scatter
from tfnas.pages.run_page import REPORT, option
from tfnas.runs.files import options_of
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import Result
from tfnas.runs.run import Run, clean
from tfnas.space.subnet import Subnet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTHING = "–"
MOST_OPTIONS = 40  # that differ: columns of a table
FIRST_OPTIONS = ("target_ms", "strategy.name", "space.name", "seed")  # of those that differ
NEVER_TOLD = ("resume",)  # how a run was started, not what it is
MOST_LABELS = 12  # points that are named
MOST_RUNS = 500
BESIDE = 2  # levels up from a run, or from a member of a sweep, that comparisons lie beside


def runs_page(runs: Sequence[Run], base: Path) -> str:
    """The page.

    Args:
        base: folder that the page will lie in; links and names are relative to it.
    """
    shown = runs[:MOST_RUNS]
    finished = [run for run in shown if run.gap is not None]
    within = sum(run.within is True for run in finished)
    told = f"{_count(len(runs), 'run')}, {len(finished)} finished, {within} within their tolerance."
    parts: list[Part] = [page.paragraph(told)]
    if len(shown) < len(runs):
        parts.append(page.note(f"The first {MOST_RUNS} are shown."))
    parts += [_figures(finished, base), _table(shown, base), _options_table(shown, base)]
    return page.document(_count(len(runs), "search", "searches"), *parts)


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def _name(run: Run, base: Path) -> str:
    return _within(run.folder, base)


def _within(folder: Path, base: Path) -> str:
    """Relative to the page's folder where it lies below, else as it is."""
    whole = folder.resolve()
    return str(
        whole.relative_to(base.resolve()) if whole.is_relative_to(base.resolve()) else folder
    )


def _linked(run: Run, base: Path) -> Part:
    """The run's name, a link to its page where that lies below ours."""
    name = clean(_name(run, base))
    folder = run.folder.resolve()
    if folder.is_relative_to(base.resolve()) and (folder / REPORT).is_file():
        return page.link((folder / REPORT).relative_to(base.resolve()).as_posix(), name)
    return name


def _figures(finished: Sequence[Run], base: Path) -> Markup:
    named = len(finished) <= MOST_LABELS
    strategies = list(dict.fromkeys(run.strategy or "" for run in finished))

    def label(run: Run) -> str:
        return clean(_name(run, base)) if named else ""

    made = []
    trained = [run for run in finished if run.top1 is not None]
    compared = _compared(finished)
    if compared is not None:
        made.append(_means(*compared, label, strategies, base))
    elif trained:
        points = [
            Point(
                x=_last_ms(run),
                y=100 * run.top1,
                label=label(run),
                x_interval=run.measured_ci_ms,
                group=run.strategy or "",
            )
            for run in trained
            if run.top1 is not None
        ]
        caption = (
            "Accuracy of the trained nets against their latency, with the latency's 95 % interval; "
            "the table's latency where none was measured. Each accuracy is of one training, and "
            "another seed would move it: python -m tfnas.compare trains several, with intervals."
        )
        if len({run.top1_resolution for run in trained}) > 1:
            caption += " Accuracies are of images of several resolutions, see the table."
        drawing = scatter(
            "accuracy", caption, points, x_label="latency (ms)", y_label="top-1 (%)",
            groups=strategies,
        )  # fmt: skip
        made.append(page.figure(drawing, caption))
    measured = [run for run in finished if run.measured_ms is not None and run.target_ms]
    if measured and named:
        caption = "Measured latency against the target, with its 95 % interval."
        drawing = _gaps(caption, measured, [label(run) for run in measured], strategies)
        made.append(page.figure(drawing, caption))
    elif measured:
        points = []
        for run in measured:
            assert run.target_ms is not None
            assert run.measured_ms is not None
            target = run.target_ms
            low, high = run.measured_ci_ms or (run.measured_ms, run.measured_ms)
            points.append(
                Point(
                    x=target,
                    y=100 * (run.measured_ms / target - 1),
                    y_interval=(100 * (low / target - 1), 100 * (high / target - 1)),
                    group=run.strategy or "",
                )
            )
        caption = "Measured latency against the target, with its 95 % interval."
        drawing = scatter(
            "gap", caption, points, x_label="target (ms)", y_label="off the target (%)",
            level=(0.0, "target"), groups=strategies,
        )  # fmt: skip
        made.append(page.figure(drawing, caption))
    if finished and not trained and compared is None:
        made.append(
            page.paragraph(
                "None is trained yet, so there is no accuracy to compare: "
                "python -m tfnas.train subnet=RUN/subnet.json, then this report again.",
                kind="muted",
            )
        )
    return page.figures(*made)


def _compared(runs: Sequence[Run]) -> tuple[Accuracies, dict[Run, Interval]] | None:
    """The comparison that tells of most of the runs, the latest of such, and what it tells."""
    folders = {p for run in runs for p in list(run.folder.resolve().parents)[:BESIDE]}
    files = [file for folder in folders for file in folder.glob(f"*/{COMPARISON}")]
    if not files:
        return None
    from tfnas.nets.weights import fingerprint  # needs torch

    nets = {}
    for run in runs:
        with suppress(ValueError):
            nets[run] = fingerprint(Subnet.load(RunFolder(run.folder).subnet))
    best = None
    for file in sorted(files, key=lambda f: (f.stat().st_mtime, str(f))):
        with suppress(ValueError):
            found = load_accuracies(file)
            told = {run: found.top1[net] for run, net in nets.items() if net in found.top1}
            if told and (best is None or len(told) >= len(best[1])):
                best = found, {run: mean_interval(values) for run, values in told.items()}
    return best


def _means(
    accuracies: Accuracies,
    intervals: Mapping[Run, Interval],
    label: Callable[[Run], str],
    strategies: Sequence[str],
    base: Path,
) -> Markup:
    """Accuracy against latency, both with intervals, as a comparison found it."""
    points = []
    for run, mean in intervals.items():
        known = math.isfinite(mean.half_width)
        points.append(
            Point(
                x=_last_ms(run),
                y=100 * mean.mean,
                label=label(run),
                x_interval=run.measured_ci_ms,
                y_interval=(100 * mean.low, 100 * mean.high) if known else None,
                group=run.strategy or "",
            )
        )
    counts = sorted({mean.n for mean in intervals.values()})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    name = clean(_within(accuracies.folder, base))
    caption = (
        f"Accuracy against latency, each with its 95 % interval: means of {seeds} trainings by the "
        f"recipe {clean(accuracies.recipe)} at {accuracies.resolution} px, from {name}; the "
        "table's latency where none was measured. Differences, paired by seed, stand there."
    )
    drawing = scatter(
        "accuracy", caption, points, x_label="latency (ms)", y_label="top-1 (%)", groups=strategies
    )
    return page.figure(drawing, caption)


def _gaps(
    caption: str, runs: Sequence[Run], names: Sequence[str], strategies: Sequence[str]
) -> Markup:
    """A row for each run: how far from its target it was measured."""

    def paint(axes: Axes) -> None:
        told = set()
        for place, run in enumerate(runs):
            assert run.measured_ms is not None
            assert run.target_ms is not None
            strategy = run.strategy or ""
            shade = plots.SERIES[strategies.index(strategy) % len(plots.SERIES)]
            low, high = run.measured_ci_ms or (run.measured_ms, run.measured_ms)
            low, gap, high = (100 * (ms / run.target_ms - 1) for ms in (low, run.measured_ms, high))
            axes.plot((low, high), (place, place), color=shade, linewidth=1.6)
            name = plots.short(strategy) if strategy and strategy not in told else "_"
            told.add(strategy)
            axes.plot([gap], [place], "o", color=shade, markersize=5, label=name)
        axes.axvline(0, color=plots.INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(runs)), list(map(plots.short, names)))
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.set_xlabel("off the target (%)")
        plots.legend_above(axes)

    size = (plots.SIZE[0], max(plots.SIZE[1], 0.8 + 0.22 * len(runs)))
    return plots.draw("gap", caption, paint, size=size)


def _last_ms(run: Run) -> float:
    told = run.measured_ms if run.measured_ms is not None else run.table_ms
    assert told is not None
    return told


def _table(runs: Sequence[Run], base: Path) -> Markup:
    header = ("run", "status", "target, ms", "table, ms", "measured, ms", "95 %", "off", "top-1")
    rows = [_row(run, base) for run in runs]
    return page.section(
        "Runs", page.table(header, rows, numeric=range(2, 8), name="runs-table"), name="runs"
    )


def _options_table(runs: Sequence[Run], base: Path) -> Markup | None:
    """None where no options are known to differ."""
    options = {run: values for run in runs if (values := _options(run)) is not None}
    keys = differing(list(options.values()))
    if not keys:
        return None
    told = keys[:MOST_OPTIONS]
    rows = [
        (clean(_name(run, base)), *(_option(values, key) for key in told))
        for run, values in options.items()
    ]
    caption = f"The first {len(told)} of {len(keys)}." if len(keys) > len(told) else None
    table = page.table(("run", *told), rows, name="options-table", caption=caption)
    return page.section("Options that differ", table, name="options")


def _row(run: Run, base: Path) -> tuple[Part, ...]:
    kind = None
    if run.gap is not None:
        kind = "good" if run.within and run.measured_ms is not None else "doubt"
        kind = kind if run.within else "bad"
    status = page.element("span", run.status, class_=kind, title=run.reason or None)
    if run.doubtful:
        status += page.element("span", " doubtful", class_="doubt", title=run.doubtful)
    if run.gap is not None and run.measured_ms is None:
        status += page.element("span", " unverified", class_="doubt")

    def ms(value: float | None) -> str:
        return NOTHING if value is None else f"{value:.4g}"

    gap = NOTHING
    if run.gap is not None and run.target_ms is not None:
        gap = off(_last_ms(run), run.target_ms)
    return (
        _linked(run, base),
        status,
        ms(run.target_ms),
        ms(run.table_ms),
        ms(run.measured_ms),
        plus_minus(*run.measured_ci_ms) if run.measured_ci_ms else NOTHING,
        gap,
        NOTHING if run.top1 is None else f"{100 * run.top1:.1f} % at {run.top1_resolution} px",
    )


def _options(run: Run) -> Mapping[str, Any] | None:
    """Those of a finished run; None where there is no result to believe."""
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
    these tell.
    """
    if not options:
        return []
    common = set.intersection(*map(set, options)).difference(NEVER_TOLD)
    first = [key for key in FIRST_OPTIONS if key in common]
    return [
        key
        for key in (*first, *sorted(common.difference(first)))
        if not any(isinstance(o[key], list | dict) for o in options)
        and len({option(o[key]) for o in options}) > 1
    ]


def _option(values: Mapping[str, Any], key: str) -> str:
    return clean(option(values[key]))[:80]

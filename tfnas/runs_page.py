"""report.html of several runs of `tfnas.search`: what they found, and what differs between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tfnas import page
from tfnas.intervals import plus_minus
from tfnas.latency_sections import off
from tfnas.page import Part
from tfnas.plots import Point, scatter
from tfnas.result import Result
from tfnas.run_page import REPORT
from tfnas.runs import Run, clean
from tfnas.sweep import RESULT

NOTHING = "–"
MOST_OPTIONS = 8  # that differ: columns of a table
MOST_LABELS = 12  # points that are named
MOST_RUNS = 500


def runs_page(runs: Sequence[Run], base: Path) -> str:
    """The page.

    Args:
        base: folder that the page will lie in; links and names are relative to it.
    """
    shown = runs[:MOST_RUNS]
    finished = [run for run in shown if run.gap is not None]
    within = sum(run.within is True for run in finished)
    told = f"{len(runs)} runs, {len(finished)} finished, {within} within their tolerance."
    parts: list[Part] = [page.paragraph(told)]
    if len(shown) < len(runs):
        parts.append(page.note(f"The first {MOST_RUNS} are shown."))
    parts += [_figures(finished, base), _table(shown, base), _options_table(shown, base)]
    return page.document(f"{len(runs)} searches", *parts)


def _name(run: Run, base: Path) -> str:
    folder = run.folder.resolve()
    if folder.is_relative_to(base.resolve()):
        return str(folder.relative_to(base.resolve()))
    return str(run.folder)


def _linked(run: Run, base: Path) -> Part:
    """The run's name, a link to its page where that lies below ours."""
    name = clean(_name(run, base))
    folder = run.folder.resolve()
    if folder.is_relative_to(base.resolve()) and (folder / REPORT).is_file():
        return page.link((folder / REPORT).relative_to(base.resolve()).as_posix(), name)
    return name


def _figures(finished: Sequence[Run], base: Path) -> Markup:
    named = len(finished) <= MOST_LABELS

    def label(run: Run) -> str:
        return clean(_name(run, base)) if named else ""

    made = []
    trained = [run for run in finished if run.top1 is not None]
    if trained:
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
            "Accuracy of the trained nets against their latency, with its 95 % interval; the "
            "table's latency where none was measured."
        )
        if len({run.top1_resolution for run in trained}) > 1:
            caption += " Accuracies are of images of several resolutions, see the table."
        drawing = scatter("accuracy", caption, points, x_label="latency (ms)", y_label="top-1 (%)")
        made.append(page.figure(drawing, caption))
    measured = [run for run in finished if run.measured_ms is not None and run.target_ms]
    if measured:
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
                    label=label(run),
                    y_interval=(100 * (low / target - 1), 100 * (high / target - 1)),
                    group=run.strategy or "",
                )
            )
        caption = "Measured latency against the target, with its 95 % interval."
        drawing = scatter(
            "gap", caption, points, x_label="target (ms)", y_label="off the target (%)",
            level=(0.0, "target"),
        )  # fmt: skip
        made.append(page.figure(drawing, caption))
    if finished and not trained:
        made.append(
            page.paragraph(
                "None is trained yet, so there is no accuracy to compare: "
                "python -m tfnas.train subnet=RUN/subnet.json, then this report again.",
                kind="muted",
            )
        )
    return page.figures(*made)


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
    status = page.element("span", run.status, class_=kind, title=run.told or None)
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
    """Those of a finished run's result; None where there is none to believe."""
    if run.gap is None:
        return None
    try:
        return Result.load(run.folder / RESULT).options
    except ValueError:
        return None


def differing(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of plain values that all have, and that aren't the same in all, in order.

    What only some have are knobs of a strategy, and lists are parts of a search space: the names of
    these tell.
    """
    if not options:
        return []
    return [
        key
        for key in sorted(set.intersection(*map(set, options)))
        if not any(isinstance(o[key], list | dict) for o in options)
        and len({json.dumps(o[key]) for o in options}) > 1
    ]


def _option(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    return clean(value if isinstance(value, str) else json.dumps(value))[:80]

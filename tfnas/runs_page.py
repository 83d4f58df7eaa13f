"""report.html of several runs of `tfnas.search`: what they found, and what differs between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tfnas import page
from tfnas.latency_sections import off, plus_minus
from tfnas.page import Part
from tfnas.plots import Point, scatter
from tfnas.result import Result
from tfnas.run_page import REPORT
from tfnas.runs import Run, clean
from tfnas.sweep import RESULT

NOTHING = "–"
MOST_OPTIONS = 12  # columns of options that differ
MOST_LABELS = 12  # points that are named
MOST_RUNS = 500
OWN_COLUMNS = ("target_ms",)  # told anyway


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
    parts += [_figures(finished, base), _table(shown, base)]
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
        return clean(_name(run, base))[:24] if named else ""

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
    options = {run.folder: _options(run) for run in runs}
    keys = differing([values for values in options.values() if values is not None])
    told = keys[:MOST_OPTIONS]
    rows = []
    for run in runs:
        values = options[run.folder] or {}
        rows.append((*_row(run, base), *(_option(values, key) for key in told)))
    header = ("run", "status", "target, ms", "table, ms", "measured, ms", "95 %", "off", "top-1, %")
    caption = "Options that differ stand at the right."
    if len(keys) > len(told):
        caption = f"Of {len(keys)} options that differ the first {len(told)} stand at the right."
    return page.section(
        "Runs",
        page.table(
            (*header, *told), rows, numeric=range(2, 8), name="runs",
            caption=caption if keys else None,
        ),
        name="runs-section",
    )  # fmt: skip


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
        NOTHING if run.top1 is None else f"{100 * run.top1:.1f}",
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
    """The keys whose values aren't the same in all, in order."""
    keys = dict.fromkeys(key for values in options for key in values)
    return sorted(
        key
        for key in keys
        if key not in OWN_COLUMNS and len({json.dumps(o.get(key)) for o in options}) > 1
    )


def _option(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return NOTHING
    value = values[key]
    return clean(value if isinstance(value, str) else json.dumps(value))[:80]

"""What a comparison says as text: its table, differences with intervals, cautions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfnas.comparison.record import FINISHED, SAME_LATENCY, Comparison, Method
from tfnas.intervals import Interval, student

if TYPE_CHECKING:
    pass

FEW = 10  # values from which a 95 % interval is hardly wider than from many
HEADER = ("net", "on the table", "multiply-adds", "top-1, mean ± 95 %", "difference", "told apart")


def table(comparison: Comparison) -> str:
    """The finished comparison in columns, a line a method."""
    rows = [HEADER, *(cells(comparison, method) for method in comparison.methods)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def cells(comparison: Comparison, method: Method) -> tuple[str, ...]:
    """As in `HEADER`."""
    first = method is comparison.methods[0]
    apart = comparison.difference(method)
    several = f" ({len(method.nets)} nets)" if len(method.nets) > 1 else ""
    return (
        method.name + several,
        _span([net.table_ms for net in method.nets], "ms"),
        _span([net.macs / 1e6 for net in method.nets], "M"),
        percent(comparison.mean(method)),
        "–" if first else points(apart),
        "–" if first else ("yes" if comparison.told_apart(method) else "no"),
    )


def _span(values: Sequence[float], unit: str) -> str:
    texts = list(dict.fromkeys(f"{value:.4g}" for value in (min(values), max(values))))
    return f"{' to '.join(texts)} {unit}"


def percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.2f} ± {100 * interval.half_width:.2f} %"


def points(interval: Interval) -> str:
    """A difference, in percentage points."""
    return f"{100 * interval.mean:+.2f} ± {100 * interval.half_width:.2f} points"


def verdicts(comparison: Comparison) -> list[str]:
    """What the differences say, a sentence each."""
    first = comparison.methods[0].name
    lines = []
    for method in comparison.methods[1:]:
        apart = comparison.difference(method)
        if comparison.told_apart(method):
            sign = "above" if apart.mean > 0 else "below"
            lines.append(
                f"{method.name} is {100 * abs(apart.mean):.2f} points {sign} {first} "
                f"({100 * apart.low:+.2f} to {100 * apart.high:+.2f}): the interval excludes zero"
            )
        elif comparison.without_spread(method):
            lines.append(
                f"{method.name} can't be told from {first}: the difference is "
                f"{100 * apart.mean:+.2f} points in all values, which doesn't show how sure it is"
            )
        else:
            lines.append(
                f"{method.name} can't be told from {first}: the difference is "
                f"{100 * apart.low:+.2f} to {100 * apart.high:+.2f} points, which includes zero"
            )
    return lines


def warnings(comparison: Comparison) -> list[str]:
    """Where the comparison isn't what one may take it for."""
    c, lines = comparison, []
    if c.latency_gap > SAME_LATENCY:
        lines.append(
            f"the nets don't take the same time: they differ by {100 * c.latency_gap:.2g} %, "
            f"allowed by latency_tolerance={c.latency_tolerance:g}"
        )
    elif c.latency_tolerance > SAME_LATENCY:
        lines.append(
            f"latency_tolerance={c.latency_tolerance:g} was given; the nets differ by "
            f"{100 * c.latency_gap:.2g} %"
        )
    if c.resolution != c.deployed_resolution:
        lines.append(
            f"accuracies are those at {c.resolution} px, latencies those at "
            f"{c.deployed_resolution} px"
        )
    for method in c.methods if c.status == FINISHED else ():
        if len(set(c.values(method))) == 1:
            lines.append(
                f"all top-1 values of {method.name} are equal, as of nets that learned nothing or "
                "were tested on few images: no interval can be told from them"
            )
        elif method is not c.methods[0] and c.without_spread(method):
            lines.append(
                f"all differences of {method.name} to {c.methods[0].name} are equal, as happens "
                "with few test images: no interval can be told from them; give more seeds"
            )
    return lines


def cautions(comparison: Comparison) -> list[str]:
    """How far the intervals go."""
    c, first = comparison, comparison.methods[0]
    n = min(len(method.nets) for method in c.methods) if c.several else len(c.seeds)
    lines = []
    if n < FEW:
        what, more = ("nets of a method", "nets") if c.several else ("seeds", "seeds")
        kept = "" if c.several else "; finished trainings are kept when seeds are added"
        lines.append(
            f"with {n} {what} an interval is wide: {student(n - 1):.1f} standard errors to either "
            f"side, where many {more} need 2.0{kept}"
        )
    if c.several:
        lines.append("a net counts as one value, its mean over the seeds")
    else:
        lines.append(
            "differences are paired: with one seed all nets see the same images in the same order. "
            "Intervals are over seeds of these very nets, and say nothing of others that the same "
            "method would find"
        )
    lines.append(f"all are tested on the same {c.data.test_images:,} images")
    if c.table.precision == "int8":
        lines.append(
            "accuracies are those in float, latencies those in int8: what each net loses, "
            "`tfnas export precision=int8` tells"
        )
    if len(c.methods) > 2:
        lines.append(
            f"each of the {len(c.methods) - 1} differences to {first.name} has a 95 % interval of "
            "its own: that one of them excludes zero by chance is more likely than 5 %"
        )
    return lines

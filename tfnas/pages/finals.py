"""The finals on a run's page: who took part, how their trainings went, what scores were worth."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from tfnas.pages import page
from tfnas.pages.page import Part
from tfnas.pages.plots import SERIES, Chart, Line, draw
from tfnas.runs.finals import DRAWN, HAND_MADE, RANDOM, SEARCHED, Evidence, Finals, Margin
from tfnas.runs.int8 import INT8
from tfnas.runs.run import clean

COLOURS = {SEARCHED: SERIES[0], DRAWN: SERIES[1], RANDOM: SERIES[7], HAND_MADE: SERIES[2]}
RANKS = {True: "ranks", False: "ranks the wrong way", None: "not shown to rank"}


def finals_section(finals: Finals, precision: str) -> Markup:
    """
    Args:
        precision: that latencies are of; accuracies are of floats.
    """
    winner = clean(finals.winner)
    of_table, of_net = (" (int8)", ", in float") if precision == INT8 else ("", "")
    parts: list[Part] = [
        page.paragraph(
            f"{winner} won: {page.count(len(finals.rows), 'net')} at {finals.target_ms:.4g} ms "
            f"on the table{of_table} began a training of "
            f"{page.count(finals.epochs, 'epoch')}, and the worse "
            f"ones were dropped on the way. Accuracies are those on {finals.judged_images:,} "
            f"training images that were held out{of_net}."
        ),
        *(page.paragraph(_margin(margin)) for margin in finals.margins),
        page.figures(_curves(finals)),
        _rows(finals, precision),
    ]
    if finals.evidence:
        parts.append(_evidence(finals.evidence))
    return page.section("Finals", *parts, name="finals")


def _margin(margin: Margin) -> str:
    epochs = page.count(margin.epochs, "epoch")
    text = f"{clean(margin.net)} against {clean(margin.over)}: {_points(margin.mean)} points"
    text += f" after {epochs}"
    if margin.interval is not None:
        low, high = margin.interval
        text += f", 95 % interval {_points(low)} to {_points(high)}"
    return f"{text} ({page.count(margin.nets, 'net')})."


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}".replace("-", "−")


def _curves(finals: Finals) -> Markup:
    lines = []
    named: set[str] = set()
    for row in finals.rows:
        if not row.curve:
            continue
        source = clean(row.source)
        lines.append(
            Line(
                "_" if source in named else source,
                range(1, row.epochs + 1),
                [100 * top1 for top1 in row.curve],
                COLOURS.get(row.source, SERIES[3]),
                width=2.5 if row.name == finals.winner else 1.2,
            )
        )
        named.add(source)
    chart = Chart(lines=lines, x_label="epoch", y_label="held-out top-1 (%)", whole_x=True)
    return draw("finals-curves", "One line a net; the winner's is thick.", chart, wide=True)


def _rows(finals: Finals, precision: str) -> Markup:
    scores = list(dict.fromkeys(name for row in finals.rows for name in row.scores))

    def cells(index: int) -> Iterator[Part]:
        row = finals.rows[index]
        yield clean(row.name)
        yield f"{row.table_ms:.4g}"
        for name in scores:
            yield f"{row.scores[name]:.4g}" if name in row.scores else ""
        yield str(row.epochs)
        yield f"{100 * row.curve[-1]:.2f}" if row.curve else ""
        yield clean(row.failed) if row.failed else None

    ms, top1 = "table, ms", "top-1, %"
    if precision == INT8:
        ms, top1 = f"{ms} (int8)", f"{top1} (float)"
    header = ("net", ms, *map(clean, scores), "epochs", top1, "dropped out")
    numeric = range(1, len(header) - 1)
    rows = [tuple(cells(index)) for index in range(len(finals.rows))]
    return page.table(header, rows, numeric=numeric, name="finals-rows")


def _evidence(evidence: tuple[Evidence, ...]) -> Markup:
    rows = [
        (
            clean(e.score), f"after {page.count(e.epochs, 'epoch')}", str(e.nets),
            f"{e.correlation:.2f}", f"{e.interval[0]:.2f} to {e.interval[1]:.2f}", RANKS[e.ranks],
        )
        for e in evidence
    ]  # fmt: skip
    header = ("score", "against top-1", "nets", "rank correlation", "95 %", "in this run it")
    caption = "What scores were worth: Spearman's rank correlation with what was trained."
    return page.table(header, rows, numeric=(2, 3), caption=caption, name="finals-evidence")

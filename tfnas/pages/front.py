"""What nets are worth against what they take: found ones, beside random and hand-made ones."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tfnas.pages import page
from tfnas.pages.plots import INK, SERIES, Chart, Point, draw
from tfnas.runs.finals import DRAWN, HAND_MADE, RANDOM, SEARCHED
from tfnas.runs.nets import FOUND, Net

GROUPS = (RANDOM, SEARCHED, DRAWN, HAND_MADE, FOUND)  # later ones lie above
COLOURS = {RANDOM: SERIES[7], SEARCHED: SERIES[0], DRAWN: SERIES[1], HAND_MADE: SERIES[2]}
MOST = 2_000  # points


def front(nets: Sequence[Net]) -> Markup | None:
    """A figure for each lot of scores; None where nothing is scored."""
    lots = list(dict.fromkeys(net.scores for net in nets if net.worth is not None))
    if not lots:
        return None
    charts = [_chart([net for net in nets if net.scores == lot]) for lot in lots]
    caption = (
        "What nets are worth by the search, against latency. Random nets have the scores that they "
        "were given, others what is estimated from these; single scores scatter, so the best "
        "random points look better than they are. nets.csv has all nets."
    )
    figures = [draw(f"front-{number}", caption, chart) for number, chart in enumerate(charts, 1)]
    return page.section("Nets", page.figures(*figures), name="front")


def _chart(nets: Sequence[Net]) -> Chart:
    present = [group for group in GROUPS if any(net.source == group for net in nets)]
    points = [
        Point(
            net.ms, net.worth, group=group, colour=COLOURS.get(group, INK),
            marker="D" if group == FOUND else "o",
        )
        for group in present
        for net in nets[:MOST]
        if net.source == group and net.worth is not None
    ]  # fmt: skip
    return Chart(points=points, groups=present, x_label="latency (ms)", y_label="score")

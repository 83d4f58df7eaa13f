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
        "Random nets with the scores that the search gave them, and what it estimates from these "
        "that the net it chose, its next best ones and hand-made ones are worth, against latency "
        "(measured for the chosen net where the device was here, else the table's). Estimates have "
        "no noise of single scores, so the best random points look better than they are. nets.csv "
        "of `python -m tfnas.report` has all of them."
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

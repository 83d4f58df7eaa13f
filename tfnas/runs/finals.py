"""What the finals of a search came to: the nets that were trained, and what the scores were worth.

Rank correlations and margins compare accuracies after the same number of epochs only: a net that
was cut early had less training, and its last accuracy would tell of the cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from tfnas.files.decode import Count, Fraction
from tfnas.intervals import mean_interval, spearman, spearman_bounds

SEARCHED, DRAWN, RANDOM, HAND_MADE = "search", "draw", "random", "hand-made"
FEWEST = 4  # nets that a rank correlation is told of
Correlation = Annotated[float, Meta(ge=-1, le=1)]


@dataclass(frozen=True)
class FinalsRow:
    """A net that took part.

    Attributes:
        source: search | draw | random | hand-made.
        scores: what was known of it before it was trained, by name; higher is better.
        curve: top-1 on held-out images after each epoch that it was trained.
        failed: why it dropped out, if it was not by a cut.
    """

    name: str
    source: str
    table_ms: float
    scores: Mapping[str, float]
    curve: tuple[Fraction, ...]
    failed: str | None = None

    @property
    def epochs(self) -> int:
        return len(self.curve)


@dataclass(frozen=True)
class Evidence:
    """How a score ranked the nets, against their accuracy after some epochs.

    Attributes:
        score: its name, or `top-1 after epoch N`.
        epochs: that the accuracies are of.
        nets: that have both.
        interval: 95 %.
        ranks: True or False where the interval is above or below 0; else None, it isn't shown.
    """

    score: str
    epochs: Count
    nets: Count
    correlation: Correlation
    interval: tuple[Correlation, Correlation]
    ranks: bool | None


@dataclass(frozen=True)
class Margin:
    """By how much a net's top-1 is above others', after as many epochs.

    The winner is the best of several on the same images, so its margin is a little too large. That
    of the search's own net isn't.

    Attributes:
        net: whose margin it is.
        over: whom.
        nets: how many these are.
        mean: fraction of the images.
        interval: 95 %, None where nothing tells it: over random nets by how these differ from each
            other, over one net by the number of images.
    """

    net: str
    over: str
    epochs: Count
    nets: Count
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Finals:
    """The finals of a search.

    Attributes:
        winner: its row's name.
        epochs: of a whole training.
        judged_images: training images that were held out, to judge on.
        target_ms: that the nets were derived for on the table, corrected for what the device said
            of the search's own net.
        margins: of the winner, and of the search's own net.
        rows: the winner first, then by how far they came and how good they were there.
    """

    winner: str
    epochs: Count
    judged_images: Count
    target_ms: float
    rows: tuple[FinalsRow, ...]
    evidence: tuple[Evidence, ...]
    margins: tuple[Margin, ...]


def evidence(rows: Sequence[FinalsRow], cuts: Sequence[int]) -> tuple[Evidence, ...]:
    """What each score was worth, by what nets came to at each later cut.

    Args:
        cuts: epochs at which nets were compared, ascending.
    """
    names = dict.fromkeys(name for row in rows for name in row.scores)
    known = [
        (name, 0, {r.name: r.scores[name] for r in rows if name in r.scores}) for name in names
    ]
    known += [(f"top-1 after epoch {cut}", cut, _after(rows, cut)) for cut in cuts]
    found = []
    for name, when, values in known:
        for cut in cuts:
            reached = _after(rows, cut)
            both = [key for key in values if key in reached]
            if cut <= when or len(both) < FEWEST:
                continue
            correlation = spearman([values[k] for k in both], [reached[k] for k in both])
            if correlation != correlation:  # all equal: nothing to rank
                continue
            low, high = spearman_bounds(correlation, len(both))
            ranks = True if low > 0 else False if high < 0 else None
            found.append(Evidence(name, cut, len(both), correlation, (low, high), ranks))
    return tuple(found)


def margins(
    rows: Sequence[FinalsRow], net: str, cuts: Sequence[int], images: int
) -> tuple[Margin, ...]:
    """A net over the other random nets' mean, and over the best other hand-made one.

    Args:
        images: that accuracies are of.
    """
    first = next(row for row in rows if row.name == net)
    others = [row for row in rows if row is not first and row.curve]
    found = []
    random = [row for row in others if row.source == RANDOM]
    if random and (cut := _common(cuts, [first, *random])):
        got = mean_interval([first.curve[cut - 1] - row.curve[cut - 1] for row in random])
        interval = (got.low, got.high) if got.n > 1 else None
        found.append(Margin(net, "random nets, mean", cut, got.n, got.mean, interval))
    made = [row for row in others if row.source == HAND_MADE]
    best = max(made, key=lambda row: (row.epochs, row.curve[-1]), default=None)
    if best is not None and (cut := _common(cuts, [first, best])):
        ours, theirs = first.curve[cut - 1], best.curve[cut - 1]
        # As if the images were other ones for each net; on the same ones it is rather narrower.
        half = 1.96 * ((ours * (1 - ours) + theirs * (1 - theirs)) / images) ** 0.5
        mean, over = ours - theirs, f"the best hand-made net, {best.name}"
        found.append(Margin(net, over, cut, 1, mean, (mean - half, mean + half)))
    return tuple(found)


def ordered(rows: Sequence[FinalsRow], winner: str) -> tuple[FinalsRow, ...]:
    """The winner first, then by epochs and the last accuracy."""
    last = {row.name: row.curve[-1] if row.curve else -1.0 for row in rows}
    return tuple(sorted(rows, key=lambda r: (r.name != winner, -r.epochs, -last[r.name])))


def _after(rows: Sequence[FinalsRow], epochs: int) -> dict[str, float]:
    return {row.name: row.curve[epochs - 1] for row in rows if row.epochs >= epochs}


def _common(cuts: Sequence[int], rows: Sequence[FinalsRow]) -> int:
    """The last cut that all of these came to; 0 for none."""
    return max((cut for cut in cuts if all(row.epochs >= cut for row in rows)), default=0)

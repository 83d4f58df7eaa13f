"""Successive halving of trainings: how many nets train until when, and which go on.

As in arXiv 1502.07943. No training is shortened or repeated: each follows the full-length schedule,
is stopped at a cut, and goes on from there if its net is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

FINALISTS = 2  # trained to the end at least, where there are so many


@dataclass(frozen=True)
class Rung:
    """So many nets train until this epoch, counted from the start."""

    nets: int
    epochs: int


@dataclass(frozen=True)
class Judged:
    """What a net reached on held-out images."""

    top1: float  # fraction
    loss: float


def rungs(nets: int, epochs: int, keep: float, first_cut: float) -> tuple[Rung, ...]:
    """The rungs of a final; the last one ends with the trainings.

    Cuts lie at epochs in geometric progression. Where there are fewer epochs than cuts, a cut drops
    what several would.

    Args:
        nets: that take part, one or more.
        epochs: of a whole training.
        keep: share of the nets that goes on after a cut.
        first_cut: share of the epochs before the first cut, at least.
    """
    counts = [nets]
    while counts[-1] > FINALISTS:
        counts.append(max(FINALISTS, min(math.ceil(keep * counts[-1] - 1e-9), counts[-1] - 1)))
    first = min(max(math.ceil(first_cut * epochs - 1e-9), 1), epochs)
    if len(counts) == 1:
        first = epochs
    growth = (epochs / first) ** (1 / max(len(counts) - 1, 1))
    found: list[Rung] = []
    for index, count in enumerate(counts):
        end = epochs if index == len(counts) - 1 else round(first * growth**index)
        if found and end <= found[-1].epochs:
            continue
        found.append(Rung(count, end))
    if found[-1].epochs < epochs:  # only where the last one was merged into the one before
        found[-1] = Rung(found[-1].nets, epochs)
    return tuple(found)


def ranking(judged: Mapping[str, Judged]) -> tuple[str, ...]:
    """Names, best first: by top-1, of equals by loss, then in the order that they have here."""
    return tuple(sorted(judged, key=lambda name: (-judged[name].top1, judged[name].loss)))

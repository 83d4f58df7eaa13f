"""Exit statuses of entry points, from the best to the worst."""

from __future__ import annotations

from collections.abc import Iterable

DONE, OUTSIDE_TOLERANCE, UNUSABLE_INPUT, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
# From the best to the worst. An interrupted run has no fault and goes on by itself when it is
# resumed; a refused one needs other input, a failed one somebody who looks at it.
STATUS_NAMES = {
    DONE: "done",
    OUTSIDE_TOLERANCE: "missed",
    INTERRUPTED: "interrupted",
    UNUSABLE_INPUT: "refused",
    FAILED: "failed",
}


def worst(statuses: Iterable[int]) -> int:
    """The status of several runs together, see `STATUS_NAMES`; an unknown one is a failure."""
    order = list(STATUS_NAMES)
    known = (status if status in STATUS_NAMES else FAILED for status in statuses)
    return max(known, key=order.index, default=DONE)

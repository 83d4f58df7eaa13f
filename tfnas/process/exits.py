"""Exit statuses of entry points, from the best to the worst."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

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


def exit_after(work: Callable[[], int]) -> NoReturn:
    """Run a plain command line's work and exit with its status; what is no input is one line."""
    try:
        status = work()
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing more can be printed, not even at exit.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        status = DONE
    except (ValueError, LookupError, OSError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {text}", file=sys.stderr)
        status = UNUSABLE_INPUT
    sys.exit(status)

"""Exit statuses of entry points, from the best to the worst."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from tfnas.process.errors import as_text

DONE, OUTSIDE_TOLERANCE, UNUSABLE_INPUT, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
PARENT = "TFNAS_PARENT"  # in the environment: the process with which this one ends
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
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


def show_what_can_be_shown() -> None:
    """Let a console that isn't UTF-8 replace what it can't show, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # a stream that was put on another file
                stream.reconfigure(errors="replace")


def end_children() -> None:
    """Kill what this process started by `multiprocessing` and is still there.

    Python waits at its end for all of them, and for ever for one that hangs and heeds no SIGTERM.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise for each
    for child in multiprocessing.active_children():
        # A launcher's are of a kind of their own, and it ends them itself.
        if isinstance(child, multiprocessing.Process):
            child.kill()


def end_with_parent() -> None:
    """Be asked to stop once the parent is gone, if it says so by `PARENT` (Linux, see prctl(2))."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    import ctypes  # for a verification alone

    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != int(parent):  # it is gone already
        sys.exit(INTERRUPTED)


def exit_after(work: Callable[[], int]) -> NoReturn:
    """Run a plain command line's work and exit with its status; what is no input is one line."""
    show_what_can_be_shown()
    try:
        status = work()
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing more can be printed, not even at exit.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        status = DONE
    except (ValueError, LookupError, OSError) as error:
        print(f"error: {as_text(error)}", file=sys.stderr)
        status = UNUSABLE_INPUT
    sys.exit(status)

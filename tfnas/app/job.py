"""How a command works in its folder: alone there, ended by signals and faults in one way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from tfnas.app.command_line import refuse
from tfnas.process.errors import DisagreementError, DivergedError, LostError, StoppedError, as_text
from tfnas.process.exits import DONE, FAILED, INTERRUPTED
from tfnas.process.ranks import ALONE, Ranks
from tfnas.process.stopping import locked, stop_on_signals

log = logging.getLogger(__name__)

Begun = TypeVar("Begun")
Stop = Callable[[], bool]


def run_alone(
    folder: Path,
    begin: Callable[[], Begun],
    work: Callable[[Begun], int],
    *,
    go_on: Callable[[], str],
    end: Callable[[int], None] = lambda status: None,
) -> int:
    """Work as the only process that writes into a folder; the exit status.

    Args:
        begin: the last checks, and what is noted before the work, of which it gets the result. A
            ValueError or OSError from it is unusable input.
        go_on: the command that goes on with what is saved; "" where nothing is.
        end: called with the status before the folder is left to others.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
            begun = begin()
        except (ValueError, OSError) as error:
            return refuse(error)
        status = ended(lambda: work(begun), go_on)
        end(status)
        return status


def follow(ranks: Ranks, begin: Callable[[], Begun], steps: Callable[[Begun, Stop], object]) -> int:
    """What another rank than 0 does: the steps, and nothing before or after; the exit status."""
    with stop_on_signals(ranks) as stop:
        try:
            begun = begin()
        except (LostError, ValueError, LookupError, OSError):
            ranks.wait_for_end()
            return DONE  # rank 0 has nothing to do, or can't, and says why

        def work() -> int:
            steps(begun, stop)
            return DONE

        return ended(work, ranks=ranks)


def ended(work: Callable[[], int], go_on: Callable[[], str] = str, ranks: Ranks = ALONE) -> int:
    """The exit status of work that may be stopped or fail; rank 0 says why and how to go on."""

    def hint() -> str:
        command = go_on()
        return f"; go on with: {command}" if command else ""

    try:
        return work()
    except KeyboardInterrupt:
        log.info("interrupted%s", hint())
        return INTERRUPTED
    except StoppedError:
        log.info("stopped and saved%s", hint())
        return INTERRUPTED
    except (DivergedError, DisagreementError, OSError) as error:
        if ranks.rank and isinstance(error, (DivergedError, DisagreementError)):
            ranks.wait_for_end()  # rank 0 came to the same, and says so
        elif not (ranks.rank and isinstance(error, LostError)):
            log.error("error: %s%s", as_text(error), hint())
        log.debug("", exc_info=error)
        return FAILED

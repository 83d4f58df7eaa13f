"""Clean ends: signals that stop a run between two steps, and one process a folder."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tfnas.process.ranks import ALONE, Ranks

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def stop_on_signals(ranks: Ranks = ALONE) -> Iterator[Callable[[], bool]]:
    """A flag that the first SIGINT, SIGTERM or SIGHUP sets; the second one ends the process.

    Of several ranks none is ended by a second one: torchrun hands on what it gets, and a cluster's
    manager signals all processes, so each rank gets it twice, the second time perhaps when it
    has saved and ends. One that doesn't end in time torchrun kills.
    """
    caught: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if caught:
            return
        caught.append(number)
        if ranks.size == 1:
            for name, handler in before.items():
                signal.signal(name, handler)
        log.info("stopping after this step")

    before = {number: signal.signal(number, handle) for number in _heeded()}
    try:
        yield lambda: bool(caught)
    finally:
        if ranks.size == 1 or not caught:
            for number, handler in before.items():
                signal.signal(number, handler)


def interrupt_on_signals(ranks: Ranks = ALONE) -> None:
    """From now on SIGTERM and SIGHUP end this process as Ctrl-C does: what it holds is saved.

    One of several ranks heeds the first signal alone, see `stop_on_signals`.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if ranks.size > 1:
            for each in _heeded():
                signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in _heeded():
        signal.signal(number, interrupt)


def _heeded() -> list[signal.Signals]:
    """Those that may be handled here: none outside the main thread, where Python allows no handler,
    and not what the parent ignores, as SIGHUP under nohup."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time that writes into a folder, which is made if it isn't there.

    The lock is the kernel's, on the folder itself: it ends with its owner, however that dies.

    Raises:
        ValueError: if another process has it.
        OSError: if the folder can't be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        log.warning("warning: this system can't lock %s: run nothing else in it", folder)
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another run is writing into {folder}: wait for its end, or give another folder"
            ) from None
        except OSError as error:  # some network file systems can't lock a folder
            log.warning("warning: can't lock %s (%s): run nothing else in it", folder, error)
        yield
    finally:
        os.close(handle)

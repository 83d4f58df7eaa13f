"""Progress as lines: how far, how long still, what it looks like."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 5.0


@contextmanager
def heartbeat(
    log: logging.Logger, label: str, progress: Callable[[], tuple[float, str]]
) -> Iterator[None]:
    """Log a line every few seconds. A thread, since one step of a large net can take longer.

    Args:
        progress: (share that is done, 0 to 1; what it looks like).
    """
    done = threading.Event()
    first, _ = progress()
    started = time.monotonic()

    def beat() -> None:
        while not done.wait(EVERY_S):
            share, text = progress()
            spent = time.monotonic() - started
            left = spent / (share - first) * (1 - share) if share > first else float("nan")
            log.info("%s %3.0f %% · %s left · %s", label, 100 * share, duration(left), text)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def duration(seconds: float) -> str:
    """Such as `42 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds != seconds:  # nan: nothing is known yet
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

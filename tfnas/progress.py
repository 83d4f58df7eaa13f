"""Progress as lines: how far, what it looks like, how long still."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

EVERY_S = 5.0


class Ticker:
    """Logs a line at most every few seconds, with the time left at the pace so far.

    Args:
        label: what is going on.
        total: how many steps there are.
    """

    def __init__(
        self,
        log: logging.Logger,
        label: str,
        total: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._log, self._label, self._total, self._clock = log, label, total, clock
        self._start = self._last = clock()
        self._first_done: int | None = None

    def tick(self, done: int, text: str = "") -> None:
        """`done` of `total` steps are done."""
        now = self._clock()
        if self._first_done is None:
            self._first_done, self._start = done - 1, self._last
        if now - self._last < EVERY_S and done < self._total:
            return
        self._last = now
        steps = done - self._first_done
        left_s = (now - self._start) / steps * (self._total - done) if steps else float("nan")
        share = 100 * done / self._total
        tail = f" · {text}" if text else ""
        self._log.info("%s %3.0f %% · %s left%s", self._label, share, duration(left_s), tail)


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

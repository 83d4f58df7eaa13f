"""Progress: a bar on a terminal, lines everywhere else and in log files."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from tfnas.process.bar import DRAW_EVERY_S, bar

EVERY_S = 5.0


@contextmanager
def heartbeat(
    log: logging.Logger,
    label: str,
    progress: Callable[[], tuple[float, str]],
    figures: Callable[[], str] = str,
) -> Iterator[None]:
    """Log a line every few seconds. A thread, since one step of a large net can take longer.

    Args:
        progress: (share that is done, 0 to 1; what it looks like).
        figures: what else stands below a bar.
    """
    done = threading.Event()
    share, text = progress()
    with bar(label, share) as shown:
        pause_s = min(DRAW_EVERY_S, EVERY_S) if shown.is_drawn else EVERY_S
        shown.draw(share, text, figures())

        def beat() -> None:
            for number in count(1):
                if done.wait(pause_s):
                    return
                share, text = progress()
                shown.draw(share, text, figures())
                if number % round(EVERY_S / pause_s) == 0:
                    left = duration(shown.left_s(share))
                    shown.say(
                        log.info, "%s %3.0f %% · %s left · %s", label, 100 * share, left, text
                    )

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

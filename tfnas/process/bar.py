"""A bar below the log lines while something long runs, where a person looks at a terminal.

The handler of the console's log lines (conf/hydra/job_logging/) owns the terminal, so lines scroll
above the bar unharmed. Where there is no such handler, or no terminal, nothing is drawn, and what
is in progress stands in lines alone. A bar is drawn by whom it is called by, and never by a thread
of its own: one that measures latencies would be disturbed.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

DRAW_EVERY_S = 0.5
WIDEST = 40  # columns of a bar
BROKEN = (OSError, ValueError)  # the terminal is gone, or can't show a character
# Whether the line that this thread logs tells what its bar shows.
_shown = ContextVar("shown", default=False)


class ConsoleHandler(logging.StreamHandler):
    """Lines on standard output, above the bar while one is drawn."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.live: Live | None = None
        self.shared = False  # with other processes, whose bars would draw over each other

    def emit(self, record: logging.LogRecord) -> None:
        live = self.live
        if live is None:
            super().emit(record)
        elif not _shown.get():
            from rich.text import Text

            try:  # broken by the terminal alone, as without a bar
                live.console.print(Text(self.format(record)), soft_wrap=True)
            except Exception:
                self.handleError(record)


class Bar:
    """How far something is. Without a terminal it draws nothing.

    Args:
        share: that is done already, 0 to 1.
    """

    def __init__(
        self, label: str = "", share: float = 0.0, handler: ConsoleHandler | None = None
    ) -> None:
        self.label = label
        self._first, self._started_s = share, time.monotonic()
        self._handler = handler
        self._drawn_s = -math.inf

    @property
    def is_drawn(self) -> bool:
        return self._handler is not None and self._handler.live is not None

    def left_s(self, share: float) -> float:
        """Seconds to the end, if it goes on as until now; nan if nothing is known yet."""
        if share <= self._first:
            return math.nan
        return (time.monotonic() - self._started_s) / (share - self._first) * (1 - share)

    def draw(self, share: float, text: str, figures: str = "") -> None:
        """Draw it anew, unless that was done a moment ago.

        Args:
            text: beside the bar.
            figures: below it.
        """
        live = None if self._handler is None else self._handler.live
        if live is None or time.monotonic() - self._drawn_s < DRAW_EVERY_S:
            return
        self._drawn_s = time.monotonic()
        try:
            live.update(self._picture(live.console, share, text, figures), refresh=True)
        except BROKEN:  # the log goes on elsewhere
            assert self._handler is not None
            self._handler.live = None

    def say(self, say: Callable[..., None], *arguments: object) -> None:
        """Log a line of progress: into all files, and on the console if no bar tells it there."""
        token = _shown.set(self.is_drawn)
        try:
            say(*arguments)
        finally:
            _shown.reset(token)

    def _picture(self, console: Console, share: float, text: str, figures: str) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        from tfnas.process.progress import duration

        state = f"{100 * share:3.0f} % · {duration(self.left_s(share))} left · {text}"
        row = Table.grid(padding=(0, 1))
        width = min(WIDEST, console.width // 4)
        row.add_column(no_wrap=True, overflow="ellipsis")
        row.add_column(width=width)
        row.add_column(no_wrap=True, overflow="ellipsis")
        row.add_row(
            Text(self.label), ProgressBar(1.0, share, width, complete_style="cyan"), Text(state)
        )
        if not figures:
            return row
        return Group(row, Text(figures, "dim", no_wrap=True, overflow="ellipsis"))


@contextmanager
def bar(label: str, share: float = 0.0) -> Iterator[Bar]:
    """A bar until the end of the block, however that comes; then it is wiped out."""
    handler = _free_terminal()
    if handler is None:
        yield Bar(label, share)
        return
    from rich.console import Console
    from rich.live import Live

    # Without redirections: processes that are forked would inherit them, and locks with them.
    console = Console(file=handler.stream)
    live = Live(
        console=console,
        auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    if not console.is_interactive:
        yield Bar(label, share)
        return
    try:
        with suppress(*BROKEN):
            live.start()
            console.show_cursor(True)  # a killed process can't bring it back
            handler.live = live
        yield Bar(label, share, handler)
    finally:
        handler.live = None
        with suppress(*BROKEN):
            live.stop()


def _free_terminal() -> ConsoleHandler | None:
    """The console's handler, if a bar may be drawn there now."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler) and handler.live is None:
            # Others than UTF-8 can't show what a bar is made of.
            encoding = (handler.stream.encoding or "").lower()
            if handler.shared or not encoding.startswith("utf"):
                return None
            return handler if _is_terminal(handler.stream.fileno()) else None
    return None


def _is_terminal(number: int) -> bool:
    """Whether a file is a terminal that this process may draw on, and no shell's meanwhile."""
    if not os.isatty(number) or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return os.tcgetpgrp(number) == os.getpgrp()
    except OSError:  # it has no jobs in the background
        return True

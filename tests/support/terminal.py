"""A command on a terminal of its own, and what a person sees there in the end."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

from tests.support.entry import environment

COLUMNS, LINES = 1000, 60


class Terminal:
    """A pseudo-terminal with `python ARGUMENTS` on it, killed with the block if it still runs.

    Attributes:
        written: all that it wrote so far.
    """

    def __init__(self, *arguments: str, cwd: Path, **variables: str) -> None:
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        own = {"TERM": "xterm-256color", "TFNAS_LOCKS": str(cwd), **variables}
        kept = {k: v for k, v in environment().items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env={**kept, **own}, start_new_session=True,
            stdin=its, stdout=its, stderr=its,
        )  # fmt: skip
        os.close(its)
        self._handle, self.written = ours, b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._handle)

    def until(self, seen: Callable[[bytes], bool], seconds: float = 120) -> None:
        """Read until `seen(written)`; fails if it ends before."""
        end = time.monotonic() + seconds
        while not seen(self.written):
            assert self._read(), self.written.decode()
            assert time.monotonic() < end, self.written.decode()

    def finish(self) -> int:
        """Read to the end; the exit status."""
        while self._read():
            pass
        return self.process.wait()

    def _read(self) -> bool:
        try:
            new = os.read(self._handle, 1 << 16)
        except OSError:  # nobody has it open any more
            return False
        self.written += new
        return bool(new)

    @property
    def screen(self) -> pyte.Screen:
        screen = pyte.Screen(COLUMNS, LINES)
        pyte.ByteStream(screen).feed(self.written)
        return screen


def lines_of(screen: pyte.Screen) -> list[str]:
    """What stands there, without empty lines."""
    return [line.rstrip() for line in screen.display if line.strip()]

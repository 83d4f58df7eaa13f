"""The link to a device that is elsewhere: files there, files back, commands with their status.

What it carries never enters a figure: clocks are read on the device, by what runs there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class LinkError(OSError):
    """The link broke, or the device isn't there (any more); trying again later may help."""


class DeviceError(OSError):
    """The device can't do what it is asked, or its answer makes no sense."""


class TooMuchError(DeviceError):
    """More came back than was asked for."""


@dataclass(frozen=True)
class Ran:
    """A command that ran on the device to its end.

    Attributes:
        status: its exit status.
        out: its standard output.
        err: its standard error.
    """

    status: int
    out: bytes
    err: str

    @property
    def first_line(self) -> str:
        """As `last_line`; of programs that say first what is wrong."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return _printable(lines[0]) if lines else f"status {self.status}"

    @property
    def last_line(self) -> str:
        """Of its errors, for a message: printable and short."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return _printable(lines[-1]) if lines else f"status {self.status}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:500].removeprefix("error: ")


class Transport(Protocol):
    """A device at the end of a link.

    Attributes:
        name: for messages, such as `ssh pi@board`.
        scratch: folder on the device where new folders may be made, such as /tmp.
    """

    name: str
    scratch: str

    def run(self, command: Sequence[str], *, timeout_s: float, max_bytes: int = 10_000_000) -> Ran:
        """Run a program with its arguments; every one is quoted for the device's shell.

        Raises:
            LinkError: if the link broke, the device is gone or `timeout_s` is over.
            TooMuchError: if there is more than `max_bytes` of output.
        """
        ...

    def push(self, files: Mapping[str, Path], folder: str) -> None:
        """Write local files into a folder on the device that exists, by their names there.

        Raises:
            LinkError: as `run`.
            DeviceError: if the device can't take them, as where its disk is full.
        """
        ...

    def pull(self, path: str, max_bytes: int) -> bytes:
        """A file on the device, as it is now.

        Raises:
            LinkError: as `run`.
            FileNotFoundError: if there is none.
            DeviceError: if it can't be read, or holds more than `max_bytes`.
        """
        ...

"""The link to a device that is elsewhere: files there, files back, commands with their status.

What it carries never enters a figure: clocks are read on the device, by what runs there.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from profilers.contract import DeviceError

MAX_ERR = 100_000  # bytes of standard error that are kept
SHORT_S = 30.0  # for commands that do next to nothing


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
        return self._line(0)

    @property
    def last_line(self) -> str:
        """Of its errors, for a message: printable and short."""
        return self._line(-1)

    def _line(self, index: int) -> str:
        lines = [line for line in self.err.splitlines() if line.strip()]
        if not lines:
            return f"status {self.status}"
        printable = "".join(c if c.isprintable() else "?" for c in lines[index])
        return printable[:500].removeprefix("error: ")


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


def run_bounded(
    command: Sequence[str],
    *,
    timeout_s: float,
    max_bytes: int,
    stdin: IO[bytes] | None = None,
) -> Ran:
    """Run a local program to its end, its output bounded; Ctrl-C in the terminal isn't handed on.

    Args:
        max_bytes: of its standard output; of its errors `MAX_ERR` are kept.

    Raises:
        FileNotFoundError: if there is no such program.
        TimeoutError: if it takes longer than `timeout_s`; it is killed.
        TooMuchError: if it writes more; it is killed.
    """
    end = time.monotonic() + timeout_s
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = bytearray(), bytearray()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ, out)
                selector.register(process.stderr, selectors.EVENT_READ, err)
                while selector.get_map():
                    ready = selector.select(max(0.0, end - time.monotonic()))
                    if not ready:
                        raise TimeoutError
                    for key, _ in ready:
                        chunk = os.read(key.fd, 1 << 16)
                        if not chunk:
                            selector.unregister(key.fileobj)
                        key.data.extend(chunk)
                    del err[:-MAX_ERR]
                    if len(out) > max_bytes:
                        raise TooMuchError
            status = process.wait(max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            raise TimeoutError from None
        except BaseException:
            process.kill()
            raise
    return Ran(status, bytes(out), err.decode(errors="replace"))

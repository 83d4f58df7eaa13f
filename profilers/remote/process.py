"""A local program whose output comes from elsewhere: bounded in time and size."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from typing import IO

from profilers.remote.transport import Ran, TooMuchError

MAX_ERR = 100_000


def run_bounded(
    command: Sequence[str],
    *,
    timeout_s: float,
    max_bytes: int,
    stdin: IO[bytes] | None = None,
) -> Ran:
    """Run a program to its end; Ctrl-C in the terminal isn't handed on to it.

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

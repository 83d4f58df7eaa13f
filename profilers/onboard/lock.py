"""One measuring process at a time on a machine. Only the standard library: boards run it too."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

SHARED = ("/run/lock", "/tmp")  # the first that can be written, as in measure.sh


def check_lockable() -> None:
    """Raises OSError where this system has no locks, or they can't lie where they should."""
    if fcntl is None:
        raise OSError("measuring needs Linux: this system has no locks to measure one at a time")
    if own := os.environ.get("TFNAS_LOCKS"):
        with suppress(OSError):
            Path(own).mkdir(parents=True, exist_ok=True)
        if not os.access(own, os.W_OK | os.X_OK):
            raise OSError(f"TFNAS_LOCKS={own}: expected a folder for locks that can be written")


@contextmanager
def machine_lock(
    progress: Callable[[str], None], name: str = "measuring", wait_s: float = math.inf
) -> Iterator[None]:
    """The others wait and say so, whoever's they are.

    The lock is the kernel's, on an open file: it ends with its owner, however that dies. The file
    lies where all users of the machine look, or in the folder that `TFNAS_LOCKS` names.

    Args:
        name: letters, digits and hyphens: what is locked, this machine's clock or a device.

    Raises:
        TimeoutError: if another process has it for longer than `wait_s`.
        OSError: see `check_lockable`.
    """
    check_lockable()
    handle = _open(_folder() / f"tfnas-{name}.lock")
    try:
        waited = 0.0
        while not _try_lock(handle):
            owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            if waited >= wait_s:
                raise TimeoutError(f"another measuring process (pid {owner}) is at it")
            if waited % 4 < 0.2:
                progress(
                    f"waiting for another measuring process (pid {owner}) to end, "
                    f"{waited:.0f} s so far"
                )
            time.sleep(0.2)
            waited += 0.2
        with suppress(OSError):  # on a disk that is full the lock holds too
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _folder() -> Path:
    own = os.environ.get("TFNAS_LOCKS")
    places = [own] if own else [place for place in SHARED if os.access(place, os.W_OK)]
    return Path(*places[:1] or [tempfile.gettempdir()])


def _open(path: Path) -> int:
    """The file, which every user may open.

    What exists isn't created once more: in a folder of all users the kernel refuses that to others
    than the owner.
    """
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            with suppress(FileExistsError):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
                os.fchmod(handle, 0o666)  # whatever the umask
                return handle


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

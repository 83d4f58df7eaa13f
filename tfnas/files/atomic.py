"""Files that are replaced in one step: a crash leaves the old one or the new one, never a half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to fill, which takes the place of `path` in one step if no error comes.

    Raises:
        OSError: if it can't be written, or the path is a folder's.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file to write")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    new = Path(name)
    try:
        yield new
        take_place(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def take_place(new: Path, path: Path) -> None:
    """Have a file on the same disk replace `path` in one step; a folder in two. Raises OSError."""
    if new.is_dir():
        if path.is_dir():
            shutil.rmtree(path)
        new.rename(path)
        return
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    new.chmod(0o644)
    new.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text; its folder is made if it isn't there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")

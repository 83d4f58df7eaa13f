"""Images that are a piece of a larger file, such as a tar: their paths say where they lie in it.

Such a path is FILE::OFFSET+SIZE::NAME, and stands wherever that of an image file does.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

PIECE = re.compile(r"(.+?)::(\d{1,18})\+(\d{1,18})::(.*)", re.DOTALL)


def piece(file: Path, offset: int, size: int, name: str) -> str:
    """The path of an image that is `size` bytes of a file.

    Args:
        name: that it has wherever the file lies.
    """
    return f"{file}::{offset}+{size}::{name}"


def file_of(path: str) -> Path:
    """The file that an image is, or is a piece of."""
    found = PIECE.fullmatch(path)
    return Path(found[1] if found else path)


def name_of(path: str) -> str:
    """What an image is called wherever it lies: of a file also the folder's name."""
    found = PIECE.fullmatch(path)
    return found[4] if found else "/".join(Path(path).parts[-2:])


def openable(path: str) -> str | BytesIO:
    """What Pillow can open. Raises OSError or ValueError if there is no such piece."""
    found = PIECE.fullmatch(path)
    if found is None:
        return path
    with Path(found[1]).open("rb") as file:
        file.seek(int(found[2]))
        content = file.read(int(found[3]))
    if len(content) < int(found[3]):
        raise ValueError("its file ends before it does")
    return BytesIO(content)

"""idx files, as Fashion-MNIST comes in."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from tfnas.data.folders import MAX_BYTES, MAX_RATIO, SMALL


def read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """The idx file `name` (or `name`.gz) of a folder, uint8 with that many dimensions.

    Raises FileNotFoundError where there is none, ValueError where it isn't what its name says.
    """
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder}: no {name} or {name}.gz; data.root must hold the four idx files of "
            "Fashion-MNIST (data.root=shipped takes the images in this package)"
        )
    expected_magic = bytes([0, 0, 8, dimensions])  # 8: unsigned bytes
    try:
        with cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            magic, header = file.read(4), file.read(4 * dimensions)
            if magic != expected_magic or len(header) != 4 * dimensions:
                raise ValueError(
                    f"{path}: starts with {magic.hex()}, expected {expected_magic.hex()} and "
                    f"{dimensions} sizes; this isn't the idx file that its name says"
                )
            shape = struct.unpack(f">{dimensions}I", header)
            size = math.prod(shape)
            if not 1 <= size <= unpacked(path, MAX_BYTES):
                raise ValueError(
                    f"{path}: its header speaks of {size:,} bytes in a file of "
                    f"{path.stat().st_size:,}; it is damaged, fetch it again"
                )
            data = file.read(size + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: can't be read ({error}); fetch it again") from error
    if len(data) != size:
        what = "less" if len(data) < size else "more"
        raise ValueError(
            f"{path}: {what} than the {size:,} bytes of pixels or labels that its header {shape} "
            "speaks of; fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def unpacked(path: Path, most: int) -> int:
    """How many bytes a packed file of images may hold: no bomb, that is."""
    return min(most, max(MAX_RATIO * path.stat().st_size, SMALL))

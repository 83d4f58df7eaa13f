"""What a format is that nets are exported as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

Run = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Images (N, C, H, W) -> the outputs of a net, as torch has them."""


@dataclass(frozen=True)
class Format:
    """A format of files with the runtime that reads it.

    Attributes:
        runtime: its name.
        suffix: of the file that the runtime is given; others stand beside it with its name.
        packages: what is needed here, by pip's names; the first one makes the file.
        takes: whether it can have a batch size; None is an open one.
        write: makes the file of an ONNX file and the shape of its input.
        run: what runs the file here, for comparing it with torch; None: nothing does.
    """

    runtime: str
    suffix: str
    packages: tuple[str, ...]
    takes: Callable[[int | None], bool]
    write: Callable[[bytes, Sequence[int], Path], None]
    run: Callable[[Path], Run] | None

    @property
    def maker(self) -> str:
        """The package that makes the file, with its version."""
        return f"{self.packages[0]} {metadata.version(self.packages[0])}"

"""int8.json: the top-1 that an exported int8 net has, beside that of its weights in float."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.decode import Fraction, encode, load
from tfnas.runs.folder import MOST_BYTES
from tfnas.space.size import Size

INT8 = "int8"  # the precision
HEADER = {"format": "tfnas.int8/1"}


@dataclass(frozen=True)
class Int8Accuracy:
    """Both on the same test images.

    Attributes:
        subnet: fingerprint of the net.
        trained_top1: of its training, which tells whose weights they are.
        model: name of the file.
        activations: uint8 | int8
        calibration: minmax | entropy | percentile | trained: where ranges are from.
        float_ops: numbers of ops that stayed float.
        images: how many.
        resolution: of the images, that of the file.
        worst_class: the class that loses most, and `worst_class_lost` how much of its accuracy.
    """

    subnet: str
    trained_top1: Fraction
    model: str
    activations: str
    calibration: str
    reduce_range: bool
    float_ops: tuple[int, ...]
    images: Annotated[int, Meta(gt=0)]
    resolution: Size
    float_top1: Fraction
    int8_top1: Fraction
    worst_class: str
    worst_class_lost: Annotated[float, Meta(ge=-1, le=1)]

    def save(self, path: Path) -> None:
        write_atomically(path, encode(self, HEADER))

    def is_of(self, subnet: str | None, trained_top1: float | None) -> bool:
        """Whether it is of this net and training; a fingerprint of None isn't known."""
        return subnet in (None, self.subnet) and trained_top1 == self.trained_top1


def load_int8(path: Path) -> Int8Accuracy:
    """Raises ValueError, naming the file, if it is none."""
    return load(path, Int8Accuracy, "accuracy in int8", MOST_BYTES, HEADER)

"""Nets that come with the package, by name: their ops, without weights.

`tfnas/assets/gallery/NAME.json` is the subnet. A name says what the net is like, its millions of
multiply-adds with the classes of its file, and its space: `mobilenetv3_like_300m.tfnas`. Files hold
what a rule gave once, so that a name stands for the same net whatever becomes of the solver.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from tfnas.space.subnet import Subnet

GALLERY = Path(__file__).parents[1] / "assets" / "gallery"


def list_models(pattern: str = "*") -> list[str]:
    """Names of the gallery's nets, in order; with a pattern such as `*.tfnas` those that match."""
    names = sorted(file.stem for file in GALLERY.glob("*.json"))
    return [name for name in names if fnmatchcase(name, pattern)]


def gallery_subnet(name: str, classes: int | None = None, in_channels: int | None = None) -> Subnet:
    """A net of the gallery, for other classes and channels of the image if they are given.

    Raises:
        LookupError: for an unknown name; names those that there are.
        ValueError: for classes or channels that no net can have.
    """
    if name not in list_models():
        raise LookupError(f"model {name!r}: expected one of {', '.join(list_models())}")
    net = Subnet.load(GALLERY / f"{name}.json")
    first = net.stem[0]
    first = replace(first, c_in=first.c_in if in_channels is None else in_channels)
    net = replace(net, stem=(first, *net.stem[1:]))
    return net if classes is None else net.with_classes(classes)

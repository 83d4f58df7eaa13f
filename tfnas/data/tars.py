"""Images in tar files as WebDataset lays them out (github.com/webdataset/webdataset): the members
KEY.jpg and KEY.cls are an image and its class, a number or a name.

Nothing is unpacked: an index tells where each image lies, so they can be read in any order.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from tfnas.data.folders import EXTENSIONS
from tfnas.data.images import Dataset, FileImages, Place, data_set, some, split_off
from tfnas.data.pieces import piece
from tfnas.files.bounded import MAX_NAME, check_text, shown

CLASS = ".cls"
KEY = re.compile(r"((?:.*/)?[^./]+)(\.[^/]+)", re.DOTALL)  # and what stands behind its first dot
TESTS = ("val", "test")  # how the names of test files begin
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
MAX_FILES, MAX_IMAGES = 100_000, 5_000_000


@dataclass(frozen=True)
class Labelled:
    """An image of a tar, by its path as a piece, and its class as it stands there."""

    path: str
    label: str


def load(place: Place) -> Dataset:
    """From the tars in a folder, or those that a pattern names."""
    train_files, test_files = tar_files(place)
    others: Counter[str] = Counter()
    train_images = read_tars(train_files, others)
    classes = class_names(train_images)
    train = _labelled(train_images, classes)
    origin = f"{len(train_files)} tar files as {train_files[0]}"
    if test_files:
        test = _labelled(read_tars(test_files, others), classes)
        origin += f", tested on {len(test_files)} as {test_files[0].name}"
    else:
        train, test = split_off(train, classes, str(place.root))
        origin += ", none named val or test: a fixed stratified 80/20"
    if others:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(3))
        origin += f" (passed over: {kinds})"
    return data_set(place.name, classes, train, test, origin)


def count(place: Place) -> int:
    return len(class_names(read_tars(tar_files(place)[0], Counter())))


def tar_files(place: Place) -> tuple[list[Path], list[Path]]:
    """The tars to train on and to test on.

    Raises:
        ValueError: where none are to train on, or the pattern makes no sense.
        FileNotFoundError: for one that isn't there.
    """
    if place.root is None:
        raise ValueError(
            f"data={place.name} needs data.root: tar files in a folder, or as 'a-{{00..09}}.tar'"
        )
    root = Path(place.root).expanduser()
    files = sorted(root.glob("*.tar")) if root.is_dir() else [Path(f) for f in expanded(str(root))]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"data.root={place.root}: no such file or folder ({file})")
    tests = [file for file in files if file.name.startswith(TESTS)]
    train = [file for file in files if not file.name.startswith(TESTS)]
    if not train:
        raise ValueError(f"data.root={place.root}: no tar files to train on")
    return train, tests


def expanded(pattern: str) -> list[str]:
    """`a-{00..02}.tar` or `{a,b}.tar` as a shell has it: all names, in order.

    Raises:
        ValueError: for more than `MAX_FILES`.
    """
    parts = BRACES.split(pattern)  # texts, and between them what stands in braces
    choices: list[Sequence[str]] = []
    total = 1
    for index, part in enumerate(parts):
        names: Sequence[str] = [part]
        if index % 2:
            found = RANGE.fullmatch(part)
            if found is None:
                names = part.split(",")
            else:
                low, high = int(found[1]), int(found[2])
                if not low <= high < low + MAX_FILES:
                    raise ValueError(f"{{{part}}}: expected a range of 1 to {MAX_FILES:,} numbers")
                names = [str(n).zfill(len(found[1])) for n in range(low, high + 1)]
        total *= len(names)
        choices.append(names)
    if total > MAX_FILES:
        raise ValueError(f"{pattern} names {total:,} files, {MAX_FILES:,} are the most")
    return ["".join(names) for names in product(*choices)]


def read_tars(files: Sequence[Path], others: Counter[str]) -> list[Labelled]:
    """The images with a class, in the order of files and members.

    Args:
        others: gets how many members were passed over, by what they are.

    Raises:
        ValueError: for what is no plain tar, or has a member twice or a class that is none.
    """
    images: list[Labelled] = []
    for file in files:
        found: dict[str, dict[str, str]] = {}  # by key
        try:
            for key, ending, value in _members(file, others):
                if ending in found.setdefault(key, {}):
                    raise ValueError(f"has {shown(key)} twice")
                found[key][ending] = value
        except ValueError as error:
            raise ValueError(f"{file}: it {error}") from None
        except (tarfile.TarError, OverflowError) as error:
            raise ValueError(
                f"{file}: no plain tar ({error}); packed ones can't be read in any order"
            ) from None
        for parts in found.values():
            if len(parts) == 2:
                images.append(Labelled(parts["image"], parts[CLASS]))
            else:
                others["images without a class" if "image" in parts else "classes alone"] += 1
        if len(images) > MAX_IMAGES:
            raise ValueError(f"{file}: more than {MAX_IMAGES:,} images")
    return images


def _members(file: Path, others: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """Key, `image` or `CLASS`, and the path of the image or the text of the class."""
    with tarfile.open(file, "r:") as tar:
        for member in tar:
            name = KEY.fullmatch(member.name)
            if member.isdir():
                continue
            if name is None or not member.isreg() or member.issparse():
                others["other members"] += 1
            elif name[2].lower() in EXTENSIONS:
                where = member.offset_data, member.size
                yield name[1], "image", piece(file, *where, f"{file.name}/{member.name}")
            elif name[2] == CLASS:
                opened = tar.extractfile(member)
                assert opened is not None
                text = opened.read(4 * MAX_NAME + 1).decode(errors="replace").strip()
                if not text:
                    raise ValueError(f"has no class in {shown(member.name)}")
                yield name[1], CLASS, check_text(text, MAX_NAME)
            else:
                others["other members"] += 1


def class_names(images: Sequence[Labelled]) -> tuple[str, ...]:
    """The names of the classes in order: numbers by their size, else by the alphabet."""
    names = {image.label for image in images}
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _labelled(images: Sequence[Labelled], classes: Sequence[str]) -> FileImages:
    """Raises ValueError for a class that isn't trained."""
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted({image.label for image in images} - set(numbers))
    if unknown:
        raise ValueError(f"test images of classes that none are trained on: {some(unknown)}")
    labels = np.array([numbers[image.label] for image in images], np.int64)
    return FileImages(tuple(image.path for image in images), labels)

"""Data sets of Hugging Face's `datasets` as they lie on this machine: the folder that
`save_to_disk` left, or parquet files. Nothing is downloaded.

Images are read where they lie in the Arrow files of such a folder. Parquet files are packed: the
user's cache keeps a copy of them as an Arrow file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfnas.data.images import Dataset, FileImages, Place, data_set, split_off
from tfnas.data.pieces import piece
from tfnas.files.atomic import replacing
from tfnas.files.bounded import MAX_NAME, check_text, parse_json, shown
from tfnas.files.places import user_folder

TESTS = ("validation", "valid", "val", "test")  # the first of these splits is the test set
LABELS = ("label", "labels", "cls", "class")  # columns of numbers, where none says that it is
SPLIT = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|test)(?![a-z])")
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Columns:
    """Where a table keeps images and labels.

    Attributes:
        names: of the classes; None where they are numbers alone.
    """

    image: str
    label: str
    names: tuple[str, ...] | None


def load(place: Place) -> Dataset:
    splits = split_files(place.path)
    train, names = _read(splits["train"])
    test_split = next((name for name in TESTS if name in splits), None)
    origin = f"{len(splits['train'])} files as {splits['train'][0]}"
    if test_split is None:
        train, test = split_off(train, _classes(names, train.labels), str(place.root))
        origin += ", no validation or test split: a fixed stratified 80/20"
    else:
        test, test_names = _read(splits[test_split])
        if test_names != names:
            raise ValueError(f"{place.root}: the splits train and {test_split} name other classes")
        origin += f", tested on the split {test_split}"
    return data_set(place.name, _classes(names, train.labels), train, test, origin)


def count(place: Place) -> int:
    train, names = _read(split_files(place.path)["train"])
    return len(_classes(names, train.labels))


def _classes(names: tuple[str, ...] | None, labels: np.ndarray) -> tuple[str, ...]:
    highest, most = int(labels.max(initial=0)), MAX_CLASSES if names is None else len(names)
    if highest >= most:
        raise ValueError(f"a label is {highest:,}: expected 0 to {most - 1:,}")
    return tuple(map(str, range(highest + 1))) if names is None else names


def split_files(path: Path) -> dict[str, list[Path]]:
    """The files of each split, `train` among them.

    Raises:
        ValueError: where there is nothing to train on.
    """
    splits: dict[str, list[Path]] = {}
    if (path / "state.json").is_file():
        splits["train"] = sorted(path.glob("*.arrow"))
    elif (path / "dataset_dict.json").is_file():
        for state in sorted(path.glob("*/state.json")):
            splits[state.parent.name] = sorted(state.parent.glob("*.arrow"))
    else:
        for file in sorted(path.rglob("*.parquet")) if path.is_dir() else [path]:
            found = SPLIT.search(str(file.relative_to(path if path.is_dir() else path.parent)))
            splits.setdefault(found[1] if found else "train", []).append(file)
    splits = {name: files for name, files in splits.items() if files}
    if "train" not in splits:
        raise ValueError(
            f"data.root={path}: expected what save_to_disk of `datasets` left, or parquet files, "
            "with a split train; for folders of images give data=folder"
        )
    return splits


def _read(files: Sequence[Path]) -> tuple[FileImages, tuple[str, ...] | None]:
    """The images of a split's files, and the names of the classes, if they tell them."""
    try:
        import pyarrow
    except ImportError as error:
        raise LookupError(
            f"data=huggingface needs the package pyarrow: pip install pyarrow ({error})"
        ) from None
    paths: list[str] = []
    labels: list[np.ndarray] = []
    names: set[tuple[str, ...] | None] = set()
    for file in files:
        try:
            arrow = _arrow_copy(file) if file.suffix == ".parquet" else file
            buffer = pyarrow.memory_map(str(arrow)).read_buffer()
            reader = pyarrow.ipc.open_stream(buffer)
            columns = _columns(reader.schema)
            names.add(columns.names)
            for batch in filter(len, reader):
                labels.append(_labels(batch.column(columns.label)))
                where = _pieces(batch.column(columns.image), buffer)
                first = len(paths)
                paths += [
                    piece(arrow, *at, f"{file.name}/{first + n}") for n, at in enumerate(where)
                ]
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            raise ValueError(f"{file}: {error}") from None
    if len(names) > 1:
        raise ValueError(f"{files[0]} and others beside it name other classes")
    every = np.concatenate(labels) if labels else np.empty(0, np.int64)
    return FileImages(tuple(paths), every), next(iter(names))


def _columns(schema: Any) -> Columns:
    """Raises ValueError where there are none such."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}").decode()
    info = parse_json(text)
    features: Mapping[str, Any] = info.get("info", {}).get("features", {}) if info else {}
    images = [
        field.name for field in schema
        if str(field.type).startswith("struct<") and field.type.get_field_index("bytes") >= 0
    ]  # fmt: skip
    told = [
        n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"
    ]
    labels = [n for n in (*told, *LABELS) if n in schema.names]
    if not images or not labels:
        raise ValueError(
            f"has the columns {shown(schema.names)}: expected one of images, as `datasets` keeps "
            "them, and one of labels"
        )
    names = features[labels[0]].get("names") if labels[0] in told else None
    if names is not None:
        names = tuple(check_text(name, MAX_NAME) for name in names)
    return Columns(images[0], labels[0], names)


def _labels(column: Any) -> np.ndarray:
    if not str(column.type).startswith(("int", "uint")) or column.null_count:
        raise ValueError(f"has labels of {column.type}, some of them missing: expected numbers")
    labels = np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
    if (labels < 0).any():
        raise ValueError("has images without a class (label -1): expected a split with labels")
    return labels


def _pieces(column: Any, buffer: Any) -> list[tuple[int, int]]:
    """Offset and size of a column's images in their file.

    Args:
        buffer: the whole file, in which the column lies.
    """
    images = column.field("bytes")
    if str(images.type) not in ("binary", "large_binary") or images.null_count + column.null_count:
        raise ValueError("has images that aren't in the file: save it with embedded files")
    _, offsets, content = images.buffers()
    width = np.int32 if str(images.type) == "binary" else np.int64
    ends = np.frombuffer(offsets, width)[images.offset : images.offset + len(images) + 1]
    start = content.address - buffer.address
    inside = 0 <= start <= buffer.size - content.size and 0 <= ends[0] <= ends[-1] <= content.size
    if not inside or (np.diff(ends) < 0).any():
        raise ValueError("has images that are packed: expected an Arrow file as `datasets` writes")
    return list(zip((start + ends[:-1]).tolist(), np.diff(ends).tolist(), strict=True))


def _arrow_copy(file: Path) -> Path:
    """The file in the user's cache that holds what a parquet file does."""
    import pyarrow
    from pyarrow import parquet

    about = file.stat()
    known = f"{file.resolve()} {about.st_size} {about.st_mtime_ns}"
    key = hashlib.sha256(known.encode(errors="replace")).hexdigest()[:32]
    copy = user_folder("cache") / "parquet" / f"{key}.arrow"
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(copy) as new,
            parquet.ParquetFile(file) as packed,
            pyarrow.OSFile(str(new), "wb") as sink,
            pyarrow.ipc.new_stream(sink, packed.schema_arrow) as writer,
        ):
            for batch in packed.iter_batches(1000):
                writer.write_batch(batch)
    return copy

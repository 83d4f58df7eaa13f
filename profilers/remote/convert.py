"""ONNX files as ncnn wants them, made here and kept by content: pnnx takes 0.2 s a file, and a
profile has hundreds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from profilers.cache import CacheFile
from profilers.models import image_model, image_shape, onnx_model
from profilers.onboard.ncnn_net import INPUT, input_shape
from tfnas.deploy.ncnn_file import ncnn_net, pnnx, with_shape
from tfnas.files.places import user_folder

KEPT_BYTES = 1_000_000_000  # beyond, those that were used longest ago go
PARAM, WEIGHTS = ".param", ".bin"
END = b"\0"  # of a .param file where it is kept with its weights
COPIED_LAYERS = 64  # of all copies of a net together: more would outgrow the caches


def ncnn_files(onnx: bytes) -> Mapping[str, bytes]:
    """A model for ncnn, by suffix: float32, one image at a time, its shape in the .param file.

    Raises:
        ValueError: if it has another batch or input than one image, or pnnx can't convert it.
        LookupError: if pnnx isn't installed.
    """
    version, program = pnnx()
    onnx = with_batch(onnx, 1)
    sizes = image_shape(onnx_model(onnx))
    if len(sizes) != 4:
        raise ValueError(f"ncnn runs images: expected [1, channels, height, width], found {sizes}")
    folder = user_folder("cache") / "ncnn"
    key = hashlib.sha256(f"{version}\n".encode() + onnx).hexdigest()[:32]
    file = CacheFile(folder / f"{key}.cache")
    kept = file.load()
    if kept:
        with suppress(OSError):
            file.path.touch()  # used now: others go first
    else:
        param, weights = ncnn_net(onnx, program)
        kept = param.encode() + END + weights
        file.save(kept)
        _prune(folder)
    text, _, weights = kept.partition(END)
    return {PARAM: with_shape(text.decode(), *sizes[1:]).encode(), WEIGHTS: weights}


def benchncnn_files(onnx: bytes) -> Mapping[str, bytes]:
    """As `ncnn_files`, for the program: the shape as it takes it, and no weights: it needs none.

    It prints hundredths of a millisecond, too coarse for a single op: such a net gets copies of
    itself beside it, whose number is in the third file. It runs them all.
    """
    param = ncnn_files(onnx)[PARAM].decode()
    shape = ",".join(map(str, input_shape(param)))
    copies = max(1, COPIED_LAYERS // len(param.splitlines()[2:]))
    return {
        PARAM: _copied(param, copies).encode(),
        ".shape": f"[{shape}]\n".encode(),
        ".copies": f"{copies}\n".encode(),
    }


def _copied(param: str, copies: int) -> str:
    """A .param file of the same net so many times, on one input."""
    magic, _, head, *layers = param.splitlines()
    names = [f"{INPUT}_{copy}" for copy in range(copies)]
    rows = [head, f"Split copies 1 {copies} {INPUT} {' '.join(names)}"]
    for copy in range(copies):
        for layer in layers:
            kind, name, bottoms, tops, *rest = layer.split()
            count = int(bottoms) + int(tops)
            blobs = [f"{blob}_{copy}" for blob in rest[:count]]
            rows.append(" ".join([kind, f"{name}_{copy}", bottoms, tops, *blobs, *rest[count:]]))
    blob_count = sum(int(row.split()[3]) for row in rows)
    return "\n".join([magic, f"{len(rows)} {blob_count}", *rows, ""])


def with_batch(onnx: bytes, batch: int) -> bytes:
    """The model with its batch size fixed, if it was left open."""
    return image_model(onnx_model(onnx), "the model", batch).SerializeToString()


def _prune(folder: Path) -> None:
    """Drop what was used longest ago."""
    total = 0
    with suppress(OSError):  # another process may drop the same
        files = [(path, path.stat()) for path in folder.glob("*.cache")]
        for path, stat in sorted(files, key=lambda file: -file[1].st_mtime):
            total += stat.st_size
            if total > KEPT_BYTES:
                path.unlink()

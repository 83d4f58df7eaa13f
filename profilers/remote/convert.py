"""ONNX files as other runtimes want them, made here and kept by content: pnnx takes 0.2 s a file,
and a profile has hundreds."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata, util
from pathlib import Path

from platformdirs import user_cache_path

from profilers.cache import CacheFile
from profilers.models import image_model, image_shape, onnx_model
from profilers.onboard.ncnn_net import INPUT, OUTPUT, input_shape
from tfnas.files.bounded import shown

PNNX_S = 600.0  # for one file
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
    version, program = _pnnx()
    onnx = with_batch(onnx, 1)
    sizes = image_shape(onnx_model(onnx))
    if len(sizes) != 4:
        raise ValueError(f"ncnn runs images: expected [1, channels, height, width], found {sizes}")
    _, channels, height, width = sizes
    folder = user_cache_path("tfnas") / "ncnn"
    key = hashlib.sha256(f"{version}\n".encode() + onnx).hexdigest()[:32]
    file = CacheFile(folder / f"{key}.cache")
    kept = file.load()
    if kept:
        with suppress(OSError):
            file.path.touch()  # used now: others go first
    else:
        kept = _convert(onnx, program)
        file.save(kept)
        _prune(folder)
    text, _, weights = kept.partition(END)
    plain = rf"^(Input +{INPUT} +0 1 {INPUT})\s*$"
    shape = rf"\1 0={width} 1={height} 2={channels}"
    param, count = re.subn(plain, shape, text.decode(), flags=re.MULTILINE)
    if count != 1 or not re.search(rf" {OUTPUT}( |$)", param, re.MULTILINE):
        raise ValueError(f"pnnx made a net without the blobs {INPUT} and {OUTPUT}")
    return {PARAM: param.encode(), WEIGHTS: weights}


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


@cache
def _pnnx() -> tuple[str, str]:
    """Its version and program."""
    spec = util.find_spec("pnnx")
    if spec is None or spec.origin is None:
        raise LookupError("device.backend=ncnn and benchncnn need pnnx here: pip install pnnx")
    return metadata.version("pnnx"), str(Path(spec.origin).parent / "pnnx")


def _convert(onnx: bytes, program: str) -> bytes:
    """The .param file, END and the weights."""
    with tempfile.TemporaryDirectory(prefix="tfnas-") as name:
        folder = Path(name)
        (folder / "net.onnx").write_bytes(onnx)
        command = [program, "net.onnx", "fp16=0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / "log").open("wb") as log:
            try:
                status = subprocess.run(
                    command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, timeout=PNNX_S, check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                raise ValueError(
                    f"pnnx converts the model for longer than {PNNX_S:.0f} s"
                ) from None
        said = (folder / "log").read_text(encoding="utf-8", errors="replace")
        # Such layers are written down as they are, with status 0, for ncnn to refuse.
        unknown = sorted(set(re.findall(r"^todo (\S+)", said, re.MULTILINE)))
        if unknown:
            raise ValueError(f"ncnn has no layer for {', '.join(map(shown, unknown))}")
        paths = folder / "net.ncnn.param", folder / "net.ncnn.bin"
        if status or not all(path.is_file() for path in paths):
            last = (said.strip().splitlines() or ["nothing"])[-1]
            raise ValueError(f"pnnx can't convert a model (status {status}): {shown(last)}")
        return END.join(path.read_bytes() for path in paths)


def _prune(folder: Path) -> None:
    """Drop what was used longest ago."""
    total = 0
    with suppress(OSError):  # another process may drop the same
        files = [(path, path.stat()) for path in folder.glob("*.cache")]
        for path, stat in sorted(files, key=lambda file: -file[1].st_mtime):
            total += stat.st_size
            if total > KEPT_BYTES:
                path.unlink()

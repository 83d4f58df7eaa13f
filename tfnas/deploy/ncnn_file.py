"""ncnn files by pnnx, its own converter: float32, one image at a time.

A net is two files: layers in a .param file, which tells the input's shape too, weights in a .bin
file beside it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import metadata, util
from pathlib import Path

import numpy as np

from tfnas.deploy.contract import Format, Run
from tfnas.files.bounded import shown

PNNX_S = 600.0  # for one file
INPUT, OUTPUT = "in0", "out"  # the blobs' names as pnnx gives them; outputs are numbered


@cache
def pnnx() -> tuple[str, str]:
    """Its version and program. Raises LookupError if it isn't installed."""
    spec = util.find_spec("pnnx")
    if spec is None or spec.origin is None:
        raise LookupError("files for ncnn need pnnx here: pip install pnnx")
    return metadata.version("pnnx"), str(Path(spec.origin).parent / "pnnx")


def ncnn_net(onnx: bytes, program: str) -> tuple[str, bytes]:
    """What pnnx makes of an ONNX file: the text of the .param file, without the input's shape, and
    the weights.

    Raises:
        ValueError: if it can't convert it.
    """
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
        return paths[0].read_text(encoding="utf-8"), paths[1].read_bytes()


def with_shape(param: str, channels: int, height: int, width: int) -> str:
    """A .param file that tells the shape of its input.

    Raises:
        ValueError: if it isn't one of pnnx with one input.
    """
    plain = rf"^(Input +{INPUT} +0 1 {INPUT})\s*$"
    shape = rf"\1 0={width} 1={height} 2={channels}"
    told, count = re.subn(plain, shape, param, flags=re.MULTILINE)
    if count != 1 or not re.search(rf" {OUTPUT}0( |$)", told, re.MULTILINE):
        raise ValueError(f"pnnx made a net without the blobs {INPUT} and {OUTPUT}0")
    return told


def _write(onnx: bytes, shape: Sequence[int], path: Path) -> None:
    param, weights = ncnn_net(onnx, pnnx()[1])
    path.write_text(with_shape(param, *shape[1:]), encoding="utf-8")
    path.with_suffix(".bin").write_bytes(weights)


def _run(path: Path) -> Run:
    """On one thread of the CPU, in float32. Raises RuntimeError if it can't be loaded."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise RuntimeError(f"ncnn can't load {path.name}")
    count = len(set(re.findall(rf"\b{OUTPUT}\d+\b", path.read_text(encoding="utf-8"))))

    def run(images: np.ndarray) -> list[np.ndarray]:
        extractor = net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(np.ascontiguousarray(images[0])).clone())
        outputs = [extractor.extract(f"{OUTPUT}{number}") for number in range(count)]
        if failed := [status for status, _ in outputs if status]:
            raise RuntimeError(f"ncnn can't run {path.name} (status {failed[0]})")
        return [np.array(mat)[None] for _, mat in outputs]

    return run


NCNN = Format("ncnn", ".ncnn.param", ("pnnx", "ncnn"), lambda batch: batch == 1, _write, _run)

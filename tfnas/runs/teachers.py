"""What `teacher=` names: a trained run, an ONNX file, or a module of torch."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tfnas.files.bounded import parse_json
from tfnas.files.decode import convert
from tfnas.nets.factory import make_module
from tfnas.runs.model import load_model
from tfnas.space.size import size_of
from tfnas.training.teacher import Teacher


@dataclass(frozen=True)
class _Known:
    """What the metadata of an exported net tells."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_teacher(given: str | Path | nn.Module, device: torch.device) -> Teacher:
    """Load a net that another one learns from.

    Args:
        given: the folder of a trained run, an ONNX file (float32 (N, C, H, W) to (N, classes)),
            `module:factory`, where the factory takes nothing and gives a torch module; or a module.

    Raises:
        OSError: if a run or a file isn't there.
        ValueError: if it can't be read, or is none of these.
    """
    if isinstance(given, nn.Module):
        return _of_module(type(given).__name__, copy.deepcopy(given), device)
    path = Path(given)
    if path.is_dir():
        network = load_model(path)
        t = network.trained
        return replace(
            _of_module(str(path), network, device),
            classes=t.classes, mean=t.mean, std=t.std, resolution=t.resolution,
        )  # fmt: skip
    if path.suffix == ".onnx":
        return _of_onnx(path)
    if ":" in str(given):
        return _of_module(str(given), make_module(str(given), "teacher="), device)
    raise ValueError(
        f"teacher={given}: expected the folder of a trained run, an ONNX file that ends in .onnx, "
        "or module:factory"
    )


def _of_module(name: str, module: nn.Module, device: torch.device) -> Teacher:
    identity = f"{Path(name).name} {_digest(module.state_dict())}"
    module = module.eval().requires_grad_(False).to(device)
    return Teacher(name, identity, module)


def _of_onnx(path: Path) -> Teacher:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as profilers/ort.py
    import onnxruntime

    content = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an error of its own for everything
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"teacher={path} is no ONNX file that can be run: {reason}") from error
    inputs, told = session.get_inputs(), session.get_modelmeta().custom_metadata_map
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or isinstance(inputs[0].shape[0], int):
        shapes = ", ".join(str(given.shape) for given in inputs)
        raise ValueError(
            f"teacher={path} takes {shapes}: expected one input with any batch, as tfnas.export "
            "writes it with batch=null"
        )
    if told.get("weights") == "untrained":
        raise ValueError(f"teacher={path} has untrained weights: export trained ones")

    def logits(images: Tensor) -> Tensor:
        values = np.ascontiguousarray(images.float().cpu().numpy())
        found = session.run(None, {inputs[0].name: values})[0]
        return torch.from_numpy(found).float().to(images.device)

    known = None
    if told.get("weights") == "trained":  # a file of ours, which tells how it was trained
        try:
            values = {key: parse_json(told[key]) for key in ("classes", "mean", "std")}
            known = convert(values, _Known)
        except (ValueError, LookupError) as error:
            raise ValueError(
                f"teacher={path}: its metadata isn't as tfnas.export has it: {error}"
            ) from None
    identity = f"{path.name} {hashlib.sha256(content).hexdigest()[:12]}"
    height, width = inputs[0].shape[2:]
    known_size = isinstance(height, int) and isinstance(width, int)
    teacher = Teacher(
        str(path), identity, logits, resolution=size_of(height, width) if known_size else None
    )
    return teacher if known is None else replace(teacher, **vars(known))


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:12]

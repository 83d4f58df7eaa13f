"""Weights of a subnet on disk: safetensors, checked against the subnet before they're used."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from tfnas.files.atomic import replacing
from tfnas.files.bounded import shown
from tfnas.files.decode import Fraction, Positive, decode
from tfnas.nets.blocks import Network
from tfnas.space.ops import MAX_CHANNELS, OP_FIELDS
from tfnas.space.size import Size, is_size
from tfnas.space.subnet import Subnet

HEADER, METADATA_KEY = {"format": "tfnas.weights/1"}, "tfnas"
TORCH = {"format": "pt"}  # whose tensors they are: what readers of other projects look for
ABOUT = ("subnet", "space", "trained", "scores", "quantized")  # files may lack any of it
WEIGHTS = "weights.safetensors"  # what tfnas.train names its file
MAX_HEADER = 8_000_000  # bytes; names and shapes of a net take some 10,000
DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # as safetensors names them
CLASSIFIER = ".linear."  # in the names of its tensors
BATCH_NORM_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Score:
    """How good a net was on the test set, in a measure of its task."""

    name: str
    value: float


def told(top1: float | None, scores: tuple[Score, ...]) -> str:
    """How good a net is, for a line of text."""
    if top1 is not None:
        return f"top-1 {100 * top1:.1f} %"
    return ", ".join(f"{score.name} {score.value:.3f}" for score in scores)


@dataclass(frozen=True)
class Ranges:
    """What a net's weights were trained to be quantized with; see `tfnas.nets.fake_quant`.

    Attributes:
        reduce_range: weights of 7 bits.
        maps: (lowest, highest) value of each map that is quantized, by its name in the exporter's
            graph; 0 lies between.
    """

    reduce_range: bool
    maps: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for name, (low, high) in self.maps.items():
            if not -math.inf < low <= 0 <= high < math.inf:
                raise ValueError(f"the range of {shown(name)} is {low} to {high}")


@dataclass(frozen=True)
class Trained:
    """What the weights of a net were trained on, and how good it was then.

    It travels with the weights, so that neither the preprocessing nor the resolution of a top-1 is
    ever a guess.
    """

    data: str  # name and origin
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # of each channel that the net is fed, in 0..1
    std: tuple[Positive, ...]
    # Part of the shorter side that testing keeps; 1: the image is only resized.
    crop_fraction: Annotated[float, Meta(gt=0, le=1)]
    resolution: Size  # of training and test
    top1: Fraction | None  # of the test set; None: there is no one class for each image
    top5: Fraction | None
    scores: tuple[Score, ...] = ()  # what tells it then
    # Of quantization-aware training, whose accuracy is that of the net in int8, simulated.
    quantized: Ranges | None = None

    def __post_init__(self) -> None:
        if (self.top1 is None) != (self.top5 is None) or (self.top1 is None) != bool(self.scores):
            raise ValueError(f"top1={self.top1}, top5={self.top5}, scores={self.scores}")
        if self.top1 is not None and self.top5 is not None and self.top1 > self.top5:
            raise ValueError(f"top1={self.top1} is above top5={self.top5}")
        if not is_size(self.resolution):
            raise ValueError(f"resolution={shown(self.resolution)} is no size of images")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean={shown(self.mean)} and std={shown(self.std)} differ in number")

    @property
    def values(self) -> dict[str, Any]:
        """All of it, what came later only where there is some: as files of before have it."""
        later = {"scores": self.scores, "quantized": self.quantized}
        return {k: v for k, v in asdict(self).items() if k not in later or later[k]}


@dataclass(frozen=True)
class _About:
    """What `save_weights` writes beside the tensors; all None for a file from elsewhere."""

    subnet: str | None = None  # fingerprint
    space: str | None = None
    trained: Trained | None = None


@dataclass(frozen=True)
class Loaded:
    """What a weights file gave.

    Attributes:
        kept: sorts of tensors that the file didn't have, so that the network kept its own.
        trained: None if the file doesn't tell, as that of a supernet.
    """

    kept: tuple[str, ...]
    trained: Trained | None


def fingerprint(subnet: Subnet) -> str:
    """16 hex digits that name the subnet's ops, whatever space they came from."""
    rows = [[getattr(op, name) for name in OP_FIELDS] for op in subnet.ops]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def net_name(subnet: Subnet) -> str:
    """What files of many nets call a subnet, such as tfnas_1f2e3d4c."""
    return f"{subnet.space}_{fingerprint(subnet)[:8]}"


def save_weights(
    state: Mapping[str, Tensor], subnet: Subnet, path: Path, trained: Trained | None = None
) -> None:
    """Write a network's state dict, atomically, with what `load_weights` checks."""
    about = {**HEADER, **asdict(_About(fingerprint(subnet), subnet.space))}
    about["trained"] = None if trained is None else trained.values
    # A path that isn't UTF-8 loses what isn't, or the file couldn't be read.
    text = json.dumps(about, ensure_ascii=False).encode(errors="replace").decode()
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with replacing(path) as new:
        new.write_bytes(_in_order(save(tensors, {**TORCH, METADATA_KEY: text})))


def _in_order(content: bytes) -> bytes:
    """A safetensors file whose metadata are in order, not in a random one: same weights, same
    file."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def load_weights(network: Network, path: Path, complete: bool) -> Loaded:
    """Load a safetensors file into a network, after checking every name and shape.

    Args:
        complete: nothing may be missing. Otherwise the file may lack the classifier (weight and
            bias) or have one of other classes, and lack any of the five tensors of batch norm, each
            of them in all layers or in none: a supernet has no batch-norm tensors. What is missing
            keeps the network's values.

    Raises:
        ValueError: if the file can't be read, is of another subnet, has a missing, unexpected or
            misshapen tensor, or a value that is not finite.
    """
    expected = network.state_dict()
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            about = _about(file.metadata() or {}, path)
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            forms = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
            subnet = network.subnet
            if not complete and (classes := _classes_of(forms)) not in (None, subnet.classes):
                subnet, about = subnet.with_classes(classes), replace(about, trained=None)
                forms = {name: form for name, form in forms.items() if CLASSIFIER not in name}
            _check_subnet(subnet, about.subnet, path)
            kept = _check_names(expected, forms, path, complete)
            tensors = {name: file.get_tensor(name) for name in forms}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"can't read the weights {path}: {str(error)[:500]}") from None
    for name, value in tensors.items():
        if not value.isfinite().all() or (name.endswith("running_var") and (value < 0).any()):
            raise ValueError(f"{path}: {name} has values that no trained network has")
    trained = about.trained
    if trained is not None and len(trained.classes) != network.subnet.classes:
        raise ValueError(
            f"{path} names {len(trained.classes)} classes, the subnet has {network.subnet.classes}"
        )
    if trained is not None and len(trained.mean) != network.subnet.in_channels:
        raise ValueError(
            f"{path} was trained on {len(trained.mean)} channels, the subnet takes "
            f"{network.subnet.in_channels}"
        )
    network.load_state_dict({**expected, **tensors})
    return Loaded(kept, trained)


def read_trained(subnet: Subnet, path: Path) -> Trained | None:
    """What a weights file says that it was trained on; its tensors are not read.

    Raises:
        ValueError: if it can't be read, or is of another subnet.
    """
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            about = _about(file.metadata() or {}, path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"can't read the weights {path}: {str(error)[:500]}") from None
    _check_subnet(subnet, about.subnet, path)
    return about.trained


def save_supernet(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a supernet's state dict, atomically, for `read_supernet`."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with replacing(path) as new:
        save_file(tensors, new, TORCH)


def read_supernet(path: Path) -> dict[str, Tensor]:
    """Read what `save_supernet` wrote.

    Raises:
        ValueError: if the file can't be read, or has values that are not finite.
    """
    try:
        _check_header(path)
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"can't read the supernet {path}: {str(error)[:500]}; without the file the net "
            "inherits no weights"
        ) from None
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ValueError(
            f"the supernet {path} has values that no trained one has; without the file the net "
            "inherits no weights"
        )
    return tensors


def take_supernet(net: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Load a supernet's weights; False, and nothing is changed, if they are of another one."""
    forms = [
        {name: (tuple(value.shape), value.dtype) for name, value in of.items()}
        for of in (net.state_dict(), tensors)
    ]
    if forms[0] != forms[1]:
        return False
    net.load_state_dict(tensors)
    return True


def _check_header(path: Path) -> None:
    """Raises OSError before a header is read that no net needs, or a pipe that may never end."""
    if not path.is_file():
        raise OSError("no such file, or not a plain one")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER:
        raise OSError(f"a header of {size:,} bytes, {MAX_HEADER:,} are the most")


def _about(metadata: Mapping[str, str], path: Path) -> _About:
    if METADATA_KEY not in metadata:
        return _About()
    try:
        return decode(metadata[METADATA_KEY], _About, HEADER, older=ABOUT)
    except ValueError as error:
        raise ValueError(f"{path}: its metadata is not as it should be: it {error}") from None


def _check_subnet(subnet: Subnet, found: str | None, path: Path) -> None:
    if found is not None and found != fingerprint(subnet):
        other = shown(found).strip("'")
        raise ValueError(
            f"{path} holds the weights of the subnet {other}, expected those of "
            f"{fingerprint(subnet)}: take the subnet.json they were trained for"
        )


def _classes_of(forms: Mapping[str, tuple[str, tuple[int, ...]]]) -> int | None:
    """Outputs of the classifier in a file; None where it has none that makes sense."""
    shapes = [form[1] for name, form in forms.items() if name.endswith(f"{CLASSIFIER}weight")]
    sound = len(shapes) == 1 and len(shapes[0]) == 2 and 1 <= shapes[0][0] <= MAX_CHANNELS
    return shapes[0][0] if sound else None


def _check_names(
    expected: Mapping[str, Tensor],
    forms: Mapping[str, tuple[str, tuple[int, ...]]],
    path: Path,
    complete: bool,
) -> tuple[str, ...]:
    """The sorts of tensors that may be and are missing; raises ValueError for all else.

    Args:
        forms: type and shape of each tensor in the file.
    """
    missing = set(expected) - set(forms)
    kept = []
    if not complete:
        sorts = {f"batch norm {part}": f".bn.{part}" for part in BATCH_NORM_PARTS}
        for sort, suffix in sorts.items():
            names = {name for name in expected if name.endswith(suffix)}
            if names and names <= missing:
                kept.append(sort)
                missing -= names
        classifier = {name for name in expected if CLASSIFIER in name}
        if classifier <= missing:
            kept.append("classifier")
            missing -= classifier
    unexpected = {shown(name)[1:-1] for name in forms if name not in expected}
    shapes, types = set(), set()
    for name, (dtype, shape) in forms.items():
        if name in expected:
            right = expected[name]
            if shape != tuple(right.shape):
                shapes.add(f"{name} {shape} instead of {tuple(right.shape)}")
            if dtype != DTYPES[right.dtype]:
                types.add(f"{name} {dtype} instead of {DTYPES[right.dtype]}")
    faults = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("wrong shape", shapes),
        ("wrong type", types),
    )
    found = "; ".join(f"{what}: {_some(sorted(names))}" for what, names in faults if names)
    if found:
        raise ValueError(f"{path} doesn't fit the subnet: {found}")
    return tuple(kept)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more

"""Weights of a subnet on disk: safetensors, checked against the subnet before they're used."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tfnas.blocks import Network
from tfnas.space import OP_FIELDS, Subnet

Triple = tuple[float, float, float]
FORMAT, METADATA_KEY = "tfnas.weights/1", "tfnas"
WEIGHTS = "weights.safetensors"  # what tfnas.train names its file
BATCH_NORM_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Trained:
    """What the weights of a net were trained on, and how good it was then.

    It travels with the weights, so that neither the preprocessing nor the resolution of a top-1 is
    ever a guess.
    """

    data: str  # name and origin
    classes: tuple[str, ...]
    mean: Triple  # of RGB in 0..1
    std: Triple  # of RGB in 0..1
    crop_fraction: (
        float  # part of the shorter side that testing keeps; 1: the image is only resized
    )
    resolution: int  # pixels, of training and test
    top1: float  # fraction of the test set
    top5: float  # fraction of the test set

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(isinstance(v, (int, float)) for v in values):
                raise ValueError(f"{name} {values!r}: expected three numbers")
        if not 0 <= self.top1 <= self.top5 <= 1 or not 0 < self.crop_fraction <= 1:
            raise ValueError("top1, top5 and crop_fraction must be fractions")
        if type(self.resolution) is not int or not all(isinstance(c, str) for c in self.classes):
            raise ValueError("resolution must be a number of pixels, classes must be names")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Trained:
        """From JSON; raises ValueError if a field is missing, unknown or of the wrong type."""
        try:
            tuples = {name: tuple(values[name]) for name in ("classes", "mean", "std")}
            return cls(**{**values, **tuples})
        except (KeyError, TypeError) as error:
            raise ValueError(f"what it was trained on is not told in full: {error}") from None


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


def save_weights(
    state: Mapping[str, Tensor], subnet: Subnet, path: Path, trained: Trained | None = None
) -> None:
    """Write a network's state dict, atomically, with what `load_weights` checks."""
    about = {
        "format": FORMAT,
        "subnet": fingerprint(subnet),
        "space": subnet.space,
        "trained": None if trained is None else asdict(trained),
    }
    # One entry, since safetensors writes several in random order: same weights, same file.
    metadata = {METADATA_KEY: json.dumps(about)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with replacing(path) as new:
        save_file(tensors, new, metadata)


def load_weights(network: Network, path: Path, complete: bool) -> Loaded:
    """Load a safetensors file into a network, after checking every name and shape.

    Args:
        complete: nothing may be missing. Otherwise the file may lack the classifier (weight and
            bias), and any of the five tensors of batch norm, each of them in all layers or in none:
            a supernet has no batch-norm tensors. What is missing keeps the network's values.

    Raises:
        ValueError: if the file can't be read, is of another subnet, has a missing, unexpected or
            misshapen tensor, or a value that is not finite.
    """
    expected = network.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(file.metadata() or {}, path)
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            _check_subnet(network.subnet, about, path)
            kept = _check_names(expected, shapes, path, complete)
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"can't read the weights {path}: {error}") from None
    for name, value in tensors.items():
        if not value.isfinite().all() or (name.endswith("running_var") and (value < 0).any()):
            raise ValueError(f"{path}: {name} has values that no trained network has")
    network.load_state_dict({**expected, **tensors})
    try:
        trained = Trained.of(about["trained"]) if about.get("trained") else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if trained is not None and len(trained.classes) != network.subnet.classes:
        raise ValueError(
            f"{path} names {len(trained.classes)} classes, the subnet has {network.subnet.classes}"
        )
    return Loaded(kept, trained)


def _about(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What `save_weights` wrote beside the tensors; nothing for a file from elsewhere."""
    if METADATA_KEY not in metadata:
        return {}
    try:
        about = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata is not JSON: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path}: its metadata is not of format {FORMAT}")
    return about


def _check_subnet(subnet: Subnet, about: Mapping[str, Any], path: Path) -> None:
    found = about.get("subnet")
    if found is not None and found != fingerprint(subnet):
        raise ValueError(
            f"{path} holds the weights of the subnet {found}, expected those of "
            f"{fingerprint(subnet)}: take the subnet.json they were trained for"
        )


def _check_names(
    expected: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
    complete: bool,
) -> tuple[str, ...]:
    """The sorts of tensors that may be and are missing; raises ValueError for all else."""
    missing = set(expected) - set(shapes)
    kept = []
    if not complete:
        sorts = {f"batch norm {part}": f".bn.{part}" for part in BATCH_NORM_PARTS}
        for sort, suffix in sorts.items():
            names = {name for name in expected if name.endswith(suffix)}
            if names and names <= missing:
                kept.append(sort)
                missing -= names
        classifier = {name for name in expected if ".linear." in name}
        if classifier <= missing:
            kept.append("classifier")
            missing -= classifier
    unexpected = set(shapes) - set(expected)
    wrong = {
        f"{name} {shape} instead of {tuple(expected[name].shape)}"
        for name, shape in shapes.items()
        if name in expected and shape != tuple(expected[name].shape)
    }
    faults = (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong))
    found = "; ".join(f"{what}: {_some(sorted(names))}" for what, names in faults if names)
    if found:
        raise ValueError(f"{path} doesn't fit the subnet: {found}")
    return tuple(kept)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to fill, which takes the place of `path` in one step if no error comes."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    new = Path(name)
    try:
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.chmod(0o644)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise

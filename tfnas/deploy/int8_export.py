"""An int8 net from its trained weights and its images: quantized, written, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfnas.data.images import Dataset
from tfnas.deploy.int8 import PRECISION, Quantization
from tfnas.deploy.int8_check import arrays, check_int8, deployed_images
from tfnas.deploy.onnx_file import Exported, Target, export_network
from tfnas.nets.backbone import Backbone
from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained
from tfnas.process.checks import check_choice

BATCH = 32  # images that calibrate or check at once


@dataclass(frozen=True)
class Int8Images:
    """Whose ranges make a net int8, and on which it is checked.

    Attributes:
        calibrating: training images, at most.
        checking: test images, at most.

    Raises:
        ValueError: if `data` has other classes than the net was trained on.
    """

    data: Dataset
    trained: Trained
    calibrating: int
    checking: int

    def __post_init__(self) -> None:
        if self.data.classes != self.trained.classes:
            raise ValueError(
                f"the images of {self.data.name} have other classes than the net was trained on "
                f"({self.trained.data}): an int8 net is calibrated on its training images; give "
                "data=NAME as it was trained"
            )


@dataclass(frozen=True)
class Int8Options:
    """How an int8 net is asked for; see `Quantization`.

    Attributes:
        precision: fp32 | int8; None: int8 where the search or the training was for it, and the
            format has it.
        activations: auto | uint8 | int8; auto: those of the search, else unsigned.
    """

    precision: str | None
    activations: str
    method: str
    float_ops: tuple[int, ...]
    reduce_range: bool


def plan_int8(
    asked: Int8Options,
    *,
    trained: Trained | None,
    ops: int,
    format: str,
    searched: str | None,
    activations: str | None,
) -> Quantization | None:
    """How a net becomes an int8 one; None where it stays float.

    Args:
        trained: whose ranges are taken where quantization-aware training fixed some.
        ops: that the net has.
        searched: the precision that it was searched for, and `activations` the kind; None: unknown.

    Raises:
        ValueError: for a precision, kind or method that doesn't exist, numbers of ops that the net
            doesn't have, and weights of other bits than it was trained with.
    """
    ranges = None if trained is None else trained.quantized
    precision = asked.precision
    if precision is None:  # of float16 a runtime makes what it needs from the float32 file
        wanted = searched == PRECISION or ranges is not None
        precision = PRECISION if wanted and format == "onnx" else "fp32"
    check_choice("precision of an export", precision, ("fp32", PRECISION))
    if precision != PRECISION:
        return None
    kind = (activations or "uint8") if asked.activations == "auto" else asked.activations
    how = Quantization(kind, asked.method, asked.float_ops, asked.reduce_range)
    if bad := [op for op in how.float_ops if not 0 <= op < ops]:
        raise ValueError(f"int8.float_ops={bad}: the net has the ops 0 to {ops - 1}")
    if ranges is None:
        return how
    if how.reduce_range and not ranges.reduce_range:
        raise ValueError(
            "int8.reduce_range=true: the net was trained for weights of 8 bits; train it with "
            "recipe.qat_reduce_range=true"
        )
    return replace(how, reduce_range=ranges.reduce_range, ranges=ranges.maps)


def export_int8(
    network: Network | Backbone,
    path: Path,
    quantization: Quantization,
    images: Int8Images,
    *,
    batch: int | None = 1,
    target: Target | None = None,
    seed: int = 0,
    format: str = "onnx",
    opset: int | None = None,
    ir_version: int | None = None,
) -> Exported:
    """Write a trained network as an int8 file; of one that tells classes, `check` has the top-1.

    For arguments and errors see `export_network`.

    Args:
        seed: of the images that are drawn, too.
    """
    trained = images.trained
    calibrating = None
    if quantization.ranges is None:
        calibrating = arrays(
            deployed_images(
                images.data.train, network, trained, most=images.calibrating, batch=BATCH, seed=seed
            )
        )
    done = export_network(
        network, trained, path, batch=batch, target=target, seed=seed, format=format,
        opset=opset, ir_version=ir_version, quantization=quantization, images=calibrating,
    )  # fmt: skip
    if isinstance(network, Backbone) or trained.top1 is None:
        return done
    tested = deployed_images(
        images.data.test, network, trained, most=images.checking, batch=batch or BATCH, seed=seed,
        whole=batch is not None,
    )  # fmt: skip
    return replace(done, check=check_int8(network, path, tested, images.data.classes))


def float_share(network: Network, float_ops: Sequence[int]) -> float:
    """Of the multiply-adds, of ops that stay float."""
    subnet = network.subnet
    return sum(subnet.ops[op].macs for op in float_ops) / subnet.macs

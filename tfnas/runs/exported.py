"""What an export found out about a net, for the files of its folder."""

from __future__ import annotations

from tfnas.deploy.onnx_file import Exported
from tfnas.nets.weights import fingerprint
from tfnas.runs.int8 import Int8Accuracy
from tfnas.space.subnet import Subnet


def accuracy_of(exported: Exported, subnet: Subnet) -> Int8Accuracy | None:
    """What an export found; None where it checked no int8 net."""
    check, how, trained = exported.check, exported.quantization, exported.trained
    if check is None or how is None or trained is None or trained.top1 is None:
        return None
    worst_class, lost = check.worst_class
    return Int8Accuracy(
        subnet=fingerprint(subnet),
        trained_top1=trained.top1,
        model=exported.path.name,
        activations=how.activations,
        calibration=exported.metadata["calibration"],
        reduce_range=how.reduce_range,
        float_ops=how.float_ops,
        images=check.images,
        resolution=subnet.resolution,
        float_top1=check.float_top1,
        int8_top1=check.int8_top1,
        worst_class=worst_class,
        worst_class_lost=lost,
    )

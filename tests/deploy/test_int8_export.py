"""An int8 net from trained weights: what is asked for is checked, and what is lost is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.nets.test_weights import TRAINED
from tests.support.nets import few_images, random_network, tiny_subnet
from tfnas.deploy.int8 import Quantization
from tfnas.deploy.int8_export import (
    Int8Images,
    Int8Options,
    export_int8,
    float_share,
    plan_int8,
)
from tfnas.nets.backbone import Backbone
from tfnas.nets.weights import Ranges, Trained
from tfnas.runs.exported import accuracy_of
from tfnas.runs.int8 import load_int8

ASKED = Int8Options(None, "auto", "minmax", (), False)
FINE_TUNED = replace(TRAINED, quantized=Ranges(True, {"input": (-1.0, 1.0)}))
IMAGES = few_images(64, 40)
OF_IMAGES = replace(TRAINED, classes=IMAGES.classes)


def planned(
    asked: Int8Options, trained: Trained | None = TRAINED, format: str = "onnx",
    searched: str | None = None, activations: str | None = None,
) -> Quantization | None:  # fmt: skip
    return plan_int8(
        asked, trained=trained, ops=5, format=format, searched=searched, activations=activations
    )


def test_a_net_is_int8_where_it_was_searched_or_trained_so() -> None:
    assert planned(ASKED) is None
    assert planned(ASKED, searched="fp16") is None
    assert planned(ASKED, searched="int8", format="tflite") is None
    assert planned(ASKED, searched="int8", activations="int8") == Quantization("int8")
    assert planned(replace(ASKED, precision="int8"), None) == Quantization("uint8")
    assert planned(replace(ASKED, precision="fp32"), FINE_TUNED, searched="int8") is None
    found = planned(ASKED, FINE_TUNED)
    assert found == Quantization("uint8", reduce_range=True, ranges={"input": (-1.0, 1.0)})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"precision": "int4"}, "precision of an export"),
        ({"float_ops": (1, 5)}, r"int8\.float_ops=\[5\]: the net has the ops 0 to 4"),
        ({"activations": "int4"}, "activations"),
        ({"method": "median"}, "calibration method"),
        ({"reduce_range": True}, r"train it with recipe\.qat_reduce_range=true"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, object], told: str) -> None:
    eight = replace(TRAINED, quantized=Ranges(False, {"input": (-1.0, 1.0)}))
    with pytest.raises(ValueError, match=told):
        planned(replace(ASKED, **{"precision": "int8", **asked}), eight)  # type: ignore[arg-type]


def test_other_images_than_those_of_the_training_are_refused() -> None:
    with pytest.raises(ValueError, match="other classes than the net was trained on"):
        Int8Images(IMAGES, TRAINED, 32, 40)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 1, 16])
def test_what_is_lost_is_kept_beside_the_file(tmp_path: Path, batch: int | None) -> None:
    network, how = random_network(tiny_subnet()), Quantization("uint8", float_ops=(0,))
    images = Int8Images(IMAGES, OF_IMAGES, 32, 40)
    done = export_int8(network, tmp_path / "m.onnx", how, images, batch=batch)
    assert done.check is not None
    assert done.check.images == (32 if batch == 16 else 40)  # whole batches alone
    found = accuracy_of(done, network.subnet)
    assert found is not None
    found.save(tmp_path / "int8.json")
    assert load_int8(tmp_path / "int8.json") == found
    assert (found.calibration, found.float_ops, found.model) == ("minmax", (0,), "m.onnx")
    assert found.is_of(found.subnet, OF_IMAGES.top1)
    assert found.is_of(None, OF_IMAGES.top1)
    assert not found.is_of("0" * 16, OF_IMAGES.top1)
    assert not found.is_of(found.subnet, 0.25)
    assert 0 < float_share(network, how.float_ops) < 1


@pytest.mark.slow
def test_maps_have_no_accuracy(tmp_path: Path) -> None:
    backbone = Backbone(random_network(tiny_subnet()), None, OF_IMAGES)
    images = Int8Images(IMAGES, OF_IMAGES, 32, 40)
    done = export_int8(backbone, tmp_path / "m.onnx", Quantization("uint8"), images)
    assert done.check is None
    assert accuracy_of(done, backbone.subnet) is None

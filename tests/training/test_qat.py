"""A net that is fine-tuned for int8 is exported with the ranges that it was trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tfnas
from tests.support.entry import run_entry
from tests.support.nets import few_images, few_root, random_network, tiny_subnet
from tfnas.deploy.formats import run_onnx
from tfnas.deploy.int8_check import arrays, deployed_images
from tfnas.deploy.onnx_file import network_with
from tfnas.nets.fake_quant import FakeQuantized
from tfnas.nets.weights import save_weights
from tfnas.process.errors import StoppedError
from tfnas.runs.int8 import load_int8
from tfnas.runs.trained import TrainResult, train
from tfnas.training.recipe import Recipe, check_recipe

pytestmark = pytest.mark.slow

IMAGES = few_images(train=400, test=200)


def recipe(name: str = "qat", **changes: Any) -> Recipe:
    found = tfnas.load_preset("recipe", name, **{"batch_size": 32, **changes})
    assert isinstance(found, Recipe)
    return found


def fine_tuned(weights: Path, out: Path, **changes: Any) -> TrainResult:
    asked = recipe(**{"epochs": 1, **changes})
    return train(tiny_subnet(), IMAGES, asked, seed=0, out=out, weights=weights)


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    out = tmp_path_factory.mktemp("floats")
    return train(tiny_subnet(), IMAGES, recipe("test", epochs=4), seed=0, out=out)


@pytest.mark.parametrize("reduce_range", [False, True])
def test_torch_and_the_exported_net_agree_on_real_images(
    floats: TrainResult, tmp_path: Path, reduce_range: bool
) -> None:
    done = fine_tuned(floats.weights, tmp_path / "qat", qat_reduce_range=reduce_range)
    ranges = done.trained.quantized
    assert ranges is not None
    assert ranges.reduce_range is reduce_range
    assert all(high > low for low, high in ranges.maps.values())
    path = tmp_path / "qat" / "m.onnx"
    exported = tfnas.export_net(done, path, images=IMAGES, batch=None)
    assert exported.metadata["calibration"] == "trained"
    assert exported.metadata["precision"] == "int8"
    assert exported.metadata.get("reduce_range", "false") == str(reduce_range).lower()
    network, trained = network_with(done.subnet, done.weights, 0)
    assert trained == done.trained
    model = FakeQuantized(network, reduce_range).eval()
    model.take(ranges.maps)
    test = deployed_images(IMAGES.test, network, trained, most=200, batch=50, seed=0)
    run, step = run_onnx(path), (ranges.maps["output"][1] - ranges.maps["output"][0]) / 255
    same, apart, right = 0, 0.0, 0
    for images, (_, labels) in zip(arrays(test), test.epoch(0), strict=True):
        with torch.inference_mode():
            expected = model(torch.from_numpy(images)).numpy()
        found = run(images)[0]
        apart = max(apart, float(np.abs(found - expected).max()))
        same += int((found.argmax(1) == expected.argmax(1)).sum())
        right += int((expected.argmax(1) == labels.numpy()).sum())
    assert apart <= 4.01 * step  # 256 steps are the whole range of the logits
    assert same >= 198
    # That of int8, simulated, but for what batches of another size round otherwise.
    assert right / 200 == pytest.approx(done.trained.top1, abs=0.011)
    assert "in int8, simulated" in done.line
    assert exported.check is not None
    assert exported.check.int8_top1 == pytest.approx(done.trained.top1, abs=0.01)
    assert load_int8(tmp_path / "qat" / "int8.json").calibration == "trained"


def test_fine_tuning_begins_where_calibration_ends(floats: TrainResult, tmp_path: Path) -> None:
    """Without steps to speak of, it is what quantization after training gives."""
    done = fine_tuned(floats.weights, tmp_path / "qat", lr=1e-12, weight_decay=0.0)
    first = tfnas.load(floats.weights.parent).state_dict()
    for name, value in tfnas.load(tmp_path / "qat").state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=1e-5, atol=1e-8)
    after = tfnas.export_net(floats, tmp_path / "m.onnx", images=IMAGES, precision="int8")
    assert after.check is not None
    assert done.trained.top1 == pytest.approx(after.check.int8_top1, abs=0.02)
    assert after.metadata["calibration"] == "minmax"


def test_it_learns_and_keeps_batch_norm(floats: TrainResult, tmp_path: Path) -> None:
    done = fine_tuned(floats.weights, tmp_path / "qat", epochs=3, max_train=None)
    assert done.epochs[-1].train_loss < done.epochs[0].train_loss
    first, last = (tfnas.load(p).state_dict() for p in (floats.weights.parent, tmp_path / "qat"))
    for name, value in last.items():
        kept = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(value, first[name]) is kept, name


def test_stopped_and_resumed_equals_uninterrupted(floats: TrainResult, tmp_path: Path) -> None:
    whole = fine_tuned(floats.weights, tmp_path / "whole", ema=0.9)
    for number, call in enumerate((1, 5)):
        calls, out = iter(range(1, 99)), tmp_path / f"part{number}"

        def stop(calls: Any = calls, call: int = call) -> bool:
            return next(calls) >= call

        asked = recipe(epochs=1, ema=0.9)
        with pytest.raises(StoppedError):
            train(tiny_subnet(), IMAGES, asked, seed=0, out=out, weights=floats.weights, stop=stop)
        part = train(
            tiny_subnet(), IMAGES, asked, seed=0, out=out, weights=floats.weights, resume=True
        )
        assert part.weights.read_bytes() == whole.weights.read_bytes()


def test_what_cannot_be_fine_tuned_is_refused(floats: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe\.qat=true fine-tunes a trained net: give weig"):
        train(tiny_subnet(), IMAGES, recipe(), seed=0, out=tmp_path)
    with pytest.raises(ValueError, match=r"qat_reduce_range=true: expected recipe\.qat"):
        check_recipe(recipe("quick", qat_reduce_range=True))
    state = random_network(tiny_subnet()).state_dict()
    lacking = {name: value for name, value in state.items() if ".bn." not in name}
    save_weights(lacking, tiny_subnet(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="missing: "):
        fine_tuned(tmp_path / "w.safetensors", tmp_path / "out")
    with pytest.raises(ValueError, match="holds the weights of a finished training"):
        fine_tuned(floats.weights, floats.weights.parent)


def test_the_commands_fine_tune_and_export_for_int8(floats: TrainResult, tmp_path: Path) -> None:
    subnet = f"subnet={floats.weights.parent}/subnet.json"
    data, out = f"data.root={few_root()}", tmp_path / "qat"
    done = run_entry(
        "tfnas.train", subnet, f"weights={floats.weights}", "recipe=qat", "recipe.epochs=1", data,
        f"out={out}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in int8, simulated" in done.stdout
    assert json.loads((out / "train.json").read_text())["recipe"]["qat"] is True
    done = run_entry("tfnas.export", f"subnet={out}/subnet.json", data, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "% in int8" in done.stdout
    found = load_int8(out / "int8.json")
    assert (found.calibration, found.images) == ("trained", 100)
    wrong = run_entry(
        "tfnas.export", f"subnet={out}/subnet.json", data, "int8.reduce_range=true", cwd=tmp_path
    )
    assert wrong.returncode == 2
    assert "trained for weights of 8 bits" in wrong.stdout + wrong.stderr
    floating = run_entry(
        "tfnas.export", f"subnet={out}/subnet.json", "precision=fp32", "out=f.onnx", cwd=tmp_path
    )
    assert floating.returncode == 0, floating.stdout + floating.stderr
    assert found == load_int8(out / "int8.json")

"""A folder for a model hub: it says what is known, names no folder of ours, and loads again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from safetensors import safe_open

import tfnas
from tests.nets.test_weights import TRAINED
from tests.support.entry import run_entry
from tests.support.nets import few_images, few_root, random_network, tiny_subnet
from tests.support.run_folders import checked_int8, saved_run
from tfnas.files.bounded import check_plain
from tfnas.nets.weights import Ranges, save_weights
from tfnas.pages.hub import ModelCard, read_card
from tfnas.process.exits import DONE, UNUSABLE_INPUT
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import Result
from tfnas.runs.trained import train
from tfnas.space.subnet import Subnet
from tfnas.training.recipe import Recipe


def front_matter(text: str) -> dict[str, Any]:
    start, matter, _ = text.split("---\n", 2)
    assert start == ""
    found = yaml.safe_load(matter)
    assert isinstance(found, dict)
    return found


def run_with(folder: Path, data: str = TRAINED.data) -> tuple[RunFolder, Subnet]:
    """A finished search whose net has weights."""
    folder, subnet = saved_run(folder)
    weights, trained = random_network(subnet).state_dict(), replace(TRAINED, data=data)
    save_weights(weights, subnet, folder / "weights.safetensors", trained)
    return RunFolder(folder), subnet


@pytest.mark.slow
def test_a_folder_is_complete_and_loads_again(tmp_path: Path) -> None:
    _, subnet = run_with(tmp_path / "run", data=f"fashion_mnist: idx files in {tmp_path}/few, 9")
    done = run_entry("tfnas.export", "subnet=run/subnet.json", "hub=my-net", cwd=tmp_path)
    assert done.returncode == DONE, done.stdout + done.stderr
    assert "my-net is ready to be pushed; its README.md has no license yet" in done.stdout
    folder = tmp_path / "my-net"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "model.onnx", "model.safetensors", "subnet.json",
    }  # fmt: skip
    for path in folder.iterdir():
        assert os.fsencode(tmp_path) not in path.read_bytes()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    model = tfnas.load(folder)
    assert model.subnet == subnet
    assert model.trained.data == "fashion_mnist: idx files in few, 9"
    config = json.loads((folder / "config.json").read_text())
    assert config["input_size"] == [3, 32, 32]
    assert config["label_names"] == list(model.classes)
    x = np.random.default_rng(0).standard_normal((1, *config["input_size"]), dtype=np.float32)
    (found,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"input": x})
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    again = run_entry("tfnas.export", "subnet=my-net/subnet.json", "hub=other", cwd=tmp_path)
    assert again.returncode == DONE, again.stdout + again.stderr
    assert "Not measured" in (tmp_path / "other" / "README.md").read_text()


def test_the_card_has_what_the_hub_reads(tmp_path: Path) -> None:
    run, subnet = run_with(tmp_path / "run", data="fashion_mnist: shipped cut")
    text = read_card(subnet, tfnas.load(run.path).trained, run, run.weights).text("my-net")
    matter = front_matter(text)
    assert "license" not in matter  # whoever publishes the net chooses it
    assert (matter["library_name"], matter["pipeline_tag"]) == ("tfnas", "image-classification")
    assert matter["datasets"] == ["zalando-datasets/fashion_mnist"]
    ((model, (result,)),) = [(m["name"], m["results"]) for m in matter["model-index"]]
    assert model == "my-net"
    assert result["dataset"]["name"] == "fashion_mnist: shipped cut"
    assert [m["value"] for m in result["metrics"]] == [50.0, 90.0]
    assert {m["type"] for m in result["metrics"]} <= set(matter["metrics"])
    check_plain(matter, 1000)


def test_a_latency_has_its_context(tmp_path: Path) -> None:
    run, subnet = run_with(tmp_path / "run")
    trained, result = tfnas.load(run.path).trained, Result.load(run.result)
    low, high = result.measured_ci_ms or (0, 0)
    text = read_card(subnet, trained, run, run.weights).text("x")
    for part in (
        f"{result.measured_ms:.4g} ms, 95 % interval {low:.4g} to {high:.4g} ms", result.device,
        "1 threads, batch 1, fp32, 32 px", "python 3.11",
    ):  # fmt: skip
        assert part in text
    assert "datasets" not in front_matter(text)  # no name that a hub has
    busy = ModelCard(subnet, trained, replace(result, noisy="busy"), None)
    assert "Doubtful: busy" in busy.text("x")
    elsewhere = replace(result, measured_ms=None, measured_ci_ms=None, verified=False)
    text = ModelCard(subnet, trained, elsewhere, None).text("x")
    assert "by the table of" in text
    assert "Not measured." in text


def test_accuracies_in_float_and_int8_stand_side_by_side(tmp_path: Path) -> None:
    run, subnet = run_with(tmp_path / "run")
    trained, result = tfnas.load(run.path).trained, Result.load(run.result)
    plain = read_card(subnet, trained, run, run.weights)
    assert "int8" not in plain.text("x")
    of_int8 = replace(plain, result=replace(result, precision="int8"))
    text = of_int8.text("x")
    assert "of the\n  test images at 32 px, in float." in text
    assert "In int8, which the latency is of: not known" in text
    checked_int8(subnet, 0.485, trained_top1=0.5).save(run.int8)
    text = read_card(subnet, trained, run, run.weights).text("x")
    assert "top-1 48.50 %, and in float 86.00 %, on 9,000 test images" in text
    assert "fp32" in text  # the latency's precision
    checked_int8(subnet, 0.485, trained_top1=0.4).save(run.int8)  # of other weights
    assert read_card(subnet, trained, run, run.weights).int8 is None
    tuned = replace(trained, quantized=Ranges(False, {"input": (-1.0, 1.0)}))
    assert "in int8 as its training simulates it" in replace(plain, trained=tuned).text("x")


@pytest.mark.slow
def test_a_folder_of_an_int8_net_has_both_accuracies(tmp_path: Path) -> None:
    run, subnet = run_with(tmp_path / "run", data="fashion_mnist: some")
    trained = replace(TRAINED, classes=few_images(20, 10).classes, data="fashion_mnist: some")
    save_weights(random_network(subnet).state_dict(), subnet, run.weights, trained)
    done = run_entry(
        "tfnas.export", "subnet=run/subnet.json", "hub=net", "precision=int8",
        f"data.root={few_root()}", "int8.images=32", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    text = (tmp_path / "net" / "README.md").read_text()
    assert "In int8 (model.onnx, activations uint8, ranges by minmax): top-1" in text
    assert "on 100 test images" in text
    assert not (tmp_path / "net" / "int8.json").exists()


def test_a_training_is_told_where_its_record_is_of_these_weights(tmp_path: Path) -> None:
    recipe = tfnas.load_preset("recipe", "test", epochs=1, resolution=16)
    assert isinstance(recipe, Recipe)
    done = train(tiny_subnet(), few_images(64, 50), recipe, seed=5, out=tmp_path)
    run = RunFolder(tmp_path)
    text = read_card(tiny_subnet(), done.trained, run, run.weights).text("x")
    assert "Trained with the recipe test, 1 epochs from random weights, seed 5" in text
    other = replace(done.trained, top1=0.0)
    assert read_card(tiny_subnet(), other, run, run.weights).finished is None


def test_a_result_of_another_net_is_refused(tmp_path: Path) -> None:
    run, _ = run_with(tmp_path / "run")
    with pytest.raises(ValueError, match=r"result\.json is of another net"):
        read_card(tiny_subnet(3), TRAINED, run, run.weights)


@pytest.mark.slow
def test_what_makes_no_folder_is_refused(tmp_path: Path) -> None:
    tiny_subnet().save(tmp_path / "subnet.json")
    for more, error in (
        ((), "hub=out: subnet.json has no trained weights: train it with"),
        (("out=model.onnx",), "it gets one whole net"),
        (("features_only=true",), "it gets one whole net"),
    ):
        done = run_entry("tfnas.export", "subnet=subnet.json", "hub=out", *more, cwd=tmp_path)
        assert done.returncode == UNUSABLE_INPUT
        assert error in done.stdout + done.stderr
        assert not (tmp_path / "out").exists()

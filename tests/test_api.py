"""tfnas from Python: the lines of README.md run, on a small space and budget."""

from __future__ import annotations

import inspect
import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import profilers
import tfnas
from profilers import api as profilers_api
from tests.support import pages
from tests.support.entry import REPOSITORY, environment, run_entry
from tests.support.nets import few_images, few_root, random_network, tiny_subnet
from tests.support.spaces import load_spec, macs_table
from tfnas import api
from tfnas.__main__ import COMMANDS
from tfnas.app.values import conf_path, load
from tfnas.data.batches import Batches
from tfnas.data.preprocess import Preprocess
from tfnas.data.sets import load_images
from tfnas.strategies.spos import SPOS
from tfnas.training.recipe import Recipe

# What makes the lines of README.md fast. Each must be found there.
SMALLER = {
    'load_images("fashion_mnist")': 'load_images("fashion_mnist", root="few")',
    'load_space("tfnas"': 'load_space("tiny"',
    "profile(device, space)": 'profile(device, space, path="table.json", max_minutes=0.2)',
    "table, target_ms=8)": 'table, target_ms=9, budget="test", at_most=True)',
    "close_loop(device, found, target_ms=8)": "close_loop(device, found, max_minutes=0.05)",
    'recipe="quick"': 'recipe="test"',
    "verify_onnx(device, model, target_ms=8)": (
        "verify_onnx(device, model, target_ms=9, at_most=True, max_minutes=0.05)"
    ),
}


@pytest.mark.slow
def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    (lines,) = (
        block.text for block in pages.blocks(REPOSITORY / "README.md") if block.language == "python"
    )
    for given, smaller in SMALLER.items():
        assert given in lines
        lines = lines.replace(given, smaller)
    (tmp_path / "few").symlink_to(few_root())
    lines += "\nprint(model.classes[0], model(model.preprocess(images.test.pixels[0])).shape)\n"
    (tmp_path / "lines.py").write_text(lines)
    done = subprocess.run(
        [sys.executable, "lines.py"],
        cwd=tmp_path,
        env={**environment(), "TFNAS_LOCKS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "measured" in done.stdout
    assert done.stdout.splitlines()[-1] == "T-shirt/top torch.Size([1, 10])"
    left = {path.name for path in (tmp_path / "runs" / "mine").iterdir()}
    assert {"subnet.json", "weights.safetensors", "train.json", "model.onnx"} <= left


@pytest.mark.parametrize("channels", [1, 3])
def test_a_net_is_found_trained_exported_and_loaded(tmp_path: Path, channels: int) -> None:
    images = load_images("fashion_mnist", root=str(few_root()))
    spec = tfnas.load_space("tiny", len(images.classes), in_channels=channels)
    table = macs_table(spec.build(8), quantum=8)
    steps = []
    found = tfnas.find_net(
        spec, images, table, 1e6, budget="test", at_most=True, cores=1, on_progress=steps.append,
        teacher=random_network(spec.build(8).sample(random.Random(0))),
    )  # fmt: skip
    assert found.reached
    assert found.table_ms == pytest.approx(table.total(found.subnet))
    assert steps[-1].step == steps[-1].steps
    recipe = tfnas.load_preset("recipe", "test", epochs=1, resolution=32)
    trained = tfnas.train_net(found, images, recipe=recipe, out=tmp_path / "run", threads=1)
    exported = tfnas.export_net(trained, tmp_path / "model.onnx")
    assert exported.trained == trained.trained
    network = tfnas.load(tmp_path / "run")
    assert not network.training
    assert network.classes == images.classes
    assert network.preprocess(images.test.pixels[0]).shape == (1, channels, 32, 32)
    right = [
        int(network(network.preprocess(pixels)).argmax()) == label
        for pixels, label in zip(images.test.pixels[:50], images.test.labels[:50], strict=True)
    ]
    assert abs(np.mean(right) - trained.trained.top1) < 0.25
    backbone = tfnas.load(tmp_path / "run", features_only=True, out_indices=[-1])
    assert not backbone.training
    assert backbone.trained == trained.trained
    (found,) = backbone(network.preprocess(images.test.pixels[0]))
    assert found.shape[1:2] == torch.Size(backbone.feature_info.channels())
    with pytest.raises(ValueError, match="they need features_only=True"):
        tfnas.load(tmp_path / "run", out_indices=[0])


def test_a_net_is_trained_into_a_folder_of_its_own(tmp_path: Path) -> None:
    images, recipe = few_images(40, 20), tfnas.load_preset("recipe", "test", epochs=1)
    subnet, out = tiny_subnet(), tmp_path / "run"
    out.mkdir()
    (out / "subnet.json").write_text(tiny_subnet(seed=1).to_json())
    before = (out / "subnet.json").read_bytes()
    with pytest.raises(ValueError, match=r"run/subnet\.json is another net: give another out="):
        tfnas.train_net(subnet, images, recipe=recipe, out=out, threads=1)
    assert (out / "subnet.json").read_bytes() == before
    assert not (out / "weights.safetensors").exists()
    # A user's own file of this net.
    reordered = dict(reversed(json.loads(subnet.to_json()).items()))
    (out / "subnet.json").write_text(json.dumps(reordered))
    tfnas.train_net(subnet, images, recipe=recipe, out=out, threads=1)
    assert (out / "subnet.json").read_text() == json.dumps(reordered)
    assert tfnas.load(out).subnet == subnet


@pytest.mark.slow
def test_a_trained_net_is_exported_in_int8_as_the_command_does(tmp_path: Path) -> None:
    images = load_images("fashion_mnist", root=str(few_root()))
    recipe = tfnas.load_preset("recipe", "test", epochs=1)
    trained = tfnas.train_net(tiny_subnet(), images, recipe=recipe, out=tmp_path / "a", threads=1)
    with pytest.raises(ValueError, match="precision=int8 without images"):
        tfnas.export_net(trained, tmp_path / "a" / "model.onnx", precision="int8")
    done = tfnas.export_net(
        trained, tmp_path / "a" / "model.onnx", precision="int8", images=images, float_ops=[0]
    )
    assert done.check is not None
    assert done.check.images == 100
    own = (tmp_path / "a" / "int8.json").read_text()
    (tmp_path / "a" / "int8.json").unlink()
    line = ("precision=int8", f"data.root={few_root()}", "int8.float_ops=[0]")
    command = run_entry("tfnas.export", "subnet=a/subnet.json", *line, cwd=tmp_path)
    assert command.returncode == 0, command.stdout + command.stderr
    assert (tmp_path / "a" / "int8.json").read_text() == own
    floats = tfnas.export_net(trained, tmp_path / "f.onnx")
    assert floats.check is floats.quantization is None
    qat = tfnas.load_preset("recipe", "qat", epochs=1)
    tuned = tfnas.train_net(
        tiny_subnet(), images, recipe=qat, out=tmp_path / "b", threads=1, weights=trained.weights
    )
    done = tfnas.export_net(tuned, tmp_path / "b" / "model.onnx", images=images, activations="int8")
    assert done.quantization is not None
    assert (done.quantization.activations, done.metadata["calibration"]) == ("int8", "trained")


@pytest.mark.slow
def test_a_net_that_was_found_for_int8_is_exported_so(tmp_path: Path) -> None:
    images = load_images("fashion_mnist", root=str(few_root()))
    spec = tfnas.load_space("tiny", len(images.classes))
    table = macs_table(spec.build(8), quantum=8)
    table = replace(table, device=replace(table.device, precision="int8", activations="int8"))
    found = tfnas.find_net(spec, images, table, 1e6, budget="test", at_most=True, cores=1)
    done = tfnas.export_net(found, tmp_path / "model.onnx")
    assert done.quantization is not None
    assert (done.quantization.activations, done.metadata["calibration"]) == ("int8", "noise")
    assert tfnas.export_net(found, tmp_path / "f.onnx", precision="fp32").quantization is None


def test_an_unusable_target_is_refused_with_the_nearest() -> None:
    images = load_images("fashion_mnist", root="shipped", max_train=120)
    spec = load_spec("tiny")
    table = macs_table(spec.build(8), quantum=8)
    with pytest.raises(ValueError, match=r"out of reach.*the nearest is target_ms="):
        tfnas.find_net(spec, images, table, 1e9, budget="test")
    for values in ({"cores": 0}, {"tolerance": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(values))}=.*above 0"):
            tfnas.find_net(spec, images, table, 1e6, budget="test", at_most=True, **values)


def test_a_folder_without_a_trained_net_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected the folder of a run"):
        tfnas.load(tmp_path)
    tiny_subnet().save(tmp_path / "subnet.json")
    with pytest.raises(FileNotFoundError, match=r"python -m tfnas\.train"):
        tfnas.load(tmp_path)


def test_a_model_comes_by_name_with_random_weights() -> None:
    assert "tf_nas_a.tfnas" in tfnas.list_models()
    network = tfnas.create_model("tf_nas_a.tfnas", classes=7, dropout=0.5, drop_connect=0.2)
    assert network.training
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert network.layers[-1].dropout == 0.5
    backbone = tfnas.create_model("tf_nas_a.tfnas", features_only=True, out_indices=[1, -1])
    assert backbone.feature_info.channels() == [24, 320]
    assert backbone.trained is None
    with pytest.raises(ValueError, match="they need features_only=True"):
        tfnas.create_model("tf_nas_a.tfnas", out_indices=[1])
    with pytest.raises(LookupError, match=r"model 'resnet50': expected one of .*tf_nas_a"):
        tfnas.create_model("resnet50")


def test_presets_come_by_name_with_changes() -> None:
    recipe = load("recipe", "quick", epochs=1)
    assert isinstance(recipe, Recipe)
    assert (recipe.name, recipe.epochs) == ("quick", 1)
    assert load("strategy", "spos", population=4) == SPOS(**{
        **vars(load("strategy", "spos")), "population": 4,
    })  # fmt: skip
    assert load("space", "tiny", classes=3).classes == 3
    for kind, name, changes, error in (
        ("recipe", "quik", {}, r"recipe='quik': expected one of .*quick"),
        ("recipes", "quick", {}, "kind 'recipes': expected one of"),
    ):
        with pytest.raises(LookupError, match=error):
            load(kind, name, **changes)
    for changes, error in (({"epoch": 1}, "epoch"), ({"epochs": "many"}, "many")):
        with pytest.raises(ValueError, match=f"recipe=quick: .*{error}"):
            load("recipe", "quick", **changes)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_image_is_prepared_alike_whatever_it_comes_as(tmp_path: Path, mode: str) -> None:
    shape = (30, 20) if mode == "L" else (30, 20, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    for fraction in (1.0, 0.875):
        prepare = Preprocess(16, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), fraction)
        wanted = prepare(pixels)
        assert wanted.shape == (1, 3, 16, 16)
        assert (prepare(Image.fromarray(pixels)) == wanted).all()
        assert (prepare(tmp_path / "image.png") == wanted).all()
        for array in (np.asarray(Image.fromarray(pixels)), pixels[:, ::-1].copy()[:, ::-1]):
            assert (prepare(array) == wanted).all()  # one can't be written to, one is flipped
    with pytest.raises(ValueError, match="expected uint8"):
        prepare(pixels.astype(np.float32))


def test_preparing_is_what_testing_does() -> None:
    images = few_images(20, 20)
    batches = Batches(
        images.test, np.arange(4), batch=4, size=24, mean=images.mean, std=images.std, seed=0,
        augment=False, drop_last=False,
    )  # fmt: skip
    ((tested, _labels),) = batches.epoch(0)
    prepare = Preprocess(24, images.mean, images.std)
    for row, pixels in zip(tested, images.test.pixels[:4], strict=True):
        assert (prepare(pixels)[0] == row).all()


def test_everything_public_can_be_had_and_is_documented() -> None:
    for package, module in ((tfnas, api), (profilers, profilers_api)):
        for name in package.__all__:
            assert getattr(package, name) is getattr(module, name)
            assert getattr(package, name).__doc__
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = package.nothing


@pytest.mark.parametrize(
    ("function", "file", "names"),
    [
        (tfnas.find_net, "search", {}),
        (tfnas.train_net, "train", {}),
        (profilers.close_loop, "search", {"max_minutes": "loop_minutes"}),
        (profilers.verify_onnx, "verify", {}),
        (profilers.open, "common", {}),
    ],
)
def test_what_functions_do_by_default_commands_do(
    function: Callable[..., object], file: str, names: dict[str, str]
) -> None:
    values = OmegaConf.load(conf_path() / f"{file}.yaml")
    groups = {
        k: v for group in values.defaults if isinstance(group, Mapping) for k, v in group.items()
    }
    own = {
        names.get(name, name): parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
    }
    own = {k: v for k, v in own.items() if v not in (None, inspect.Parameter.empty)}  # None: conf's
    shared = {key for key in own if isinstance(values.get(key), bool | int | float | str)}
    named = {key for key in own if key in groups}
    assert shared | named
    assert {key: own[key] for key in shared} == {key: values[key] for key in shared}
    assert {key: own[key] for key in named} == {key: groups[key] for key in named}


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tfnas", *arguments], cwd=cwd, env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_one_name_for_all_commands(tmp_path: Path) -> None:
    listed = cli("--help", cwd=tmp_path)
    assert listed.returncode == 0
    assert all(f"  {name} " in listed.stdout for name in COMMANDS)
    wrong = cli("serch", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no command 'serch': expected one of profile, search" in wrong.stderr


@pytest.mark.parametrize("name", ["search", "table", "verify"])
def test_a_command_is_its_module(name: str, tmp_path: Path) -> None:
    module = COMMANDS[name].module
    same = subprocess.run(
        [sys.executable, "-m", module, "nothing"], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    done = cli(name, "nothing", cwd=tmp_path)
    assert done.returncode == same.returncode == 2
    said, wanted = (run.stderr.splitlines()[-1].partition("error:")[2] for run in (done, same))
    assert said == wanted != ""

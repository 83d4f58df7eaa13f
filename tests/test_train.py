"""`tfnas.train`: it learns, stops, goes on to the same end and refuses what it cannot use."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.entry import Entry, compose_config, environment, run_entry
from tests.support.nets import few_images, few_root, image_folder, tiny_subnet
from tfnas.app.schemas import TrainConfig
from tfnas.app.values import load_space
from tfnas.data.images import ArrayImages, data_set
from tfnas.data.sets import load_images
from tfnas.files.checkpoint import read_checkpoint, write_checkpoint
from tfnas.nets.blocks import Network
from tfnas.nets.distillation import distillation
from tfnas.nets.weights import load_weights, save_weights
from tfnas.process.errors import DivergedError, StoppedError
from tfnas.process.exits import FAILED, INTERRUPTED, UNUSABLE_INPUT
from tfnas.runs.model import load_model
from tfnas.runs.teachers import load_teacher
from tfnas.runs.trained import check_finished, train
from tfnas.space.subnet import Subnet
from tfnas.train import prepare
from tfnas.training.loop import CHECKPOINT, Training, identity
from tfnas.training.mixing import mixed, mixing_rng
from tfnas.training.recipe import Recipe
from tfnas.training.teacher import Teacher

pytestmark = pytest.mark.slow

FEW = few_images(train=96, test=64)  # 3 training and 2 test batches of the recipe


def quiet() -> tuple[str, ...]:
    return f"data.root={few_root()}", "data.max_train=96", "recipe=test"


@cache
def base_recipe() -> Recipe:
    return compose_config(TrainConfig, "train", "subnet=x", "recipe=test").recipe


def recipe(**changes: Any) -> Recipe:
    return replace(base_recipe(), **changes)


def stop_at(call: int) -> Callable[[], bool]:
    """True from the given call on."""
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls >= call

    return stop


def test_it_learns_real_images(tmp_path: Path) -> None:
    data = few_images(train=600, test=300)
    result = train(tiny_subnet(), data, recipe(epochs=3), seed=0, out=tmp_path)
    assert result.trained.top1 > 0.25  # chance: 0.1
    assert result.trained.top1 == result.epochs[-1].top1 <= result.trained.top5
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    record = json.loads((tmp_path / "train.json").read_text())
    assert record["top1"] == result.trained.top1
    assert record["resolution"] == record["deployed_resolution"] == 32
    assert record["recipe"]["epochs"] == len(record["epochs"]) == 3
    assert record["data"]["origin"] == data.origin
    assert {"seed", "versions", "seconds", "subnet"} <= set(record)
    assert not (tmp_path / CHECKPOINT).exists()
    network = Network(tiny_subnet())
    assert load_weights(network, result.weights, complete=True).trained == result.trained


def test_a_folder_of_its_own_is_complete(tmp_path: Path) -> None:
    subnet, images, out = tiny_subnet(), few_images(40, 20), tmp_path / "elsewhere"
    train(subnet, images, recipe(epochs=1), seed=0, out=out)
    assert load_model(out).subnet == subnet
    other = tmp_path / "other"
    other.mkdir()
    (other / "subnet.json").write_text("the user's own")
    train(subnet, images, recipe(epochs=1), seed=0, out=other)
    assert (other / "subnet.json").read_text() == "the user's own"


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_same_seed_same_weights_and_another_seed_others(tmp_path: Path, ema: float) -> None:
    files: list[bytes] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(seed + len(files))  # the caller's generator plays no part
        out = tmp_path / name
        train(tiny_subnet(), FEW, recipe(epochs=1, ema=ema), seed=seed, out=out, resume=False)
        files.append((out / "weights.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_generator_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(tiny_subnet(), FEW, recipe(epochs=1), seed=0, out=tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(tiny_subnet(), FEW, recipe(ema=0.9), seed=0, out=out)
    return out


@pytest.mark.parametrize("call", [1, 2, 4, 6, 7, 9, 14])
def test_stopped_and_resumed_equals_uninterrupted(
    tmp_path: Path, uninterrupted: Path, call: int
) -> None:
    r = recipe(ema=0.9)  # 2 epochs of 4 calls in training, 3 in testing
    part = tmp_path / "part"
    with pytest.raises(StoppedError):
        train(tiny_subnet(), FEW, r, seed=0, out=part, stop=stop_at(call))
    assert not (part / "weights.safetensors").exists()
    train(tiny_subnet(), FEW, r, seed=0, out=part, resume=True)
    one, other = (json.loads((out / "train.json").read_text()) for out in (uninterrupted, part))
    for record in (one, other):
        del record["seconds"]
        for epoch in record["epochs"]:
            del epoch["seconds"]
    assert one == other
    first, second = ((out / "weights.safetensors").read_bytes() for out in (uninterrupted, part))
    assert first == second


STRONG = {"rand_augment": 9.0, "mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.5}


@pytest.mark.parametrize("call", [2, 6])
def test_a_strong_training_goes_on_to_the_same_end(tmp_path: Path, call: int) -> None:
    whole, part, weak = (tmp_path / name for name in ("whole", "part", "weak"))
    r = recipe(**STRONG)
    train(tiny_subnet(), FEW, r, seed=0, out=whole)
    with pytest.raises(StoppedError):
        train(tiny_subnet(), FEW, r, seed=0, out=part, stop=stop_at(call))
    with pytest.raises(ValueError, match=r"recipe\.mixup: 0\.2 there, None now"):
        Training(tiny_subnet(), FEW, recipe(), seed=0, out=part, resume=True)
    train(tiny_subnet(), FEW, r, seed=0, out=part, resume=True)
    train(tiny_subnet(), FEW, recipe(), seed=0, out=weak)
    files = [(out / "weights.safetensors").read_bytes() for out in (whole, part, weak)]
    assert files[0] == files[1] != files[2]
    assert json.loads((whole / "train.json").read_text())["recipe"]["mixup"] == 0.2
    check_finished(whole, identity(tiny_subnet(), FEW, r, 0))


def test_the_loss_of_mixed_labels_is_smoothed_cross_entropy(tmp_path: Path) -> None:
    r = recipe(epochs=1, batch_size=96, dropout=0.0, drop_connect=0.0, mixup=0.4)
    training = Training(tiny_subnet(), FEW, r, seed=0, out=tmp_path)
    (batch,) = training.train_batches.epoch(0)
    images, labels = mixed(
        batch[0], torch.eye(10)[batch[1]], mixing_rng(0, 0), mixup=0.4, cutmix=0.0
    )
    targets = 0.9 * labels + 0.1 / 10
    with torch.no_grad():
        network = copy.deepcopy(training.network).train()
        expected = -(targets * network(images).log_softmax(1)).sum(1).mean()
    training.run()
    assert training.history[0].train_loss == pytest.approx(float(expected), rel=1e-5)


def test_the_loss_of_a_class_is_weighed(tmp_path: Path) -> None:
    weights = [1.0, 3.0, *[0.5] * 8]
    r = recipe(epochs=1, batch_size=96, dropout=0.0, drop_connect=0.0, class_weights=weights)
    training = Training(tiny_subnet(), FEW, r, seed=0, out=tmp_path)
    ((images, labels),) = training.train_batches.epoch(0)
    targets = 0.9 * torch.eye(10)[labels] + 0.1 / 10
    with torch.no_grad():
        logs = copy.deepcopy(training.network).train()(images).log_softmax(1)
    expected = float(-(torch.tensor(weights) * targets * logs).sum(1).mean())
    training.run()
    assert training.history[0].train_loss == pytest.approx(expected, rel=1e-5)


TEACHER = "tests.runs.test_teachers:seeded"


def teacher() -> Teacher:
    return load_teacher(TEACHER, torch.device("cpu"))


def test_a_training_with_a_teacher_goes_on_with_it_alone(tmp_path: Path) -> None:
    whole, part, alone = (tmp_path / name for name in ("whole", "part", "alone"))
    net, r = tiny_subnet(), recipe()
    other = load_teacher(Network(net), torch.device("cpu"))
    train(net, FEW, r, seed=0, out=whole, teacher=teacher())
    with pytest.raises(StoppedError):
        train(net, FEW, r, seed=0, out=part, teacher=teacher(), stop=stop_at(2))
    for wrong, now in ((None, "None"), (other, "'Network ")):
        with pytest.raises(ValueError, match=rf"teacher: '\S+:seeded \w+' there, {now}"):
            Training(net, FEW, r, seed=0, out=part, teacher=wrong, resume=True)
    train(net, FEW, r, seed=0, out=part, teacher=teacher(), resume=True)
    train(net, FEW, recipe(teacher_weight=0.0), seed=0, out=alone, teacher=teacher())
    plain = train(net, FEW, r, seed=0, out=tmp_path / "plain").weights.read_bytes()
    files = [(out / "weights.safetensors").read_bytes() for out in (whole, part, alone)]
    assert files[0] == files[1] != plain == files[2]
    check_finished(whole, identity(net, FEW, r, 0, teacher()))
    for folder, given in ((whole, None), (tmp_path / "plain", teacher())):
        with pytest.raises(ValueError, match=r"finished, and with other options \(teacher: "):
            check_finished(folder, identity(net, FEW, r, 0, given))
    assert json.loads((whole / "train.json").read_text())["teacher"] == teacher().identity
    assert "teacher" not in json.loads((tmp_path / "plain" / "train.json").read_text())


def test_the_loss_of_a_teacher_is_of_the_mixed_images(tmp_path: Path) -> None:
    r = recipe(
        epochs=1, batch_size=96, dropout=0.0, drop_connect=0.0, mixup=0.4, label_smoothing=0.0,
        teacher_weight=0.7, teacher_temperature=2.0,
    )  # fmt: skip
    training = Training(tiny_subnet(), FEW, r, seed=0, out=tmp_path, teacher=teacher())
    (batch,) = training.train_batches.epoch(0)
    images, labels = mixed(
        batch[0], torch.eye(10)[batch[1]], mixing_rng(0, 0), mixup=0.4, cutmix=0.0
    )
    with torch.no_grad():
        logits = copy.deepcopy(training.network).train()(images)
        hard = -(labels * logits.log_softmax(1)).sum(1).mean()
        soft = distillation(logits, teacher().logits(images), 2.0)
    training.run()
    expected = float(0.3 * hard + 0.7 * soft)
    assert training.history[0].train_loss == pytest.approx(expected, rel=1e-4)


def test_moved_images_are_the_same_and_changed_ones_are_not(tmp_path: Path) -> None:
    here, out = image_folder(tmp_path / "here"), tmp_path / "out"
    r, net = recipe(batch_size=16, epochs=1), tiny_subnet(classes=4)
    with pytest.raises(StoppedError):
        train(net, load_images("folder", root=str(here)), r, seed=0, out=out, stop=stop_at(2))
    there = here.rename(tmp_path / "there")
    moved = load_images("folder", root=str(there))
    image = Path(moved.test.paths[0])
    other = image.rename(image.with_stem("another"))
    with pytest.raises(ValueError, match=r"data\.images: '80 \+ 80 images, .* there"):
        train(net, load_images("folder", root=str(there)), r, seed=0, out=out, resume=True)
    other.rename(image)
    train(net, load_images("folder", root=str(there)), r, seed=0, out=out, resume=True)
    check_finished(out, {**identity(net, moved, r, 0), "weights": None})


def test_below_the_deployed_resolution_the_accuracy_is_marked(tmp_path: Path) -> None:
    result = train(tiny_subnet(), FEW, recipe(epochs=1, resolution=16), seed=0, out=tmp_path)
    assert result.trained.resolution == 16
    assert result.line.endswith("at 16 px; the latency is that of 32 px")
    record = json.loads((tmp_path / "train.json").read_text())
    assert (record["resolution"], record["deployed_resolution"]) == (16, 32)


def test_never_above_the_deployed_resolution(tmp_path: Path) -> None:
    training = Training(tiny_subnet(), FEW, recipe(resolution=64), seed=0, out=tmp_path)
    assert training.resolution == 32


def test_it_starts_from_given_weights(tmp_path: Path) -> None:
    subnet, path = tiny_subnet(), tmp_path / "start.safetensors"
    state = Network(subnet).state_dict()
    save_weights({n: v for n, v in state.items() if ".bn." not in n}, subnet, path)
    training = Training(subnet, FEW, recipe(), seed=7, out=tmp_path, weights=path)
    found = training.network.state_dict()
    assert torch.equal(found["layers.0.conv.weight"], state["layers.0.conv.weight"])
    assert len(training.kept) == 5


def test_a_diverging_loss_stops_at_once(tmp_path: Path) -> None:
    r = recipe(lr=1e6, clip=0.0, warmup_epochs=0.0)
    with pytest.raises(DivergedError, match=r"the loss is .* lower recipe\.lr"):
        train(tiny_subnet(), FEW, r, seed=0, out=tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


def test_classes_must_be_those_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7 classes, the data fashion_mnist has 10"):
        Training(tiny_subnet(classes=7), FEW, recipe(), seed=0, out=tmp_path)


def test_a_net_of_other_channels_than_the_data(tmp_path: Path) -> None:
    spec = load_space("tiny", 10, in_channels=5)
    subnet = spec.build(8).sample(random.Random(0))
    with pytest.raises(ValueError, match="have 1 channel, the net takes 5: expected"):
        Training(subnet, FEW, recipe(), seed=0, out=tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 9, 9, 5), np.uint8)
    images = ArrayImages(pixels, np.arange(96) % 10)
    data = data_set("five", FEW.classes, images, images, "made up")
    result = train(subnet, data, recipe(epochs=1), seed=0, out=tmp_path)
    assert len(result.trained.mean) == 5
    subnet.save(tmp_path / "subnet.json")
    network = load_model(tmp_path)
    assert network(network.preprocess(pixels[0])).shape == (1, 10)
    with pytest.raises(ValueError, match="data five: its images have 5 channels, the net takes 3"):
        Training(tiny_subnet(), data, recipe(), seed=0, out=tmp_path / "other")


def test_too_few_images_for_a_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="96 images make no batch of 200"):
        Training(tiny_subnet(), FEW, recipe(batch_size=200), seed=0, out=tmp_path)


def unfinished(out: Path) -> None:
    with pytest.raises(StoppedError):
        train(tiny_subnet(), FEW, recipe(), seed=0, out=out, stop=stop_at(2))


def test_an_unfinished_training_is_not_overwritten(tmp_path: Path) -> None:
    unfinished(tmp_path)
    with pytest.raises(ValueError, match="resume=true goes on"):
        Training(tiny_subnet(), FEW, recipe(), seed=0, out=tmp_path)


def test_resuming_with_other_options_is_refused(tmp_path: Path) -> None:
    unfinished(tmp_path)
    with pytest.raises(ValueError, match=r"recipe.lr: 0.05 there, 0.5 now"):
        Training(tiny_subnet(), FEW, recipe(lr=0.5), seed=0, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        Training(tiny_subnet(), FEW, recipe(), seed=1, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="subnet: "):
        Training(tiny_subnet(5), FEW, recipe(), seed=0, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="started from weights=None"):
        Training(tiny_subnet(), FEW, recipe(), seed=0, out=tmp_path, resume=True,
                 weights=tmp_path / "other")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("network", {}), ("epoch", 1), ("epoch", "x"), ("rows", [{}]), ("seconds", 3),
     ("optimizer", None), ("rng", None), ("batch", 99), ("kept", None)],
)  # fmt: skip
def test_a_checkpoint_that_makes_no_sense(tmp_path: Path, name: str, value: object) -> None:
    unfinished(tmp_path)
    path = tmp_path / CHECKPOINT
    training = Training(tiny_subnet(), FEW, recipe(), seed=0, out=tmp_path, resume=True)
    state = read_checkpoint(path, training.identity)
    write_checkpoint(path, {**state, name: value})
    with pytest.raises(ValueError, match="can't go on from"):
        Training(tiny_subnet(), FEW, recipe(), seed=0, out=tmp_path, resume=True)


def test_resume_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start without resume="):
        Training(tiny_subnet(), FEW, recipe(), seed=0, out=tmp_path, resume=True)


def refused(*overrides: str) -> str:
    with pytest.raises((ValueError, LookupError, OSError)) as caught:
        prepare(compose_config(TrainConfig, "train", *quiet(), "out=unused", *overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_net_is_trained_on_other_classes_than_its_own(tmp_path: Path) -> None:
    seven, weights = tiny_subnet(classes=7), tmp_path / "weights.safetensors"
    seven.save(tmp_path / "subnet.json")
    save_weights(Network(seven).state_dict(), seven, weights)
    given = (f"subnet={tmp_path}/subnet.json", f"weights={weights}", "reset_classifier=true")
    options = [*given, "recipe=test", "recipe.epochs=1", f"data.root={few_root()}", "threads=1"]
    done = run_entry("tfnas.train", *options, cwd=tmp_path)
    assert done.returncode == UNUSABLE_INPUT
    assert "subnet.json is a net of other classes: give out=FOLDER" in done.stdout + done.stderr
    done = run_entry("tfnas.train", *options, "out=ten", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not in these weights, initialized anew: classifier" in done.stdout
    assert "subnet=ten/subnet.json weights=ten/weights.safetensors" in done.stdout
    model = load_model(tmp_path / "ten")
    assert model.subnet == seven.with_classes(10)
    assert len(model.trained.classes) == 10
    assert Subnet.load(tmp_path / "subnet.json") == seven


def test_bad_input_is_refused_before_work(tmp_path: Path) -> None:
    good, other = tmp_path / "subnet.json", tmp_path / "other.json"
    tiny_subnet().save(good)
    tiny_subnet(classes=7).save(other)
    weights = tmp_path / "w.safetensors"
    save_weights(Network(tiny_subnet(5)).state_dict(), tiny_subnet(5), weights)
    assert "none.json" in refused(f"subnet={tmp_path}/none.json")
    assert "7 classes" in refused(f"subnet={other}")
    assert "subnet.json they were trained for" in refused(f"subnet={good}", f"weights={weights}")
    assert "expected the folder of a trained run" in refused(f"subnet={good}", "teacher=none")
    assert "(2, 10), for the classes" in refused(
        f"subnet={good}", "teacher=torch.nn:Identity", "recipe.resolution=32"
    )
    assert "accelerator='tpu'" in refused(f"subnet={good}", "accelerator=tpu")
    assert "threads=0" in refused(f"subnet={good}", "threads=0")
    assert "recipe.epochs=0" in refused(f"subnet={good}", "recipe.epochs=0")
    assert "data.classes=5" in refused(f"subnet={good}", "data.classes=5")
    assert "data.root" in refused(f"subnet={good}", f"data.root={tmp_path}/nowhere")
    (tmp_path / "subnet.json").write_text("{")
    assert "is not JSON" in refused(f"subnet={good}")
    assert {p.name for p in tmp_path.iterdir()} == {"subnet.json", "other.json", "w.safetensors"}


def test_the_entry_point(tmp_path: Path) -> None:
    tiny_subnet().save(tmp_path / "subnet.json")
    done = run_entry(
        "tfnas.train",
        "subnet=subnet.json",
        *quiet(),
        "recipe.resolution=16",
        "recipe.epochs=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "at 16 px; the latency is that of 32 px" in done.stdout
    assert "python -m tfnas.export subnet=subnet.json" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {
        "subnet.json", "tensorboard", "train.json", "train_overrides.yaml", "weights.safetensors"
    }  # fmt: skip
    before = (tmp_path / "weights.safetensors").read_bytes()
    for options, status, said in (
        ((), 0, "is finished"),
        (("seed=5",), UNUSABLE_INPUT, "finished, and with other options (seed: 0 there, 5 now)"),
    ):
        again = run_entry("tfnas.train", "resume=.", *options, cwd=tmp_path)
        assert (again.returncode, again.stderr) == (status, ""), again.stdout
        assert said in again.stdout
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_in_a_sweep_each_member_has_its_folder(tmp_path: Path) -> None:
    tiny_subnet().save(tmp_path / "subnet.json")
    done = run_entry(
        "tfnas.train", "-m", "subnet=subnet.json,missing.json", *quiet(), "recipe.epochs=1",
        "recipe.resolution=8", "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == UNUSABLE_INPUT, done.stdout + done.stderr
    assert "can't read the subnet missing.json" in done.stdout
    assert (tmp_path / "sweep" / "0" / "train.json").is_file()
    assert not (tmp_path / "train.json").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [("recipe.epohs=3", "epohs"), ("recipe.epochs=many", "many")],
)
def test_what_hydra_refuses_ends_with_2(tmp_path: Path, override: str, expected: str) -> None:
    done = run_entry("tfnas.train", "subnet=x", override, cwd=tmp_path)
    assert done.returncode == UNUSABLE_INPUT
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    tiny_subnet().save(tmp_path / "subnet.json")
    command = ["subnet=subnet.json", *quiet(), "recipe.epochs=1000", "recipe.resolution=8"]
    with Entry("tfnas.train", *command, cwd=tmp_path) as training:
        training.until(lambda line: line.startswith("epoch 1/"))
        training.send_signal(signal.SIGINT)
        status, text = training.finish()
    assert status == INTERRUPTED, text
    assert "go on with: python -m tfnas.train resume=" in text
    assert (tmp_path / CHECKPOINT).is_file()


def test_a_folder_goes_on_with_its_own_options(tmp_path: Path) -> None:
    subnet, out = tmp_path / "subnet.json", tmp_path / "out"
    tiny_subnet().save(subnet)
    command = [f"subnet={subnet}", f"out={out}", *quiet(), "recipe.epochs=200", "seed=3"]
    with Entry("tfnas.train", *command, cwd=tmp_path) as first:
        first.until(lambda line: line.startswith("epoch 2/"))
        first.send_signal(signal.SIGSTOP)  # or it may be done before the other one
        second = run_entry("tfnas.train", *command, "resume=true", cwd=tmp_path)
        first.send_signal(signal.SIGTERM)
        first.send_signal(signal.SIGCONT)
        status, text = first.finish()
    assert status == INTERRUPTED, text
    assert second.returncode == UNUSABLE_INPUT
    assert "another run is writing into" in second.stdout
    refused = run_entry("tfnas.train", f"resume={out}", "seed=4", cwd=tmp_path)
    assert refused.returncode == UNUSABLE_INPUT
    assert "seed: 3 there, 4 now" in refused.stdout
    with Entry("tfnas.train", f"resume={out}", cwd=tmp_path) as again:
        line = next(line for line in again.lines if line.startswith("epoch "))
        again.send_signal(signal.SIGHUP)
        status, text = again.finish()
    assert status == INTERRUPTED, text
    assert int(line.split()[1].partition("/")[0]) > 2  # and not from the start


def test_trained_weights_are_not_overwritten(tmp_path: Path) -> None:
    train(tiny_subnet(), FEW, recipe(epochs=1), seed=0, out=tmp_path)
    with pytest.raises(ValueError, match="the weights of a finished training"):
        Training(tiny_subnet(), FEW, recipe(), seed=0, out=tmp_path)


def test_a_bad_step_is_skipped_where_that_is_asked(tmp_path: Path) -> None:
    images = FEW.train.take(np.arange(len(FEW.train)))
    training = Training(
        tiny_subnet(), replace(FEW, train=images), recipe(epochs=1, lr=0.05), seed=0, out=tmp_path,
        on_nonfinite="skip",
    )  # fmt: skip
    step, calls = training._step, 0

    def spoilt(x: torch.Tensor, y: torch.Tensor, number: int) -> None:
        nonlocal calls
        calls += 1
        step(x * float("inf") if calls == 2 else x, y, number)

    training._step = spoilt  # type: ignore[method-assign]
    training.run()
    assert training.guard.skipped == 1
    assert all(torch.isfinite(value).all() for value in training.state.values())


def test_a_process_that_reads_images_dies(tmp_path: Path) -> None:
    root, subnet = image_folder(tmp_path / "images"), tmp_path / "subnet.json"
    tiny_subnet(classes=4).save(subnet)
    process = subprocess.Popen(
        [sys.executable, "-m", "tfnas.train", f"subnet={subnet}", "data=folder",
         f"data.root={root}", "data.workers=1", "recipe=test", "recipe.epochs=1000"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if line.startswith("epoch 2/"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            for pid in children.read_text().split():  # each epoch has a new one
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)  # that alone they leave to the main process
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)
        text = lines.read()
    assert process.wait(30) == FAILED, text
    assert "a process that reads images ended" in text
    assert "go on with: python -m tfnas.train resume=" in text
    assert "Traceback" not in text
    assert (tmp_path / CHECKPOINT).is_file()


HANGS = """
import os, runpy, sys, time
from tfnas.data import augment
main, read = os.getpid(), augment.read_file
def hang(*arguments, **more):
    if os.getpid() == main:
        return read(*arguments, **more)
    os.write(1, b"hangs\\n")  # at once: a line that others write isn't mixed with it
    time.sleep(600)
augment.read_file = hang
sys.argv[0] = "tfnas.train"
runpy.run_module("tfnas.train", run_name="__main__", alter_sys=True)
"""


def test_a_reader_that_hangs_ends_with_the_run(tmp_path: Path) -> None:
    """As where a network that holds the images is gone: the first signal asks, the second ends."""
    root, subnet = image_folder(tmp_path / "images"), tmp_path / "subnet.json"
    tiny_subnet(classes=4).save(subnet)
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, f"subnet={subnet}", "data=folder", f"data.root={root}",
         "data.workers=2", "recipe=test", "recipe.epochs=1", "recipe.batch_size=8", "threads=1"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if line.startswith("hangs"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        readers = [int(pid) for pid in children.read_text().split()]
        process.send_signal(signal.SIGTERM)
        for line in lines:
            if line.startswith("stopping"):
                break
        process.send_signal(signal.SIGTERM)
        text = lines.read()
    assert process.wait(60) == INTERRUPTED, text
    assert readers
    assert not any(Path(f"/proc/{pid}").exists() for pid in readers)


def test_a_test_image_that_cannot_be_read_costs_no_epoch(tmp_path: Path) -> None:
    root, out = image_folder(tmp_path / "images"), tmp_path / "out"
    tiny_subnet(classes=4).save(tmp_path / "subnet.json")
    broken = sorted((root / "val" / "class_1").iterdir())[5]  # not the first, which is looked at
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    command = [f"subnet={tmp_path / 'subnet.json'}", f"data.root={root}", f"out={out}"]
    options = [
        "data=folder", "recipe=test", "recipe.epochs=1", "recipe.batch_size=8", "threads=1",
        "data.check=false",
    ]  # fmt: skip
    failed = run_entry("tfnas.train", *command, *options, cwd=tmp_path)
    assert failed.returncode not in (0, INTERRUPTED), failed.stdout
    assert f"{broken}: not readable as an image" in failed.stdout
    assert f"go on with: python -m tfnas.train resume={out}" in failed.stdout
    broken.write_bytes(whole)
    again = run_entry("tfnas.train", f"resume={out}", cwd=tmp_path)
    assert again.returncode == 0, again.stdout
    assert "going on at epoch 1, batch 10\n" in again.stdout  # of 10: all that was trained

"""Where a teacher comes from: a trained run, an ONNX file, a module of torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tfnas
from tests.support.nets import few_images, random_network, tiny_subnet
from tfnas.deploy.onnx_file import export
from tfnas.runs.teachers import load_teacher
from tfnas.training.teacher import Teacher

CPU = torch.device("cpu")
DATA = few_images(train=64, test=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "large"
    recipe = tfnas.load_preset("recipe", "test", epochs=1)
    tfnas.train_net(tiny_subnet(), DATA, recipe=recipe, out=out, threads=1, accelerator="cpu")
    return out


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def seeded() -> nn.Module:
    return random_network(tiny_subnet(3))


def no_module() -> int:
    return 3


def failing() -> nn.Module:
    raise RuntimeError("no weights here\nand more")


def told(teacher: Teacher) -> tuple[object, ...]:
    return teacher.classes, teacher.mean, teacher.std, teacher.resolution


def test_a_run_an_exported_file_and_a_module_say_the_same(
    run: Path, images: Tensor, tmp_path: Path
) -> None:
    network = tfnas.load(run)
    expected = network(images)
    teacher = load_teacher(run, CPU)
    assert torch.equal(teacher.logits(images), expected)
    assert told(teacher) == (DATA.classes, DATA.mean, DATA.std, 32)
    path = tmp_path / "large.onnx"
    export(network.subnet, run / "weights.safetensors", path, batch=None)
    exported = load_teacher(str(path), CPU)
    assert torch.allclose(exported.logits(images), expected, atol=1e-4)
    assert told(exported) == told(teacher)
    network.train()
    module = load_teacher(network, CPU)
    assert torch.equal(module.logits(images), expected)
    assert network.training  # the caller's own is left as it is
    assert next(network.parameters()).requires_grad
    assert told(module) == (None,) * 4


def test_a_module_is_named_by_what_makes_it(images: Tensor) -> None:
    before = torch.get_rng_state()
    teacher = load_teacher("tests.runs.test_teachers:seeded", CPU)
    assert torch.equal(teacher.logits(images), seeded()(images))
    assert torch.equal(before, torch.get_rng_state())


def test_identity_tells_which_one_it_is(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "large"
    shutil.copytree(run, moved)
    assert load_teacher(moved, CPU).identity == load_teacher(run, CPU).identity
    seeds = {load_teacher(random_network(tiny_subnet(), seed), CPU).identity for seed in (0, 0, 1)}
    assert len(seeds) == 2


def test_what_is_no_teacher(run: Path, tmp_path: Path) -> None:
    single, untrained, broken = (tmp_path / f"{n}.onnx" for n in ("single", "untrained", "broken"))
    export(tiny_subnet(), run / "weights.safetensors", single, batch=1)
    export(tiny_subnet(), None, untrained, batch=None)
    broken.write_bytes(b"no model")
    here = "tests.runs.test_teachers"
    for given, message in (
        (single, r"takes \[1, 3, 32, 32\]: expected one input with any batch"),
        (untrained, "has untrained weights"),
        (broken, "is no ONNX file that can be run"),
        (tmp_path / "none", "expected the folder of a trained run, an ONNX file"),
        ("nowhere.at_all:net", "ModuleNotFoundError: .*expected module:factory"),
        (f"{here}:nothing", "AttributeError: .*expected module:factory"),
        (f"{here}:failing", "RuntimeError: no weights here; expected"),
        (f"{here}:no_module", r"gives a int, expected a torch\.nn\.Module"),
    ):
        with pytest.raises(ValueError, match=f"teacher={given}.*{message}"):
            load_teacher(given, CPU)
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        load_teacher(tmp_path / "none.onnx", CPU)
    with pytest.raises(FileNotFoundError, match="expected the folder of a run"):
        load_teacher(tmp_path, CPU)

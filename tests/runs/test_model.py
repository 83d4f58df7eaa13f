"""A trained net is loaded from its folder, or by either of its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.nets.test_weights import TRAINED
from tests.support.nets import random_network, tiny_subnet
from tfnas.nets.weights import save_weights
from tfnas.runs.model import load_model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    subnet = tiny_subnet()
    subnet.save(tmp_path / "subnet.json")
    save_weights(
        random_network(subnet).state_dict(), subnet, tmp_path / "weights.safetensors", TRAINED
    )
    return tmp_path


def test_a_folder_its_subnet_and_its_weights_are_the_same_net(run: Path) -> None:
    shutil.copy(run / "weights.safetensors", run / "mine.safetensors")
    shutil.copy(run / "subnet.json", run / "mine.json")
    whole = load_model(run).state_dict()
    for name in ("subnet.json", "mine.json", "weights.safetensors", "mine.safetensors"):
        network = load_model(run / name)
        assert (network.trained, network.training) == (TRAINED, False)
        assert all(torch.equal(value, whole[key]) for key, value in network.state_dict().items())


def test_the_weights_of_a_hubs_folder_are_found(run: Path) -> None:
    (run / "weights.safetensors").rename(run / "model.safetensors")
    for path in (run, run / "subnet.json"):
        assert load_model(path).classes == TRAINED.classes


def test_what_is_no_net_is_said(run: Path) -> None:
    (run / "model.onnx").touch()
    with pytest.raises(ValueError, match=r"model\.onnx: expected the folder of a run"):
        load_model(run / "model.onnx")
    with pytest.raises(FileNotFoundError, match="expected the folder of a run"):
        load_model(run / "elsewhere")
    (run / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"python -m tfnas\.train subnet=.*subnet\.json"):
        load_model(run / "subnet.json")

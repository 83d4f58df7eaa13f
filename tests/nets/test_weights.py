"""Weights are written, read again and refused where they do not fit."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.nets import random_network, tiny_subnet
from tests.support.spaces import load_space
from tfnas.files.atomic import replacing
from tfnas.nets.blocks import Network
from tfnas.nets.supernet import SlicedSupernet, Supernet
from tfnas.nets.weights import (
    Trained,
    fingerprint,
    load_weights,
    read_supernet,
    read_trained,
    save_supernet,
    save_weights,
    take_supernet,
)

TRAINED = Trained(
    data="some: images",
    classes=tuple(f"class {i}" for i in range(10)),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    crop_fraction=0.875,
    resolution=32,
    top1=0.5,
    top5=0.9,
)


def test_saved_weights_come_back_with_what_they_were_trained_on(tmp_path: Path) -> None:
    subnet, path = tiny_subnet(), tmp_path / "w.safetensors"
    network = random_network(subnet)
    save_weights(network.state_dict(), subnet, path, TRAINED)
    other = Network(subnet)
    loaded = load_weights(other, path, complete=True)
    assert loaded.trained == TRAINED
    assert loaded.kept == ()
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_weights_of_a_supernet_lack_batch_norm(tmp_path: Path) -> None:
    space, path = load_space("tiny"), tmp_path / "w.safetensors"
    subnet = space.sample(random.Random(0))
    save_file(dict(Supernet(space).extract(subnet)), path)
    network = Network(subnet)
    loaded = load_weights(network, path, complete=False)
    assert len(loaded.kept) == 5
    assert all("batch norm" in sort for sort in loaded.kept)
    assert loaded.trained is None
    with pytest.raises(ValueError, match=r"missing: layers\.0\.bn\.bias"):
        load_weights(network, path, complete=True)


@pytest.mark.parametrize("kind", [Supernet, SlicedSupernet])
def test_a_whole_supernet_comes_back(tmp_path: Path, kind: type[Supernet]) -> None:
    space, path = load_space("tiny"), tmp_path / "supernet.safetensors"
    trained, other = kind(space), kind(space)
    save_supernet(trained.state_dict(), path)
    assert take_supernet(other, read_supernet(path))
    for name, value in trained.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    narrow = kind(space, channel_factor=0.5)
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    assert not take_supernet(narrow, read_supernet(path))
    assert all(torch.equal(before[name], value) for name, value in narrow.state_dict().items())
    next(trained.parameters()).data[:] = float("nan")
    save_supernet(trained.state_dict(), path)
    with pytest.raises(ValueError, match="no trained one has"):
        read_supernet(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="can't read the supernet"):
        read_supernet(path)


def test_a_classifier_may_be_missing(tmp_path: Path) -> None:
    subnet, path = tiny_subnet(), tmp_path / "w.safetensors"
    state = random_network(subnet).state_dict()
    trunk = {name: value for name, value in state.items() if ".linear." not in name}
    save_weights(trunk, subnet, path)
    assert load_weights(Network(subnet), path, complete=False).kept == ("classifier",)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    subnet, path = tiny_subnet(), tmp_path / "w.safetensors"
    state = {n: v.contiguous() for n, v in random_network(subnet).state_dict().items()}
    del state["layers.0.bn.weight"]  # of one layer only: no sort of tensors as a whole
    state["layers.0.conv.weight"] = torch.zeros(1, 2, 3, 3)
    state["more"] = torch.zeros(1)
    save_file(state, path)
    with pytest.raises(ValueError, match="missing") as caught:
        load_weights(Network(subnet), path, complete=False)
    text = str(caught.value)
    assert "missing: layers.0.bn.weight" in text
    assert "unexpected: more" in text
    assert "layers.0.conv.weight (1, 2, 3, 3) instead of (16, 3, 3, 3)" in text


def test_weights_of_another_subnet(tmp_path: Path) -> None:
    space, path = load_space("tiny"), tmp_path / "w.safetensors"
    rng = random.Random(3)
    one, other = space.sample(rng), space.sample(rng)
    assert fingerprint(one) != fingerprint(other)
    save_weights(Network(one).state_dict(), one, path)
    with pytest.raises(ValueError, match=f"subnet {fingerprint(one)}, expected .* {fingerprint(other)}"):  # fmt: skip # noqa: E501
        load_weights(Network(other), path, complete=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_must_be_finite(tmp_path: Path, value: float) -> None:
    subnet, path = tiny_subnet(), tmp_path / "w.safetensors"
    network = random_network(subnet)
    with torch.no_grad():
        network.state_dict()["layers.0.conv.weight"][0, 0, 0, 0] = value
    save_weights(network.state_dict(), subnet, path)
    with pytest.raises(ValueError, match=r"layers\.0\.conv\.weight has values"):
        load_weights(Network(subnet), path, complete=True)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="can't read the weights"):
        load_weights(Network(tiny_subnet()), path, complete=True)
    with pytest.raises(ValueError, match="can't read the weights"):
        load_weights(Network(tiny_subnet()), tmp_path / "none", complete=True)
    with pytest.raises(ValueError, match="can't read the weights"):
        load_weights(Network(tiny_subnet()), tmp_path, complete=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("top1", "high"), ("top1", 2), ("mean", [1]), ("classes", 3), ("std", None), ("more", 1),
     ("classes", ["only one"]), ("resolution", 32.5)],
)  # fmt: skip
def test_metadata_that_makes_no_sense(tmp_path: Path, name: str, value: object) -> None:
    subnet, path = tiny_subnet(), tmp_path / "w.safetensors"
    save_weights(Network(subnet).state_dict(), subnet, path)
    about = {"format": "tfnas.weights/1", "trained": {**asdict(TRAINED), name: value}}
    save_file(load_file(path), path, {"tfnas": json.dumps(about)})
    with pytest.raises(ValueError, match=path.name):
        load_weights(Network(subnet), path, complete=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000])
def test_metadata_that_is_none_of_ours(tmp_path: Path, text: str) -> None:
    subnet, path = tiny_subnet(), tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"tfnas": text})
    with pytest.raises(ValueError, match="its metadata is not"):
        load_weights(Network(subnet), path, complete=True)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with contextlib.suppress(OSError), replacing(path) as new:
        new.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_torchs_for_other_readers_and_the_same_each_time(tmp_path: Path) -> None:
    subnet, files = tiny_subnet(), [tmp_path / f"{i}.safetensors" for i in range(5)]
    state = random_network(subnet).state_dict()
    for file in files:
        save_weights(state, subnet, file, replace(TRAINED, data='späße: "quoted", \\, \n, \x7f'))
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    for name, value in load_file(files[0]).items():
        assert torch.equal(value, state[name])


def test_a_file_of_before_it_named_torch_still_loads(tmp_path: Path) -> None:
    subnet, path = tiny_subnet(), tmp_path / "w.safetensors"
    about = {
        "format": "tfnas.weights/1", "subnet": fingerprint(subnet), "space": subnet.space,
        "trained": asdict(TRAINED),
    }  # fmt: skip
    save_file(random_network(subnet).state_dict(), path, {"tfnas": json.dumps(about)})
    assert load_weights(Network(subnet), path, complete=True).trained == TRAINED
    assert read_trained(subnet, path) == TRAINED


def test_a_classifier_of_other_classes_is_learned_anew(tmp_path: Path) -> None:
    ten, file = tiny_subnet(), tmp_path / "ten.safetensors"
    given = random_network(ten).state_dict()
    save_weights(given, ten, file, TRAINED)
    network = Network(ten.with_classes(3))
    own = {name: value.clone() for name, value in network.state_dict().items()}
    loaded = load_weights(network, file, complete=False)
    assert loaded.kept == ("classifier",)
    assert loaded.trained is None
    for name, value in network.state_dict().items():
        assert torch.equal(value, (own if ".linear." in name else given)[name])
    with pytest.raises(ValueError, match="take the subnet"):
        load_weights(network, file, complete=True)
    other = Network(tiny_subnet(seed=1).with_classes(3))
    with pytest.raises(ValueError, match="take the subnet"):
        load_weights(other, file, complete=False)

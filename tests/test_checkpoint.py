from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from tfnas.checkpoint import read_checkpoint, write_checkpoint

IDENTITY = {"seed": 0, "recipe.lr": 0.1}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.ckpt"
    write_checkpoint(path, {"identity": IDENTITY, "x": torch.arange(3), "rows": [{"a": None}]})
    state = read_checkpoint(path, IDENTITY)
    assert state["x"].tolist() == [0, 1, 2]
    assert state["rows"] == [{"a": None}]
    assert list(tmp_path.iterdir()) == [path]


def test_options_that_changed_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.ckpt"
    write_checkpoint(path, {"identity": {**IDENTITY, "old": 1}})
    with pytest.raises(ValueError, match="another training") as caught:
        read_checkpoint(path, {"seed": 0, "recipe.lr": 0.2})
    assert "recipe.lr: 0.1 there, 0.2 now" in str(caught.value)
    assert "old: 1 there, None now" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_none_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start without resume=true"):
        read_checkpoint(tmp_path / "train.ckpt", IDENTITY)


class Unwanted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path, ("code from elsewhere",)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x80\x04.", pickle.dumps({"identity": IDENTITY}), pickle.dumps(Unwanted())],
)
def test_damaged_or_foreign(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.ckpt is"):
        read_checkpoint(path, IDENTITY)


def test_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "train.ckpt"
    write_checkpoint(path, {"identity": IDENTITY, "x": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(path, IDENTITY)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "train.ckpt"
    torch.save({"format": "tfnas.checkpoint/1", "identity": Unwanted()}, path)
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(path, IDENTITY)

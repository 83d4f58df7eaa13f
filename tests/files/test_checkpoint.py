"""A checkpoint is found whole after a crash, or refused by name."""

from __future__ import annotations

import pickle
import resource
import signal
from pathlib import Path

import pytest
import torch

from tfnas.files.checkpoint import (
    changes,
    exists,
    previous,
    read_checkpoint,
    remove,
    write_checkpoint,
)

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
    with pytest.raises(ValueError, match="another run") as caught:
        read_checkpoint(path, {"seed": 0, "recipe.lr": 0.2})
    assert "recipe.lr: 0.1 there, 0.2 now" in str(caught.value)
    assert "old: 1 there, None now" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_of_another_kind_only_the_name_is_told() -> None:
    there = {"strategy.name": "tfnas", "strategy.lr": 0.1, "strategy.clip": 5.0, "seed": 0}
    now = {"strategy.name": "spos", "strategy.lr": 0.2, "seed": 0}
    assert changes(there, now) == "strategy.name: 'tfnas' there, 'spos' now"
    assert changes(there, {**there, "strategy.lr": 0.2}) == "strategy.lr: 0.1 there, 0.2 now"
    assert changes(there, dict(there)) == ""


def test_damaged_ones_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    for name in (path, previous(path)):
        name.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"delete \S+search.ckpt and \S+search.previous.ckpt, and"):
        read_checkpoint(path, IDENTITY)


def test_none_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start without resume="):
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


def test_the_one_before_serves_where_the_last_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "train.ckpt"
    for step in range(3):
        write_checkpoint(path, {"identity": IDENTITY, "step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.ckpt", "train.previous.ckpt"]
    assert read_checkpoint(path, IDENTITY)["step"] == 2
    path.write_bytes(path.read_bytes()[:-100])
    assert read_checkpoint(path, IDENTITY)["step"] == 1
    assert "going on from the one before" in caplog.text
    caplog.clear()
    path.unlink()  # killed between two renames
    assert exists(path)
    assert read_checkpoint(path, IDENTITY)["step"] == 1
    assert f"{path} is gone; going on from the one before" in caplog.text
    remove(path)
    assert not exists(path)
    assert not list(tmp_path.iterdir())


def test_any_flipped_bit_of_the_tensors_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "train.ckpt"
    write_checkpoint(path, {"identity": IDENTITY, "x": torch.ones(5000)})
    whole = path.read_bytes()
    where = whole.index(torch.ones(5000).numpy().tobytes()) + 777
    path.write_bytes(whole[:where] + bytes([whole[where] ^ 16]) + whole[where + 1 :])
    with pytest.raises(ValueError, match="checksum"):
        read_checkpoint(path, IDENTITY)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "train.ckpt"
    write_checkpoint(path, {"identity": IDENTITY, "step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(OSError, match=r"can't write|File too large"):
            write_checkpoint(path, {"identity": IDENTITY, "x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == [path]
    assert read_checkpoint(path, IDENTITY)["step"] == 1


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

"""Files that can't be read are all named, or left out, before anything starts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.entry import run_entry
from tests.support.nets import image_folder, tiny_subnet
from tfnas.data import readable
from tfnas.data.sets import load_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def cut(root: Path, *places: str) -> list[Path]:
    """Leave the first bytes of a file in each of these folders: the headers are there."""
    files = [sorted((root / place).iterdir())[3] for place in places]
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    return files


def test_all_are_named_or_left_out(root: Path) -> None:
    assert len(load_images("folder", root=str(root), check=True).train) == 80
    bad = cut(root, "train/class_0", "val/class_1")
    assert len(load_images("folder", root=str(root)).train) == 80
    for check in (None, True):
        with pytest.raises(ValueError, match=r"2 of 160 image files .*on_unreadable=skip") as error:
            load_images("folder", root=str(root), check=check)
        assert all(str(file) in str(error.value) for file in bad)
    first = min((root / "train" / "class_0").iterdir())
    first.write_bytes(b"not even a header")
    kept = load_images("folder", root=str(root), on_unreadable="skip")
    assert (len(kept.train), len(kept.test)) == (78, 79)
    for file in (*bad, first):
        file.unlink()
    assert load_images("folder", root=str(root), check=True).identity == kept.identity


def test_a_class_that_is_left_without_images_is_refused(root: Path) -> None:
    for file in (root / "train" / "class_2").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no training images for class_2"):
        load_images("folder", root=str(root), on_unreadable="skip")


def test_a_long_check_is_left_to_those_who_ask(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut(root, "val/class_3")
    monkeypatch.setattr(readable, "UNASKED_S", 0.0)
    with caplog.at_level(logging.INFO):
        load_images("folder", root=str(root), check=None)
    assert "the 160 image files aren't read beforehand" in caplog.text
    with pytest.raises(ValueError, match="1 of 160 image files"):
        load_images("folder", root=str(root), check=True)


@pytest.mark.slow
def test_a_training_is_refused_at_once_or_goes_without(root: Path, tmp_path: Path) -> None:
    (bad,) = cut(root, "val/class_1")
    tiny_subnet(classes=4).save(tmp_path / "subnet.json")
    command = [
        f"subnet={tmp_path / 'subnet.json'}", "data=folder", f"data.root={root}", "recipe=test",
        "recipe.epochs=1", "recipe.batch_size=8", "threads=1",
    ]  # fmt: skip
    refused = run_entry("tfnas.train", *command, cwd=tmp_path)
    assert refused.returncode == 2
    assert str(bad) in refused.stdout
    done = run_entry("tfnas.train", *command, "data.on_unreadable=skip", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 of 160 image files can't be read" in done.stdout
    assert "they are left out" in done.stdout

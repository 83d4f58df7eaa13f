"""Lists of images with numbers: several labels of each, or what a regression learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.entry import run_entry
from tests.support.nets import few_images, tiny_subnet
from tfnas.app.values import load as preset
from tfnas.data.images import ArrayImages, Dataset, FileImages
from tfnas.data.sets import load_images
from tfnas.process.exits import DONE, UNUSABLE_INPUT
from tfnas.process.ranks import ALONE
from tfnas.runs.model import load_model
from tfnas.training.task import check_task

NAMES = ("a.jpg", "folder/b.jpg", "with space.jpg", "take 2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "folder").mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(folder / name, format="JPEG")
    return folder


def load(root: Path, train: str, test: str | None = None, numbers: bool = True) -> Dataset:
    for name, lines in (("train.txt", train), ("test.txt", train if test is None else test)):
        (root.parent / name).write_text(lines)
    lists = {f"{part}_list": str(root.parent / f"{part}.txt") for part in ("train", "test")}
    return load_images("list", root=str(root), numbers=numbers, **lists)


def test_several_numbers_for_each_image(root: Path) -> None:
    train = (
        f"a.jpg 0.5 -1e-2\n\nwith space.jpg  3   .25\ntake 2\t7 8.\n{root}/folder/b.jpg\t+1\t0\n"
    )
    dataset = load(root, train, "folder/b.jpg 1 2\n")
    assert dataset.classes == ("0", "1")
    assert not dataset.by_class
    assert isinstance(dataset.train, FileImages)
    found = [path.removeprefix(f"{root}/") for path in dataset.train.paths]
    assert found == ["a.jpg", "with space.jpg", "take 2", "folder/b.jpg"]
    wanted = np.array([[0.5, -0.01], [3, 0.25], [7, 8], [1, 0]], np.float32)
    assert dataset.train.labels.dtype == np.float32
    assert np.array_equal(dataset.train.labels, wanted)


def test_whole_numbers_are_numbers_where_those_are_asked_for(root: Path) -> None:
    ages = "a.jpg 31\nfolder/b.jpg 4\n"
    dataset = load(root, ages)
    assert (dataset.classes, dataset.train.labels.tolist()) == (("0",), [[31.0], [4.0]])
    with pytest.raises(ValueError, match="number the classes from 0 without gaps"):
        load(root, ages, numbers=False)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("a.jpg 1\nb.jpg nan\n", None, r"train\.txt, line 2: .*expected `path number`"),
        ("a.jpg 1 x\n", None, "line 1: .*expected `path number`"),
        ("a.jpg\t1 x\n", None, "line 1: .*expected `path number`"),
        ("a.jpg\t\n", None, "line 1: .*expected `path number`"),
        ("a.jpg\n", None, "line 1: .*expected `path number`"),
        ("2 1\n", None, "line 1: .*expected `path number`"),
        ("a.jpg 1 2\n\nfolder/b.jpg 1\n", None, "line 3: .*: 1 numbers, expected 2 as before"),
        ("a.jpg inf 1\n", None, r"1 of 1 files aren't there, the first .*a\.jpg inf"),
        ("a.jpg 1e39\n", None, "line 1: .*float32 can hold"),
        ("a.jpg -1e999\n", None, "line 1: .*float32 can hold"),
        ("../a.jpg 1.5\n", None, r"line 1: \.\./a\.jpg leads out of data\.root"),
        (" \n", None, "an empty list; expected `path number` lines"),
        (
            "a.jpg 1 2\n",
            "a.jpg 1\n",
            r"test\.txt: 1 numbers for each image, expected 2 as in .*train\.txt",
        ),
    ],
)
def test_what_makes_no_numbers(root: Path, train: str, test: str | None, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(root, train, test)


@pytest.mark.parametrize("label", ["0.5", "-1", "1e3"])
def test_numbers_where_classes_are_wanted(root: Path, label: str) -> None:
    with pytest.raises(ValueError, match=r"line 2: .*from 0 up; numbers are for tfnas\.train with"):
        load(root, f"a.jpg 0\nfolder/b.jpg {label}\n", numbers=False)


def test_all_numbers_of_a_list_are_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfnas.data.lists.MAX_NUMBERS", 5)
    with pytest.raises(ValueError, match="line 2: expected up to 5 numbers in all"):
        load(root, "a.jpg 1 2 3\nfolder/b.jpg 1 2 3\n")


def test_images_that_cannot_be_read_are_named_or_left_out(root: Path) -> None:
    """Each number may be another one, and is no class whose first file is looked at."""
    (root / "folder" / "b.jpg").write_bytes(b"no image")
    lines = "a.jpg 0.5 7\nfolder/b.jpg 0.25 9\nwith space.jpg 3 1\n"
    with pytest.raises(ValueError, match=r"folder/b\.jpg: not readable as an image"):
        load(root, "folder/b.jpg 0.25 9\na.jpg 0.5 7\n")
    load(root, lines)
    lists = {f"{part}_list": str(root.parent / f"{part}.txt") for part in ("train", "test")}
    kept = load_images("list", root=str(root), numbers=True, on_unreadable="skip", **lists)
    assert kept.train.labels.tolist() == [[0.5, 7.0], [3.0, 1.0]]


def test_a_label_beyond_1_is_told_with_its_image(root: Path) -> None:
    dataset = load(root, "a.jpg 1 0\nfolder/b.jpg 0 2\n")
    with pytest.raises(ValueError, match=r"outside of 0 to 1, the first 2 of .*/folder/b\.jpg"):
        check_task("multi_label", dataset, preset("recipe", "test"), ALONE)


# -- trained ---------------------------------------------------------------------------------------


def real_lists(folder: Path, task: str) -> list[str]:
    """Real images as JPEG files: how bright they are, or whether each is a shirt, a shoe.

    Returns:
        The options that name them.
    """
    images = few_images(train=400, test=120)
    for part, split in (("train", images.train), ("test", images.test)):
        assert isinstance(split, ArrayImages)
        (folder / part).mkdir(parents=True)
        lines = []
        for number, (pixels, label) in enumerate(zip(split.pixels, split.labels, strict=True)):
            Image.fromarray(pixels[..., 0]).save(folder / part / f"{number}.jpg")
            bright = f"{(pixels.mean() - 73) / 40:.4f}"
            shirt_shoe = f"{int(label in (0, 2, 4, 6))} {int(label in (5, 7, 9))}"
            lines.append(f"{part}/{number}.jpg {bright if task == 'regression' else shirt_shoe}\n")
        (folder / f"{part}.txt").write_text("".join(lines))
    lists = [f"data.{part}_list={folder / part}.txt" for part in ("train", "test")]
    return ["data=list", f"data.root={folder}", *lists, "data.workers=0"]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "least"), [("regression", 0.6), ("multi_label", 0.8)])
def test_a_net_learns_the_numbers_of_real_files(tmp_path: Path, task: str, least: float) -> None:
    options = [f"task={task}", *real_lists(tmp_path / "images", task)]
    subnet = tiny_subnet(classes=1 if task == "regression" else 2)
    subnet.save(tmp_path / "subnet.json")
    command = ["subnet=subnet.json", "recipe=test", "recipe.epochs=6", "recipe.color_jitter=0",
               "recipe.drop_connect=0", "recipe.crop_scale_min=0.8", "threads=1"]  # fmt: skip
    done = run_entry("tfnas.train", *command, *options, "out=run", cwd=tmp_path)
    assert done.returncode == DONE, done.stdout + done.stderr
    (first, *_) = json.loads((tmp_path / "run" / "train.json").read_text())["scores"]
    assert first["value"] > least  # chance: 0 of numbers, about 0.35 of labels
    network = load_model(tmp_path / "run")
    output = network(network.preprocess(tmp_path / "images" / "test" / "0.jpg"))
    assert output.shape == (1, subnet.classes)
    file = tmp_path / "images" / "test.txt"
    lines = file.read_text().splitlines()
    lines[7] = f"{lines[7].rpartition(' ')[0]} x"
    file.write_text("\n".join(lines))
    done = run_entry("tfnas.train", *command, *options, "out=other", cwd=tmp_path)
    assert done.returncode == UNUSABLE_INPUT, done.stdout + done.stderr
    assert "test.txt, line 8: " in done.stdout + done.stderr
    assert not (tmp_path / "other").exists()

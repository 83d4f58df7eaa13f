"""Data sets: small files in the exact layouts of the published ones, and batches of them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from tests.support.nets import write_idx
from tfnas.data import augment, idx
from tfnas.data.batches import Batches
from tfnas.data.cifar import CIFAR10, CIFAR100, CifarLayout
from tfnas.data.idx import ASSETS
from tfnas.data.images import ArrayImages, Dataset, FileImages, first_per_class, stratified_split
from tfnas.data.preprocess import Preprocess
from tfnas.data.sets import SOURCES, load_images, num_classes

CONF = Path(__file__).parents[2] / "conf" / "data"
CUT_SHA256 = "1e96bfd40507089fdde7afc23df81d422e1208b2d96b87eafaefb599c253772f"
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
STRONG: dict[str, Any] = {"rand_augment": 9.0, "erasing": 0.5}


# -- small files in the published layouts ----------------------------------------------------------


def write_fashion_mnist(folder: Path, suffix: str = ".gz", count: int = 20) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28))
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)
    return pixels


def text(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value


def python2_pickle(entries: dict[bytes, Any]) -> bytes:
    """Protocol 2 as Python 2 wrote it, with arrays as NumPy of that time pickled them."""

    def value(item: Any) -> bytes:
        if isinstance(item, bytes):
            return text(item)
        if isinstance(item, int):
            return b"J" + struct.pack("<i", item)
        if isinstance(item, list):
            return b"](" + b"".join(value(i) for i in item) + b"e"
        raw = item.tobytes()
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
            + text(b"b")
            + b"\x87R(K\x01"
            + value(item.shape[0])
            + value(item.shape[1])
            + b"\x86cnumpy\ndtype\n"
            + text(item.dtype.str[1:].encode())
            + b"K\x00K\x01\x87R(K\x03"
            + text(b"|")
            + b"NNN"
            + value(-1)
            + value(-1)
            + b"K\x00tb\x89T"
            + struct.pack("<i", len(raw))
            + raw
            + b"tb"
        )

    pairs = b"".join(text(key) + value(item) for key, item in entries.items())
    return b"\x80\x02}(" + pairs + b"u."


def cifar_pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072)).astype(np.uint8)


def cifar10_files() -> dict[str, bytes]:
    labels = [i % 10 for i in range(20)]
    files = {
        name: python2_pickle(
            {b"batch_label": b"some", b"labels": labels, b"data": cifar_pixels(20, seed),
             b"filenames": [b"x.png"] * 20}
        )
        for seed, name in enumerate((*CIFAR10.train, "test_batch"))
    }  # fmt: skip
    names = [b"airplane", b"automobile", b"bird", b"cat", b"deer"]
    names += [b"dog", b"frog", b"horse", b"ship", b"truck"]
    files["batches.meta"] = python2_pickle({b"num_cases_per_batch": 20, b"label_names": names})
    return files


def cifar100_files() -> dict[str, bytes]:
    fine = list(range(100))
    files = {
        name: python2_pickle(
            {b"filenames": [b"x.png"] * 100, b"fine_labels": fine,
             b"coarse_labels": [i // 5 for i in fine], b"data": cifar_pixels(100, seed)}
        )
        for seed, name in enumerate(("train", "test"))
    }  # fmt: skip
    files["meta"] = python2_pickle({b"fine_label_names": [b"class%d" % i for i in fine]})
    return files


def write_tar(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_classes(folder: Path, count: int = 3, classes: tuple[str, ...] = ("ant", "bee")) -> None:
    for label, name in enumerate(classes):
        for i in range(count):
            suffix = (".jpg", ".png", ".JPEG")[i % 3]
            write_image(folder / name / f"image{i}{suffix}", label * 100 + i)


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    write_classes(tmp_path / "images" / "train", count=6)
    write_classes(tmp_path / "images" / "val", count=2)
    return tmp_path / "images"


def array_images(count: int = 23, channels: int = 3, size: int = 12) -> ArrayImages:
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (count, size, size, channels), np.uint8)
    return ArrayImages(pixels, np.arange(count) % 4)


def all_of(batches: Batches, epoch: int = 0, start: int = 0) -> list[tuple[Any, Any]]:
    return list(batches.epoch(epoch, start))


def same(first: list[tuple[Any, Any]], second: list[tuple[Any, Any]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


# -- Fashion-MNIST ---------------------------------------------------------------------------------


def test_shipped_cut_is_balanced_and_unchanged() -> None:
    cut = load_images("fashion_mnist", root="shipped")
    assert isinstance(cut.train, ArrayImages)
    assert isinstance(cut.test, ArrayImages)
    assert cut.train.pixels.shape == (12_000, 28, 28, 1)
    assert np.bincount(cut.train.labels).tolist() == [1200] * 10
    assert np.bincount(cut.test.labels).tolist() == [300] * 10
    digest = hashlib.sha256()
    for images in (cut.train, cut.test):
        digest.update(images.pixels.tobytes())
        digest.update(images.labels.astype(np.uint8).tobytes())
    assert digest.hexdigest() == CUT_SHA256
    assert cut.origin == "shipped cut, 12,000 training and 3,000 test images"
    assert cut.mean == pytest.approx((0.286,) * 3, abs=0.002)
    assert cut.std == pytest.approx((0.353,) * 3, abs=0.002)
    assert "Zalando" in (ASSETS / "FASHION_MNIST_LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_idx_files(tmp_path: Path, suffix: str, below: str) -> None:
    pixels = write_fashion_mnist(tmp_path / below, suffix)
    dataset = load_images("fashion_mnist", root=str(tmp_path))
    assert isinstance(dataset.train, ArrayImages)
    assert np.array_equal(dataset.train.pixels[..., 0], pixels)
    assert dataset.train.labels.tolist() == [i % 10 for i in range(20)]
    assert str(tmp_path) in dataset.origin


def test_without_root_debian_comes_before_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    assert load_images("fashion_mnist").origin.startswith("shipped cut")
    write_fashion_mnist(tmp_path / "debian")
    monkeypatch.setattr(idx, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    assert load_images("fashion_mnist").origin.startswith(f"idx files in {tmp_path / 'debian'}")
    assert load_images("fashion_mnist", root="shipped").origin.startswith("shipped cut")


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def damage_magic(path: Path) -> None:
    path.write_bytes(b"\x00\x00\x0d\x03" + path.read_bytes()[4:])


def damage_longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def damage_huge(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4] + b"\xff" * 12 + path.read_bytes()[16:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncated, "less than the 15,680 bytes"),
        (damage_magic, "starts with 00000d03, expected 00000803"),
        (damage_longer, "more than the 15,680 bytes"),
        (damage_huge, "it is damaged"),
        (lambda p: p.write_bytes(b""), "starts with , expected"),
        (lambda p: write_idx(p, np.zeros((19, 28, 28))), "19 images but 20 labels"),
        (Path.unlink, "no train-images-idx3-ubyte or train-images-idx3-ubyte.gz"),
    ],
)
def test_damaged_idx(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_fashion_mnist(tmp_path, "")
    damage(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_images("fashion_mnist", root=str(tmp_path))


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_damaged_gzip(tmp_path: Path, kept: float) -> None:
    write_fashion_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[: round(kept * len(content))] or b"not compressed")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: can't be read"):
        load_images("fashion_mnist", root=str(tmp_path))


def test_labels_out_of_range(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(20))
    with pytest.raises(ValueError, match="test labels run from 0 to 19, expected 0 to 9"):
        load_images("fashion_mnist", root=str(tmp_path))


def test_empty_class(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(20) % 9)
    with pytest.raises(ValueError, match="no training images for Ankle boot"):
        load_images("fashion_mnist", root=str(tmp_path))


# -- CIFAR -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layout", "files", "train", "test"),
    [
        ("cifar10", CIFAR10, cifar10_files, 100, 20),
        ("cifar100", CIFAR100, cifar100_files, 100, 100),
    ],
)
def test_cifar_archive_and_folder(
    tmp_path: Path,
    name: str,
    layout: CifarLayout,
    files: Callable[[], dict[str, bytes]],
    train: int,
    test: int,
) -> None:
    archive = write_tar(tmp_path / layout.archive, layout.folder, files())
    packed = load_images(name, root=str(archive))
    assert len(packed.train) == train
    assert len(packed.test) == test
    assert len(packed.classes) == num_classes(name) == layout.classes
    assert isinstance(packed.train, ArrayImages)
    assert packed.train.pixels.shape == (train, 32, 32, 3)
    stored = cifar_pixels(100, 0) if name == "cifar100" else cifar_pixels(20, 0)
    assert np.array_equal(packed.train.pixels[1, 2, 3], stored[1].reshape(3, 32, 32)[:, 2, 3])
    assert (
        load_images(name, root=str(tmp_path)).train.labels.tolist() == packed.train.labels.tolist()
    )

    archive.unlink()
    folder = tmp_path / layout.folder
    folder.mkdir()
    for file, content in files().items():
        (folder / file).write_bytes(content)
    for root in (tmp_path, folder):
        unpacked = load_images(name, root=str(root))
        assert isinstance(unpacked.train, ArrayImages)
        assert np.array_equal(unpacked.train.pixels, packed.train.pixels)
        assert unpacked.classes == packed.classes


class Malicious:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "named"),
    [(print, "__builtin__.print"), (eval, "__builtin__.eval"), (Path, "pathlib")],
)
def test_malicious_pickle_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], function: Any, named: str
) -> None:
    evil = pickle.dumps({"data": Malicious(function, "print('done')")}, protocol=2)
    archive = write_tar(
        tmp_path / "c.tar.gz", "cifar-10-batches-py", cifar10_files() | {"data_batch_3": evil}
    )
    with pytest.raises(ValueError, match=rf"data_batch_3: refused: it asks for {named}"):
        load_images("cifar10", root=str(archive))
    assert "done" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        python2_pickle({b"data": cifar_pixels(3, 0)})[:-40],
        python2_pickle({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}),
        python2_pickle({b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]}),
        python2_pickle({b"data": cifar_pixels(2, 0), b"labels": [0, 10]}),
        python2_pickle({b"data": cifar_pixels(2, 0), b"labels": [0]}),
        python2_pickle({b"data": cifar_pixels(2, 0), b"labels": [0, b"1"]}),
        python2_pickle({b"labels": [0, 1]}),
        pickle.dumps([1, 2], protocol=2),
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        b"\x80\x02cnumpy\nndarray\n)\x81U\x01xb.",
    ],
)
def test_damaged_cifar(tmp_path: Path, content: bytes) -> None:
    files = cifar10_files() | {"data_batch_2": content}
    archive = write_tar(tmp_path / "c.tar.gz", "cifar-10-batches-py", files)
    with pytest.raises(ValueError, match="data_batch_2: "):
        load_images("cifar10", root=str(archive))


def test_cifar_archive_that_lacks_a_file(tmp_path: Path) -> None:
    files = cifar10_files()
    del files["test_batch"]
    archive = write_tar(tmp_path / "c.tar.gz", "cifar-10-batches-py", files)
    with pytest.raises(ValueError, match="lacks cifar-10-batches-py/test_batch"):
        load_images("cifar10", root=str(archive))
    archive.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="can't be read"):
        load_images("cifar10", root=str(archive))
    archive.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="can't be read"):
        load_images("cifar10", root=str(archive))


def test_cifar_link_in_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"batches\.meta isn't a plain file"):
        load_images("cifar10", root=str(tmp_path / "c.tar.gz"))


def test_cifar_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither cifar-10-python\.tar\.gz nor"):
        load_images("cifar10", root=str(tmp_path))


# -- class folders ---------------------------------------------------------------------------------


def test_folder(folder_root: Path) -> None:
    (folder_root / "train" / "ant" / "notes.txt").write_text("no image")
    (folder_root / "train" / ".cache").mkdir()
    (folder_root / "val" / "bee" / "moving.GIF").write_bytes(b"GIF89a")
    dataset = load_images("folder", root=str(folder_root))
    assert dataset.classes == ("ant", "bee")
    assert isinstance(dataset.train, FileImages)
    assert len(dataset.train.paths) == 12
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6
    assert len(dataset.test) == 4
    assert dataset.train.paths[0] == str(folder_root / "train" / "ant" / "image0.jpg")
    assert "tested on val/ (passed over as no images: 2 files, 1 .txt, 1 .gif)" in dataset.origin
    assert num_classes("folder", root=str(folder_root)) == 2


def test_folder_without_parts_is_split(tmp_path: Path) -> None:
    write_classes(tmp_path, count=10)
    dataset = load_images("folder", root=str(tmp_path))
    assert np.bincount(dataset.train.labels).tolist() == [8, 8]
    assert np.bincount(dataset.test.labels).tolist() == [2, 2]
    assert isinstance(dataset.train, FileImages)
    assert isinstance(dataset.test, FileImages)
    assert not set(dataset.train.paths) & set(dataset.test.paths)
    assert "80/20" in dataset.origin
    again = load_images("folder", root=str(tmp_path)).train
    assert isinstance(again, FileImages)
    assert again.paths == dataset.train.paths
    assert num_classes("folder", root=str(tmp_path)) == 2


@pytest.mark.parametrize("name", ["folder", "list"])
def test_files_are_balanced_by_max_train(folder_root: Path, name: str) -> None:
    lines = [f"train/{c}/image{i}.png {k}\n" for k, c in enumerate(("ant", "bee")) for i in (1, 4)]
    (folder_root / "l.txt").write_text("".join(lines))
    lists = {} if name == "folder" else dict.fromkeys(
        ("train_list", "test_list"), str(folder_root / "l.txt")
    )  # fmt: skip
    dataset = load_images(name, root=str(folder_root), max_train=3, **lists)
    assert np.bincount(dataset.train.labels).tolist() == [2, 1]
    assert "3 of the training images" in dataset.origin
    with pytest.raises(ValueError, match="max_train=1: expected at least one image for each"):
        load_images(name, root=str(folder_root), max_train=1, **lists)


def test_folder_errors(folder_root: Path, tmp_path: Path) -> None:
    (folder_root / "val" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"must hold the same classes.*cat"):
        load_images("folder", root=str(folder_root))
    (folder_root / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"cat: no images; expected files that end in \.jpg"):
        load_images("folder", root=str(folder_root))
    write_image(tmp_path / "one" / "ant" / "a.png", 0)
    with pytest.raises(ValueError, match="one image only in ant"):
        load_images("folder", root=str(tmp_path / "one"))
    write_classes(tmp_path / "half" / "val")
    with pytest.raises(FileNotFoundError, match=r"has val/ but no train/"):
        load_images("folder", root=str(tmp_path / "half"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no class folders; expected train/<class>/"):
        num_classes("folder", root=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="must be the folder of the images"):
        load_images("folder", root=str(tmp_path / "one" / "ant" / "a.png"))


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_unreadable_image_is_named_at_once(folder_root: Path, content: bytes | None) -> None:
    first = folder_root / "val" / "bee" / "image0.jpg"
    if content is None:
        Image.new("I;16", (8, 8)).save(first, format="PNG")
    else:
        first.write_bytes(content)
    with pytest.raises(ValueError, match=r"bee/image0\.jpg: not readable as an image"):
        load_images("folder", root=str(folder_root))


# -- lists -----------------------------------------------------------------------------------------


def load_list(root: Path, train: str, test: str | None = None) -> Dataset:
    for name, lines in (("train.txt", train), ("test.txt", train if test is None else test)):
        (root.parent / name).write_text(lines)
    return load_images(
        "list",
        root=str(root),
        train_list=str(root.parent / "train.txt"),
        test_list=str(root.parent / "test.txt"),
    )


def test_list(folder_root: Path) -> None:
    write_image(folder_root / "with space.png", 1)
    train = f"train/ant/image0.jpg 0\n\n{folder_root}/train/bee/image1.png\t1\nwith space.png 2\n"
    test = "val/bee/image0.jpg 1\nval/ant/image0.jpg 0\n"
    dataset = load_list(folder_root, f"\ufeff{train}", test)  # a byte order mark first
    assert dataset.classes == ("0", "1", "2")
    assert isinstance(dataset.train, FileImages)
    assert dataset.train.paths[0] == f"{folder_root}/train/ant/image0.jpg"
    assert dataset.train.paths[1] == f"{folder_root}/train/bee/image1.png"
    assert dataset.train.labels.tolist() == [0, 1, 2]
    assert dataset.test.labels.tolist() == [1, 0]
    train_list = str(folder_root.parent / "train.txt")
    assert num_classes("list", root=str(folder_root), train_list=train_list) == 3


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("../secret.png 0\n", None, r"line 1: \.\./secret.png leads out of data.root"),
        ("a 0\n/etc/passwd 0\n", None, "line 2: /etc/passwd leads out"),
        ("train/../../x.png 0\n", None, "leads out of"),
        ("train/ant/image0.jpg\n", None, "line 1: .*expected `path label`"),
        ("train/ant/image0.jpg ant\n", None, "expected `path label`"),
        ("train/ant/image0.jpg -1\n", None, "expected `path label`"),
        ("train/ant/image0.jpg 99999999999999999999\n", None, "expected `path label`"),
        ("\n", None, "an empty list"),
        ("train/ant/image0.jpg 1\n", None, "labels up to 1 but no image with label 0"),
        ("train/ant/image0.jpg 999999999\n", None, "without gaps"),
        ("train/ant/image0.jpg 0\n", "val/bee/image0.jpg 1\n", "label 1, expected 0 to 0"),
        (
            "train/ant/image0.jpg 0\ntrain/bee/image0.jpg 1\n",
            "val/bee/image0.jpg 1\n",
            "all test images are of one class, 1, of 2 that are trained",
        ),
        ("ant/image0.jpg 0\n", None, r"1 of 1 files aren't there.*ant/image0\.jpg"),
    ],
)
def test_list_errors(folder_root: Path, train: str, test: str | None, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_list(folder_root, train, test)


def test_list_that_is_missing_or_binary(folder_root: Path) -> None:
    with pytest.raises(ValueError, match=r"data=list needs data\.train_list"):
        load_images("list", root=str(folder_root))
    with pytest.raises(FileNotFoundError, match="no such list file"):
        num_classes("list", root=str(folder_root), train_list="absent.txt")
    (folder_root / "l").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        num_classes("list", root=str(folder_root), train_list=str(folder_root / "l"))


# -- the registry ----------------------------------------------------------------------------------


def test_names() -> None:
    known = f"expected one of {', '.join(SOURCES)}"
    for function in (load_images, num_classes):
        with pytest.raises(LookupError, match=known):
            function("mnist")
        with pytest.raises(ValueError, match="belong to data=list"):
            function("cifar10", train_list="x")
        with pytest.raises(ValueError, match="max_train=0"):
            function("cifar10", max_train=0)


@pytest.mark.parametrize("name", SOURCES)
def test_missing_root(name: str, tmp_path: Path) -> None:
    lists = dict.fromkeys(("train_list", "test_list"), "x") if name == "list" else {}
    with pytest.raises(FileNotFoundError, match=r"no such file or folder"):
        load_images(name, root=str(tmp_path / "absent"), **lists)
    if name != "fashion_mnist":
        with pytest.raises(ValueError, match=f"data={name} needs data.root"):
            load_images(name, **lists)


@pytest.mark.parametrize("name", SOURCES)
def test_yaml(name: str) -> None:
    path = CONF / f"{name}.yaml"
    first_line = path.read_text(encoding="utf-8").splitlines()[0]
    assert first_line.startswith("# python -m tfnas.search target_ms=")
    assert f"data={name}" in first_line
    config = OmegaConf.load(path)
    keys = {"name", "root", "train_list", "test_list", "max_train", "classes", "workers"}
    in_memory = name not in ("folder", "list", "webdataset", "huggingface")
    of_files = set() if in_memory else {"check", "on_unreadable"}
    assert set(config) == keys | of_files
    assert config["name"] == name


def test_every_yaml_has_a_loader() -> None:
    assert {p.stem for p in CONF.glob("*.yaml")} == set(SOURCES)


def test_classes_are_counted_without_torch() -> None:
    code = (
        "import sys; from tfnas.data.sets import num_classes; num_classes('cifar100');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONF.parents[1])


def test_images_check_themselves() -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        ArrayImages(np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match=r"expected int64 \(2,\)"):
        ArrayImages(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="expected int64"):
        FileImages(("a",), np.zeros(1, np.int32))


# -- splits ----------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(2, 30), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**40),
)
def test_stratified_split(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    first, second = stratified_split(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([first, second])), np.arange(len(labels)))
    assert np.all(np.diff(first) > 0)
    assert np.all(np.diff(second) > 0)
    for label, count in enumerate(counts):
        share = np.count_nonzero(labels[first] == label)
        assert 1 <= share <= count - 1
        assert abs(share - fraction * count) <= 1
    again = stratified_split(labels, fraction, seed)
    assert np.array_equal(first, again[0])


def test_split_depends_on_the_seed_and_refuses_nonsense() -> None:
    labels = np.repeat(np.arange(4), 50)
    first, _ = stratified_split(labels, 0.5, 0)
    other, _ = stratified_split(labels, 0.5, 1)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match=r"fraction 1\.0"):
        stratified_split(labels, 1.0, 0)
    with pytest.raises(ValueError, match="class 7 has one image"):
        stratified_split(np.array([1, 1, 7]), 0.5, 0)
    with pytest.raises(ValueError, match="seed -1"):
        stratified_split(labels, 0.5, -1)


@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=6), share=st.floats(0, 1))
def test_first_per_class_is_as_even_as_it_can(counts: list[int], share: float) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    total = round(share * len(labels))
    kept = first_per_class(labels, total)
    assert len(kept) == total
    assert np.all(np.diff(kept) > 0)
    taken = np.bincount(labels[kept], minlength=len(counts))
    for label, count in enumerate(counts):
        assert taken[label] == count or taken[label] >= taken.max() - 1
        assert np.array_equal(
            kept[labels[kept] == label], np.flatnonzero(labels == label)[: taken[label]]
        )


# -- batches ---------------------------------------------------------------------------------------


def test_batch_shapes_and_values() -> None:
    images = array_images(count=10)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    batches = Batches(
        images, np.arange(10), batch=4, size=12, mean=mean, std=std, seed=0, augment=False,
        drop_last=False,
    )  # fmt: skip
    assert len(batches) == 3
    (first, labels), _, (last, _) = all_of(batches)
    assert first.shape == (4, 3, 12, 12)
    assert last.shape == (2, 3, 12, 12)
    assert first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 3]
    expected = (images.pixels[:4] / 255 - mean) / std
    np.testing.assert_allclose(first.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


def test_gray_becomes_three_equal_channels() -> None:
    batches = Batches(
        array_images(channels=1), np.arange(23), batch=5, size=16, **PLAIN, seed=0, augment=True,
        drop_last=True,
    )  # fmt: skip
    assert len(batches) == 4
    for images, _ in all_of(batches):
        assert images.shape == (5, 3, 16, 16)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images[:, 0], images[:, 2])
        assert images.min() >= 0
        assert images.max() <= 1


@pytest.mark.parametrize("strong", [{}, STRONG])
@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_depend_on_seed_epoch_and_index_alone(
    folder_root: Path, in_memory: bool, strong: dict[str, Any]
) -> None:
    images = array_images() if in_memory else load_images("folder", root=str(folder_root)).train

    def batches(seed: int = 3, augment: bool = True) -> Batches:
        return Batches(
            images, np.arange(len(images)), batch=5, size=10, **PLAIN, seed=seed, augment=augment,
            drop_last=False, **strong,
        )  # fmt: skip

    state = torch.random.get_rng_state()
    whole = all_of(batches(), epoch=2)
    torch.manual_seed(0)
    assert same(whole, all_of(batches(), epoch=2))
    assert same(whole[1:], all_of(batches(), epoch=2, start=1))
    assert all_of(batches(), epoch=2, start=len(batches())) == []
    assert not same(whole, all_of(batches(), epoch=3))
    assert not same(whole, all_of(batches(seed=4), epoch=2))
    assert same(all_of(batches(augment=False)), all_of(batches(seed=9, augment=False), epoch=5))
    torch.random.set_rng_state(state)
    all_of(batches())
    assert torch.equal(torch.random.get_rng_state(), state)
    labels = torch.cat([labels for _, labels in whole])
    assert torch.equal(labels.sort().values, torch.from_numpy(np.sort(images.labels)))


@pytest.mark.parametrize(("augmented", "strong"), [(True, {}), (True, STRONG), (False, STRONG)])
def test_workers_change_nothing(folder_root: Path, augmented: bool, strong: dict[str, Any]) -> None:
    images = load_images("folder", root=str(folder_root)).train
    runs = [
        all_of(
            Batches(
                images, np.arange(1, 12), batch=4, size=16, **PLAIN, seed=1, augment=augmented,
                workers=workers, drop_last=False, **strong,
            ),
            epoch=1,
            start=start,
        )
        for workers, start in ((0, 0), (2, 0), (2, 1))
    ]  # fmt: skip
    assert same(runs[0], runs[1])
    assert same(runs[0][1:], runs[2])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_file_in_a_batch_is_named(folder_root: Path, workers: int) -> None:
    images = load_images("folder", root=str(folder_root)).train
    broken = folder_root / "train" / "bee" / "image4.png"
    broken.write_bytes(broken.read_bytes()[:200])
    batches = Batches(
        images, np.arange(12), batch=6, size=16, **PLAIN, seed=1, augment=False, workers=workers,
        drop_last=False,
    )  # fmt: skip
    with pytest.raises(OSError, match=r"^\S+bee/image4\.png: not readable as an image"):
        all_of(batches)


def test_decompression_bomb_is_an_error(folder_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 - 1)
    with pytest.raises(ValueError, match=r"image0\.jpg.*decompression bomb"):
        load_images("folder", root=str(folder_root))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA", "1"])
def test_image_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = str(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"))
    options: dict[str, Any] = {"transparency": bytes([0, 9, 255])} if mode == "P" else {}
    Image.new("RGB", (20, 30), (200, 100, 50)).convert(mode).save(path, **options)
    image = augment.read_file(path, 8, None, crop_scale=(1, 1), jitter=0)
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("rng_seed", [None, 0])
def test_files_are_turned_as_their_exif_says(
    tmp_path: Path, orientation: int, rng_seed: int | None
) -> None:
    """Whichever way a camera was held, what is read is what is seen."""
    seen = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = seen if orientation == 1 else seen.transpose(stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    seen.save(tmp_path / "seen.png")

    def read(name: str) -> np.ndarray:
        rng = None if rng_seed is None else np.random.default_rng(rng_seed)
        return augment.read_file(str(tmp_path / name), 16, rng, crop_scale=(0.5, 1), jitter=0.1)

    assert (read("turned.png") == read("seen.png")).all()
    for fraction in (1.0, 0.875):
        prepare = Preprocess(16, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), fraction)
        assert (prepare(tmp_path / "turned.png") == prepare(tmp_path / "seen.png")).all()


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png: .*no plain file"):
        augment.read_file(str(tmp_path / "pipe.png"), 8, None, crop_scale=(1, 1), jitter=0)


def test_a_damaged_exif_says_nothing(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "damaged.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    read = [
        augment.read_file(str(tmp_path / name), 16, None, crop_scale=(1, 1), jitter=0)
        for name in ("plain.png", "damaged.png")
    ]
    assert (read[0] == read[1]).all()


def test_large_jpeg_is_read_at_a_fraction_but_looks_the_same(tmp_path: Path) -> None:
    y, x = np.mgrid[0:800, 0:1000]
    pixels = np.stack([x / 4, y / 4, (x + y) / 8], axis=-1).astype(np.uint8)
    for suffix in ("jpg", "png"):
        Image.fromarray(pixels).save(tmp_path / f"x.{suffix}")

    for seed in (None, 1, 2, 3):
        jpeg, png = (
            augment.read_file(
                str(tmp_path / f"x.{suffix}"),
                32,
                None if seed is None else np.random.default_rng(seed),
                crop_scale=(0.1, 1),
                jitter=0,
            ).astype(int)
            for suffix in ("jpg", "png")
        )
        assert np.abs(jpeg - png).mean() < 2
        assert np.abs(jpeg - png).max() < 12


def test_evaluation_keeps_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 36:92] = 255  # 56 = 64 * 224 / 256 columns around the centre
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = augment.read_file(str(tmp_path / "x.png"), 56, None, crop_scale=(1, 1), jitter=0)
    assert image.min() == 255


def test_whole_crop_without_jitter_is_the_image_or_its_mirror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(augment, "ASPECT", (1.0, 1.0))
    images = array_images(count=16)
    whole = torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255
    rng = np.random.default_rng(0)
    got = augment.augmented_arrays(images.pixels, 12, rng, crop_scale=(1.0, 1.0), jitter=0.0)
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(got, whole, strict=True)]
    mirrored = [torch.allclose(a, b, atol=1e-5) for a, b in zip(got, whole.flip(-1), strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert 0 < sum(mirrored) < 16


def test_jitter_changes_each_image_by_its_own_amount() -> None:
    pixels = np.full((16, 8, 8, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    got = augment.augmented_arrays(pixels, 8, rng, crop_scale=(1.0, 1.0), jitter=0.4)
    brightness = got.mean(dim=(1, 2, 3)) * 255 / 100
    assert brightness.min() >= 0.6 - 1e-4
    assert brightness.max() <= 1.4 + 1e-4
    assert len(brightness.unique()) == 16


@given(seed=st.integers(0, 2**32), low=st.floats(0.05, 1))
def test_crops_lie_in_the_image(seed: int, low: float) -> None:
    boxes = augment.crop_boxes(np.random.default_rng(seed), 20, 30, 50, (low, 1.0))
    left, top, right, bottom = boxes.T
    assert np.all((left >= 0) & (top >= 0) & (right <= 50 + 1e-9) & (bottom <= 30 + 1e-9))
    area = (right - left) * (bottom - top) / 1500
    assert np.all(area <= 1 + 1e-9)
    assert np.all(
        (area >= low - 1e-9) | np.isclose(right - left, 50) | np.isclose(bottom - top, 30)
    )


def test_shrinking_averages_instead_of_skipping() -> None:
    checkers = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = np.repeat(checkers[None, :, :, None], 8, axis=0)
    rng = np.random.default_rng(0)
    small = augment.augmented_arrays(pixels, 8, rng, crop_scale=(0.6, 1), jitter=0.0)
    assert (small - 0.5).abs().max() < 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch=0"),
        ({"workers": -1}, "workers=-1"),
        ({"batch": 24, "drop_last": True}, "23 images make no batch of 24"),
        ({"crop_scale": (0.5, 1.5)}, "crop_scale"),
        ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
        ({"mean": (0.0,)}, "one each for the 3 channels"),
        ({"seed": -1}, "seed -1"),
        ({"indices": np.array([23])}, "outside of the 23 images"),
        ({"indices": np.array([-1])}, "outside of the 23 images"),
        ({"indices": np.array([], np.int64)}, "0 images make no batch"),
    ],
)
def test_batches_refuse_nonsense(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        **{"indices": np.arange(23), "batch": 4, "size": 12, **PLAIN},
        **{"seed": 0, "augment": True, "drop_last": False},
    }
    with pytest.raises(ValueError, match=message):
        Batches(array_images(), **(arguments | change))


def test_an_epoch_starts_within_itself() -> None:
    batches = Batches(
        array_images(), np.arange(23), batch=4, size=12, **PLAIN, seed=0, augment=True,
        drop_last=False,
    )  # fmt: skip
    for epoch, start in ((0, 7), (0, -1), (-1, 0)):
        with pytest.raises(ValueError, match="expected an epoch of at least 0, and 0 to 6"):
            batches.epoch(epoch, start)


def test_batches_like_others_at_another_size() -> None:
    dataset = load_images("fashion_mnist", root="shipped", max_train=100)
    whole = Batches(
        dataset.train, np.arange(96), batch=16, size=16, mean=dataset.mean, std=dataset.std,
        seed=0, augment=True, drop_last=True, **STRONG,
    )  # fmt: skip
    same = whole.like(16)
    assert len(same) == len(whole) == 6
    assert all(
        torch.equal(one[0], other[0])
        for one, other in zip(same.epoch(1), whole.epoch(1), strict=True)
    )
    few = whole.like(8, 2)
    assert len(few) == 2
    images, labels = next(few.epoch(0))
    assert images.shape == (16, 3, 8, 8)
    assert len(labels) == 16

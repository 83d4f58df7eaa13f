"""WebDataset's tars: the same images as in files, in any order, and what is wrong with others."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image

from tests.data.test_loaders import damaged, few
from tests.support.nets import image_folder
from tfnas.data.augment import read_file
from tfnas.data.batches import Batches
from tfnas.data.images import Dataset, FileImages
from tfnas.data.pieces import name_of, openable
from tfnas.data.sets import load_images, num_classes
from tfnas.data.tars import expanded

Members = Iterable[tuple[str, bytes]]


def write_tar(path: Path, members: Members, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def picture(seed: int, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def pairs(labels: str, first: int = 0) -> list[tuple[str, bytes]]:
    """Members of an example for each letter, its class."""
    found = []
    for number, label in enumerate(labels, first):
        found += [
            (f"{number:04d}.cls", f"{label}\n".encode()),
            (f"{number:04d}.png", picture(number)),
        ]
    return found


def paths(images: object) -> tuple[str, ...]:
    assert isinstance(images, FileImages)
    return images.paths


def as_tars(root: Path, folder: Path) -> Dataset:
    """The images of a folder in two tars to train on and one to test on, loaded."""
    plain = load_images("folder", root=str(root))
    for part, images in (("train", plain.train), ("val", plain.test)):
        members = []
        for number, (path, label) in enumerate(zip(paths(images), images.labels, strict=True)):
            content = plain.classes[label].encode()
            members += [(f"./{number}.jpg", Path(path).read_bytes()), (f"./{number}.cls", content)]
        half = len(members) // 4 * 2
        for shard, chosen in enumerate((members[:half], members[half:])):
            write_tar(folder / f"{part}-{shard:02d}.tar", chosen)
    return load_images("webdataset", root=str(folder))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_files(tmp_path: Path, workers: int) -> None:
    root, folder = image_folder(tmp_path / "images"), tmp_path / "tars"
    folder.mkdir()
    plain, packed = load_images("folder", root=str(root)), as_tars(root, folder)
    assert packed.classes == plain.classes
    for one, other in ((plain.train, packed.train), (plain.test, packed.test)):
        first, second = (
            Batches(
                images, np.arange(len(images))[::-1], batch=16, size=12, mean=plain.mean,
                std=plain.std, seed=3, augment=True, workers=workers, drop_last=False,
            )
            for images in (one, other)
        )  # fmt: skip
        for (x, y), (z, w) in zip(first.epoch(0), second.epoch(0), strict=True):
            assert torch.equal(x, z)
            assert torch.equal(y, w)


def test_a_set_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    identities = []
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        write_tar(tmp_path / place / "a.tar", pairs("abcabc"))
        identities.append(load_images("webdataset", root=str(tmp_path / place)).identity)
    assert identities[0] == identities[1]
    dataset = load_images("webdataset", root=str(tmp_path / "one" / "a.tar"))
    assert dataset.identity == identities[0]
    assert name_of(paths(dataset.train)[0]).startswith("a.tar/000")
    write_tar(tmp_path / "other" / "a.tar", pairs("abccba"))
    assert load_images("webdataset", root=str(tmp_path / "other")).identity != identities[0]


def test_a_pattern_names_files_and_numbers_name_classes(tmp_path: Path) -> None:
    for shard, labels in (("train-009", "0281"), ("train-010", "0281"), ("val-000", "82")):
        members = pairs(labels.replace("8", "§").replace("1", "8"))
        members = [(n, c.replace("§".encode(), b"10")) for n, c in members]
        write_tar(tmp_path / f"{shard}.tar", [*members, ("0000.json", b"{}"), ("0000.txt", b"x")])
    pattern = f"{tmp_path}/{{train-{{009..010}},val-000}}.tar"
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_images("webdataset", root=pattern)  # braces within braces aren't a shell's here
    pattern = f"{tmp_path}/{{train-009,train-010,val-000}}.tar"
    dataset = load_images("webdataset", root=pattern)
    assert dataset.classes == ("0", "2", "8", "10")
    assert dataset.train.labels.tolist() == [0, 1, 3, 2] * 2
    assert dataset.test.labels.tolist() == [3, 1]
    assert "passed over: 6 other members" in dataset.origin
    assert num_classes("webdataset", root=f"{tmp_path}/train-{{009..010}}.tar") == 4
    split = load_images("webdataset", root=f"{tmp_path}/train-{{009..010}}.tar")
    assert (len(split.train), len(split.test)) == (4, 4)  # of two images one each


def test_patterns() -> None:
    assert expanded("a") == ["a"]
    assert expanded("{x,y}-{8..10}") == ["x-8", "x-9", "x-10", "y-8", "y-9", "y-10"]
    assert expanded("{008..010}") == ["008", "009", "010"]
    for pattern in ("{9..1}", "{0..999999999}", "{0..999}{0..999}"):
        with pytest.raises(ValueError, match=r"expected a range|are the most"):
            expanded(pattern)


def test_images_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.arange(40 * 20 * 3, dtype=np.uint8).reshape(20, 40, 3))
    wide.save(tmp_path / "turned.png", exif=exif)
    wide.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "seen.png")
    members = [("0000.cls", b"a"), ("0000.png", (tmp_path / "turned.png").read_bytes())]
    write_tar(tmp_path / "train.tar", members)
    write_tar(tmp_path / "val.tar", members)
    dataset = load_images("webdataset", root=str(tmp_path))
    read = [
        read_file(path, 16, None, crop_scale=(1, 1), jitter=0)
        for path in (*paths(dataset.train), *paths(dataset.test), str(tmp_path / "seen.png"))
    ]
    assert (read[0] == read[2]).all()
    assert (read[1] == read[2]).all()


def test_unreadable_images_are_named_or_left_out(tmp_path: Path) -> None:
    members = dict(pairs("ababab"))
    members["0002.png"] = members["0002.png"][:60]
    tar = write_tar(tmp_path / "a.tar", members.items())
    with pytest.raises(ValueError, match=r"1 of 6 image files can't .*a\.tar::.*0002\.png"):
        load_images("webdataset", root=str(tar), check=True)
    kept = load_images("webdataset", root=str(tar), on_unreadable="skip")
    assert len(kept.train) + len(kept.test) == 5
    path = paths(load_images("webdataset", root=str(tar)).train)[-1]
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(ValueError, match="its file ends before it does"):
        openable(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([*pairs("ab"), ("0000.cls", b"b")], "has '0000' twice"),
        ([*pairs("ab"), ("0000.jpg", b"b")], "has '0000' twice"),
        ([*pairs("ab"), ("x.cls", b" ")], "has no class in 'x.cls'"),
        ([*pairs("ab"), ("x.cls", b"y" * 5000)], "characters"),
        ([("x.png", picture(0))], "no training images"),
        ([], "no training images"),
        (pairs("aab"), "one image only in b"),
    ],
)
def test_what_makes_no_set_is_refused(tmp_path: Path, members: Members, message: str) -> None:
    tar = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        load_images("webdataset", root=str(tar))


def test_other_files_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "packed.tar", pairs("aabb"), "w:gz")
    (tmp_path / "text.tar").write_text("no tar" * 200)
    for name in ("packed", "text"):
        with pytest.raises(ValueError, match=rf"{name}\.tar: no plain tar .*any order"):
            load_images("webdataset", root=str(tmp_path / f"{name}.tar"))
    write_tar(tmp_path / "train.tar", pairs("aabb"))
    write_tar(tmp_path / "test.tar", pairs("ac"))
    with pytest.raises(ValueError, match="test images of classes that none are trained on: c"):
        load_images("webdataset", root=f"{tmp_path}/{{train,test}}.tar")
    with pytest.raises(ValueError, match="no tar files to train on"):
        load_images("webdataset", root=str(tmp_path / "test.tar"))


GOOD = io.BytesIO()
with tarfile.open(fileobj=GOOD, mode="w") as _tar:
    for _name, _content in pairs("aabb"):
        _info = tarfile.TarInfo(_name)
        _info.size = len(_content)
        _tar.addfile(_info, io.BytesIO(_content))


@few
@given(content=damaged(GOOD.getvalue()))
def test_any_bytes_make_a_set_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    tar = tmp_path_factory.getbasetemp() / "any.tar"
    tar.write_bytes(content)
    with suppress(ValueError):
        dataset = load_images("webdataset", root=str(tar), on_unreadable="skip")
        assert len(dataset.train) > 0

"""Arrow and parquet files as `datasets` writes them: the same images as in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.test_tars import paths, picture
from tests.support.nets import image_folder
from tfnas.data.batches import Batches
from tfnas.data.pieces import openable
from tfnas.data.sets import load_images, num_classes

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
from pyarrow import parquet  # noqa: E402

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["ant", "bee", "cat"]},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def table(labels: list[int], features: Any = FEATURES, first: int = 0) -> Any:
    """As `datasets` has it: each image is its bytes and the name of its file."""
    images = [{"bytes": picture(first + n), "path": f"{n}.png"} for n in range(len(labels))]
    kinds = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    made = pyarrow.table(
        {"image": pyarrow.array(images, kinds), "label": pyarrow.array(labels, pyarrow.int64())}
    )
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    return made.replace_schema_metadata(about if features else None)


def save_to_disk(folder: Path, made: Any, rows: int = 2) -> None:
    """A split's folder, batches of so many rows in each of two files."""
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    half = len(made) // 2
    for number, part in enumerate((made[:half], made[half:])):
        file = folder / f"data-{number:05d}-of-00002.arrow"
        with (
            pyarrow.OSFile(str(file), "wb") as sink,
            pyarrow.ipc.new_stream(sink, made.schema) as writer,
        ):
            writer.write_table(part, max_chunksize=rows)


def contents(images: object) -> list[bytes]:
    return [openable(path).read() for path in paths(images)]  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_images_are_found_where_they_lie(tmp_path: Path, form: str) -> None:
    root = tmp_path / "set"
    splits = {"train": table([0, 2, 1, 0, 1]), "validation": table([2, 0], first=5)}
    for name, made in splits.items():
        if form == "arrow":
            save_to_disk(root / name, made)
        else:
            root.mkdir(exist_ok=True)
            parquet.write_table(made, root / f"{name}-00000-of-00001.parquet", row_group_size=2)
    (root / "dataset_dict.json").write_text("{}") if form == "arrow" else None
    for _ in range(2):  # the second time of the cache
        dataset = load_images("huggingface", root=str(root), check=True)
        assert dataset.classes == ("ant", "bee", "cat")
        assert dataset.train.labels.tolist() == [0, 2, 1, 0, 1]
        assert dataset.test.labels.tolist() == [2, 0]
        assert contents(dataset.train) == [picture(n) for n in range(5)]
        assert contents(dataset.test) == [picture(n) for n in (5, 6)]
    assert num_classes("huggingface", root=str(root)) == 3
    moved = root.rename(tmp_path / "elsewhere")
    assert load_images("huggingface", root=str(moved)).identity == dataset.identity


def test_one_split_and_numbers_alone(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "set", table([0, 1, 0, 1, 1], features=None))
    dataset = load_images("huggingface", root=str(tmp_path / "set"))
    assert dataset.classes == ("0", "1")
    assert len(dataset.train) + len(dataset.test) == 5
    assert "fixed stratified 80/20" in dataset.origin
    parquet.write_table(table([0, 1, 2, 0, 1, 2]), tmp_path / "images.parquet")
    assert len(load_images("huggingface", root=str(tmp_path / "images.parquet")).train) == 3


def test_unreadable_images_are_left_out(tmp_path: Path) -> None:
    made = table([0, 0, 0, 1, 1, 1, 2, 2, 2])
    images = made.column("image").to_pylist()
    images[3]["bytes"] = images[3]["bytes"][:50]
    kinds = made.schema.field("image").type
    made = made.set_column(0, "image", pyarrow.array(images, kinds))
    save_to_disk(tmp_path / "set", made)
    with pytest.raises(ValueError, match=r"1 of 9 image files can't be read: .*::.*/3 "):
        load_images("huggingface", root=str(tmp_path / "set"), check=True)
    kept = load_images("huggingface", root=str(tmp_path / "set"), on_unreadable="skip")
    assert len(kept.train) + len(kept.test) == 8


def test_what_makes_no_set_is_refused(tmp_path: Path) -> None:
    def refused(name: str, made: Any, message: str) -> None:
        parquet.write_table(made, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_images("huggingface", root=str(tmp_path / name))

    good = table([0, 1, 2, 0, 1, 2])
    refused("a.parquet", good.drop_columns("label"), "expected one of images, .* and one of labels")
    refused("b.parquet", good.drop_columns("image"), "expected one of images")
    refused("c.parquet", good.set_column(1, "label", [list("abcdef")]), "has labels of string")
    refused(
        "d.parquet", good.set_column(1, "label", [[0, 1, None, 0, 1, 2]]), "some of them missing"
    )
    refused("e.parquet", table([0, 1, 2, 0, 1, -1]), "without a class")
    refused("h.parquet", table([0, 1, 2, 0, 1, 3]), "a label is 3: expected 0 to 2")
    refused("i.parquet", table([0, 1, 0, 1]), "no training images for cat")
    none = [{"bytes": None, "path": "x.png"}] * 6
    kinds = good.schema.field("image").type
    away = good.set_column(0, "image", pyarrow.array(none, kinds))
    refused("f.parquet", away, "images that aren't in the file")
    (tmp_path / "g.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(ValueError, match=r"g\.parquet: "):
        load_images("huggingface", root=str(tmp_path / "g.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="give data=folder"):
        load_images("huggingface", root=str(tmp_path / "empty"))
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "state.json").write_text("{}")
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with (
        pyarrow.OSFile(str(packed / "data.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, good.schema, options=options) as writer,
    ):
        writer.write_table(good)
    with pytest.raises(ValueError, match="images that are packed"):
        load_images("huggingface", root=str(packed))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the package
@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_what_the_package_writes_gives_the_batches_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install datasets")
    root = image_folder(tmp_path / "images")
    plain = load_images("folder", root=str(root))
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(plain.classes))
    )
    # save_to_disk embeds files that paths name, to_parquet does not.
    given = {
        path: path if form == "arrow" else {"bytes": Path(path).read_bytes(), "path": None}
        for images in (plain.train, plain.test) for path in paths(images)
    }  # fmt: skip
    made = datasets.DatasetDict({
        name: datasets.Dataset.from_dict(
            {"image": [given[p] for p in paths(images)], "label": images.labels.tolist()},
            features=features,
        )
        for name, images in (("train", plain.train), ("test", plain.test))
    })  # fmt: skip
    folder = tmp_path / "set"
    if form == "arrow":
        made.save_to_disk(str(folder), num_shards={"train": 3, "test": 1})
    else:
        folder.mkdir()
        for name, split in made.items():
            split.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    found = load_images("huggingface", root=str(folder))
    assert found.classes == plain.classes
    for one, other in ((plain.train, found.train), (plain.test, found.test)):
        first, second = (
            Batches(
                images, np.arange(len(images)), batch=16, size=12, mean=plain.mean, std=plain.std,
                seed=0, augment=True, drop_last=False,
            )
            for images in (one, other)
        )  # fmt: skip
        for (x, y), (z, w) in zip(first.epoch(0), second.epoch(0), strict=True):
            assert torch.equal(x, z)
            assert torch.equal(y, w)

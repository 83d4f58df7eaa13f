"""Scalars of an epoch, and event files as TensorBoard reads them."""

from __future__ import annotations

import json
import logging
import math
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.entry import Entry, compose_config, run_entry
from tests.support.nets import few_images, tiny_subnet
from tests.support.spaces import load_space, macs_table
from tfnas.app.schemas import TrainConfig
from tfnas.derive.menu import feasible
from tfnas.process.errors import StoppedError
from tfnas.process.exits import DONE, INTERRUPTED
from tfnas.runs.scalars import (
    ScalarWriter,
    check_trackers,
    search_figures,
    search_scalars,
    training_scalars,
)
from tfnas.runs.trackers import FOLDER
from tfnas.runs.trained import finish
from tfnas.strategies.contract import EpochRecord
from tfnas.training.loop import EpochResult, Training

pytestmark = pytest.mark.slow

SPACE = load_space("tiny")
BLOCKS = SPACE.blocks


def record(epoch: int = 0) -> EpochRecord:
    """A made-up one of the tiny space: all widths twice the initial ones, one op never trained."""
    return EpochRecord(
        epoch=epoch,
        train_loss=2.5,
        train_top1=12.0,
        held_out_top1=11.0,
        temperature=5.0,
        learning_rate=0.025,
        derived_ms=7.5,
        scaled_ms=8.1,
        expected_ms=7.75,
        depths=(1, 2),
        entropy=tuple(float(b) for b in range(len(BLOCKS))),
        op_probs=tuple((0.6, *[0.4 / (len(block) - 1)] * (len(block) - 1)) for block in BLOCKS),
        expected_depths=(1.25, 1.5),
        sampled=tuple((0, *[8] * (len(block) - 1)) for block in BLOCKS),
        widths=tuple(tuple(2 * choice.op.c_mid for choice in block) for block in BLOCKS),
    )


def read(folder: Path) -> dict[str, dict[int, list[float]]]:
    """Values by tag and step, as TensorBoard shows them."""
    found = EventAccumulator(str(folder)).Reload()
    values: dict[str, dict[int, list[float]]] = {}
    for tag in found.Tags()["scalars"]:
        for event in found.Scalars(tag):
            values.setdefault(tag, {}).setdefault(event.step, []).append(event.value)
    return values


def assert_same(folder: Path, expected: dict[int, list[tuple[str, float]]]) -> None:
    """That a folder holds these scalars by step, once, and nothing else."""
    wanted: dict[str, dict[int, list[float]]] = {}
    for step, scalars in expected.items():
        for tag, value in scalars:
            wanted.setdefault(tag, {})[step] = [pytest.approx(value, rel=1e-6)]
    assert read(folder) == wanted


def test_scalars_of_a_search() -> None:
    scalars = search_scalars(record(), SPACE, target_ms=8.0)
    found = dict(scalars)
    assert len(found) == len(scalars)  # no tag twice
    expected = {
        "loss/train": 2.5, "top1_pct/train": 12.0, "top1_pct/held_out": 11.0, "temperature": 5.0,
        "learning_rate": 0.025, "latency_ms/derived": 7.5, "latency_ms/scaled": 8.1,
        "latency_ms/target": 8.0, "latency_ms/expected": 7.75,
        "entropy_nats/mean": (len(BLOCKS) - 1) / 2,
        "entropy_nats/block_02": 1.0, "largest_op_probability/block_01": 0.6,
        "depth/stage_01": 1.25, "depth/stage_02": 1.5, "sampling/least": 0.0, "width/relative": 2.0,
    }  # fmt: skip
    for tag, value in expected.items():
        assert found[tag] == pytest.approx(value), tag
    (ops,) = {len(block) for block in BLOCKS}  # one op at 0, the others at the same count
    assert found["sampling/variation"] == pytest.approx(1 / math.sqrt(ops - 1))
    assert all(math.isfinite(value) for value in found.values())


def test_scalars_of_a_search_that_learns_no_architecture() -> None:
    plain = EpochRecord(0, 2.5, 12.0, 11.0, None, 0.025, None, None)
    tags = [tag for tag, _ in search_scalars(plain, SPACE, 8.0)]
    assert tags == ["loss/train", "top1_pct/train", "top1_pct/held_out", "learning_rate"]
    assert search_figures(plain, 8.0) == "loss 2.500 · top-1 12.0 % · held out 11.0 %"


def test_figures_stand_beside_the_target() -> None:
    assert "scaled 8.1 of 8 ms · entropy" in search_figures(record(), 8.0)


def test_what_is_written_again_replaces_what_was_there(tmp_path: Path) -> None:
    first = ScalarWriter(True, tmp_path, "search", first_step=1)
    for step in (1, 2, 3):
        first.add(step, [("loss/train", step)])
    assert_same(tmp_path / FOLDER / "search", {s: [("loss/train", s)] for s in (1, 2, 3)})
    second = ScalarWriter(True, tmp_path, "search", first_step=3)  # of step 3 nothing was saved
    for step in (3, 4):
        second.add(step, [("loss/train", 10 * step)])
    now = {1: 1, 2: 2, 3: 30, 4: 40}
    expected = {step: [("loss/train", float(value))] for step, value in now.items()}
    assert_same(tmp_path / FOLDER / "search", expected)


def test_a_search_stopped_and_gone_on_with_tells_each_epoch_once(tmp_path: Path) -> None:
    table = macs_table(SPACE)
    table.save(tmp_path / "table.json")
    out, target_ms = tmp_path / "run", round(sum(feasible(SPACE, table)) / 2, 4)
    with Entry(
        "tfnas.search", "space=tiny", "budget=test", "strategy=tfnas",
        "data.root=shipped", "cores=1",
        "budget.epochs=4", "table=table.json", "hydra.run.dir=run", f"target_ms={target_ms}",
        cwd=tmp_path,
    ) as search:  # fmt: skip
        search.until(lambda line: "scalars: tensorboard --logdir " in line)
        search.until(lambda line: line.startswith("epoch 2/"))
        search.send_signal(signal.SIGINT)
        status, text = search.finish()
    assert status == INTERRUPTED, text
    epochs = len((out / "history.jsonl").read_text().splitlines())
    assert 2 <= epochs < 4
    assert list(read(out / FOLDER / "search")["loss/train"]) == list(range(1, epochs + 1))
    done = run_entry("tfnas.search", "resume=run", cwd=tmp_path)
    assert done.returncode == DONE, done.stdout
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert len(history) == 4
    expected = {
        row["epoch"] + 1: search_scalars(EpochRecord(**row), SPACE, target_ms) for row in history
    }
    assert "depth/stage_02" in dict(expected[1])
    assert_same(out / FOLDER / "search", expected)


def training(out: Path, resume: bool = False) -> Training:
    recipe = compose_config(TrainConfig, "train", "subnet=x", "recipe=test").recipe
    data = few_images(train=96, test=64)  # 3 training and 2 test batches an epoch
    return Training(tiny_subnet(), data, recipe, seed=0, out=out, resume=resume)


def test_a_training_stopped_and_resumed_tells_each_epoch_once(tmp_path: Path) -> None:
    calls = iter(range(1000))
    with pytest.raises(StoppedError):
        finish(training(tmp_path), lambda: next(calls) == 9, tensorboard=True)  # in epoch 2
    assert set(read(tmp_path / FOLDER / "train")["loss/test"]) == {1}
    finish(training(tmp_path, resume=True), tensorboard=None)
    rows = json.loads((tmp_path / "train.json").read_text())["epochs"]
    assert len(rows) == 2
    assert_same(
        tmp_path / FOLDER / "train", {r["epoch"]: training_scalars(EpochResult(**r)) for r in rows}
    )


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_written_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()  # TensorBoard's thread, which says so itself too
    monkeypatch.setattr(threading, "excepthook", lambda args: ended.set())
    caplog.set_level(logging.INFO)
    writer = ScalarWriter(None, tmp_path, "search", first_step=1)
    writer.add(1, [("loss/train", 2.5)])
    (file,) = (tmp_path / FOLDER / "search").iterdir()
    with largest_file(file.stat().st_size + 5):
        for step in (2, 3):
            writer.add(step, [("loss/train", 2.0)])
        assert ended.wait(30)
    writer.add(4, [("loss/train", 1.0)])
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith("warning: no more scalars for TensorBoard: ")
    assert_same(
        tmp_path / FOLDER / "search", {1: [("loss/train", 2.5)]}
    )  # the half one is left out
    again = ScalarWriter(None, tmp_path, "search", first_step=2)
    again.add(2, [("loss/train", 1.5)])
    expected = {1: [("loss/train", 2.5)], 2: [("loss/train", 1.5)]}
    assert_same(tmp_path / FOLDER / "search", expected)


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER).write_text("")
    ScalarWriter(True, tmp_path, "train", first_step=1).add(1, [("loss/train", 2.5)])
    assert len(caplog.records) == 1


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"tensorboard=true: .* isn't installed; pip install"):
        check_trackers(True, [])
    for asked in (None, False):
        check_trackers(asked, [])
        ScalarWriter(asked, tmp_path, "search", first_step=1).add(1, [("loss/train", 2.5)])
    assert not list(tmp_path.iterdir())


def test_a_broken_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"tensorboard=true: .* can't be imported"):
        check_trackers(True, [])
    check_trackers(None, [])
    ScalarWriter(None, tmp_path, "search", first_step=1).add(1, [("loss/train", 2.5)])
    (warning,) = caplog.messages
    assert "no scalars" in warning
    assert not list(tmp_path.iterdir())


def test_nothing_where_nothing_is_asked(tmp_path: Path) -> None:
    ScalarWriter(False, tmp_path, "search", first_step=1).add(1, [("loss/train", 2.5)])
    assert not list(tmp_path.iterdir())

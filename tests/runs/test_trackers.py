"""MLflow and Weights & Biases: what the packages themselves wrote, read again."""

from __future__ import annotations

import logging
import re
import struct
from pathlib import Path

import pytest

from tests.runs.test_scalars import training
from tests.support.nets import tiny_subnet
from tfnas.nets.weights import fingerprint
from tfnas.process.errors import StoppedError
from tfnas.runs.scalars import ScalarWriter, check_trackers
from tfnas.runs.trackers import PROJECT, TRACKERS, Tracked
from tfnas.runs.trained import finish

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the packages

OTHERS = [name for name in TRACKERS if name != "tensorboard"]
BLOCK, HEADER, FULL, LAST = 32768, 7, 1, 4  # of LevelDB's logs


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def mlflow_runs() -> list[tuple[str, dict[str, list[tuple[int, float]]], dict[str, str]]]:
    """Name and status, (step, value) by tag, and options of all runs, the last one first."""
    client = pytest.importorskip("mlflow").MlflowClient()
    experiment = client.get_experiment_by_name(PROJECT)
    found = []
    for run in client.search_runs([experiment.experiment_id]):
        values = {
            tag: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, tag)]
            for tag in run.data.metrics
        }
        found.append((f"{run.info.run_name} {run.info.status}", values, run.data.params))
    return found


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow: pip install mlflow")
    run, about = tmp_path / "a run", {"seed": 3, "space": "tiny"}
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    first = ScalarWriter(False, run, "search", 1, ["mlflow"], about)
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)
    first.add(1, [("loss/train", 2.5), ("width/relative", 1.0)])
    with pytest.raises(KeyError), first:
        raise KeyError
    ((name, values, options),) = mlflow_runs()
    assert name == "a run search KILLED"
    assert values == {"loss/train": [(1, 2.5)], "width/relative": [(1, 1.0)]}
    assert options == {"seed": "3", "space": "tiny"}
    with ScalarWriter(False, run, "search", 2, ["mlflow"], about) as second:
        second.add(2, [("loss/train", 2.0)])
    ((name, values, _),) = mlflow_runs()
    assert name == "a run search FINISHED"
    assert values["loss/train"] == [(1, 2.5), (2, 2.0)]
    with ScalarWriter(False, run, "train", 1, ["mlflow"]) as other:
        other.add(1, [("loss/train", 1.0)])
    assert len(mlflow_runs()) == 2


def wandb_rows(told: str) -> list[dict[str, str]]:
    """The rows, as JSON by key, of the run that a log line names: records as in LevelDB's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    (folder,) = re.findall(r"scalars: wandb sync (\S+)", told)
    (file,) = Path(folder).glob("run-*.wandb")
    content, at, parts, rows = file.read_bytes(), len(b":W&B") + 3, b"", []
    while at + HEADER <= len(content):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)  # behind a checksum
        parts += content[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (FULL, LAST):
            record, parts = Record.FromString(parts), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): i.value_json for i in items})
    return rows


def test_wandb_writes_a_run_offline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    caplog.set_level(logging.INFO)
    with ScalarWriter(False, tmp_path / "run", "search", 1, ["wandb"], {"seed": 3}) as scalars:
        for step in (1, 2):
            scalars.add(step, [("loss/train", 3.0 - step), ("latency_ms/derived", 8.5)])
    rows = wandb_rows(caplog.text)
    assert [float(row["loss/train"]) for row in rows] == [2.0, 1.0]
    assert [float(row["_step"]) for row in rows] == [1, 2]


@pytest.mark.parametrize("name", OTHERS)
def test_a_training_tells_each_epoch_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    pytest.importorskip(name)
    caplog.set_level(logging.INFO)
    out = tmp_path / "run"
    calls = iter(range(1000))
    with pytest.raises(StoppedError):
        finish(training(out), lambda: next(calls) == 9, False, [name])  # in epoch 2
    if name == "wandb":
        assert [float(row["_step"]) for row in wandb_rows(caplog.text)] == [1]
        return
    finish(training(out, resume=True), trackers=[name])
    ((run, values, options),) = mlflow_runs()
    assert run == "run train FINISHED"
    assert [step for step, _ in values["loss/test"]] == [1, 2]
    assert options["subnet"] == fingerprint(tiny_subnet())


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_tracker_cannot_write_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip(name)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with ScalarWriter(False, tmp_path, "search", 1, [name]) as scalars:
        scalars.add(1, [("loss/train", 2.5)])
    warnings = [r.message for r in caplog.records if "warning: no scalars for" in r.message]
    assert len(warnings) == 1


def test_one_tracker_that_fails_leaves_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.runs.test_scalars import read
    from tfnas.runs import trackers

    class Full:
        shown_by = "nothing"

        def __init__(self, run: Tracked) -> None: ...

        def add(self, step: int, scalars: object) -> None:
            raise OSError("no space left")

        def close(self, done: bool) -> None:
            raise AssertionError("it is dropped")

    full = {**TRACKERS, "mlflow": trackers.Kind("MLflow", "mlflow", Full)}
    monkeypatch.setattr("tfnas.runs.scalars.TRACKERS", full)
    with ScalarWriter(True, tmp_path, "search", 1, ["mlflow"]) as scalars:
        for step in (1, 2):
            scalars.add(step, [("loss/train", 2.5)])
    assert caplog.messages == ["warning: no more scalars for MLflow: no space left"]
    assert read(tmp_path / "tensorboard" / "search") == {"loss/train": {1: [2.5], 2: [2.5]}}


@pytest.mark.parametrize("name", OTHERS)
def test_a_missing_package_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("tfnas.runs.scalars.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"trackers=\[{name}\]: .* isn't installed; pip install"):
        check_trackers(None, [name])


def test_unknown_and_contradicting_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="tracker 'neptune': expected one of tensorboard, mlflow"):
        check_trackers(None, ["neptune"])
    with pytest.raises(ValueError, match="tensorboard=false beside"):
        check_trackers(False, ["tensorboard"])

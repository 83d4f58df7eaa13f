"""What can be read of a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_folders import RESULT, history, saved_run, space_options, unfinished_run
from tests.support.spaces import load_space, macs_table
from tfnas.latency.table import LatencyTable
from tfnas.runs.files import read_files
from tfnas.space.size import Oblong


def test_a_finished_run(tmp_path: Path) -> None:
    folder, subnet = saved_run(tmp_path / "run")
    found = read_files(folder)
    assert found.warnings == ()
    assert found.result is not None
    assert found.run.status == "done"
    assert found.records == tuple(history(load_space("tiny")))
    assert found.subnet == subnet
    assert found.space == load_space("tiny")
    assert found.arguments == ("space=tiny", "target_ms=8")
    assert found.table is not None
    assert found.table.total(subnet) == pytest.approx(found.result.table_ms)
    assert found.stages is None


def test_an_unfinished_run(tmp_path: Path) -> None:
    folder = unfinished_run(tmp_path / "run")
    found = read_files(folder)
    assert found.warnings == ()
    assert found.result is None
    assert found.run.status == "interrupted"
    assert found.run.resume == folder
    assert found.run.target_ms == 8
    assert len(found.records) == 3
    assert found.space is not None
    assert found.space.stages == load_space("tiny", quantum=1).stages
    assert (found.subnet, found.table) == (None, None)


def test_an_unfinished_run_at_an_oblong_size(tmp_path: Path) -> None:
    folder = unfinished_run(tmp_path / "run")
    file = folder / ".hydra" / "config.yaml"
    text = file.read_text()
    assert "resolution: 32" in text
    file.write_text(text.replace("resolution: 32", "resolution: [24, 40]"))
    found = read_files(folder)
    assert found.warnings == ()
    assert found.space is not None
    assert found.space.resolution == Oblong(24, 40)


def test_an_empty_folder(tmp_path: Path) -> None:
    found = read_files(tmp_path)
    assert (found.result, found.records, found.subnet, found.arguments) == (None, (), None, None)
    assert found.warnings == ()


def test_a_table_that_is_gone_leaves_the_bounds(tmp_path: Path) -> None:
    folder, _ = saved_run(tmp_path / "run")
    (tmp_path / "table.json").unlink()
    found = read_files(folder)
    assert found.table is None
    assert found.space is not None
    (warning,) = found.warnings
    assert "latencies of single blocks can't be told: table" in warning


def test_a_table_that_has_changed_is_told(tmp_path: Path) -> None:
    folder, subnet = saved_run(tmp_path / "run")
    file = tmp_path / "table.json"
    data = json.loads(file.read_text())
    at = data["columns"].index("median_ms")
    for row in data["rows"]:
        row[at] *= 2
    file.write_text(json.dumps(data))
    found = read_files(folder)
    assert LatencyTable.load(file).total(subnet) == pytest.approx(
        2 * macs_table(load_space("tiny")).total(subnet)
    )
    (warning,) = found.warnings
    assert "the table was measured anew since" in warning


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no lists": ({"space.stem": 3}, "space has stem=3, expected `array`"),
    "kernels": ({"space.kernels": "x"}, "space has kernels='x', expected `array`"),
    "no size": ({"space.resolution": ["x", 3]}, "space has resolution[0]='x'"),
    "unknown field": ({"space.head": [{"hack": 1}]}, "has the fields ['hack'], expected kind"),
    "long product": (
        {"space.stem": [{"kind": "mbconv", "expansion": "x" * 1000}]},
        "expansion='xxx",
    ),
    "no truth": (
        {"space.squeeze_excite": ["perhaps"]},
        "has squeeze_excite[0]='perhaps'",
    ),
    "huge": (
        {"space.stages": [{"c_out": 60000, "depth": 64}] * 20, "space.resolution": 8},
        "are the most",
    ),
    "missing": ({"space.name": None}, "name=None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_space_that_is_none_is_told(case: str, tmp_path: Path) -> None:
    changes, told = WRONG[case]
    options = {**RESULT.options, **space_options(), **changes}
    found = read_files(saved_run(tmp_path / "run", options=options)[0])
    assert found.space is None
    assert found.result is not None
    (warning,) = found.warnings
    assert told in warning


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", "{"),
        ("subnet.json", '{"format": 3}'),
        ("stages.json", "[]"),
        ("history.jsonl", "\x00"),
        ("search_overrides.yaml", "a: 1"),
        ("train.json", '{"top1": 7}'),
    ],
)
def test_a_file_that_makes_no_sense_is_told(name: str, text: str, tmp_path: Path) -> None:
    folder, _ = saved_run(tmp_path / "run")
    (folder / name).write_text(text)
    (warning,) = read_files(folder).warnings
    assert str(folder / name) in warning


def test_a_result_that_can_t_be_is_not_believed(tmp_path: Path) -> None:
    folder, _ = saved_run(tmp_path / "run", within=False)
    found = read_files(folder)
    assert found.result is None
    assert found.run.status == "unreadable"
    assert "within=False, but" in found.warnings[0]

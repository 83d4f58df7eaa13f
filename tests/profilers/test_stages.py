"""Times of stages: their file, and measuring them on a simulated device."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profilers.measure.bench import ANCHORS
from profilers.measure.stages import measure_stages
from tests.support.entry import compose_config
from tests.support.simulated_device import Machine, Model, SimulatedProfiler
from tests.support.spaces import load_space
from tfnas.app.schemas import SearchConfig
from tfnas.latency.stages import StageTime, StageTimes, load_stages, parts_of, table_ms
from tfnas.latency.table import LatencyTable, Measurement
from tfnas.pipeline.run import measure_parts
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow

WHOLE, ALONE = 1.1, 0.9  # what ops cost within a net and within a part, against ops alone


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


class Parts(SimulatedProfiler):
    """A device on which parts of nets don't add up to nets."""

    def latency_ms(self, ops: Any) -> float:
        net = ops[-1].kind == "classifier" and ops[0].c_in == 3
        return sum(map(self.op_ms, ops)) * (WHOLE if net else ALONE if len(ops) > 1 else 1.0)


def table_and_net(profiler: SimulatedProfiler) -> tuple[LatencyTable, Subnet]:
    space = load_space()
    rows = {op: Measurement(profiler.op_ms(op), 0.0, 30) for op in space.ops()}
    return LatencyTable(profiler.device, rows), space.sample(random.Random(3))


def measured(profiler: SimulatedProfiler, machine: Machine, minutes: float = 0.5) -> StageTimes:
    table, net = table_and_net(profiler)
    return measure_stages(
        profiler, table, net, max_minutes=minutes, seed=0, progress=lambda _: None, now=machine.now
    )


def test_parts_and_net_are_told_as_a_busy_device_takes_them() -> None:
    machine = Machine(load=0.3, jitter=0.02, seed=1)
    profiler = Parts(machine)
    table, net = table_and_net(profiler)
    times = measured(profiler, machine)
    assert machine.seconds < 35
    assert [p.name for p in times.parts] == ["stem", "stage 1", "stage 2", "head"]
    rows = [*(ops for _, ops in parts_of(net)), net.ops]
    for part, ops in zip((*times.parts, times.whole), rows, strict=True):
        assert part.device_ms == pytest.approx(profiler.latency_ms(ops), rel=0.04)
        low, high = part.device_ci_ms
        assert low < part.device_ms < high
        assert part.table_ms == pytest.approx(sum(map(table.ms, ops)))
    assert times.sum_ms < 0.95 * times.whole.device_ms
    for told in ("stem", "stage 2", "head", "sum", "whole net"):
        assert told in str(times)


def test_all_are_sampled_in_the_same_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(jitter=0.02)
    opened: list[Model] = []
    profiler = Parts(machine)
    build = profiler.workload

    def workload(ops: Any) -> Model:
        opened.append(build(ops))
        return opened[-1]

    monkeypatch.setattr(profiler, "workload", workload)
    measured(profiler, machine)
    _, net = table_and_net(profiler)
    ours = opened[1 + len(ANCHORS) :]
    assert [m.ms for m in ours] == [
        profiler.latency_ms(ops) for ops in (*(o for _, o in parts_of(net)), net.ops)
    ]
    assert len({m.bursts for m in ours}) == 1


def test_the_table_tells_what_parts_cost_inside_a_net() -> None:
    table, net = table_and_net(Parts(Machine()))
    parts = parts_of(net)
    says = {name: table_ms(table, name, ops) for name, ops in parts}
    assert sum(ms or 0.0 for ms in says.values()) == pytest.approx(table.total(net))
    published = replace(table, overhead_ms=5.0)
    assert table_ms(published, "stem", net.stem) is None
    assert table_ms(published, "head", net.head) is None
    assert table_ms(published, "stage 1", net.stages[0]) == says["stage 1"]
    stemless = Subnet("none", (), net.stages, net.head)
    assert [name for name, _ in parts_of(stemless)] == ["stage 1", "stage 2", "head"]


def test_a_table_that_lacks_an_op_is_an_error() -> None:
    machine = Machine()
    profiler = Parts(machine)
    table, net = table_and_net(profiler)
    rows = {op: row for op, row in table.rows.items() if op != net.stem[0]}
    with pytest.raises(LookupError, match="doesn't cover"):
        measure_stages(
            profiler, replace(table, rows=rows), net, max_minutes=0.1, seed=0, now=machine.now
        )
    assert machine.seconds == 0


TIMES = StageTimes(
    "a device",
    (StageTime("stem", None, 0.5, (0.4, 0.6)), StageTime("stage 1", 1.0, 1.1, (1.0, 1.3))),
    StageTime("whole net", 2.0, 1.9, (1.8, 2.0)),
)


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    TIMES.save(path)
    assert load_stages(path) == TIMES
    assert load_stages(path).sum_ms == pytest.approx(1.6)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"format": "tfnas.stages/9"}, "format 'tfnas.stages/9'"),
        ({"unit": "s"}, "unit"),
        ({"more": 1}, "has the fields"),
        ({"device": 3}, "has device=3, expected `str`"),
        ({"parts": []}, "parts="),
        ({"parts": [1]}, "has parts[0]=1"),
        ({"whole": {"name": "x"}}, "is wrong at whole"),
        ({"device_ms": "2"}, "device_ms='2'"),
        ({"device_ms": True}, "device_ms=True"),
        ({"device_ms": -1.9, "device_ci_ms": [-2, 0]}, "device_ms=-1.9, expected"),
        ({"device_ms": 9.0}, "is no latency"),
        ({"device_ci_ms": [1.8]}, "device_ci_ms=[1.8], expected `array` of length 2"),
        ({"table_ms": 1e30}, "1e"),
        ({"name": "x" * 300}, "expected `str` of length <= 255"),
    ],
)
def test_what_no_measurement_gives_is_refused(
    spoil: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "stages.json"
    TIMES.save(path)
    data = json.loads(path.read_text())
    for key, value in spoil.items():
        inside = key in data["whole"]
        (data["whole"] if inside else data)[key] = value
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="is no file of stages") as error:
        load_stages(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"can't read .*none\.json"):
        load_stages(tmp_path / "none.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"can't read .*a\.json"):
        load_stages(tmp_path / "a.json")


class Broken(Parts):
    """A device whose runtime gives up."""

    def workload(self, ops: Any) -> Model:
        raise RuntimeError("out of everything")


def test_a_run_is_not_touched_by_a_device_that_fails_now(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, net = table_and_net(Parts(Machine()))
    caplog.set_level("INFO")
    measure_parts(Broken(Machine()), table, net, tmp_path / "stages.json", 0.001, 0)
    assert [r.levelname for r in caplog.records if "out of everything" in r.message] == ["WARNING"]
    assert list(tmp_path.glob("*.json")) == []

    device = Parts(Machine(load=0.1, jitter=0.01))
    measure_parts(device, table, net, tmp_path / "stages.json", 0.001, 0)
    told = [record.message for record in caplog.records]
    assert set(str(load_stages(tmp_path / "stages.json")).splitlines()) <= set(told)


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_impossible_times_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="stage_minutes="):
        compose_config(SearchConfig, "search", "target_ms=1", f"stage_minutes={value}")


@pytest.mark.parametrize("value", ["0", "null", "0.5"])
def test_no_time_is_a_way_to_leave_it_out(value: str) -> None:
    compose_config(SearchConfig, "search", "target_ms=1", f"stage_minutes={value}")

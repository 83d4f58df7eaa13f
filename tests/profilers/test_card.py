"""Calibration cards: their statistics, and one measured on a simulated device."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profilers.measure.timing import Measured
from profilers.tables.cards import card_of, draw, make_card, stage_residuals
from profilers.tables.plan import net_key
from tests.support.simulated_device import DEVICE, Machine, SimulatedProfiler
from tests.support.spaces import load_space
from tfnas.latency.card import Card
from tfnas.latency.table import LatencyTable, Measurement

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # no other test's usual speed


def table_of(profiler: SimulatedProfiler) -> LatencyTable:
    space = load_space()
    rows = {op: Measurement(profiler.op_ms(op), 0.0, 30) for op in space.ops()}
    return LatencyTable(DEVICE, rows)


def test_card_of_a_device_that_is_three_percent_slower(tmp_path: Path) -> None:
    profiler = SimulatedProfiler(Machine(load=0.2, jitter=0.01), whole=1.03, net_error=0.005)
    table, space = table_of(profiler), load_space()
    card = make_card(
        profiler, table, space,
        nets=12, precision=0.01, max_minutes=0.3, seed=0, progress=lambda _: None,
    )  # fmt: skip
    assert len(card.nets) == 12
    assert card.bias_pct == pytest.approx(-2.9, abs=1.0)
    assert card.mape_pct == pytest.approx(-card.bias_pct, abs=0.2)
    assert card.spearman > 0.9
    assert dict(card.within_pct)[10] == 100
    assert abs(card.worst.error_pct) == max(abs(n.error_pct) for n in card.nets)
    for part in ("mean absolute error", "bias", "Spearman", "worst", "stage 1"):
        assert part in str(card)

    path = tmp_path / "t.json"
    table.with_fit(space, card=card.to_json()).save(path)
    loaded = LatencyTable.load(path)
    assert loaded.spaces[space.key].card == json.loads(json.dumps(card.to_json()))
    kept = loaded.spaces[space.key].card
    assert kept is not None
    assert Card.from_json(kept) == card
    assert str(Card.from_json(kept)) == str(card)


def test_residuals_find_the_stage() -> None:
    table, space = table_of(SimulatedProfiler(Machine())), load_space()
    rng = random.Random(0)
    nets = [space.sample(rng) for _ in range(40)]
    measured = [table.total(n) + 0.1 * sum(table.ms(op) for op in n.stages[1]) for n in nets]
    residuals = dict(stage_residuals(table, nets, measured))
    assert residuals["stage 2"] == pytest.approx(10, abs=2)
    assert abs(residuals["stage 1"]) < 2


def test_nets_of_the_calibration_are_left_out() -> None:
    table, space = table_of(SimulatedProfiler(Machine())), load_space()
    first = draw(space, table, 5, 0)
    used = {net_key(net): Measurement(1.0, 0.0, 30) for net in first[:2]}
    second = draw(space, replace(table, nets=used), 5, 0)
    assert not set(map(net_key, second)) & set(used)
    assert second[:3] == first[2:]
    one = Measured(1.0, (0.9, 1.1), 0.1, 1.0, 1.0, 10, None)
    assert card_of(table, first, [one] * 5, 0.0).noisy == 0


NET = {"table_ms": 1.0, "measured_ms": 1.1, "half_width_pct": 1.0, "macs": 5}
CARD: dict[str, Any] = {
    "nets": [NET], "mape_pct": 1.0, "bias_pct": 0.5, "within_pct": {"1": 50.0}, "spearman": None,
    "worst": NET, "stages_pct": {"stem": 5.0}, "noisy": 1, "seconds": 3.0,
}  # fmt: skip


def test_a_card_without_a_rank_correlation() -> None:
    card = Card.from_json(CARD)
    assert math.isnan(card.spearman)
    assert json.loads(json.dumps(card.to_json())) == CARD


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("more", 1, "expected nets, mape_pct"),
        ("nets", [], "nets="),
        ("nets", [{"table_ms": 1.0}], "is wrong at nets[0]"),
        ("nets", [{**NET, "measured_ms": 0.0}], "nets[0].measured_ms=0.0, expected"),
        ("nets", [{**NET, "half_width_pct": -1.0}], "nets[0].half_width_pct=-1.0, expected"),
        ("worst", None, "worst=None"),
        ("mape_pct", "1", "mape_pct='1'"),
        ("bias_pct", True, "bias_pct=True"),
        ("bias_pct", 1e300, "bias_pct=1e"),
        ("within_pct", [], "within_pct=[], expected `object`"),
        ("within_pct", {"one": 1.0}, "a key of within_pct"),
        ("stages_pct", {"stem": None}, "stages_pct[...]"),
        ("seconds", None, "seconds=None"),
    ],
)
def test_what_is_no_card_is_refused(name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Card.from_json({**CARD, name: value})

"""Calibration cards: their statistics, and one measured on a simulated device."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from profilers.card import (
    card_of,
    draw,
    make_card,
    stage_residuals,
)
from profilers.plan import net_key
from profilers.timing import Measured
from tests.simulated_device import DEVICE, Machine, SimulatedProfiler
from tests.spaces import load_space
from tfnas.card import Card
from tfnas.table import LatencyTable, Measurement


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


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
    measured = [table.subnet_ms(n) + 0.1 * sum(table.ms(op) for op in n.stages[1]) for n in nets]
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

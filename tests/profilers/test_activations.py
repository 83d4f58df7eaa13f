"""Which activations are taken is measured, and that int8 doesn't pay is said before profiling."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from profilers.contract import int8_device
from profilers.devices import open_profiler
from profilers.measure.activations import choose_activations, compare_with_float
from profilers.models import onnx_model
from profilers.tables.build import build_table
from tests.support.simulated_device import DEVICE, Machine, Model, SimulatedProfiler
from tests.support.spaces import load_spec
from tfnas.deploy.int8 import ACTIVATIONS, QUANTIZE

SLOW = {"fp32": 1.0, "uint8": 1.25, "int8": 3.0}
FAST = {"fp32": 1.0, "uint8": 0.5, "int8": 0.3}


@dataclass
class KindProfiler(SimulatedProfiler):
    """A device with one latency for all models of a precision and kind of activations."""

    ms: Mapping[str, float] = field(default_factory=dict)

    def load(self, name: str, model: bytes) -> Model:
        return Model(name, self.ms[kind_of(model)], self.machine)


def kind_of(content: bytes) -> str:
    """fp32, or the activations of an int8 row."""
    model = onnx_model(content)
    if all(node.op_type != QUANTIZE for node in model.graph.node):
        return "fp32"
    taken = model.graph.input[0].type.tensor_type.elem_type
    return next(kind for kind, code in ACTIVATIONS.items() if code == taken)


@pytest.mark.parametrize(
    ("ms", "chosen", "told"),
    [
        (FAST, "int8", False),
        ({**FAST, "int8": 0.45}, "uint8", False),  # too little for a change
        (SLOW, "uint8", True),
    ],
)
def test_the_faster_kind_is_taken_and_a_slow_one_told(
    ms: Mapping[str, float], chosen: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    profiler = KindProfiler(Machine(), ms=ms)
    with caplog.at_level(logging.INFO):
        choose_activations(profiler, "auto")
    assert (profiler.device.precision, profiler.device.activations) == ("int8", chosen)
    for kind, value in ms.items():
        assert f"{kind} {value:.4g} ms" in profiler.evidence
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == told * [
        "warning: int8 is no faster than fp32 on this device: a block takes 1.25 ms with uint8 "
        "activations, 1 ms in fp32; precision=fp32 measures that"
    ]


@pytest.mark.parametrize(("ms", "told"), [(SLOW, True), (FAST, False)])
def test_activations_that_were_given_are_compared_before_a_table_is_begun(
    ms: Mapping[str, float], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    profiler = KindProfiler(Machine(), ms=ms)
    choose_activations(profiler, "int8")
    assert (profiler.evidence, caplog.text) == ("", "")  # opened at once, as for `verify`
    compare_with_float(profiler)
    assert ("no faster than fp32" in caplog.text) is told
    assert "uint8" not in profiler.evidence
    caplog.clear()
    compare_with_float(profiler)
    floating = KindProfiler(Machine(), ms=ms)
    compare_with_float(floating)
    assert (floating.evidence, caplog.text) == ("", "")


def test_a_table_of_a_slow_precision_begins_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiler = KindProfiler(Machine(), ms=SLOW)
    profiler.device = int8_device(replace(DEVICE), "uint8")
    lines: list[str] = []
    with caplog.at_level(logging.WARNING):
        table = build_table(
            profiler, load_spec("tiny"), tmp_path / "t.json", max_minutes=0.5, precision=0.05,
            anchor_nets=3, seed=0, progress=lines.append,
        )  # fmt: skip
    assert "no faster than fp32" in caplog.text
    assert any("uint8 1.25 ms, fp32 1 ms" in note for note in table.notes)


@pytest.mark.slow
def test_this_machine_is_probed() -> None:
    profiler = open_profiler("cpu", precision="int8")
    assert profiler.device.activations in ACTIVATIONS
    assert profiler.options["activations"] == profiler.device.activations
    assert {part.split()[0] for part in profiler.evidence.split(", ")} == {"uint8", "int8", "fp32"}

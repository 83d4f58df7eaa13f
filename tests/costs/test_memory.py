"""What lives at once, against ONNX Runtime's allocations."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.latency.memory import grown_mb
from tests.support.spaces import load_space
from tfnas.api import export_net
from tfnas.costs.memory import BLOCK, MemoryMb
from tfnas.space.ops import OpSpec

BATCH = 16  # enough that activations are most of what a run allocates
PLAIN = OpSpec("mbconv", 56, 32, 192, 0, 32, 3, 1, "relu")


@pytest.mark.parametrize(
    ("op", "values"),
    [
        (PLAIN, 56**2 * (32 + 2 * 192)),  # input, expanded, and what comes of depthwise
        (OpSpec("mbconv", 56, 32, 192, 0, 64, 3, 2, "relu"), 56**2 * 192 + 28**2 * 192),
        (OpSpec("conv", 56, 16, 0, 0, 64, 3, 2, "relu"), 56**2 * 16 + 28**2 * 64),
        (OpSpec("identity", 56, 16, 0, 0, 16, 1, 1, "none"), 56**2 * 16),
    ],
)
def test_what_lives_at_once(op: OpSpec, values: int) -> None:
    assert MemoryMb(4).op(op) == pytest.approx(4e-6 * values)
    assert MemoryMb(2).op(op) == pytest.approx(2e-6 * values)


@pytest.mark.slow
def test_it_is_what_onnx_runtime_allocates(tmp_path: Path) -> None:
    """Of a net whose widths are whole vectors, so that any CPU lays them out alike."""
    space = load_space("small", quantum=BLOCK)
    depths = [stage.min_depth for stage in space.stages]
    picks = [0] * len(space.blocks)
    net = space.subnet(depths, picks, [block[0].widths[-1] for block in space.blocks])
    model = export_net(net, tmp_path / "net.onnx", batch=BATCH).path
    assert grown_mb(model) == pytest.approx(BATCH * MemoryMb(4).total(net), rel=0.15)

"""What a net costs: what constraints are about. A latency table is a cost, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tfnas.costs.contract import Cost
from tfnas.costs.counts import Macs, Params, WeightsMb
from tfnas.costs.memory import MemoryMb

LIMITS: Mapping[str, Callable[[int], Cost]] = {
    "macs": Macs,
    "params": Params,
    "weights_mb": WeightsMb,
    "memory_mb": MemoryMb,
}
"""What `limits.NAME=` may bound, each made from the bytes of a value."""

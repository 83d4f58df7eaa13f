"""What a net costs: what constraints are about. A latency table is a cost, too."""

from __future__ import annotations

from collections.abc import Mapping

from tfnas.costs.counts import Macs, Params, WeightsMb

LIMITS: Mapping[str, type[Macs | Params | WeightsMb]] = {
    "macs": Macs,
    "params": Params,
    "weights_mb": WeightsMb,
}
"""What `limits.NAME=` may bound, each made from the bytes of a value."""

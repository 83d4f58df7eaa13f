"""A net that a search found, with what it was found for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tfnas.derive.architecture import Constraint
from tfnas.latency.table import LatencyTable
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FoundNet:
    """What `tfnas.find_net` ends with, and `profilers.close_loop` goes on with.

    Attributes:
        space: that was searched, on the table's grid of widths.
        table_ms: latency of the net in ms on the table.
        at_most: whether any lower latency is as good.
        reached: whether the net meets the target on the table.
        beside: what it meets, too.
        scores: what the search says of the net, and what it cost, by name.
        weights: gives the supernet's weights of a subnet, named as in `tfnas.nets.blocks.Network`;
            None where it has none.
    """

    subnet: Subnet
    space: SearchSpace
    table: LatencyTable
    target_ms: float
    table_ms: float
    at_most: bool
    reached: bool
    scores: Mapping[str, float] = field(default_factory=dict)
    weights: Callable[[Subnet], Mapping[str, Tensor]] | None = field(default=None, repr=False)
    beside: tuple[Constraint, ...] = ()

    def __str__(self) -> str:
        net = self.subnet
        return (
            f"{net.space}: {self.table_ms:.4g} ms on the table for {self.target_ms:.4g} ms, "
            f"{net.macs / 1e6:.0f} M multiply-adds, depths {' '.join(map(str, net.depths))}"
        )

"""The contract that constraints and the solver rest on."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tfnas.space.search_space import Choice, SearchSpace
from tfnas.space.subnet import Subnet


class Cost(Protocol):
    """A sum over the ops of a net, in some unit, or the most of them."""

    @property
    def unit(self) -> str:
        """Such as ms; "" for a plain number."""

    @property
    def maximum(self) -> bool:
        """Whether a net costs what its dearest op does, instead of the sum."""

    def curve(self, choice: Choice) -> np.ndarray:
        """What all admissible widths of a choice cost, (len(choice.widths),)."""

    def fixed(self, net: SearchSpace | Subnet) -> float:
        """What stem and head cost."""

    def total(self, subnet: Subnet) -> float:
        """What a whole net costs."""

    def asked(self, target: float) -> str:
        """A target as a user gives it, for messages."""

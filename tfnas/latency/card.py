"""Calibration cards: how true a latency table is, on whole nets. `profilers.card` measures them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from msgspec import Meta

from tfnas.files.decode import Count, convert

MAX_NETS = 10_000
MAX_NUMBER = 1e12
Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Ms = Annotated[float, Meta(gt=0, le=MAX_NUMBER)]


@dataclass(frozen=True)
class CardNet:
    """One net of a card: what the table says and what the device says."""

    table_ms: Ms
    measured_ms: Ms
    half_width_pct: Annotated[float, Meta(ge=0, le=MAX_NUMBER)]
    macs: Count

    @property
    def error_pct(self) -> float:
        """The table against the device, signed."""
        return 100 * (self.table_ms / self.measured_ms - 1)


@dataclass(frozen=True)
class Card:
    """How true a table is; errors are the table's against the device's, in percent.

    Attributes:
        within_pct: by limit the share of nets whose error is at most that, all in percent.
        stages_pct: by name the residual: how much more or less than the table says a stage costs
            inside whole nets, fitted over all nets.
        noisy: nets whose interval deserves doubt.
    """

    nets: Annotated[tuple[CardNet, ...], Meta(min_length=1, max_length=MAX_NETS)]
    mape_pct: Number
    bias_pct: Number
    within_pct: Mapping[Annotated[int, Meta(ge=0, lt=1000)], Number]
    spearman: float
    worst: CardNet
    stages_pct: Mapping[str, Number]
    noisy: Count
    seconds: Number

    def to_json(self) -> dict[str, Any]:
        rank = None if math.isnan(self.spearman) else self.spearman
        return {**asdict(self), "spearman": rank}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Card:
        """What `to_json` gave, as a table file holds it.

        Raises:
            ValueError: if a field is missing, unknown, or no value that a card can have.
        """
        if data.get("spearman", 0.0) is None:  # of nets that are all alike there is none
            data = {**data, "spearman": math.nan}
        return convert(data, cls)

    def __str__(self) -> str:
        shares = ", ".join(
            f"{share:.0f} % within ±{limit} %" for limit, share in self.within_pct.items()
        )
        worst = self.worst
        stages = ", ".join(
            f"{name} {residual:+.1f} %" for name, residual in self.stages_pct.items()
        )
        low, high = (f(n.measured_ms for n in self.nets) for f in (min, max))
        lines = [
            f"calibration card: {len(self.nets)} whole nets of {low:.3g} to {high:.3g} ms",
            f"  mean absolute error  {self.mape_pct:.2f} %",
            f"  bias                 {self.bias_pct:+.2f} %",
            f"  share                {shares}",
            f"  Spearman             {self.spearman:.4f}",
            f"  worst                {worst.error_pct:+.2f} % (table {worst.table_ms:.4g} ms, "
            f"measured {worst.measured_ms:.4g} ms)",
            f"  residual by stage    {stages}",
        ]
        if self.noisy:
            lines.append(f"  {self.noisy} nets were measured less precisely than asked")
        return "\n".join(lines)

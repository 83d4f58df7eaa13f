"""Calibration cards: how true a latency table is, on whole nets. `profilers.card` measures them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tfnas.files.bounded import check_text, shown

MAX_NETS = 10_000
MAX_NUMBER = 1e12


@dataclass(frozen=True)
class CardNet:
    """One net of a card: what the table says and what the device says."""

    table_ms: float
    measured_ms: float
    half_width_pct: float
    macs: int

    @property
    def error_pct(self) -> float:
        """The table against the device, signed."""
        return 100 * (self.table_ms / self.measured_ms - 1)


@dataclass(frozen=True)
class Card:
    """How true a table is; errors are the table's against the device's, in percent.

    Attributes:
        within_pct: (limit, share of nets whose error is at most that), all in percent.
        stages_pct: (name, residual): how much more or less than the table says a stage costs
            inside whole nets, fitted over all nets.
        noisy: nets whose interval deserves doubt.
    """

    nets: tuple[CardNet, ...]
    mape_pct: float
    bias_pct: float
    within_pct: tuple[tuple[int, float], ...]
    spearman: float
    worst: CardNet
    stages_pct: tuple[tuple[str, float], ...]
    noisy: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        data = {**asdict(self), "within_pct": {str(k): v for k, v in self.within_pct}}
        data["stages_pct"] = dict(self.stages_pct)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in data.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Card:
        """What `to_json` gave, as a table file holds it.

        Raises:
            ValueError: if a field is missing, unknown, or no value that a card can have.
        """
        if set(data) != {f.name for f in fields(cls)}:
            raise ValueError(f"fields {shown(sorted(data))}, expected those of a card")
        if type(data["nets"]) is not list or not 0 < len(data["nets"]) <= MAX_NETS:
            raise ValueError(f"nets={shown(data['nets'])}, expected 1 to {MAX_NETS:,}")
        for name in ("within_pct", "stages_pct"):
            if type(data[name]) is not dict:
                raise ValueError(f"{name}={shown(data[name])}, expected an object")
        rank = data["spearman"]  # of nets that are all alike there is none
        return cls(
            nets=tuple(map(_net_of, data["nets"])),
            mape_pct=_number(data["mape_pct"], "mape_pct"),
            bias_pct=_number(data["bias_pct"], "bias_pct"),
            within_pct=tuple(
                (_limit(limit), _number(share, "within_pct"))
                for limit, share in data["within_pct"].items()
            ),
            spearman=math.nan if rank is None else _number(rank, "spearman"),
            worst=_net_of(data["worst"]),
            stages_pct=tuple(
                (check_text(name), _number(residual, "stages_pct"))
                for name, residual in data["stages_pct"].items()
            ),
            noisy=int(_number(data["noisy"], "noisy")),
            seconds=_number(data["seconds"], "seconds"),
        )

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.0f} % within ±{limit} %" for limit, share in self.within_pct)
        worst = self.worst
        stages = ", ".join(f"{name} {residual:+.1f} %" for name, residual in self.stages_pct)
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


def _net_of(values: object) -> CardNet:
    names = [f.name for f in fields(CardNet)]
    if type(values) is not dict or set(values) != set(names):
        raise ValueError(f"{shown(values)}, expected {', '.join(names)}")
    table_ms, measured_ms, half_width_pct, macs = (_number(values[n], n) for n in names)
    if not (table_ms > 0 and measured_ms > 0 and half_width_pct >= 0):
        raise ValueError(f"{shown(values)} is no latency of a net")
    return CardNet(table_ms, measured_ms, half_width_pct, int(macs))


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 4):
        raise ValueError(f"within_pct holds {shown(text)}, expected a whole percentage")
    return int(text)


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not abs(value) <= MAX_NUMBER:
        raise ValueError(f"{name}={shown(value)}, expected a number")
    return float(value)

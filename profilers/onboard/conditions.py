"""What a device was doing while it was measured: clocks, heat, who else used it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

LOOK_EVERY_S = 1.0
QUOTA_PERIODS = "quota_periods_throttled"  # a reading that only grows, while a quota holds back


@dataclass(frozen=True)
class Conditions:
    """A device at one moment.

    Attributes:
        readings: (name with its unit, value), such as ("sm_clock_mhz", 1980.0).
        doubts: reasons to doubt figures taken now, such as "throttled: power cap".
    """

    readings: tuple[tuple[str, float | str], ...] = ()
    doubts: tuple[str, ...] = ()


class Watch:
    """Looks at a device before, during and after a measurement.

    Args:
        conditions: reads them; None where nothing is known of a device.
    """

    def __init__(self, conditions: Callable[[], Conditions] | None = None):
        self._conditions = conditions
        self._due = -math.inf
        self._looks = 0
        self._doubts: Counter[str] = Counter()
        self._numbers: dict[str, list[float]] = {}  # first, lowest, highest, last
        self._texts: dict[str, list[str]] = {}

    def look(self, now_s: float, *, at_once: bool = False) -> None:
        """Read the conditions, at most every second unless `at_once`."""
        if self._conditions is not None and (at_once or now_s >= self._due):
            self._due = now_s + LOOK_EVERY_S
            self.add(self._conditions())

    def add(self, seen: Conditions) -> None:
        self._looks += 1
        self._doubts.update(dict.fromkeys(seen.doubts, 1))
        for name, value in seen.readings:
            if isinstance(value, str):
                texts = self._texts.setdefault(name, [])
                if value not in texts:
                    texts.append(value)
            else:
                row = self._numbers.setdefault(name, [value] * 4)
                row[1], row[2], row[3] = min(row[1], value), max(row[2], value), value

    @property
    def doubts(self) -> tuple[str, ...]:
        """Each with the share of looks that saw it."""
        seen = [
            f"{doubt} (seen in {count} of {self._looks} looks)"
            for doubt, count in self._doubts.items()
        ]
        first, _, _, last = self._numbers.get(QUOTA_PERIODS, [0.0] * 4)
        if last > first:
            seen.append(f"a CPU quota held the process back in {last - first:.0f} periods")
        return tuple(seen)

    def texts(self, name: str) -> tuple[str, ...]:
        """All values so far of a reading that isn't a number."""
        return tuple(self._texts.get(name, ()))

    def to_json(self) -> dict[str, dict[str, float] | list[str]]:
        """By reading: the first, lowest, highest and last number, or all texts."""
        names = ("first", "low", "high", "last")
        numbers = {k: dict(zip(names, row, strict=True)) for k, row in self._numbers.items()}
        return {**numbers, **self._texts}

    def __str__(self) -> str:
        parts = [
            f"{name} {first:g}"
            if low == high
            else f"{name} {first:g} to {last:g} (between {low:g} and {high:g})"
            for name, (first, low, high, last) in self._numbers.items()
        ]
        parts += [f"{name} {', '.join(values)}" for name, values in self._texts.items()]
        return "; ".join(parts)

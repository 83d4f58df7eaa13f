"""What a device said about itself while it was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """One look at a device.

    Attributes:
        readings: (name, value), the unit at the end of the name: ("sm_clock_mhz", 1980.0).
        doubts: reasons to doubt figures that are taken now, as "throttled: power cap".
    """

    readings: tuple[tuple[str, float | str], ...] = ()
    doubts: tuple[str, ...] = ()

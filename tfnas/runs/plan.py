"""What a search planned from its minutes: plan.json, and a part of result.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.decode import Positive, encode, load

MAX_BYTES = 1_000_000
HEADER = {"format": "tfnas.plan/1"}
Value = int | float | None
Seconds = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Plan:
    """What is done in the time, and how long each stage is expected to take.

    Attributes:
        minutes: that were given.
        values: chosen options, by dotted key; what was given beside `minutes` isn't among them.
        seconds: by stage, as in `Result.seconds`; of what is measured on the device, at most.
        lines: the plan as it is told.
    """

    minutes: Positive
    values: Mapping[str, Value]
    seconds: Mapping[str, Seconds]
    lines: tuple[str, ...]

    def save(self, path: Path) -> None:
        write_atomically(path, encode(self, HEADER))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what `save` wrote. Raises ValueError if it is unreadable or no plan."""
        return load(path, cls, "plan of a search", MAX_BYTES, HEADER)

"""A found network as a table of ops, complete without its space."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from tfnas.files.atomic import write_atomically
from tfnas.files.bounded import MAX_NAME, check_text, parse_json, read_bytes, shown
from tfnas.space.ops import MAX_LAYERS, MAX_VALUES, OP_FIELDS, OpSpec

MAX_SUBNET_BYTES = 1_000_000
SUBNET_FORMAT = "tfnas.subnet/1"


@dataclass(frozen=True)
class Subnet:
    """A found network: a table of ops, complete without the space it came from.

    Raises:
        ValueError: if an op doesn't take what the one before it gives, or it is no network that
            can be built.
    """

    space: str
    stem: tuple[OpSpec, ...]
    stages: tuple[tuple[OpSpec, ...], ...]
    head: tuple[OpSpec, ...]

    def __post_init__(self) -> None:
        ops = self.ops
        if not ops or not ops[-1].classifies:
            raise ValueError("a subnet must end with a classifier")
        if len(ops) > MAX_LAYERS or sum(op.weights for op in ops) > MAX_VALUES:
            raise ValueError(
                f"a subnet of {len(ops):,} ops with {sum(op.weights for op in ops):,} weights: "
                f"{MAX_LAYERS:,} and {MAX_VALUES:,} are the most"
            )
        if not all(self.stages):
            raise ValueError("a stage of a subnet is empty: expected one block or more")
        for op in ops:
            if op.is_curve:
                raise ValueError(f"{op} has no mid width: expected 1 or more")
        for before, after in pairwise(ops):
            if (before.out_size, before.c_out) != (after.size, after.c_in):
                raise ValueError(
                    f"{after} can't follow {before}: it gets "
                    f"{before.out_size}px with {before.c_out} channels"
                )
            if before.classifies:
                raise ValueError("a classifier must be the last op of a subnet")

    @cached_property
    def ops(self) -> tuple[OpSpec, ...]:
        return (*self.stem, *(op for stage in self.stages for op in stage), *self.head)

    @property
    def fixed(self) -> tuple[OpSpec, ...]:
        """Stem and head: what the search doesn't change."""
        return (*self.stem, *self.head)

    @property
    def blocks(self) -> tuple[OpSpec, ...]:
        return tuple(op for stage in self.stages for op in stage)

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.stages)

    @property
    def resolution(self) -> int:
        return self.ops[0].size

    @property
    def in_channels(self) -> int:
        return self.ops[0].c_in

    @property
    def classes(self) -> int:
        return self.ops[-1].c_out

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.ops)

    def with_widths(self, widths: Sequence[int]) -> Subnet:
        """The same ops and depths with other mid widths, one for each searched block."""
        if len(widths) != len(self.blocks):
            raise ValueError(f"{len(widths)} widths for {len(self.blocks)} blocks")
        it = iter(widths)
        stages = tuple(tuple(replace(op, c_mid=next(it)) for op in s) for s in self.stages)
        return replace(self, stages=stages)

    def to_json(self) -> str:
        def rows(ops: Sequence[OpSpec]) -> list[dict[str, Any]]:
            return [{name: getattr(op, name) for name in OP_FIELDS} for op in ops]

        data = {
            "format": SUBNET_FORMAT,
            "space": self.space,
            "stem": rows(self.stem),
            "stages": [rows(stage) for stage in self.stages],
            "head": rows(self.head),
        }
        return json.dumps(data, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "subnet") -> Subnet:
        """Raises ValueError, naming `source`, if the text is no valid subnet."""
        if len(text) > MAX_SUBNET_BYTES:
            raise ValueError(f"{source}: {len(text)} bytes are more than any subnet has")
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{source} {error}") from None
        if not isinstance(data, dict) or data.get("format") != SUBNET_FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{source}: found format {shown(found)}, expected {SUBNET_FORMAT!r}")
        names = ("format", "space", "stem", "stages", "head")
        if set(data) != set(names):
            raise ValueError(
                f"{source} is no valid subnet: it has {shown(sorted(data))}, expected "
                f"{', '.join(names)}"
            )
        try:
            if type(data["stages"]) is not list:
                raise ValueError(f"stages is {shown(data['stages'])}, expected a list")
            return cls(
                space=check_text(data["space"], MAX_NAME),
                stem=_ops_of(data["stem"]),
                stages=tuple(_ops_of(stage) for stage in data["stages"]),
                head=_ops_of(data["head"]),
            )
        except ValueError as error:
            raise ValueError(f"{source} is no valid subnet: {error}") from None

    def save(self, path: Path) -> None:
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Subnet:
        try:
            text = read_bytes(path, MAX_SUBNET_BYTES).decode()
        except (OSError, ValueError) as error:
            raise ValueError(f"can't read the subnet {path}: {error}") from None
        return cls.from_json(text, str(path))


def _ops_of(rows: object) -> tuple[OpSpec, ...]:
    if type(rows) is not list:
        raise ValueError(f"found {shown(rows)}, expected a list of ops")
    for row in rows:
        if type(row) is not dict or set(row) != set(OP_FIELDS):
            found = sorted(row) if type(row) is dict else row
            raise ValueError(f"an op has the fields {shown(found)}, expected {sorted(OP_FIELDS)}")
    return tuple(OpSpec(**row) for row in rows)

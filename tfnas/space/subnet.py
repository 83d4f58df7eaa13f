"""A found network as a table of ops, complete without its space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.bounded import MAX_NAME, read_bytes
from tfnas.files.decode import decode, encode
from tfnas.space.ops import MAX_LAYERS, MAX_VALUES, OpSpec
from tfnas.space.size import Size

MAX_SUBNET_BYTES = 1_000_000
HEADER = {"format": "tfnas.subnet/1"}


@dataclass(frozen=True)
class Subnet:
    """A found network: a table of ops, complete without the space it came from.

    Raises:
        ValueError: if an op doesn't take what the one before it gives, or it is no network that
            can be built.
    """

    space: Annotated[str, Meta(max_length=MAX_NAME)]
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
    def resolution(self) -> Size:
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

    @property
    def params(self) -> int:
        return sum(op.params for op in self.ops)

    def with_widths(self, widths: Sequence[int]) -> Subnet:
        """The same ops and depths with other mid widths, one for each searched block."""
        if len(widths) != len(self.blocks):
            raise ValueError(f"{len(widths)} widths for {len(self.blocks)} blocks")
        it = iter(widths)
        stages = tuple(tuple(replace(op, c_mid=next(it)) for op in s) for s in self.stages)
        return replace(self, stages=stages)

    def with_classes(self, classes: int) -> Subnet:
        """The same net with a classifier of so many outputs."""
        last = replace(self.head[-1], c_out=classes)
        return replace(self, head=(*self.head[:-1], last))

    def to_json(self) -> str:
        return encode(self, HEADER)

    @classmethod
    def from_json(cls, text: str, source: str = "subnet") -> Subnet:
        """Raises ValueError, naming `source`, if the text is no valid subnet."""
        if len(text) > MAX_SUBNET_BYTES:
            raise ValueError(f"{source}: {len(text)} bytes are more than any subnet has")
        try:
            return decode(text, cls, HEADER)
        except ValueError as error:
            raise ValueError(f"{source} is no valid subnet: it {error}") from None

    def save(self, path: str | Path) -> None:
        write_atomically(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Subnet:
        try:
            text = read_bytes(Path(path), MAX_SUBNET_BYTES).decode()
        except (OSError, ValueError) as error:
            raise ValueError(f"can't read the subnet {path}: {error}") from None
        return cls.from_json(text, str(path))

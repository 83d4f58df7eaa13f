"""What can be searched: stages of blocks of candidate ops."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tfnas.files.bounded import shown
from tfnas.space.ops import OpSpec
from tfnas.space.size import Size
from tfnas.space.subnet import Subnet


@dataclass(frozen=True, slots=True)
class Choice:
    """One candidate op of one block: all but the mid width is fixed.

    Attributes:
        op: the op at its initial mid width.
        widths: the admissible mid widths, ascending; the initial one is among them. An op without
            a mid width has one, 0.
    """

    op: OpSpec
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if list(self.widths) != sorted(set(self.widths)) or self.op.c_mid not in self.widths:
            raise ValueError(
                f"widths {shown(self.widths)} of {self.op}: expected ascending widths with the "
                "initial one"
            )
        self.at(self.widths[-1])  # raises if it is too wide

    def at(self, width: int) -> OpSpec:
        return replace(self.op, c_mid=width)

    @property
    def name(self) -> str:
        """For logs and plots, such as `k5_e6_se`."""
        if not self.op.has_width:
            return self.op.kind if self.op.kernel == 1 else f"{self.op.kind}{self.op.kernel}"
        se = "_se" if self.op.c_se else ""
        return f"k{self.op.kernel}_e{round(self.op.c_mid / self.op.c_in)}{se}"


Block = tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of blocks, of which the first `depth` are kept: `min_depth` <= depth <= len(blocks)."""

    blocks: tuple[Block, ...]
    min_depth: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_depth <= len(self.blocks):
            raise ValueError(
                f"min_depth={self.min_depth} of a stage of {len(self.blocks)} blocks: "
                f"expected 1 to {len(self.blocks)}"
            )

    @property
    def depths(self) -> range:
        return range(self.min_depth, len(self.blocks) + 1)


@dataclass(frozen=True)
class SearchSpace:
    """What can be searched: a fixed stem and head, and stages of blocks of candidate ops.

    Attributes:
        quantum: all searched widths are multiples of it (see `profilers.tables.quantum`); a
            candidate of one width keeps it.
    """

    name: str
    resolution: Size
    stem: tuple[OpSpec, ...]
    stages: tuple[Stage, ...]
    head: tuple[OpSpec, ...]
    quantum: int = 1

    @property
    def fixed(self) -> tuple[OpSpec, ...]:
        return (*self.stem, *self.head)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All searched blocks, in order, whatever their stage."""
        return tuple(block for stage in self.stages for block in stage.blocks)

    @cached_property
    def key(self) -> str:
        """Name, resolution and a digest of what is searched, such as `tfnas@224-1f2e3d`.

        It doesn't depend on stem and head, and so not on the number of classes.
        """
        stages = [
            (stage.min_depth, [[(str(c.op), c.widths) for c in block] for block in stage.blocks])
            for stage in self.stages
        ]
        digest = hashlib.sha256(json.dumps(stages).encode()).hexdigest()[:6]
        return f"{self.name}@{self.resolution}-{digest}"

    @cached_property
    def skeleton(self) -> str:
        """As `key`, but for the widths that ops may have: those go by the device's quantum."""
        stages = [
            (stage.min_depth, [[str(c.op.curve) for c in block] for block in stage.blocks])
            for stage in self.stages
        ]
        digest = hashlib.sha256(json.dumps(stages).encode()).hexdigest()[:6]
        return f"{self.name}@{self.resolution}-{digest}"

    @property
    def in_channels(self) -> int:
        return self.stem[0].c_in

    @property
    def classes(self) -> int:
        return self.head[-1].c_out

    def curves(self) -> dict[OpSpec, tuple[int, ...]]:
        """Every distinct `OpSpec.line` that costs anything, with its admissible widths, ascending.

        Blocks of one shape share their curves, and so do two expansions without squeeze-excite.
        """
        merged: dict[OpSpec, set[int]] = {}
        for block in self.blocks:
            for choice in block:
                if choice.op.free:
                    continue
                merged.setdefault(choice.op.line, set()).update(choice.widths)
        return {curve: tuple(sorted(widths)) for curve, widths in merged.items()}

    def ops(self) -> Iterator[OpSpec]:
        """Every distinct op of the space: exactly what a full table would hold."""
        fixed = dict.fromkeys(op for op in self.fixed if not op.free)
        yield from fixed
        for curve, widths in self.curves().items():
            yield from (op for w in widths if (op := replace(curve, c_mid=w)) not in fixed)

    def subnet(self, depths: Sequence[int], picks: Sequence[int], widths: Sequence[int]) -> Subnet:
        """The subnet of these choices.

        Args:
            depths: one for each stage.
            picks, widths: index of the op and mid width for every block of the space, also for
                the blocks that the depths cut off (whose entries are ignored).
        """
        stages, first = [], 0
        for stage, depth in zip(self.stages, depths, strict=True):
            kept = range(first, first + depth)
            stages.append(tuple(self.blocks[b][picks[b]].at(widths[b]) for b in kept))
            first += len(stage.blocks)
        return Subnet(self.name, self.stem, tuple(stages), self.head)

    def sample(self, rng: random.Random) -> Subnet:
        """A random subnet: depths, ops and widths uniform and independent."""
        depths = [rng.choice(stage.depths) for stage in self.stages]
        picks = [rng.randrange(len(block)) for block in self.blocks]
        pairs = zip(self.blocks, picks, strict=True)
        widths = [rng.choice(block[pick].widths) for block, pick in pairs]
        return self.subnet(depths, picks, widths)

    def choices_of(self, subnet: Subnet) -> tuple[tuple[int, ...], ...]:
        """For each stage, the indices of the subnet's ops among the candidates of their blocks.

        Where two candidates admit the same op (e3 and e6 without squeeze-excite meet where their
        width ranges do) it is the one whose initial width is nearer, then the first.

        Raises:
            ValueError: if the subnet is not in this space.
        """
        if (subnet.stem, subnet.head) != (self.stem, self.head):
            raise ValueError(f"the subnet's stem or head is not that of the space {self.name}")
        if len(subnet.stages) != len(self.stages):
            raise ValueError(
                f"the subnet has {len(subnet.stages)} stages, the space {len(self.stages)}"
            )
        picks = []
        for stage, ops in zip(self.stages, subnet.stages, strict=True):
            if len(ops) not in stage.depths:
                raise ValueError(f"a stage of depth {len(ops)}: the space has {stage.depths}")
            row = []
            for block, op in zip(stage.blocks, ops, strict=False):
                found = [
                    (abs(choice.op.c_mid - op.c_mid), index)
                    for index, choice in enumerate(block)
                    if choice.op.curve == op.curve and op.c_mid in choice.widths
                ]
                if not found:
                    raise ValueError(f"{op} is no candidate of its block in the space {self.name}")
                row.append(min(found)[1])
            picks.append(tuple(row))
        return tuple(picks)

    def __contains__(self, subnet: object) -> bool:
        if not isinstance(subnet, Subnet):
            return False
        try:
            self.choices_of(subnet)
        except ValueError:
            return False
        return True

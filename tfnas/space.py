"""Search spaces and the networks found in them, as plain data.

An `OpSpec` is everything that the latency of one op depends on inside a device. The same object is
the key of a latency table, a row of its file, the argument of the module builder and an element of
a found network, so the table and the network can't disagree about what an op is.

Sizes are pixels, widths are channels. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from math import ceil, inf
from pathlib import Path
from typing import Any

from tfnas.files import write_atomically
from tfnas.untrusted import MAX_NAME, check_text, parse_json, read_bytes, shown

ACTIVATIONS = ("relu", "relu6", "swish", "hard_swish", "none")
KINDS = ("conv", "mbconv", "classifier")
# The fields that a kind doesn't have, with what they are then.
NOT_OF: Mapping[str, tuple[tuple[str, object], ...]] = {
    "conv": (("c_mid", 0), ("c_se", 0)),
    "mbconv": (),
    "classifier": (("c_mid", 0), ("c_se", 0), ("kernel", 1), ("stride", 1), ("act", "none")),
}
MAX_CHANNELS = 65_536
MAX_SIZE = 8_192
MAX_OPS = 1_000_000  # a space beyond this is refused before anything is allocated
MAX_LAYERS = 1_000  # of a space or a subnet
MAX_VALUES = 2**28  # weights of an op or a subnet, or values between two layers: 1 GiB in float32
MAX_SUBNET_BYTES = 1_000_000
SUBNET_FORMAT = "tfnas.subnet/1"


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op with everything that its latency depends on inside a device.

    Kinds: `conv` is convolution, batch norm, activation. `mbconv` is the inverted residual block of
    MobileNetV2 (arXiv 1801.04381), with squeeze-excite if `c_se` > 0, and without the expanding 1x1
    convolution where `c_mid` equals `c_in`. `classifier` is global average pooling and one linear
    layer. Fields that a kind doesn't have are 0 (`stride` and `kernel`: 1; `act`: "none").

    Raises:
        ValueError: for a field that is out of range, and for an op too large to be built.
    """

    kind: str
    size: int  # pixels, height = width of the input
    c_in: int
    c_mid: int
    c_se: int  # channels of the squeeze-excite bottleneck, 0 for none
    c_out: int
    kernel: int
    stride: int
    act: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"op kind {shown(self.kind)}: expected one of {', '.join(KINDS)}")
        if self.act not in ACTIVATIONS:
            expected = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation {shown(self.act)}: expected one of {expected}")
        for name, low, high in (
            ("size", 1, MAX_SIZE),
            ("c_in", 1, MAX_CHANNELS),
            ("c_mid", 0, MAX_CHANNELS),
            ("c_se", 0, MAX_CHANNELS),
            ("c_out", 1, MAX_CHANNELS),
            ("kernel", 1, 31),
            ("stride", 1, 8),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(
                    f"{name}={shown(value)} of a {self.kind}: expected an integer from {low} to "
                    f"{high}"
                )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: expected an odd size")
        for name, none in NOT_OF[self.kind]:
            if getattr(self, name) != none:
                raise ValueError(
                    f"{name}={getattr(self, name)} of a {self.kind}, which has none: expected "
                    f"{none}"
                )
        for what, count in (("weights", self.weights), ("values in a layer", self.values)):
            if count > MAX_VALUES:
                raise ValueError(f"{self}: {count:,} {what}, {MAX_VALUES:,} are the most")

    @property
    def out_size(self) -> int:
        """Height and width of the output in pixels ("same" padding of kernel // 2)."""
        return 1 if self.kind == "classifier" else ceil(self.size / self.stride)

    @property
    def expands(self) -> bool:
        return self.kind == "mbconv" and self.c_mid != self.c_in

    @property
    def residual(self) -> bool:
        return self.kind == "mbconv" and self.stride == 1 and self.c_in == self.c_out

    @property
    def curve(self) -> OpSpec:
        """The op with its mid width left open: the key that all widths of a curve share."""
        return replace(self, c_mid=0)

    @property
    def weights(self) -> int:
        """Those of convolutions and linear layers, without biases."""
        if self.kind == "mbconv":
            expand = self.c_in if self.expands else 0
            return self.c_mid * (expand + self.kernel**2 + 2 * self.c_se + self.c_out)
        return self.kernel**2 * self.c_in * self.c_out

    @property
    def values(self) -> int:
        """The most that are between two layers, for one image."""
        inner = max(self.c_in, self.c_mid) * self.size**2
        return max(inner, max(self.c_mid, self.c_out) * self.out_size**2)

    @property
    def is_curve(self) -> bool:
        """Whether its mid width is left open, so that it can't be built; see `curve`."""
        return self.kind == "mbconv" and self.c_mid == 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, convolutions and linear layers only."""
        out = self.out_size**2
        if self.kind == "conv":
            return self.kernel**2 * self.c_in * self.c_out * out
        if self.kind == "classifier":
            return self.c_in * self.c_out
        expand = self.c_in * self.c_mid * self.size**2 if self.expands else 0
        depthwise = self.kernel**2 * self.c_mid * out
        return expand + depthwise + 2 * self.c_mid * self.c_se + self.c_mid * self.c_out * out

    def __str__(self) -> str:
        if self.kind == "classifier":
            return f"classifier {self.c_in}→{self.c_out}"
        mid = f"·{self.c_mid}" if self.kind == "mbconv" else ""
        se = f" se{self.c_se}" if self.c_se else ""
        return (
            f"{self.kind} {self.size}px {self.c_in}{mid}→{self.c_out} "
            f"k{self.kernel} s{self.stride}{se} {self.act}"
        )


OP_FIELDS = tuple(f.name for f in fields(OpSpec))


@dataclass(frozen=True, slots=True)
class Choice:
    """One candidate op of one block: all but the mid width is fixed.

    Attributes:
        op: the op at its initial mid width.
        widths: the admissible mid widths, ascending; the initial one is among them.
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
        if not ops or ops[-1].kind != "classifier":
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
            if before.kind == "classifier":
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


@dataclass(frozen=True)
class SearchSpace:
    """What can be searched: a fixed stem and head, and stages of blocks of candidate ops.

    Attributes:
        quantum: all searched widths are multiples of it (see `profilers.quantum`).
    """

    name: str
    resolution: int
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

    @property
    def in_channels(self) -> int:
        return self.stem[0].c_in

    @property
    def classes(self) -> int:
        return self.head[-1].c_out

    def curves(self) -> dict[OpSpec, tuple[int, ...]]:
        """Every distinct curve with its admissible widths, ascending.

        Blocks of one shape share their curves, and so do two expansions without squeeze-excite.
        """
        merged: dict[OpSpec, set[int]] = {}
        for block in self.blocks:
            for choice in block:
                merged.setdefault(choice.op.curve, set()).update(choice.widths)
        return {curve: tuple(sorted(widths)) for curve, widths in merged.items()}

    def ops(self) -> Iterator[OpSpec]:
        """Every distinct op of the space: exactly what a full table would hold."""
        yield from dict.fromkeys(self.fixed)
        for curve, widths in self.curves().items():
            for width in widths:
                yield replace(curve, c_mid=width)

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


@dataclass
class LayerSpec:
    """One fixed layer of stem or head, as a space's YAML gives it."""

    kind: str = "conv"  # conv | mbconv | classifier
    c_out: int = 0  # channels; a classifier takes the number of classes
    kernel: int = 1
    stride: int = 1
    act: str = "none"
    expansion: int = 1  # mbconv: mid width / input width
    c_se: int = 0  # mbconv: channels of the squeeze-excite bottleneck


@dataclass
class ExpansionSpec:
    """One expansion of the candidate ops: widths and squeeze-excite as multiples of c_in."""

    ratio: float = 3  # initial mid width / c_in
    min_ratio: float = 2  # smallest mid width / c_in
    max_ratio: float = 4  # largest mid width / c_in
    se_ratio: float = 1  # squeeze-excite channels / c_in


@dataclass
class StageSpec:
    """One searched stage, as a space's YAML gives it."""

    c_out: int = 0
    depth: int = 1  # largest number of blocks
    min_depth: int = 1
    stride: int = 1  # of the first block
    act: str = "relu"


PARTS = {
    "stem": LayerSpec, "kernels": int, "expansions": ExpansionSpec, "squeeze_excite": bool,
    "stages": StageSpec, "head": LayerSpec,
}  # fmt: skip


@dataclass
class SpaceSpec:
    """A search space as its YAML file gives it (conf/space/)."""

    name: str
    resolution: int  # pixels, of the deployed net
    in_channels: int
    classes: int | None  # null: as many as the data has
    stem: list[LayerSpec]
    kernels: list[int]
    expansions: list[ExpansionSpec]
    squeeze_excite: list[bool]
    stages: list[StageSpec]
    head: list[LayerSpec]

    def build(self, quantum: int = 1) -> SearchSpace:
        """The space with every searched width a multiple of `quantum`.

        Candidates are ordered as published: without squeeze-excite first, then by kernel, then by
        expansion (TF-NAS, arXiv 2008.05314).

        Raises:
            ValueError: for values that give no network, or more than `MAX_OPS` ops.
        """
        if type(quantum) is not int or quantum < 1:
            raise ValueError(f"quantum={shown(quantum)}: expected 1 or more")
        try:
            check_text(self.name, MAX_NAME)
        except ValueError as error:
            raise ValueError(f"space: its name {error}") from None
        if self.classes is None:
            raise ValueError(f"space {self.name}: the number of classes is not known")
        for name, kind in PARTS.items():
            values = getattr(self, name)
            # An interpolation in a YAML file can put anything here.
            if type(values) is not list or not all(type(value) is kind for value in values):
                raise ValueError(f"space {self.name}: {name} is {shown(values)}, expected a list")
            if not values:
                raise ValueError(f"space {self.name}: {name} is empty")
        self._refuse_huge(quantum)
        for name in ("kernels", "squeeze_excite"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"space {self.name}: {name} holds {shown(values)}, one twice")
        stem, c, size = self._fixed(self.stem, self.in_channels, self.resolution)
        stages = []
        for spec in self.stages:
            if not 1 <= spec.depth <= 64:
                raise ValueError(f"space {self.name}: depth={spec.depth} of a stage, expected 1-64")
            blocks = []
            for index in range(spec.depth):
                stride = spec.stride if index == 0 else 1
                blocks.append(self._block(spec, size, c, stride, quantum))
                c, size = spec.c_out, ceil(size / stride)
            stages.append(Stage(tuple(blocks), spec.min_depth))
        head, _, _ = self._fixed(self.head, c, size)
        if head[-1].kind != "classifier":
            raise ValueError(f"space {self.name}: the head must end with kind: classifier")
        space = SearchSpace(self.name, self.resolution, stem, tuple(stages), head, quantum)
        weights = sum(max(c.at(c.widths[-1]).weights for c in block) for block in space.blocks)
        weights += sum(op.weights for op in space.fixed)
        if weights > MAX_VALUES:
            raise ValueError(
                f"space {self.name}: nets of up to {weights:,} weights, {MAX_VALUES:,} are the most"
            )
        return space

    def _refuse_huge(self, quantum: int) -> None:
        layers = len(self.stem) + len(self.head) + sum(max(s.depth, 0) for s in self.stages)
        widest = max(
            self.in_channels, *(layer.c_out for layer in self.stem), *(s.c_out for s in self.stages)
        )
        try:
            spans = [(e.max_ratio - e.min_ratio) * widest / quantum for e in self.expansions]
            ops = float(sum(max(span, 1) for span in spans)) * layers  # a nan stays
            ops *= len(self.kernels) * len(self.squeeze_excite)
        except OverflowError:
            ops = inf
        if not ops <= MAX_OPS:
            raise ValueError(
                f"space {self.name}: up to {ops:.3g} ops, {MAX_OPS} are the most; "
                "use fewer candidates or a narrower range of widths"
            )
        if layers > MAX_LAYERS:
            raise ValueError(f"space {self.name}: {layers} layers, {MAX_LAYERS} are the most")
        for e in self.expansions:
            if not all(0 <= ratio <= MAX_CHANNELS for ratio in vars(e).values()):
                raise ValueError(
                    f"space {self.name}: {e}: expected ratios from 0 to {MAX_CHANNELS}"
                )

    def _fixed(
        self, layers: Sequence[LayerSpec], c: int, size: int
    ) -> tuple[tuple[OpSpec, ...], int, int]:
        assert self.classes is not None
        ops = []
        for layer in layers:
            if layer.kind == "classifier":
                op = OpSpec("classifier", size, c, 0, 0, self.classes, 1, 1, "none")
            else:
                mid = c * layer.expansion if layer.kind == "mbconv" else 0
                op = OpSpec(
                    layer.kind, size, c, mid, layer.c_se, layer.c_out,
                    layer.kernel, layer.stride, layer.act,
                )  # fmt: skip
            ops.append(op)
            c, size = op.c_out, op.out_size
        return tuple(ops), c, size

    def _block(self, spec: StageSpec, size: int, c: int, stride: int, quantum: int) -> Block:
        choices = []
        for se in self.squeeze_excite:
            for kernel in self.kernels:
                for e in self.expansions:
                    widths = _grid(e.min_ratio * c, e.max_ratio * c, quantum)
                    if widths[0] <= c:
                        raise ValueError(
                            f"space {self.name}: a mid width of {widths[0]} for {c} input "
                            "channels; min_ratio must be above 1"
                        )
                    initial = min(widths, key=lambda w: (abs(w - e.ratio * c), w))
                    c_se = round(e.se_ratio * c) if se else 0
                    op = OpSpec(
                        "mbconv", size, c, initial, c_se, spec.c_out, kernel, stride, spec.act
                    )
                    choices.append(Choice(op, widths))
        return tuple(choices)


def _grid(low: float, high: float, quantum: int) -> tuple[int, ...]:
    """Multiples of `quantum` from low to high; where there is none, the first one above low."""
    if not 0 < low <= high:
        raise ValueError(f"mid widths from {low:g} to {high:g}: expected 0 < lowest <= highest")
    first = ceil(low / quantum) * quantum
    return tuple(range(first, int(high) + 1, quantum)) or (first,)

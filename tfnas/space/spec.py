"""A search space as its YAML tells it (conf/space/)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any

from tfnas.files.bounded import MAX_NAME, check_text, shown
from tfnas.process.checks import lookup
from tfnas.space.ops import (
    KINDS,
    MAX_CHANNELS,
    MAX_LAYERS,
    MAX_OPS,
    MAX_VALUES,
    OpSpec,
    divisible,
)
from tfnas.space.search_space import Block, Choice, SearchSpace, Stage
from tfnas.space.size import Size, size_given, strided


@dataclass
class LayerSpec:
    """One fixed layer of stem or head, as a space's YAML gives it."""

    kind: str = "conv"  # conv | mbconv | mbconv_v3 | pooled_conv | pooled_linear | classifier
    c_out: int = 0  # channels; a classifier takes the number of classes
    kernel: int = 1
    stride: int = 1
    act: str = "none"
    expansion: int = 1  # mbconv: mid width / input width
    c_se: int = 0  # mbconv: channels of the squeeze-excite bottleneck


@dataclass
class CandidateSpec:
    """One candidate op, widths and squeeze-excite as multiples of c_in.

    Attributes:
        kind: `identity` stands only in blocks that keep size and channels; `skip` is the same, and
            a 1x1 convolution with batch norm in the others.
    """

    kind: str = "mbconv"  # mbconv | mbconv_v3 | conv | identity | skip
    kernel: int = 3
    ratio: float = 3  # initial mid width / c_in
    min_ratio: float | None = None  # smallest mid width / c_in; null: as ratio
    max_ratio: float | None = None  # largest mid width / c_in; null: as ratio
    se_ratio: float = 0  # squeeze-excite channels / c_in; 0: none
    se_divisor: int = 1  # squeeze-excite channels are a multiple of it
    act: str | None = None  # null: that of the stage; of a skip's convolution: none


@dataclass
class ExpansionSpec:
    """One expansion of the candidates that kernels and squeeze-excite are combined with."""

    ratio: float = 3  # initial mid width / c_in
    min_ratio: float | None = None  # smallest mid width / c_in; null: as ratio
    max_ratio: float | None = None  # largest mid width / c_in; null: as ratio
    se_ratio: float = 1  # squeeze-excite channels / c_in
    se_divisor: int = 1  # squeeze-excite channels are a multiple of it
    se_kind: str = "mbconv"  # mbconv | mbconv_v3, of the candidates with squeeze-excite


@dataclass
class StageSpec:
    """One searched stage, as a space's YAML gives it.

    A list of candidates that it has stands in place of the space's.
    """

    c_out: int = 0
    depth: int = 1  # largest number of blocks
    min_depth: int = 1
    stride: int = 1  # of the first block
    act: str = "relu"
    kernels: list[int] | None = None
    expansions: list[ExpansionSpec] | None = None
    squeeze_excite: list[bool] | None = None
    ops: list[CandidateSpec] | None = None


CANDIDATES: dict[str, type] = {
    "kernels": int, "expansions": ExpansionSpec, "squeeze_excite": bool, "ops": CandidateSpec,
}  # fmt: skip
PARTS = {"stem": LayerSpec, "stages": StageSpec, "head": LayerSpec}


@dataclass
class SpaceSpec:
    """A search space as its YAML file gives it (conf/space/).

    The candidates of a block are kernels x expansions x squeeze_excite, then `ops`.
    """

    name: str
    resolution: Any  # pixels of the deployed net: a side, or [height, width]
    in_channels: int
    classes: int | None  # null: as many as the data has
    stem: list[LayerSpec]
    stages: list[StageSpec]
    head: list[LayerSpec]
    kernels: list[int] = field(default_factory=list)
    expansions: list[ExpansionSpec] = field(default_factory=list)
    squeeze_excite: list[bool] = field(default_factory=lambda: [False])
    ops: list[CandidateSpec] = field(default_factory=list)

    @property
    def size(self) -> Size:
        """What `resolution` says. Raises ValueError if it is no size."""
        return size_given("space.resolution", self.resolution)

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
            self._check_list(name, getattr(self, name), kind)
            if not getattr(self, name):
                raise ValueError(f"space {self.name}: {name} is empty")
        for name, kind in CANDIDATES.items():
            for part in (self, *self.stages):
                if getattr(part, name) is not None or part is self:
                    self._check_list(name, getattr(part, name), kind)
        self._refuse_huge(quantum)
        for name in ("kernels", "squeeze_excite", "ops"):
            for values in (self._list(stage, name) for stage in self.stages):
                if any(value in values[:index] for index, value in enumerate(values)):
                    raise ValueError(f"space {self.name}: {name} holds {shown(values)}, one twice")
        stem, c, size = self._fixed(self.stem, self.in_channels, self.size)
        stages = []
        for spec in self.stages:
            if not 1 <= spec.depth <= 64:
                raise ValueError(f"space {self.name}: depth={spec.depth} of a stage, expected 1-64")
            blocks, candidates = [], self._candidates(spec)
            for index in range(spec.depth):
                stride = spec.stride if index == 0 else 1
                blocks.append(self._block(spec, candidates, size, c, stride, quantum))
                c, size = spec.c_out, strided(size, stride)
            stages.append(Stage(tuple(blocks), spec.min_depth))
        head, _, _ = self._fixed(self.head, c, size)
        if not head[-1].classifies:
            raise ValueError(f"space {self.name}: the head must end with kind: classifier")
        space = SearchSpace(self.name, self.size, stem, tuple(stages), head, quantum)
        weights = sum(max(c.at(c.widths[-1]).weights for c in block) for block in space.blocks)
        weights += sum(op.weights for op in space.fixed)
        if weights > MAX_VALUES:
            raise ValueError(
                f"space {self.name}: nets of up to {weights:,} weights, {MAX_VALUES:,} are the most"
            )
        return space

    def _check_list(self, name: str, values: Any, kind: type) -> None:
        # An interpolation in a YAML file can put anything here.
        if type(values) is not list or not all(type(value) is kind for value in values):
            raise ValueError(f"space {self.name}: {name} is {shown(values)}, expected a list")

    def _list(self, stage: StageSpec, name: str) -> list[Any]:
        """A stage's own list of that name, or else the space's."""
        own = getattr(stage, name)
        values: list[Any] = getattr(self, name) if own is None else own
        return values

    def _candidates(self, stage: StageSpec) -> list[CandidateSpec]:
        kernels, expansions, squeeze, ops = (self._list(stage, name) for name in CANDIDATES)
        if kernels or not ops:
            for name in ("kernels", "expansions", "squeeze_excite"):
                if not self._list(stage, name):
                    raise ValueError(f"space {self.name}: {name} is empty")
        combined = [
            CandidateSpec(
                e.se_kind if se else "mbconv", kernel, e.ratio, e.min_ratio, e.max_ratio,
                e.se_ratio if se else 0, e.se_divisor,
            )
            for se in squeeze
            for kernel in kernels
            for e in expansions
        ]  # fmt: skip
        return [*combined, *ops]

    def _refuse_huge(self, quantum: int) -> None:
        fixed = len(self.stem) + len(self.head)
        layers = fixed + sum(max(s.depth, 0) for s in self.stages)
        widest = max(
            self.in_channels, *(layer.c_out for layer in self.stem), *(s.c_out for s in self.stages)
        )
        ops = float(fixed)
        try:
            for stage in self.stages:
                kernels, expansions, squeeze, single = (self._list(stage, n) for n in CANDIDATES)
                spans = sum(_span(e) * widest / quantum + 1 for e in expansions)  # a nan stays
                spans *= len(kernels) * len(squeeze)
                spans += sum(_span(e) * widest / quantum + 1 for e in single)
                ops += spans * max(stage.depth, 0)
        except OverflowError:
            ops = inf
        if not ops <= MAX_OPS:
            raise ValueError(
                f"space {self.name}: up to {ops:.3g} ops, {MAX_OPS} are the most; "
                "use fewer candidates or a narrower range of widths"
            )
        if layers > MAX_LAYERS:
            raise ValueError(f"space {self.name}: {layers} layers, {MAX_LAYERS} are the most")
        specs = [e for s in self.stages for n in ("expansions", "ops") for e in self._list(s, n)]
        for e in specs:
            ratios = (e.ratio, e.min_ratio, e.max_ratio, e.se_ratio)
            if not all(r is None or 0 <= r <= MAX_CHANNELS for r in ratios):
                raise ValueError(
                    f"space {self.name}: {e}: expected ratios from 0 to {MAX_CHANNELS}"
                )
            if not 1 <= e.se_divisor <= MAX_CHANNELS:
                raise ValueError(f"space {self.name}: {e}: expected se_divisor of 1 or more")

    def _fixed(
        self, layers: Sequence[LayerSpec], c: int, size: Size
    ) -> tuple[tuple[OpSpec, ...], int, Size]:
        assert self.classes is not None
        ops = []
        for layer in layers:
            kind = lookup("op kind", layer.kind, KINDS)
            if kind.classifies:
                op = OpSpec(layer.kind, size, c, c_out=self.classes, **kind.lacks)
            else:
                mid = 0 if "c_mid" in kind.lacks else c * layer.expansion
                op = OpSpec(
                    layer.kind, size, c, mid, layer.c_se, layer.c_out,
                    layer.kernel, layer.stride, layer.act,
                )  # fmt: skip
            ops.append(op)
            c, size = op.c_out, op.out_size
        return tuple(ops), c, size

    def _block(
        self,
        stage: StageSpec,
        candidates: Sequence[CandidateSpec],
        size: Size,
        c: int,
        stride: int,
        quantum: int,
    ) -> Block:
        choices = []
        for spec in candidates:
            kind, act = spec.kind, spec.act or stage.act
            keeps = stride == 1 and c == stage.c_out
            if kind in ("identity", "skip") and keeps:
                op = OpSpec("identity", size, c, c_out=c, **KINDS["identity"].lacks)
            elif kind == "identity":
                continue
            elif kind in ("conv", "skip"):
                kernel, act = (spec.kernel, act) if kind == "conv" else (1, spec.act or "none")
                op = OpSpec("conv", size, c, 0, 0, stage.c_out, kernel, stride, act)
            elif kind in KINDS and "c_mid" not in KINDS[kind].lacks:
                widths = self._widths(spec, c, quantum)
                mid = min(widths, key=lambda w: (abs(w - spec.ratio * c), w))
                c_se = divisible(spec.se_ratio * c, spec.se_divisor)
                op = OpSpec(kind, size, c, mid, c_se, stage.c_out, spec.kernel, stride, act)
                choices.append(Choice(op, widths))
                continue
            else:
                raise ValueError(
                    f"space {self.name}: kind={shown(kind)} of a candidate, expected one of "
                    "mbconv, mbconv_v3, conv, identity, skip"
                )
            choices.append(Choice(op, (0,)))
        if not choices:
            raise ValueError(
                f"space {self.name}: a block from {c} to {stage.c_out} channels with stride "
                f"{stride} has no candidate but identity; give it another one, or kind: skip"
            )
        return tuple(choices)

    def _widths(self, spec: CandidateSpec, c: int, quantum: int) -> tuple[int, ...]:
        low, high = _range(spec)
        if low == high > 0:
            return (max(round(low * c), 1),)  # as given, whatever the device likes
        widths = _grid(low * c, high * c, quantum)
        if widths[0] <= c:
            raise ValueError(
                f"space {self.name}: a mid width of {widths[0]} for {c} input channels; min_ratio "
                "must be above 1"
            )
        return widths


def _range(spec: CandidateSpec | ExpansionSpec) -> tuple[float, float]:
    """Smallest and largest mid width / c_in."""
    low = spec.ratio if spec.min_ratio is None else spec.min_ratio
    return low, spec.ratio if spec.max_ratio is None else spec.max_ratio


def _span(spec: CandidateSpec | ExpansionSpec) -> float:
    low, high = _range(spec)
    return max(high - low, 0) if high == high and low == low else inf


def _grid(low: float, high: float, quantum: int) -> tuple[int, ...]:
    """Multiples of `quantum` from low to high; where there is none, the first one above low."""
    if not 0 < low <= high:
        raise ValueError(f"mid widths from {low:g} to {high:g}: expected 0 < lowest <= highest")
    first = ceil(low / quantum) * quantum
    return tuple(range(first, int(high) + 1, quantum)) or (first,)

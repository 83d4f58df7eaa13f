"""A search space as its YAML tells it (conf/space/)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from tfnas.files.bounded import MAX_NAME, check_text, shown
from tfnas.process.checks import lookup
from tfnas.space.ops import KINDS, MAX_CHANNELS, MAX_LAYERS, MAX_OPS, MAX_VALUES, OpSpec
from tfnas.space.search_space import Block, Choice, SearchSpace, Stage


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
        if not head[-1].classifies:
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

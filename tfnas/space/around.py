"""A space around a net: its skeleton, with candidates around its own ops in every block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import inf
from typing import Any

import yaml

from tfnas.space.ops import KINDS, OpSpec, divisible
from tfnas.space.size import sides
from tfnas.space.spec import CandidateSpec, ExpansionSpec, LayerSpec, SpaceSpec, StageSpec
from tfnas.space.subnet import Subnet

KERNELS = (3, 5)  # beside those of the net
SE_SHARE, SE_DIVISOR = 0.25, 8  # of mid channels, as in MobileNetV3, where the net has no such
DIVISORS = (1, 8, 4, 16)  # tried in this order
ALWAYS = ("kind", "c_out", "depth", "kernel", "stride", "act", "ratio")  # told, if not 0
DIGITS = 12  # of ratios, the fewest that give the width back


def staged(name: str, ops: Sequence[OpSpec]) -> Subnet:
    """A row of ops as a net with stem, stages and head. Ops that do nothing are left out.

    The stem is the first layer, with the blocks behind it that neither expand nor have a stride.
    The head is what follows the last block, and 1x1 convolutions before it. A stage begins where
    channels change or a block has a stride.

    Raises:
        ValueError: if no block is left between stem and head, or the ops are no net.
    """
    ops = [op for op in ops if not op.free]
    end = len(ops)
    while end and not ops[end - 1].has_width and ops[end - 1].kernel == ops[end - 1].stride == 1:
        end -= 1
    begin = 1
    while begin < end and _is_stem(ops[begin]):
        begin += 1
    if begin >= end:
        raise ValueError("it has no block to be searched between its first layer and its head")
    stages: list[list[OpSpec]] = []
    for before, op in pairwise(ops[begin - 1 : end]):
        if not stages or op.c_out != before.c_out or op.stride > 1:
            stages.append([])
        stages[-1].append(op)
    return Subnet(name, tuple(ops[:begin]), tuple(map(tuple, stages)), tuple(ops[end:]))


def _is_stem(op: OpSpec) -> bool:
    return op.has_width and not op.expands and op.stride == 1


@dataclass(frozen=True)
class Candidates:
    """What a space around a net has beside its own ops; None: chosen by the net.

    Attributes:
        kernels: None: 3, 5 and those of the stage.
        expansions: mid width / input width, each searched from 2/3 to 4/3 of it. None: the largest
            of the stage with half of it, or with twice as much where it is below 4.
        squeeze_excite: None: with and without where the net has any, else without.
    """

    kernels: Sequence[int] | None = None
    expansions: Sequence[float] | None = None
    squeeze_excite: Sequence[bool] | None = None


def space_around(net: Subnet, candidates: Candidates | None = None) -> SpaceSpec:
    """The space of a net's skeleton; the net is in it, whatever the quantum.

    Depths go from one block a stage to the net's. All candidates stand in all blocks of a stage.

    Raises:
        ValueError: for candidates that no space can have.
    """
    asked = candidates or Candidates()
    squeeze = _squeeze(net)
    stages = [_stage(stage, net, asked, squeeze) for stage in net.stages]
    size = sides(net.resolution)
    spec = SpaceSpec(
        net.space,
        resolution=size[0] if size[0] == size[1] else list(size),
        in_channels=net.in_channels,
        classes=net.classes,
        stem=[_layer(op) for op in net.stem],
        stages=stages,
        head=[_layer(op) for op in net.head],
    )
    for quantum in (1, 16):
        spec.build(quantum).choices_of(net)  # raises if it isn't in the space
    return _shared(spec)


def _layer(op: OpSpec) -> LayerSpec:
    if op.classifies:
        return LayerSpec(op.kind)
    return LayerSpec(
        op.kind, op.c_out, op.kernel, op.stride, op.act, c_se=op.c_se,
        expansion=op.c_mid // op.c_in if op.has_width else 1,
    )  # fmt: skip


@dataclass(frozen=True)
class _Squeeze:
    """How many channels a squeeze-excite has: a share of the input's, or of the mid width."""

    share: float
    divisor: int
    of_mid: bool
    kind: str

    def ratio(self, expansion: float) -> float:
        """Squeeze-excite channels / input channels, see `ExpansionSpec.se_ratio`."""
        return self.share * expansion if self.of_mid else self.share

    def channels(self, op: OpSpec) -> int:
        return divisible(self.ratio(op.c_mid / op.c_in) * op.c_in, self.divisor)


def _squeeze(net: Subnet) -> _Squeeze | None:
    """The rule that most blocks with squeeze-excite follow; None if there are none."""
    ops = [op for op in net.blocks if op.c_se]
    if not ops:
        return None
    kind = Counter(op.kind for op in ops).most_common(1)[0][0]
    rules = []
    for divisor in DIVISORS:
        for op in ops:
            rules.append(_Squeeze(_short(op.c_se, op.c_in), divisor, False, kind))
            rules.append(_Squeeze(_short(op.c_se, op.c_mid), divisor, True, kind))
        rules.append(_Squeeze(SE_SHARE, divisor, True, kind))
    return max(rules, key=lambda rule: sum(rule.channels(op) == op.c_se for op in ops))


def _stage(
    ops: Sequence[OpSpec], net: Subnet, asked: Candidates, squeeze: _Squeeze | None
) -> StageSpec:
    kernels = asked.kernels
    if kernels is None:
        kernels = tuple(sorted({*KERNELS, *(op.kernel for op in ops if op.has_width)}))
    own = [op.c_mid / op.c_in for op in ops if op.expands]
    if asked.expansions is not None:
        ratios = asked.expansions
    else:
        everywhere = [op.c_mid / op.c_in for op in net.blocks if op.expands]
        largest = max(round(2 * max(own or everywhere or [6])) / 2, 1.5)
        ratios = (largest / 2, largest) if largest >= 4 else (largest, 2 * largest)
    with_squeeze = asked.squeeze_excite
    if with_squeeze is None:
        with_squeeze = (False,) if squeeze is None else (False, True)
    rule = squeeze or _Squeeze(SE_SHARE, SE_DIVISOR, True, "mbconv")
    act = Counter(op.act for op in ops).most_common(1)[0][0]
    return StageSpec(
        ops[0].c_out,
        depth=len(ops),
        stride=ops[0].stride,
        act=act,
        kernels=list(kernels),
        expansions=[_expansion(ratio, rule, any(with_squeeze)) for ratio in ratios],
        squeeze_excite=list(with_squeeze),
        ops=_own(ops, act, squeeze),
    )


def _expansion(ratio: float, rule: _Squeeze, squeezes: bool) -> ExpansionSpec:
    ratio = round(ratio, 2)
    if not 1 < ratio < inf:
        raise ValueError(f"expansion {ratio:g}: expected mid width / input width, above 1")
    spec = ExpansionSpec(
        ratio, max(round(2 * ratio / 3, 2), min(ratio, 1.25)), round(4 * ratio / 3, 2)
    )
    if not squeezes:
        return spec
    return replace(
        spec, se_ratio=round(rule.ratio(ratio), 4), se_divisor=rule.divisor, se_kind=rule.kind
    )


def _own(ops: Iterable[OpSpec], act: str, squeeze: _Squeeze | None) -> list[CandidateSpec]:
    """The net's own ops, with the widths that they have, each once."""
    found = []
    for op in ops:
        spec = CandidateSpec(op.kind, op.kernel, act=None if op.act == act else op.act)
        if op.has_width:
            spec = replace(spec, ratio=_short(op.c_mid, op.c_in))
        if op.c_se:
            spec = replace(spec, se_ratio=_short(op.c_se, op.c_in))
            ratio = None if squeeze is None else round(squeeze.ratio(spec.ratio), 4)
            if squeeze and ratio and divisible(ratio * op.c_in, squeeze.divisor) == op.c_se:
                spec = replace(spec, se_ratio=ratio, se_divisor=squeeze.divisor)
        if spec not in found:
            found.append(spec)
    return found


def _short(channels: int, of: int) -> float:
    """The ratio of two widths with the fewest digits that give the first one back."""
    for digits in range(DIGITS):
        ratio = round(channels / of, digits)
        if round(ratio * of) == channels and abs(ratio * of - channels) < 0.01:
            return ratio
    return channels / of


def _shared(spec: SpaceSpec) -> SpaceSpec:
    """Lists that all stages have alike stand once, in the space."""
    changes: dict[str, Any] = {}
    for name in ("kernels", "expansions", "squeeze_excite", "ops"):
        first, *others = (getattr(stage, name) for stage in spec.stages)
        if all(other == first for other in others):
            changes[name] = first
    left: dict[str, Any] = dict.fromkeys(changes)
    return replace(spec, stages=[replace(stage, **left) for stage in spec.stages], **changes)


def to_yaml(spec: SpaceSpec, comment: Sequence[str] = ()) -> str:
    """A space as a file for the folder `space/` of a configuration, as those of conf/space/.

    The number of classes is that of the data.

    Args:
        comment: lines that stand above it.
    """
    lines = [f"# {line}" for line in comment]
    lines += [f"name: {_flow(spec.name)}", f"resolution: {_flow(spec.resolution)}"]
    lines += [f"in_channels: {spec.in_channels}", "classes: ${data.classes}"]
    for name in ("stem", "kernels", "expansions", "squeeze_excite", "ops", "stages", "head"):
        lines += _list(name, getattr(spec, name))
    return "\n".join(lines) + "\n"


def _list(name: str, values: Sequence[Any]) -> list[str]:
    """A list of numbers in one line, one of anything else with a line or more for each."""
    if not values:
        return []
    if isinstance(values[0], int):
        return [f"{name}: {_flow(list(values))}"]
    lines = [f"{name}:"]
    for value in values:
        given = _given(value)
        lists = {key: getattr(value, key) for key, v in given.items() if isinstance(v, list)}
        plain = {key: v for key, v in given.items() if key not in lists}
        if not lists:
            lines.append(f"  - {_flow(plain)}")
            continue
        below = [f"{key}: {_flow(v)}" for key, v in plain.items()]
        below += [line for key, entries in lists.items() for line in _list(key, entries)]
        lines += [f"  - {below[0]}", *(f"    {line}" for line in below[1:])]
    return lines


def _given(value: Any) -> dict[str, Any]:
    """The fields of a part of a space that say something."""
    default = asdict(type(value)())
    kind = getattr(value, "kind", "")
    lacks = KINDS[kind].lacks if kind in KINDS else {}
    told = [name for name in ALWAYS if name not in lacks and not (name == "ratio" and lacks)]
    return {
        name: int(v) if isinstance(v, float) and v == int(v) else v
        for name, v in asdict(value).items()
        if v is not None and (v != default[name] or (name in told and v))
    }


def _flow(value: Any) -> str:
    """In one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()

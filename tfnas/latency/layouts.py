"""The documented layouts of other projects' latency tables, a small reader for each.

`LAYOUTS` is the list; `tfnas.latency.importers` reads files with it. A reader gets parsed content
(dicts, lists, strings and numbers) and says which op each value belongs to. What `OpSpec` can't
express has no op; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfnas.files.bounded import printable, shown
from tfnas.space.ops import OpSpec, divisible


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a foreign file.

    Attributes:
        key: as the file names it, for messages.
        value: in the layout's unit.
        op: what it is the latency of; None where `OpSpec` can't express it.
        measured: False for what the file interpolates or extrapolates.
    """

    key: str
    value: float
    op: OpSpec | None
    measured: bool = True

    def __post_init__(self) -> None:
        if self.op is not None and self.op.is_curve:
            raise ValueError(f"{shown(self.key)}: no mid width, expected 1 or more")


@dataclass(frozen=True)
class Foreign:
    """The content of a foreign file, before any unit is applied.

    Attributes:
        overhead: latency of stem, head and classifier together, if the layout has it.
        notes: what a user of the table must know.
    """

    entries: tuple[Entry, ...]
    overhead: float | None = None
    quantum: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One documented form of file.

    Attributes:
        unit: s | ms | us where the layout fixes it, else None.
        recognizes: whether parsed content has this form.
        read: parsed content and batch to entries.
        source: where the form is documented.
    """

    unit: str | None
    recognizes: Callable[[Any], bool]
    read: Callable[[Any, int], Foreign]
    source: str


def _number(key: object, value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{shown(key)} holds {shown(value)}, expected a number")
    return float(value)  # type: ignore[arg-type]


def _keyed(content: Any) -> Mapping[str, Any]:
    """The content if it is a dict with string keys, else an empty one."""
    if isinstance(content, dict) and all(isinstance(key, str) for key in content):
        return content
    return {}


INT, FLOAT = "[0-9]{1,6}", r"[0-9]{1,6}(?:\.[0-9]{1,20})?"
TFNAS_KEY = re.compile(
    rf"MBInvertedResBlock_({INT})_({INT})_({INT})_({INT})_k({INT})_s({INT})_"
    r"(relu6?|swish|h-swish)"
)
MOST_COLUMNS = 12  # that are named
STRAIGHT = 1e-9  # of a value: what rounding leaves of a line's bend
TFNAS_STEP = 8  # the published files were measured at multiples of it


def _is_tfnas(content: Any) -> bool:
    return any(key.startswith("MBInvertedResBlock_") for key in _keyed(content))


def _read_tfnas(content: Any, batch: int) -> Foreign:
    entries = []
    straight = 0
    for key, curve in content.items():
        if key == "base":
            continue
        match = TFNAS_KEY.fullmatch(key)
        if match is None or not isinstance(curve, dict):
            raise ValueError(f"key {shown(key)}: expected MBInvertedResBlock_... with a dict")
        size, c_in, c_se, c_out, kernel, stride = (int(g) for g in match.groups()[:6])
        act = "hard_swish" if match[7] == "h-swish" else match[7]
        for width, value in curve.items():
            if type(width) is not int or width < 1:
                raise ValueError(f"{key}: mid width {shown(width)}, expected a number")
            measured = width % TFNAS_STEP == 0
            op = None
            if measured:
                op = OpSpec("mbconv", size, c_in, width, c_se, c_out, kernel, stride, act)
                straight += _is_straight(curve, width)
            entries.append(Entry(f"{key} · {width}", _number(key, value), op, measured))
    if "base" not in content:
        raise ValueError("the key 'base' (stem, head and classifier) is missing")
    return Foreign(
        tuple(entries),
        _number("base", content["base"]),
        TFNAS_STEP,
        (
            "overhead_ms is the published base cost: stem, head, pooling and a classifier of 1000 "
            "classes, at 224 pixels; another number of classes changes it",
            f"{straight:,} points at multiples of {TFNAS_STEP} lie on the line between their "
            "neighbours, as what the file interpolates does: they may not have been measured",
        ),
    )


def _is_straight(curve: Mapping[int, Any], width: int) -> bool:
    values = [curve.get(w) for w in (width - 1, width, width + 1)]
    if not all(isinstance(value, int | float) for value in values):
        return False
    before, here, after = map(float, values)  # type: ignore[arg-type]
    return abs(before + after - 2 * here) < STRAIGHT * abs(here)


def _means(content: Mapping[str, Mapping[str, Any]]) -> str:
    """What is taken of entries that have several columns, and what isn't."""
    others = sorted({str(column) for entry in content.values() for column in entry} - {"mean"})
    if not others:
        return "values are means, not medians"
    named = ", ".join(map(printable, others[:MOST_COLUMNS]))
    return f"values are of the column mean, not medians; left out: {named}"


SHAPE = rf"input:({INT}(?:x{INT})*)-output:({INT}(?:x{INT})*)"
MIT_KEY = re.compile(
    rf"(Conv|Conv_1|Conv_2|AvgPool2D|Logits|expanded_conv)-{SHAPE}"
    rf"(?:-expand:({INT})-kernel:({INT})-stride:({INT})-idskip:([01])(?:-se:([01])-hs:([01]))?)?"
)


def _is_mit(content: Any, ofa: bool) -> bool:
    keys = _keyed(content)
    blocks = [key for key in keys if key.startswith("expanded_conv-input:")]
    return bool(blocks) and all(("-hs:" in key) == ofa for key in blocks)


def _read_mit(content: Any, ofa: bool) -> Foreign:
    entries = []
    for key, value in content.items():
        if not isinstance(value, dict) or "mean" not in value:
            raise ValueError(f"{shown(key)}: expected an entry with 'mean'")
        match = MIT_KEY.fullmatch(key)
        op = None if match is None else _mit_op(match, ofa)
        entries.append(Entry(key, _number(key, value["mean"]), op))
    if ofa:
        entries = _with_pooling(entries)
    return Foreign(tuple(entries), notes=(_means(content),))


def _with_pooling(entries: list[Entry]) -> list[Entry]:
    """The pooling and the convolution on its one pixel as the one op that they are here."""
    kept = list(entries)
    for pool in entries:
        match = MIT_KEY.fullmatch(pool.key)
        if match is None or match[1] != "AvgPool2D":
            continue
        size, channels = int(match[2].split("x")[0]), int(match[2].split("x")[-1])
        for conv in entries:
            op = conv.op
            if op is None or (op.kind, op.size, op.c_in) != ("conv", 1, channels):
                continue
            both = OpSpec("pooled_conv", size, channels, 0, 0, op.c_out, 1, 1, op.act)
            kept[kept.index(conv)] = Entry(
                f"{pool.key} + {conv.key}", pool.value + conv.value, both
            )
            kept.remove(pool)
            break
    return kept


def _mit_op(match: re.Match[str], ofa: bool) -> OpSpec | None:
    kind = match[1]
    shape = [int(v) for v in match[2].split("x")]
    out = [int(v) for v in match[3].split("x")]
    if len(shape) != 3 or shape[0] != shape[1]:
        return None
    size, _, c_in = shape
    act = "hard_swish" if ofa else "relu6"
    if kind == "Conv" and len(out) == 3:
        return _fits(OpSpec("conv", size, c_in, 0, 0, out[2], 3, 2, act), out)
    if kind in ("Conv_1", "Conv_2") and len(out) == 3:
        return _fits(OpSpec("conv", size, c_in, 0, 0, out[2], 1, 1, act), out)
    if kind == "Logits" and len(out) == 1:
        return OpSpec("classifier", size, c_in, 0, 0, out[0], 1, 1, "none")
    if kind != "expanded_conv" or match[4] is None or len(out) != 3:
        return None
    expand, kernel, stride, skip = (int(match[i]) for i in (4, 5, 6, 7))
    mid = expand if ofa else expand * c_in
    if ofa:
        act = "hard_swish" if match[9] == "1" else "relu"
    return _mbconv_v3(size, c_in, mid, match[8] == "1", out, kernel, stride, skip, act)


def _mbconv_v3(
    size: int, c_in: int, mid: int, se: bool, out: list[int], kernel: int, stride: int, skip: int,
    act: str,
) -> OpSpec | None:  # fmt: skip
    """With or without squeeze-excite, whose bottleneck is a quarter of the mid width."""
    kind, c_se = ("mbconv_v3", divisible(mid // 4, 8)) if se else ("mbconv", 0)
    op = _fits(OpSpec(kind, size, c_in, mid, c_se, out[2], kernel, stride, act), out)
    return op if op is not None and op.residual == bool(skip) else None


NSGANET_KEY = re.compile(
    rf"(MBConv|first_conv|final_expand_layer|feature_mix_layer|classifier)-{SHAPE}"
    rf"(?:-expand:({INT})-kernel:({INT})-stride:({INT})-idskip:([01])-se:([01]))?"
)
NSGANET_HARD = 80  # channels from which on a block of OFA's spaces has hard swish, before it ReLU


def _is_nsganet(content: Any) -> bool:
    return any(key.startswith("MBConv-input:") for key in _keyed(content))


def _read_nsganet(content: Any, batch: int) -> Foreign:
    final = {  # sizes that each width is pooled from
        (out[-1], out[0])
        for key in content
        if (match := NSGANET_KEY.fullmatch(key)) and match[1] == "final_expand_layer"
        if (out := [int(v) for v in match[3].split("x")])
    }
    entries = []
    for key, value in content.items():
        match = NSGANET_KEY.fullmatch(key)
        if match is None or not isinstance(value, dict) or "mean" not in value:
            raise ValueError(f"{shown(key)}: expected a layer of OFA's spaces with 'mean'")
        ms = _number(key, value["mean"])
        if match[1] != "feature_mix_layer":
            entries.append(Entry(key, ms, _nsganet_op(match)))
            continue
        c_in, c_out = (int(match[i].split("x")[-1]) for i in (2, 3))
        for size in sorted(size for width, size in final if width == c_in):
            op = OpSpec("pooled_conv", size, c_in, 0, 0, c_out, 1, 1, "hard_swish")
            entries.append(Entry(f"{key} of {size} pixels", ms, op))
    return Foreign(
        tuple(entries),
        notes=(
            _means(content),
            "the file has no activations: those of OFA's MobileNetV3 are taken, hard swish from "
            f"{NSGANET_HARD} channels on and ReLU before",
            "the file has no pooling: feature_mix_layer stands for pooling and convolution, "
            "whatever the size that is pooled",
        ),
    )


def _nsganet_op(match: re.Match[str]) -> OpSpec | None:
    kind = match[1]
    shape, out = ([int(v) for v in match[i].split("x")] for i in (2, 3))
    if kind == "classifier" and len(shape) == len(out) == 1:
        return OpSpec("classifier", 1, shape[0], 0, 0, out[0], 1, 1, "none")
    if len(shape) != 3 or shape[0] != shape[1] or len(out) != 3:
        return None
    size, _, c_in = shape
    if kind == "first_conv":
        return _fits(OpSpec("conv", size, c_in, 0, 0, out[2], 3, 2, "hard_swish"), out)
    if kind == "final_expand_layer":
        return _fits(OpSpec("conv", size, c_in, 0, 0, out[2], 1, 1, "hard_swish"), out)
    if kind != "MBConv" or match[4] is None:
        return None
    expand, kernel, stride, skip = (int(match[i]) for i in (4, 5, 6, 7))
    act = "hard_swish" if out[2] >= NSGANET_HARD else "relu"
    return _mbconv_v3(size, c_in, c_in * expand, match[8] == "1", out, kernel, stride, skip, act)


def _fits(op: OpSpec, out: list[int]) -> OpSpec | None:
    return op if out == [op.out_size, op.out_size, op.c_out] else None


HARDCORE_KEY = re.compile(
    rf"in_channels_({INT})_out_channels_({INT})_stride_({INT})_resolution_({INT})"
    rf"_er_({FLOAT})_k_({INT})_se_({FLOAT})_act_([01])"
)


def _is_hardcore(content: Any) -> bool:
    keys = _keyed(content)
    return "general" in keys and any(key.startswith("in_channels_") for key in keys)


def _read_hardcore(content: Any, batch: int) -> Foreign:
    if batch != 1:
        raise ValueError(
            f"batch={batch}: this layout holds seconds per image on some devices and per batch on "
            "others; only tables of batch 1 can be imported"
        )
    entries = []
    for key, value in content.items():
        if key == "general":
            continue
        match = HARDCORE_KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"key {shown(key)}: expected in_channels_..._act_...")
        c_in, c_out, stride, size = (int(match[i]) for i in (1, 2, 3, 4))
        mid = divisible(c_in * float(match[5]), 8)
        act = "relu" if match[8] == "1" else "hard_swish"
        op = None  # with squeeze-excite its gate is a hard sigmoid, ours a sigmoid
        if float(match[7]) == 0:
            op = OpSpec("mbconv", size, c_in, mid, 0, c_out, int(match[6]), stride, act)
        entries.append(Entry(key, _number(key, value), op))
    return Foreign(
        tuple(entries),
        _number("general", content["general"]),
        notes=(
            "values are means, not medians",
            "overhead_ms is the file's 'general': the fixed modules of its own net, which may "
            "leave out pooling and classifier",
        ),
    )


# Of a list per layer the file holds numbers alone; shapes are those of the published configuration
# (JaminFong/DenseNAS configs/imagenet_search_cfg_mbv2.yaml): widths, sizes and stages of its
# blocks, of which each can follow one of the four before it, in the same or the next stage. How
# many layers follow in a block is the file's own: the published file has more than that
# configuration.
DENSE_WIDTHS = (16, 24, 32, 40, 48, 56, 64, 72, 96, 112, 128, 160, 176, 192, 320, 352, 384)
DENSE_SIZES = (112, 56, 28, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7, 7, 7, 7, 7)
DENSE_STAGES = (0, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7)
DENSE_LAST = 1984
DENSE_OPS = ((3, 3), (3, 6), (5, 3), (5, 6), (7, 3), (7, 6))  # kernel, expansion; then the skip


def _is_dense(content: Any) -> bool:
    return (
        isinstance(content, list)
        and [type(part) for part in content] == [float, list, list, float]
        and len(content[1]) == len(DENSE_WIDTHS) - 1
    )


def _dense_inputs(block: int) -> list[int]:
    """Blocks that can come before one, nearest first."""
    sizes = (*DENSE_SIZES, DENSE_SIZES[-1])
    return [
        b
        for b in range(block - 1, max(block - 5, -1), -1)
        if DENSE_STAGES[block] - DENSE_STAGES[b] <= 1
        and sizes[b] in (sizes[block], 2 * sizes[block])
    ]


def _read_dense(content: Any, batch: int) -> Foreign:
    stem, blocks, convs, linear = content
    # the stem is two ops measured together, the last value a linear layer without its pooling
    entries = [Entry("stem", stem, None), Entry("classifier", linear, None)]
    for number, block in enumerate(blocks, 1):
        width, size = DENSE_WIDTHS[number], DENSE_SIZES[number]
        heads, layers = _lists(block, 2, f"block {number}")
        inputs = _dense_inputs(number)
        rows = [
            (f"block {number} from {DENSE_WIDTHS[b]}", DENSE_SIZES[b], DENSE_WIDTHS[b], values)
            for b, values in zip(inputs, _lists(heads, len(inputs), "heads"), strict=True)
        ]
        rows += [
            (f"block {number} layer {index}", size, width, values)
            for index, values in enumerate(_lists(layers, None, "layers"), 1)
        ]
        for key, size_in, c_in, values in rows:
            skip = " layer " in key
            values = _lists(values, len(DENSE_OPS) + skip, key)
            for (kernel, expansion), value in zip(DENSE_OPS, values, strict=False):
                op = OpSpec(
                    "mbconv", size_in, c_in, expansion * c_in, 0, width, kernel, size_in // size,
                    "relu6",
                )  # fmt: skip
                entries.append(Entry(f"{key} k{kernel} e{expansion}", _number(key, value), op))
            if skip:
                entries.append(Entry(f"{key} skip", _number(key, values[-1]), None))
    inputs = _dense_inputs(len(DENSE_WIDTHS))
    for b, value in zip(inputs, _lists(convs, len(inputs), "1x1 convolutions"), strict=True):
        op = OpSpec("conv", DENSE_SIZES[b], DENSE_WIDTHS[b], 0, 0, DENSE_LAST, 1, 1, "relu6")
        entries.append(Entry(f"conv1x1 from {DENSE_WIDTHS[b]}", _number("conv1x1", value), op))
    return Foreign(
        tuple(entries),
        notes=(
            "values are means; shapes are those of the published mbv2 configuration, the file has "
            "none",
            "stem and classifier are missing, so that no whole net can be told from it",
        ),
    )


def _lists(value: Any, length: int | None, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{key}: found {shown(value)}, expected a list")
    if length is not None and len(value) != length:
        raise ValueError(
            f"{key}: found {len(value)} values, the published configuration has {length}"
        )
    return value


LAYOUTS: dict[str, Layout] = {
    "tfnas": Layout("ms", _is_tfnas, _read_tfnas, "AberHu/TF-NAS latency_pkl"),
    "proxylessnas": Layout(
        None,
        lambda content: _is_mit(content, ofa=False),
        lambda content, batch: _read_mit(content, ofa=False),
        "mit-han-lab/proxylessnas search/utils/latency_estimator.py",
    ),
    "ofa": Layout(
        None,
        lambda content: _is_mit(content, ofa=True),
        lambda content, batch: _read_mit(content, ofa=True),
        "mit-han-lab/once-for-all ofa/nas/efficiency_predictor/latency_lookup_table.py",
    ),
    "nsganetv2": Layout(
        None, _is_nsganet, _read_nsganet, "mikelzc1990/nsganetv2, of once-for-all's MobileNetV3"
    ),
    "hardcorenas": Layout(
        "s", _is_hardcore, _read_hardcore, "Alibaba-MIIL/HardCoReNAS timm/models/mobilenasnet.py"
    ),
    "densenas": Layout(
        "ms", _is_dense, _read_dense, "JaminFong/DenseNAS latency_list, mbv2 configuration"
    ),
}

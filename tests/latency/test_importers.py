"""Importers: published layouts, impossible values, and files that must not be trusted.

What needs published tables reads their paths from TFNAS_REFERENCE_TABLE and TFNAS_REFERENCE.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support.spaces import load_space
from tfnas.derive.menu import feasible
from tfnas.latency.importers import _parse, impossible_values, read, recognize
from tfnas.latency.layouts import LAYOUTS
from tfnas.latency.table import LatencyTable
from tfnas.space.ops import OpSpec
from tfnas.space.spec import ExpansionSpec, LayerSpec, SpaceSpec, StageSpec

REFERENCE = os.environ.get("TFNAS_REFERENCE_TABLE")
PUBLISHED = os.environ.get("TFNAS_REFERENCE")
needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="TFNAS_REFERENCE_TABLE doesn't name the published latency_gpu.pkl"
)
KEY = "MBInvertedResBlock_16_16_{se}_16_k{k}_s1_swish"


def published_form(widths: int = 128) -> OrderedDict:
    """A small table in the published form: measured at multiples of 8, interpolated between."""
    table = OrderedDict(base=0.5)
    for se in (0, 16):
        for k in (3, 5):
            curve = OrderedDict()
            for width in range(1, widths + 1):
                curve[width] = 0.01 * k + 0.002 * width + 0.001 * se
            table[KEY.format(se=se, k=k)] = curve
    return table


def dump(content: object, path: Path, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_tfnas_pickle(tmp_path, protocol):
    path = dump(published_form(), tmp_path / "table.pkl", protocol)
    assert recognize(path) == "tfnas"
    imported = read(path, device="Titan RTX", batch=32)
    table = imported.table
    assert len(table.rows) == 4 * 16
    assert {op.c_mid % 8 for op in table.rows} == {0}
    op = OpSpec("mbconv", 16, 16, 64, 16, 16, 5, 1, "swish")
    assert table.rows[op].median_ms == pytest.approx(0.05 + 0.128 + 0.016)
    assert math.isnan(table.rows[op].spread_ms)
    assert table.overhead_ms == 0.5
    device = table.device
    assert (device.kind, device.name, device.batch, device.quantum, device.versions) == (
        "imported", "Titan RTX", 32, 8, {},
    )  # fmt: skip
    assert any("unit ms" in line for line in imported.report)
    assert set(imported.report) <= set(table.notes)
    assert impossible_values(path) == ()


def test_imported_table_survives_saving_and_serves_a_space(tmp_path):
    table = read(dump(published_form(), tmp_path / "t.pkl"), device="d", batch=1).table
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").overhead_ms == 0.5
    spec = SpaceSpec(
        name="one", resolution=32, in_channels=3, classes=10,
        stem=[LayerSpec("conv", 16, 3, 2, "relu")], kernels=[3, 5],
        expansions=[ExpansionSpec(3, 2, 4, 1)], squeeze_excite=[False, True],
        stages=[StageSpec(16, depth=2, act="swish")], head=[LayerSpec("classifier")],
    )  # fmt: skip
    space = spec.build(8)
    table.check(space)
    low, high = feasible(space, table)
    assert low == pytest.approx(0.5 + 0.03 + 0.002 * 32)
    assert high == pytest.approx(0.5 + 2 * (0.05 + 0.002 * 64 + 0.016))


def test_impossible_values_are_reported_and_dropped(tmp_path):
    content = published_form()
    content[KEY.format(se=0, k=3)][8] = -0.2
    content[KEY.format(se=0, k=3)][3] = -0.1
    content[KEY.format(se=16, k=5)][16] = 0.0
    content[KEY.format(se=16, k=3)][64] *= 3
    path = dump(content, tmp_path / "table.pkl")
    imported = read(path, device="d", batch=1)
    assert len(imported.table.rows) == 64 - 2
    bad, outliers = impossible_values(path)
    assert "3 of 512 entries" in bad
    assert "in 2 keys" in bad
    assert "least -0.2 ms" in bad
    assert KEY.format(se=0, k=3) in bad
    assert "+200%" in outliers
    assert KEY.format(se=16, k=3) + " · 64" in outliers
    assert {bad, outliers} <= set(imported.report)


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments", "told"),
    [
        (os.system, ("touch {target}",), r"(posix|nt)\.system"),
        (eval, ("open({target!r}, 'w')",), r"(builtins|__builtin__)\.eval"),
        (getattr, ((), "append"), r"(builtins|__builtin__)\.getattr"),
    ],
)
def test_malicious_pickles_are_refused(tmp_path, protocol, function, arguments, told):
    target = tmp_path / "touched"
    arguments = [a.format(target=str(target)) if isinstance(a, str) else a for a in arguments]
    content = published_form()
    content["base"] = Malicious(function, *arguments)
    path = dump(content, tmp_path / "table.pkl", protocol)
    with pytest.raises(ValueError, match=f"refused: the pickle asks for {told}"):
        read(path, device="d", batch=1)
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x80\x04\x95", "table.pkl"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "refused: the pickle has more than"),
        (b"\x80\x02N.", "refused: the pickle uses NONE"),
        (b"\x80\x04\x88.", "refused: the pickle uses NEWTRUE"),
        (b"\x80\x04C\x01a.", "refused: the pickle uses SHORT_BINBYTES"),
        (b"\x80\x02\x82\x01.", "refused: the pickle uses EXT1"),
        (b"cos\nsystem\n(S'true'\ntR.", "refused: the pickle asks for os.system"),
        (b"\x80\x02].", "no known layout"),
        (pickle.dumps({"a": {1: 2.0}}, 2), "no known layout"),
        (pickle.dumps([[[[[[[[[[1]]]]]]]]]], 2), "nested deeper than"),
    ],
)
def test_broken_and_odd_pickles_are_refused(tmp_path, data, told):
    path = tmp_path / "table.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=told):
        read(path, device="d", batch=1)


def test_a_pickle_that_unfolds_is_refused(tmp_path):
    content: list = [1.0] * 100
    for _ in range(5):
        content = [content] * 100
    with pytest.raises(ValueError, match="unfolds to more than"):
        read(dump(content, tmp_path / "table.pkl"), device="d", batch=1)


@pytest.mark.parametrize("key", ["MBInvertedResBlock_1_2", KEY.format(se=0, k=3) + "_x"])
def test_unknown_keys_are_refused(tmp_path, key):
    content = published_form()
    content[key] = OrderedDict({8: 1.0})
    with pytest.raises(ValueError, match=f"key '{key}'"):
        read(dump(content, tmp_path / "table.pkl"), device="d", batch=1)


def test_values_that_are_no_numbers_are_refused(tmp_path):
    content = published_form()
    content[KEY.format(se=0, k=3)][8] = "0.1"
    with pytest.raises(ValueError, match="expected a number"):
        read(dump(content, tmp_path / "table.pkl"), device="d", batch=1)


PROXYLESS = {
    "Conv-input:224x224x3-output:112x112x40": {"mean": 3.2, "count": 50},
    "expanded_conv-input:112x112x40-output:112x112x24-expand:1-kernel:3-stride:1-idskip:0": {
        "mean": 4.0
    },
    "expanded_conv-input:112x112x24-output:56x56x32-expand:3-kernel:5-stride:2-idskip:0": {
        "mean": 6.5
    },
    "expanded_conv-input:56x56x32-output:56x56x32-expand:6-kernel:7-stride:1-idskip:1": {
        "mean": 5.5
    },
    "Conv_1-input:7x7x320-output:7x7x1280": {"mean": 2.0},
    "Logits-input:7x7x1280-output:1000": {"mean": 0.5},
}


def test_proxylessnas_yaml(tmp_path):
    path = tmp_path / "mobile_trim.yaml"
    path.write_text(yaml.safe_dump(PROXYLESS))
    assert recognize(path) == "proxylessnas"
    with pytest.raises(ValueError, match=r"doesn't fix the unit .*--unit .*s, ms, us"):
        read(path, device="Pixel 1", batch=1)
    imported = read(path, unit="ms", device="Pixel 1", batch=1)
    ms = {op: row.median_ms for op, row in imported.table.rows.items()}
    assert ms == {
        OpSpec("conv", 224, 3, 0, 0, 40, 3, 2, "relu6"): 3.2,
        OpSpec("mbconv", 112, 40, 40, 0, 24, 3, 1, "relu6"): 4.0,
        OpSpec("mbconv", 112, 24, 72, 0, 32, 5, 2, "relu6"): 6.5,
        OpSpec("mbconv", 56, 32, 192, 0, 32, 7, 1, "relu6"): 5.5,
        OpSpec("conv", 7, 320, 0, 0, 1280, 1, 1, "relu6"): 2.0,
        OpSpec("classifier", 7, 1280, 0, 0, 1000, 1, 1, "none"): 0.5,
    }
    in_us = read(path, unit="us", device="Pixel 1", batch=1).table
    assert [row.median_ms for row in in_us.rows.values()] == pytest.approx(
        [value / 1000 for value in ms.values()]
    )
    assert any("unit us" in note for note in in_us.notes)
    assert any("left out: count" in note for note in in_us.notes)


def test_a_block_without_its_shortcut_is_not_expressed(tmp_path):
    key = "expanded_conv-input:56x56x32-output:56x56x32-expand:6-kernel:7-stride:1-idskip:0"
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({**PROXYLESS, key: {"mean": 1.0}}))
    with pytest.raises(ValueError, match="1 of 7 entries can't be expressed"):
        read(path, unit="ms", device="d", batch=1)
    imported = read(path, unit="ms", device="d", batch=1, partial=True)
    assert len(imported.table.rows) == 6
    assert any("1 entries left out" in line for line in imported.report)


def test_ofa_yaml(tmp_path):
    block = "expanded_conv-input:{}-output:{}-expand:{}-kernel:5-stride:{}-idskip:{}-se:{}-hs:{}"
    content = {
        "Conv-input:160x160x3-output:80x80x24": {"mean": 1.0},
        block.format("80x80x24", "40x40x32", 96, 2, 0, 0, 0): {"mean": 2.0},
        block.format("40x40x32", "40x40x32", 96, 1, 1, 0, 1): {"mean": 3.0},
        block.format("40x40x32", "40x40x32", 96, 1, 1, 1, 1): {"mean": 4.0},
        "Conv_2-input:1x1x1152-output:1x1x1536": {"mean": 0.1},
        "AvgPool2D-input:5x5x1152-output:1x1x1152": {"mean": 0.2},
        "Logits-input:1x1x1536-output:1000": {"mean": 0.3},
    }
    path = tmp_path / "160_lookup_table.yaml"
    path.write_text(yaml.safe_dump(content))
    assert recognize(path) == "ofa"
    rows = read(path, unit="ms", device="note10", batch=1).table.rows
    assert len(rows) == 6
    se = OpSpec("mbconv_v3", 40, 32, 96, 24, 32, 5, 1, "hard_swish")
    assert rows[se].median_ms == 4.0
    pooled = OpSpec("pooled_conv", 5, 1152, 0, 0, 1536, 1, 1, "hard_swish")
    assert rows[pooled].median_ms == pytest.approx(0.2 + 0.1)
    assert rows[OpSpec("mbconv", 80, 24, 96, 0, 32, 5, 2, "relu")].median_ms == 2.0
    assert rows[OpSpec("mbconv", 40, 32, 96, 0, 32, 5, 1, "hard_swish")].median_ms == 3.0


def test_nsganetv2_yaml(tmp_path):
    block = "MBConv-input:{}-output:{}-expand:{}-kernel:7-stride:{}-idskip:{}-se:{}"
    content = {
        "first_conv-input:224x224x3-output:112x112x16": {"mean": 1.0},
        block.format("56x56x24", "28x28x40", 4, 2, 0, 1): {"mean": 2.0},
        block.format("14x14x80", "14x14x80", 6, 1, 1, 0): {"mean": 3.0},
        "final_expand_layer-input:7x7x160-output:7x7x960": {"mean": 0.4},
        "final_expand_layer-input:6x6x160-output:6x6x960": {"mean": 0.3},
        "feature_mix_layer-input:1x1x960-output:1x1x1280": {"mean": 0.2},
        "classifier-input:1280-output:1000": {"mean": 0.1},
    }
    path = tmp_path / "i7.yaml"
    path.write_text(yaml.safe_dump(content))
    assert recognize(path) == "nsganetv2"
    table = read(path, unit="ms", device="i7", batch=1).table
    assert {op: row.median_ms for op, row in table.rows.items()} == {
        OpSpec("conv", 224, 3, 0, 0, 16, 3, 2, "hard_swish"): 1.0,
        OpSpec("mbconv_v3", 56, 24, 96, 24, 40, 7, 2, "relu"): 2.0,
        OpSpec("mbconv", 14, 80, 480, 0, 80, 7, 1, "hard_swish"): 3.0,
        OpSpec("conv", 7, 160, 0, 0, 960, 1, 1, "hard_swish"): 0.4,
        OpSpec("conv", 6, 160, 0, 0, 960, 1, 1, "hard_swish"): 0.3,
        OpSpec("pooled_conv", 7, 960, 0, 0, 1280, 1, 1, "hard_swish"): 0.2,
        OpSpec("pooled_conv", 6, 960, 0, 0, 1280, 1, 1, "hard_swish"): 0.2,
        OpSpec("classifier", 1, 1280, 0, 0, 1000, 1, 1, "none"): 0.1,
    }
    ten = OpSpec("classifier", 1, 1280, 0, 0, 10, 1, 1, "none")
    assert table.covers(ten)
    assert (table.latency(ten).ms, table.latency(ten).measured) == (0.1, False)
    assert not table.covers(OpSpec("classifier", 7, 1280, 0, 0, 10, 1, 1, "none"))
    here = replace(table, device=replace(table.device, kind="cpu"))
    assert not here.covers(ten)  # it can be measured


@pytest.mark.skipif(not PUBLISHED, reason="TFNAS_REFERENCE doesn't name the reference data")
@pytest.mark.parametrize(
    ("name", "space", "rows", "reach_ms"),
    [
        ("ofa_i7_8700k", "ofa_mbv3", 4060, (6.765, 36.216)),
        ("proxylessnas_pixel1", "proxyless", 72, (32.708, 180.975)),
        ("ofa_note10_160", None, 95, None),
        ("ofa_note10_224", None, 95, None),
    ],
)
def test_published_tables_serve_their_spaces(name, space, rows, reach_ms):
    path = Path(str(PUBLISHED)) / "tables" / f"{name}.yaml"
    table = read(path, unit="ms", device=name, batch=1).table
    assert len(table.rows) == rows
    if space is not None:
        searched = load_space(space, classes=10)
        assert feasible(searched, table.for_space(searched)) == pytest.approx(reach_ms, abs=1e-3)


def test_hardcorenas_pickle(tmp_path):
    stub = "in_channels_24_out_channels_40_stride_2_resolution_56_er_{}_k_5_se_{}_act_{}"
    content = {
        stub.format("2.5", 0, 1): 0.002,
        stub.format("6", 0, 0): 0.004,
        "general": 0.010,
    }
    path = dump(content, tmp_path / "lut.pkl", 4)
    assert recognize(path) == "hardcorenas"
    imported = read(path, device="Xeon", batch=1)
    ms = {op: row.median_ms for op, row in imported.table.rows.items()}
    assert ms == pytest.approx(
        {
            OpSpec("mbconv", 56, 24, 64, 0, 40, 5, 2, "relu"): 2.0,
            OpSpec("mbconv", 56, 24, 144, 0, 40, 5, 2, "hard_swish"): 4.0,
        }
    )
    assert imported.table.overhead_ms == pytest.approx(10.0)
    with pytest.raises(ValueError, match="the layout hardcorenas is in s"):
        read(path, unit="ms", device="Xeon", batch=1)
    with pytest.raises(ValueError, match="only tables of batch 1"):
        read(path, device="Xeon", batch=8)
    path = dump({**content, stub.format("6", 0.25, 0): 0.005}, tmp_path / "lut.pkl", 4)
    with pytest.raises(ValueError, match="1 of 3 entries can't be expressed"):
        read(path, device="Xeon", batch=1)


def test_densenas_list(tmp_path):
    heads = [1, 1, 2, 3, 3, 4, 4, 3, 4, 4, 3, 4, 4, 3, 4, 4]
    blocks = []
    for number, inputs in enumerate(heads, 1):
        layers = 3 if number <= 14 else 0
        head = [[float(number)] * 6 for _ in range(inputs)]
        blocks.append([head, [[float(i), *[1.0] * 5, 0.004] for i in range(1, layers + 1)]])
    path = tmp_path / "lat_list_densenas_mbv2_xp32"
    path.write_text(json.dumps([2.1, blocks, [0.3, 0.2, 0.1], 0.4]))
    assert recognize(path) == "densenas"
    with pytest.raises(ValueError, match=r"44 of .* entries can't be expressed"):
        read(path, device="Titan XP", batch=32)
    imported = read(path, device="Titan XP", batch=32, partial=True)
    rows = imported.table.rows
    first = rows[OpSpec("mbconv", 112, 16, 48, 0, 24, 3, 2, "relu6")]
    assert (first.median_ms, first.runs) == (1.0, 1)
    repeated = rows[OpSpec("mbconv", 56, 24, 72, 0, 24, 3, 1, "relu6")]
    assert (repeated.median_ms, repeated.runs) == (2.0, 3)
    assert rows[OpSpec("conv", 7, 384, 0, 0, 1984, 1, 1, "relu6")].median_ms == 0.3
    assert any("merged into medians" in line for line in imported.report)
    blocks[3][0].pop()
    path.write_text(json.dumps([2.1, blocks, [0.3, 0.2, 0.1], 0.4]))
    with pytest.raises(ValueError, match=r"heads: found 2 values, the published .* has 3"):
        read(path, device="Titan XP", batch=32, partial=True)


@pytest.mark.parametrize("text", ["", "a: b\n", "[1, 2]", "{unclosed", "\x00", "- [\n" * 3000])
def test_text_of_no_layout_is_refused(tmp_path, text):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"table\.yaml"):
        read(path, device="d", batch=1)


def test_what_must_be_stated(tmp_path):
    path = dump(published_form(8), tmp_path / "table.pkl")
    with pytest.raises(ValueError, match="state what the table was measured on"):
        read(path, device="", batch=32)
    with pytest.raises(ValueError, match="state what the table was measured on"):
        read(path, device="d", batch=0)
    with pytest.raises(ValueError, match="expected one of tfnas"):
        read(path, layout="nonsense", device="d", batch=1)
    with pytest.raises(ValueError, match="doesn't have the layout hardcorenas"):
        read(path, layout="hardcorenas", device="d", batch=1)
    with pytest.raises(ValueError, match="unit 'parsecs'"):
        read(path, unit="parsecs", device="d", batch=1)
    with pytest.raises(ValueError, match="can't read"):
        read(tmp_path / "none.pkl", device="d", batch=1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_names_its_source_and_a_known_unit(name):
    assert LAYOUTS[name].unit in ("s", "ms", "us", None)
    assert "/" in LAYOUTS[name].source
    assert not LAYOUTS[name].recognizes(None)
    assert not LAYOUTS[name].recognizes({1: 2})


@needs_reference
def test_facts_of_the_published_table():
    path = Path(str(REFERENCE))
    imported = read(path, device="Titan RTX", batch=32)
    assert len({op.curve for op in imported.table.rows}) == 66
    assert imported.table.overhead_ms == pytest.approx(1.986, abs=5e-4)
    bad = impossible_values(path)[0]
    assert "88 of 36480 entries" in bad
    assert "in 14 keys" in bad
    assert "least -0.2406 ms" in bad
    assert all(row.median_ms > 0 for row in imported.table.rows.values())
    # what was left out lies on the line between points that were kept
    curves: dict[str, dict[int, float]] = {}
    for entry in LAYOUTS["tfnas"].read(_parse(path), 32).entries:
        key, width = entry.key.split(" · ")
        curves.setdefault(key, {})[int(width)] = entry.value
    assert len(curves) == 66
    for curve in curves.values():
        kept = [width for width in curve if width % 8 == 0]
        inner = [width for width in curve if width >= 8]
        line = np.interp(inner, kept, [curve[width] for width in kept])
        np.testing.assert_allclose([curve[width] for width in inner], line, atol=1e-9)

"""Ops, subnets and spaces: what may stand in them, and what survives saving."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.spaces import load_space, load_spec, macs_table
from tfnas.app.values import conf_path
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import Choice, Stage
from tfnas.space.size import Oblong
from tfnas.space.spec import CandidateSpec, ExpansionSpec, LayerSpec, StageSpec
from tfnas.space.subnet import MAX_SUBNET_BYTES, Subnet

NAMES = sorted(path.stem for path in (conf_path() / "space").glob("*.yaml"))
CONV = OpSpec("conv", 32, 3, 0, 0, 16, 3, 2, "relu")
BLOCK = OpSpec("mbconv", 16, 16, 48, 4, 16, 5, 1, "swish")
HEAD = OpSpec("classifier", 16, 16, 0, 0, 10, 1, 1, "none")
SMALL = Subnet("small", (CONV,), ((BLOCK, BLOCK),), (HEAD,))


# -- spaces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantum", [1, 8, 16])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_sampled_is_in_the_space_and_survives_saving(name: str, quantum: int) -> None:
    space, rng = load_space(name, quantum=quantum), random.Random(0)
    ops = set(space.ops()) if quantum > 1 else None
    for _ in range(30):
        subnet = space.sample(rng)
        assert subnet in space
        assert Subnet.from_json(subnet.to_json()) == subnet
        for block, op in zip(space.blocks, subnet.blocks, strict=False):
            if any(len(choice.widths) > 1 for choice in block):
                assert op.c_mid % quantum == 0
        assert (subnet.resolution, subnet.classes) == (space.resolution, space.classes)
        assert ops is None or {op for op in subnet.ops if not op.free} <= ops
    assert space.sample(random.Random(1)) == space.sample(random.Random(1))


@pytest.mark.parametrize("name", NAMES)
def test_choices_rebuild_the_subnet(name: str) -> None:
    space, rng = load_space(name), random.Random(0)
    for _ in range(10):
        subnet = space.sample(rng)
        picks, widths = [], []
        found = space.choices_of(subnet)
        for stage, row, ops in zip(space.stages, found, subnet.stages, strict=True):
            cut = len(stage.blocks) - len(row)
            picks += [*row, *[0] * cut]
            widths += [*(op.c_mid for op in ops), *[0] * cut]
        assert space.subnet(subnet.depths, picks, widths) == subnet


def test_a_net_of_another_space_is_not_in_it() -> None:
    tiny = load_space("tiny")
    subnet = tiny.sample(random.Random(0))
    assert subnet not in load_space("tfnas")
    assert subnet not in load_space("tiny", classes=7)
    assert subnet.with_widths([op.c_mid + 1 for op in subnet.blocks]) not in tiny
    assert replace(subnet, stages=(subnet.stages[0] * 3, subnet.stages[1])) not in tiny
    assert "subnet" not in tiny
    with pytest.raises(ValueError, match="is no candidate of its block"):
        tiny.choices_of(subnet.with_widths([op.c_mid + 1 for op in subnet.blocks]))


def test_ops_are_distinct_and_those_of_the_curves() -> None:
    space = load_space("tiny")
    ops = list(space.ops())
    assert len(set(ops)) == len(ops)
    curves = space.curves()
    assert {op.line for op in ops if op not in space.fixed} == set(curves)
    assert len(ops) == len(set(space.fixed)) + sum(len(widths) for widths in curves.values())


def test_the_published_space() -> None:
    space = load_space("tfnas", classes=1000, quantum=1)
    assert [len(stage.blocks) for stage in space.stages] == [2, 3, 4, 4, 4, 1]
    assert {stage.min_depth for stage in space.stages} == {1}
    assert len(space.curves()) == 66
    names = ["k3_e3", "k3_e6", "k5_e3", "k5_e6"]
    for block in space.blocks:
        assert [choice.name for choice in block] == [*names, *(f"{name}_se" for name in names)]
    first = [choice.op for choice in space.blocks[0]]
    assert [op.c_mid for op in first[:2]] == [48, 96]
    assert [op.c_se for op in first] == [0, 0, 0, 0, 16, 32, 16, 32]
    assert space.blocks[0][0].widths == tuple(range(32, 65))
    assert space.blocks[0][1].widths == tuple(range(64, 129))
    strides = [stage.blocks[0][0].op.stride for stage in space.stages]
    assert strides == [2, 2, 2, 1, 2, 1]
    acts = [{c.op.act for block in stage.blocks for c in block} for stage in space.stages]
    assert acts == [{"relu"}, *[{"swish"}] * 5]
    assert space.stem[1] == OpSpec("mbconv", 112, 32, 32, 8, 16, 3, 1, "relu")
    assert space.head[-1].c_out == 1000


def test_candidates_one_by_one() -> None:
    space = load_space("nas_bench_macro", quantum=16)
    names = [[choice.name for choice in block] for block in space.blocks]
    assert names[0] == ["conv", "k3_e3", "k5_e6"]
    assert names[1] == ["identity", "k3_e3", "k5_e6"]
    assert space.blocks[0][0].op == OpSpec("conv", 32, 32, 0, 0, 64, 1, 2, "none")
    assert [choice.widths for choice in space.blocks[1]] == [(0,), (192,), (384,)]
    assert not any(op.free for op in [*space.ops(), *space.curves()])
    table = macs_table(space)
    left_out = space.blocks[1][0]
    assert (table.ms(left_out.op), list(table.curve(left_out))) == (0, [0])
    assert table.missing(space) == []


def test_a_stage_may_have_candidates_of_its_own() -> None:
    base = load_spec("tiny")
    own = [CandidateSpec(kernel=7, ratio=1), CandidateSpec("identity")]
    single = StageSpec(16, depth=2, ops=own, kernels=[])
    squeezed = StageSpec(16, squeeze_excite=[True])
    space = replace(base, stages=[single, squeezed, *base.stages]).build(8)
    names = [[choice.name for choice in stage.blocks[-1]] for stage in space.stages]
    assert names[0] == ["k7_e1", "identity"]
    assert names[1] == ["k3_e3_se", "k5_e3_se"]
    assert names[2] == ["k3_e3", "k5_e3", "k3_e3_se", "k5_e3_se"]
    op = space.blocks[0][0].op
    assert (op.c_mid, op.expands, op.line) == (16, False, op)


def test_a_quantum_wider_than_the_range_leaves_one_width() -> None:
    space = load_space("tiny", quantum=64)
    assert {choice.widths for block in space.blocks for choice in block} <= {(64,), (64, 128)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": []}, "kernels is empty"),
        ({"stages": [StageSpec(16, kernels=[])]}, "kernels is empty"),
        ({"stages": [StageSpec(24, kernels=[], ops=[CandidateSpec("identity")])]}, "kind: skip"),
        ({"ops": [CandidateSpec("pooled_conv")]}, "kind='pooled_conv' of a candidate"),
        ({"ops": [CandidateSpec("mbconv_v3")]}, "without squeeze-excite it is an mbconv"),
        ({"ops": [CandidateSpec(), CandidateSpec()]}, "one twice"),
        ({"ops": [CandidateSpec(se_divisor=0)]}, "se_divisor of 1 or more"),
        ({"stages": [StageSpec(16, ops=3)]}, "ops is 3, expected a list"),
        ({"classes": None}, "classes is not known"),
        ({"classes": 0}, "c_out=0 of a classifier"),
        ({"resolution": 0}, "space.resolution=0: expected pixels from 1 to 8192"),
        ({"resolution": [160, 320, 3]}, "expected pixels from 1 to 8192, or .height, width."),
        ({"resolution": "large"}, "space.resolution=.large.: expected pixels"),
        ({"resolution": [32, 10**9]}, "expected pixels from 1 to 8192"),
        ({"kernels": [4]}, "expected an odd size"),
        ({"kernels": [3] * 100_000}, "1000000 are the most"),
        ({"stages": [StageSpec(c_out=16, depth=0)]}, "depth=0"),
        ({"stages": [StageSpec(c_out=16, depth=10**9)]}, "1000000 are the most"),
        ({"stages": [StageSpec(c_out=16, depth=2, min_depth=3)]}, "min_depth=3"),
        ({"stages": [StageSpec(c_out=16, act="gelu")]}, "'gelu': expected one of relu"),
        ({"head": [LayerSpec(kind="conv", c_out=8)]}, "must end with kind: classifier"),
        ({"stem": [LayerSpec(kind="pool", c_out=8)]}, "'pool': expected one of conv"),
        ({"expansions": [ExpansionSpec(3, 1, 4, 1)]}, "min_ratio must be above 1"),
        ({"expansions": [ExpansionSpec(3, 4, 2, 1)]}, "expected 0 < lowest <= highest"),
        ({"expansions": [ExpansionSpec(3, 2, 1e9, 1)]}, "1000000 are the most"),
        ({"expansions": [ExpansionSpec(3, 2, float("inf"), 1)]}, "1000000 are the most"),
        ({"expansions": [ExpansionSpec(3, float("nan"), 4, 1)]}, "1000000 are the most"),
    ],
)
def test_what_makes_no_space_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(load_spec("tiny"), **changes).build(1)
    with pytest.raises(ValueError, match="quantum=0"):
        load_spec("tiny").build(0)


# -- ops, choices, stages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "pool"), ("kind", ["conv"]), ("act", None), ("size", 0), ("size", 8.0),
        ("size", True), ("size", Oblong(8, 8)), ("size", (8, 16)),
        ("size", Oblong(8, 0)), ("c_in", -1), ("c_in", "16"), ("c_mid", 10**6), ("c_out", 0),
        ("kernel", 2), ("kernel", 33), ("stride", 0), ("stride", 9), ("c_se", -1),
    ],
)  # fmt: skip
def test_an_op_of_impossible_values(field: str, value: Any) -> None:
    changes: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match="expected"):
        replace(BLOCK, **changes)


def test_what_an_op_says_about_itself() -> None:
    assert (CONV.out_size, HEAD.out_size, replace(BLOCK, size=33, stride=2).out_size) == (16, 1, 17)
    assert BLOCK.expands
    assert BLOCK.residual
    assert not replace(BLOCK, c_mid=16).expands
    assert not replace(BLOCK, c_out=24).residual
    assert BLOCK.curve == replace(BLOCK, c_mid=64).curve != BLOCK
    assert str(BLOCK) == "mbconv 16px 16·48→16 k5 s1 se4 swish"


def test_widths_of_a_choice_are_ascending_with_the_initial_one() -> None:
    assert Choice(BLOCK, (32, 48)).at(32) == replace(BLOCK, c_mid=32)
    for widths in ((48, 32), (32, 64), (48, 48), ()):
        with pytest.raises(ValueError, match="expected ascending widths"):
            Choice(BLOCK, widths)


def test_depths_of_a_stage() -> None:
    block = (Choice(BLOCK, (48,)),)
    assert list(Stage((block,) * 3, 2).depths) == [2, 3]
    for depth in (0, 4):
        with pytest.raises(ValueError, match=f"min_depth={depth}"):
            Stage((block,) * 3, depth)


# -- subnets --------------------------------------------------------------------------------------


def test_a_subnet_is_a_chain_that_ends_with_a_classifier() -> None:
    with pytest.raises(ValueError, match="must end with a classifier"):
        Subnet("x", (CONV,), ((BLOCK,),), ())
    with pytest.raises(ValueError, match="can't follow"):
        Subnet("x", (CONV,), ((replace(BLOCK, size=8),),), (HEAD,))
    with pytest.raises(ValueError, match="must be the last"):
        Subnet("x", (CONV, HEAD), (), (replace(HEAD, size=1, c_in=10),))


def test_other_widths() -> None:
    assert [op.c_mid for op in SMALL.with_widths([32, 40]).blocks] == [32, 40]
    with pytest.raises(ValueError, match="3 widths for 2 blocks"):
        SMALL.with_widths([1, 2, 3])


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "subnet.json"
    SMALL.save(str(path))
    assert Subnet.load(str(path)) == SMALL
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="can't read the subnet"):
        Subnet.load(path)
    with pytest.raises(ValueError, match="can't read the subnet"):
        Subnet.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="can't read the subnet"):
        Subnet.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "expected 'tfnas.subnet/1'"),
        ('{"format": "tfnas.subnet/2"}', "expected 'tfnas.subnet/1'"),
        ('{"format": "tfnas.subnet/1"}', "is no valid subnet"),
        (" " * (MAX_SUBNET_BYTES + 1), "more than any subnet has"),
        (SMALL.to_json().replace('"c_mid"', '"c_middle"', 1), r"wrong at stem\[0\]: .*`c_mid`"),
        (
            SMALL.to_json().replace('"size": 16', '"size": 16.0', 1),
            "size=16.0, expected `int | array`",
        ),
    ],
)
def test_malformed_text_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Subnet.from_json(text, "here.json")
    assert str(caught.value).startswith("here.json")


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def accepted_or_value_error(text: str) -> None:
    try:
        subnet = Subnet.from_json(text)
    except ValueError:
        return
    assert Subnet.from_json(subnet.to_json()) == subnet


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_part_replaced_by_anything(data: st.DataObject) -> None:
    root = json.loads(SMALL.to_json())
    node: Any = root
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(node[key], (dict, list)) and len(node[key]) > 0
        if not deeper or data.draw(st.booleans()):
            break
        node = node[key]
    if data.draw(st.booleans()):
        node[key] = data.draw(VALUES)
    else:
        del node[key]
    accepted_or_value_error(json.dumps(root))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | VALUES.map(json.dumps))
def test_any_text(text: str) -> None:
    accepted_or_value_error(text)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3_000), st.binary(min_size=1, max_size=3))
def test_any_bytes_within_a_good_file(at: int, noise: bytes) -> None:
    text = SMALL.to_json()
    at %= len(text)
    accepted_or_value_error(text[:at] + noise.decode("latin-1") + text[at + len(noise) :])

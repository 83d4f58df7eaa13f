"""Files from elsewhere: whatever bytes they have, they give an object that holds together or one
error that says why, within a bounded time and memory, and run nothing."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import pickle
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from onnx import TensorProto, helper
from safetensors.torch import save_file

from profilers.devices import open_profiler
from profilers.models import read_model
from tests.support.nets import tiny_subnet
from tests.support.simulated_device import DEVICE
from tests.support.spaces import load_spec
from tfnas.data import lists
from tfnas.data.cifar import CIFAR10, _cifar_images, _unpickled, read_cifar
from tfnas.data.folders import class_folders
from tfnas.data.idx import read_idx
from tfnas.data.lists import read_list, read_numbers
from tfnas.data.npz import read_npz
from tfnas.deploy.onnx_graph import build_model, random_weights
from tfnas.files import bounded, pickles
from tfnas.files.bounded import parse_yaml, shown
from tfnas.files.checkpoint import read_checkpoint, write_checkpoint
from tfnas.files.pickles import parse_pickle
from tfnas.latency import importers
from tfnas.latency.lint import lint
from tfnas.latency.table import Calibration, HeldOut, LatencyTable, Measurement, SpaceFit
from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained, load_weights, save_weights
from tfnas.space.ops import MAX_OPS, MAX_VALUES, OpSpec
from tfnas.space.spec import ExpansionSpec, SpaceSpec, StageSpec
from tfnas.space.subnet import Subnet
from tfnas.table import main as table_cli

pytestmark = pytest.mark.slow

few = settings(max_examples=60, deadline=None)

OPS = tuple(OpSpec("mbconv", 28, 32, w, se, 32, 3, 1, "relu") for w in (64, 96) for se in (0, 8))
TABLE = LatencyTable(
    DEVICE, {op: Measurement(0.1 + op.c_mid / 1e3, 0.001, 30) for op in OPS},
    spaces={
        "tiny@32-abc": SpaceFit(
            Calibration(1.02, 10, 1.5, (("28px", 1.1),)), HeldOut(1, 1.0, 2.0, 3.0),
            {"mape_pct": 1.0, "bias_pct": -0.5, "spearman": 0.9, "nets": [{"table_ms": 1.0}]},
        )
    },
    overhead_ms=0.5, quantum_evidence=((64, 0.5),),
    nets={"abc": Measurement(1.0, math.nan, 3)},
    notes=("a note",),
)  # fmt: skip
SUBNET = tiny_subnet()
NETWORK = Network(SUBNET)
TRAINED = Trained(
    data="some: images", classes=tuple(f"class {i}" for i in range(10)), mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6), crop_fraction=0.875, resolution=32, top1=0.5, top5=0.9,
)  # fmt: skip
PUBLISHED = OrderedDict(
    base=0.5,
    **{
        f"MBInvertedResBlock_16_16_{se}_16_k3_s1_swish": OrderedDict(
            (width, 0.01 + 0.001 * width) for width in range(1, 25)
        )
        for se in (0, 16)
    },
)
HARDCORE = {"in_channels_24_out_channels_40_stride_2_resolution_56_er_3_k_5_se_0_act_1": 0.002}
MIT = "expanded_conv-input:8x8x16-output:8x8x16-expand:3-kernel:3-stride:1-idskip:1"
DENSE = [
    2.1,
    [
        [[[0.1] * 6] * heads, [[0.1] * 7]]
        for heads in (1, 1, 2, 3, 3, 4, 4, 3, 4, 4, 3, 4, 4, 3, 4, 4)
    ],
    [0.3, 0.2, 0.1],
    0.4,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loaders")


def attempt(load: Callable[[Path], Any], path: Path) -> Any:
    """What is loaded, or None if it was refused as a user can bear it."""
    try:
        return load(path)
    except ValueError as error:
        refused = error
    assert not isinstance(refused, (UnicodeError, json.JSONDecodeError)), "an error of a library"
    assert path.name in str(refused)
    assert len(str(refused)) < 2_000
    return None


@contextmanager
def at_most_mb(limit: float) -> Iterator[None]:
    """Of memory that Python and NumPy take."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit * 1e6
    finally:
        tracemalloc.stop()


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with some bytes replaced, cut or put in; or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=100))
    for _ in range(draw(st.integers(1, 3))):
        at, cut = draw(st.integers(0, len(good))), draw(st.sampled_from([0, 1, 1, 2, 8, 10**6]))
        good = good[:at] + draw(st.binary(max_size=4)) + good[at + cut :]
    return good


RAW = {"@digits@": "9" * 5_000, "@infinite@": "1e400", "@nan@": "NaN", "@deep@": "[" * 5_000}
HOSTILE = st.sampled_from(
    [None, True, False, -1, 0, 1, 2.5, -0.0, 5e-324, 1e300, 10**20, 10**400, "", "ms", "1", "\0",
     "\ud800", "\x1b[2J", "x" * 20_000, [], {}, [[]], [None], [1, 2], [1, 2, 3], ["a", "b"],
     [[[[[[[[[[1]]]]]]]]]], {"": 1}, {"a": [1]}, {"mean": 1}, *RAW]
)  # fmt: skip


def raw_json(root: Any) -> str:
    text = json.dumps(root)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


@st.composite
def spoiled(draw: st.DrawFn, good: Any) -> str:
    """JSON with any part deleted or replaced, or a key twice."""
    root = json.loads(json.dumps(good))
    node: Any = root
    while True:
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or not node[key] or draw(st.booleans()):
            break
        node = node[key]
    change = draw(st.sampled_from(["delete", "replace", "replace", "replace", "add", "twice"]))
    if change == "delete":
        del node[key]
    elif change == "replace":
        node[key] = draw(HOSTILE)
    elif change == "add" and isinstance(node, dict):
        node[draw(st.sampled_from(["more", "", "\ud800"]))] = draw(HOSTILE)
    text = raw_json(root)
    return text.replace("{", '{"format": 1, ', 1) if change == "twice" else text


# -- any bytes ------------------------------------------------------------------------------------


def sound_subnet(path: Path) -> None:
    subnet = attempt(Subnet.load, path)
    if subnet is not None:
        assert Subnet.from_json(subnet.to_json()) == subnet
        assert sum(op.weights for op in subnet.ops) <= MAX_VALUES


def sound_table(path: Path) -> None:
    """Everything that is done with a table without measuring works with what was let in."""
    found = attempt(LatencyTable.load, path)
    if found is None:
        return
    again = path.with_name("again.json")
    found.save(again)
    text = again.read_text()
    LatencyTable.load(again).save(again)
    assert again.read_text() == text
    for finding in lint(found):
        assert str(finding)
    with redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit) as ended:
        table_cli(["show", str(path), "--rows", "0"])
    assert ended.value.code == 0, shown.getvalue()
    for op in found.rows:
        assert math.isfinite(found.ms(op))


def sound_import(path: Path) -> None:
    unit = "ms" if path.suffix == ".yaml" else None  # of other layouts it is known
    found = attempt(lambda p: importers.read(p, unit=unit, device="d", batch=1, partial=True), path)
    if found is not None:
        saved = path.with_name("imported.json")
        found.table.save(saved)
        assert len(LatencyTable.load(saved).rows) == len(found.table.rows) > 0
    attempt(importers.impossible_values, path)


@few
@given(text=spoiled(json.loads(SUBNET.to_json())))
def test_subnets_with_any_part_spoiled(folder: Path, text: str) -> None:
    path = folder / "subnet.json"
    path.write_text(text)
    sound_subnet(path)


@few
@given(content=damaged(SUBNET.to_json().encode()))
def test_subnets_of_any_bytes(folder: Path, content: bytes) -> None:
    path = folder / "subnet.json"
    path.write_bytes(content)
    sound_subnet(path)


@pytest.fixture(scope="module")
def table_json(folder: Path) -> Any:
    TABLE.save(folder / "good.json")
    return json.loads((folder / "good.json").read_text())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_tables_with_any_part_spoiled(folder: Path, table_json: Any, data: st.DataObject) -> None:
    path = folder / "table.json"
    path.write_text(data.draw(spoiled(table_json)))
    sound_table(path)


@few
@given(data=st.data())
def test_tables_of_any_bytes(folder: Path, table_json: Any, data: st.DataObject) -> None:
    path = folder / "table.json"
    path.write_bytes(data.draw(damaged(json.dumps(table_json).encode())))
    sound_table(path)


@few
@given(content=damaged(json.dumps(DENSE).encode()), text=spoiled(DENSE))
def test_imported_json(folder: Path, content: bytes, text: str) -> None:
    for data in (content, text.encode()):
        path = folder / "published"
        path.write_bytes(data)
        sound_import(path)


@few
@given(
    content=damaged(f"{MIT}:\n  mean: 0.5\n  count: 3\n".encode()),
    text=spoiled({MIT: {"mean": 0.5, "count": 3}}),
)
def test_imported_yaml(folder: Path, content: bytes, text: str) -> None:
    for data in (content, text.encode()):
        path = folder / "published.yaml"
        path.write_bytes(data)
        sound_import(path)


OPCODES = [
    b"(", b"l", b"]", b"a", b"e", b"d", b"}", b"s", b"u", b")", b"t", b"\x85", b"\x86", b"\x87",
    b"0", b"2", b"1", b"b", b"R", b"\x81", b"\x94", b"q\x00", b"q\x01", b"h\x00", b"h\x01",
    b"r\xff\xff\xff\x7f", b"K\x01", b"K\x08", b"J\xff\xff\xff\xff",
    b"G?\xf0\x00\x00\x00\x00\x00\x00",
    b"\x8a\x09" + b"\xff" * 8 + b"\x00", b"X\x04\x00\x00\x00base", b"U\x01u", b"N", b"\x88",
    b"c__builtin__\neval\n", b"ccollections\nOrderedDict\n", b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"\x93", b".",
]  # fmt: skip
programs = st.lists(st.sampled_from(OPCODES), max_size=30).map(lambda p: b"".join(p) + b".")


@few
@given(st.data())
def test_imported_pickles(folder: Path, data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([PUBLISHED, {**HARDCORE, "general": 0.01}]))
    protocol = data.draw(st.sampled_from([0, 2, 4]))
    for content in (data.draw(damaged(pickle.dumps(good, protocol))), data.draw(programs)):
        path = folder / "published.pkl"
        path.write_bytes(content)
        sound_import(path)


def test_what_is_good_is_loaded(folder: Path, table_json: Any) -> None:
    """Or the tests around would show nothing."""
    path = folder / "good.json"
    assert LatencyTable.load(path).spaces == TABLE.spaces
    for name, content in (
        ("d", json.dumps(DENSE).encode()),
        ("m.yaml", f"{MIT}:\n  mean: 0.5\n  count: 3\n".encode()),
        ("t.pkl", pickle.dumps(PUBLISHED, 2)),
        ("h.pkl", pickle.dumps({**HARDCORE, "general": 0.01}, 0)),
    ):
        (folder / name).write_bytes(content)
        found = importers.read(
            folder / name, unit="ms" if name == "m.yaml" else None, device="d", batch=1,
            partial=True,
        )  # fmt: skip
        assert found.table.rows


# -- files that were made to harm -----------------------------------------------------------------

# As keys of dicts: hashing the first takes 2^60 steps, hashing the second the whole C stack.
SHARED = b"\x80\x02K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}h\x00K\x01s."
NESTED = b"\x80\x02}K\x01" + b"\x85" * 150_000 + b"K\x01s."
UNFOLDED = b"\x80\x02]q\x00" + b"(" + b"h\x00" * 99 + b"e."  # holds itself, 99 times


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.pkl", SHARED, "holds the key"),
        ("t.pkl", NESTED, "holds the key"),
        ("t.pkl", UNFOLDED, "unfolds|nested"),
        ("t.pkl", b"\x80\x02}X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02s.", "corrupt|no known"),
        ("t.pkl", b"\x80\x02}(U\x01aK\x01U\x01aK\x02u.", "the key 'a' twice"),
        ("t.pkl", b"\x80\x02U\x01\xff}K\x01s.", "corrupt"),
        ("t.pkl", b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.", "half a character"),
        ("t.pkl", b"S'\\p'\n.", "no known layout"),
        ("t.pkl", b"I" + b"9" * 5_000 + b"\n.", "corrupt"),
        ("t.pkl", b"\x80\x02\x8a\x10" + b"\x7f" * 16 + b".", "beyond"),
        ("t.pkl", b"\x80\x02ccollections\nOrderedDict\n}b.", "corrupt"),
        ("t.pkl", b"\x80\x02ccollections\nOrderedDict\n.", "holds a"),
        ("t.pkl", pickle.dumps({f"in_channels_{'9' * 400}_out_channels_4": 1.0, "general": 1.0}),
         "key 'in_channels_99"),
        ("t.pkl", pickle.dumps({next(iter(HARDCORE)).replace("_3_", f"_{'9' * 400}_"): 1.0,
                                "general": 1.0}), "key 'in_channels_24"),
        ("t.yaml", b"a: " + b"1:" * 100_000 + b"1", "a text of 200,001 characters"),
        ("t.yaml", b"a: 1:1:1", "no known layout"),
        ("t.yaml", f"{MIT.replace('expand:3', 'expand:0')}:\n  mean: 1\n".encode(), "no mid width"),
        ("t.yaml", b"a: &a [1]\nb: *a\n", "an alias"),
        ("t.yaml", b"a: &a {b: 1}\nc: {<<: [*a, *a]}\n", "an alias"),
        ("t.yaml", b"!!python/object/apply:os.system ['true']", "a tag"),
        ("t.yaml", b"a: !!int ''", "a tag"),
        ("t.yaml", b"a: 1\na: 2\n", "the key 'a' twice"),
        ("t.yaml", b"? [1]\n: 2\n", "holds the key"),
        ("t.yaml", b"a: 1\n---\nb: 2\n", "2 YAML documents"),
        ("t.yaml", b"{a: " * 5_000, "not YAML|nested"),
        ("t.yaml", b"- - - - - - - - - - 1", "nested deeper"),
        ("t.yaml", b"a: \xff", "no text in UTF-8"),
        ("t.json", b"[1e400]", "beyond"),
        ("t.json", b"[" + b"9" * 5_000 + b"]", "5000 digits"),
        ("t.json", b'[{"a": 1, "a": 2}]', "the key 'a' twice"),
        ("t.json", b'["\\ud800"]', "half a character"),
        ("t.json", b"[" * 100_000, "nested"),
        ("t.json", b"[" + b"[]," * 1_000_000 + b"1]", "more than 500,000 values"),
    ],
)  # fmt: skip
def test_imports_that_would_harm(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with at_most_mb(100), pytest.raises(ValueError, match=told) as caught:
        importers.read(path, unit="ms", device="d", batch=1)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 2_000


def test_parts_of_a_pickle_and_of_yaml_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bounded, pickles):
        monkeypatch.setattr(module, "MAX_PARTS", 100)
    with pytest.raises(ValueError, match="more than 100 parts"):
        parse_pickle(b"]" * 101 + b".")
    with pytest.raises(ValueError, match="more than 100 parts"):
        parse_yaml("- 1\n" * 101)


def test_an_import_of_any_name_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.pkl")
    path.write_bytes(pickle.dumps(PUBLISHED, 2))
    with pytest.raises(ValueError, match="device holds half a character"):
        importers.read(path, device="\udcff", batch=1)
    found = importers.read(path, device="d", batch=1)
    found.table.save(tmp_path / "saved.json")
    assert LatencyTable.load(tmp_path / "saved.json").notes == found.table.notes


def fit(**values: object) -> dict[str, object]:
    return {"spaces": {"a@28": {"calibration": None, "held_out": None, "card": None, **values}}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"unit": "s"}, "wrong at unit: Invalid enum value 's'"),
        ({"calibraton": None}, "has the fields"),
        (fit(card=[1]), "card: Expected `object"),
        (fit(card={"mape_pct": 10**20}), "holds an integer of 21 digits"),
        ({"notes": "abc"}, "notes='abc', expected `array`"),
        ({"notes": [1]}, r"notes\[0\]=1, expected `str`"),
        ({"overhead_ms": True}, "overhead_ms=True"),
        ({"overhead_ms": 1e14}, "overhead_ms=1.*, expected `float` <="),
        ({"quantum_evidence": [["64", 0.5]]}, r"quantum_evidence\[0\]\[0\]='64'"),
        ({"quantum_evidence": [[64.5, 0.5]]}, r"quantum_evidence\[0\]\[0\]=64.5"),
        (
            fit(held_out={"points": 1.5, "mean_pct": 1, "p95_pct": 1, "max_pct": 1}),
            "held_out.points: Expected `int`",
        ),
        ({"device": {**asdict(DEVICE), "versions": {"": "1"}}}, "a key of device.versions"),
        ({"device": {**asdict(DEVICE), "versions": {"numpy": 1}}}, "versions.*Expected `str`"),
        ({"device": {**asdict(DEVICE), "batch": True}}, "device.batch=True"),
        ({"nets": {"a": [1.0, None, 2.0]}}, r"nets\[...\]\[2\]: Expected `int`"),
    ],
)
def test_tables_that_say_what_can_not_be(
    tmp_path: Path, table_json: Any, changes: dict[str, Any], told: str
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**table_json, **changes}))
    with pytest.raises(ValueError, match=told):
        LatencyTable.load(path)


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (2, 2**16, "values in a layer"),
        (3, 0, "no mid width"),
        (9, 10**14, r"rows\[0\]\[9\]=1.*, expected `float` <="),
        (9, "0.1", r"rows\[0\]\[9\]='0.1'"),
        (9, True, r"rows\[0\]\[9\]=True"),
        (10, -1e14, r"rows\[0\]\[10\]=-1.*, expected `float` >="),
        (11, 1.0, r"rows\[0\]\[11\]=1.0"),
        (0, ["conv"], r"rows\[0\]\[0\]="),
        (0, "conv", "c_mid=64 of a conv, which has none"),
    ],
)
def test_rows_that_can_not_be(
    tmp_path: Path, table_json: Any, at: int, value: object, told: str
) -> None:
    path = tmp_path / "table.json"
    row = [*table_json["rows"][0][:at], value, *table_json["rows"][0][at + 1 :]]
    if at == 2:
        row[1] = 8192
    path.write_text(json.dumps({**table_json, "rows": [row]}))
    with pytest.raises(ValueError, match=told):
        LatencyTable.load(path)


def test_rows_are_counted_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text('{"rows": [' + "[]," * 3_000_000 + "0]}")
    with at_most_mb(30), pytest.raises(ValueError, match="more than 3,500,000 values"):
        LatencyTable.load(path)


def test_subnets_that_no_memory_holds() -> None:
    conv = OpSpec("conv", 1, 3, 0, 0, 2**14, 1, 1, "relu")
    wide = OpSpec("classifier", 1, 2**14, 0, 0, 2**13, 1, 1, "none")
    assert Subnet("x", (conv,), (), (wide,)).classes == 2**13
    with pytest.raises(ValueError, match="weights, 268,435,456 are the most"):
        replace(wide, c_in=2**16)
    square = OpSpec("conv", 1, 2**13, 0, 0, 2**13, 1, 1, "relu")
    narrow = OpSpec("classifier", 1, 2**13, 0, 0, 10, 1, 1, "none")
    with pytest.raises(ValueError, match="are the most"):
        Subnet("x", (square,) * 5, (), (narrow,))
    thin = OpSpec("conv", 1, 1, 0, 0, 1, 1, 1, "relu")
    with pytest.raises(ValueError, match="1,001 ops"):
        Subnet("x", (thin,) * 1_000, (), (replace(narrow, c_in=1),))
    with pytest.raises(ValueError, match="a stage of a subnet is empty"):
        Subnet("x", (thin,), ((),), (replace(narrow, c_in=1),))
    curve = OpSpec("mbconv", 1, 1, 0, 0, 1, 1, 1, "relu")
    with pytest.raises(ValueError, match="no mid width"):
        Subnet("x", (curve,), (), (replace(narrow, c_in=1),))


# -- spaces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": [StageSpec(c_out=16, depth=10**9)]},
        {"stages": [StageSpec(c_out=16, depth=10**400)]},
        {"stages": [StageSpec(c_out=16, depth=64)] * 17},
        {"stages": [StageSpec(c_out=16)] * 100_000},
        {"in_channels": 10**400},
        {"kernels": [3, 3]},
        {"squeeze_excite": [True, True]},
        {"expansions": [ExpansionSpec(3, 2, 1e8, 1)]},
        {"expansions": [ExpansionSpec(3, 1e308, 1e308, 1)]},
        {"expansions": [ExpansionSpec(math.nan, 2, 4, 1)]},
        {"expansions": [ExpansionSpec(3, 2, 4, math.inf)]},
        {"expansions": [ExpansionSpec(3, 2, 4, 1e300)]},
        {"expansions": [ExpansionSpec(3, 2, 4, 1), ExpansionSpec(3, math.nan, 4, 1)]},
        {"expansions": [ExpansionSpec(3, 2, 5_000, 1)]},
        {"name": "\ud800"},
        {"name": "x" * 300},
    ],
)
def test_spaces_are_refused_before_they_are_made(changes: dict[str, Any]) -> None:
    spec = replace(load_spec("tiny"), **changes)
    with at_most_mb(5), pytest.raises(ValueError, match="space"):
        spec.build(1)


KEYS = [
    "name", "resolution", "in_channels", "classes", "kernels", "kernels.0", "squeeze_excite.0",
    "stem", "stem.0.c_out", "stem.0.kind", "stem.0.expansion", "stem.0.c_se", "stem.0.stride",
    "expansions.0.ratio", "expansions.0.min_ratio", "expansions.0.max_ratio",
    "expansions.0.se_ratio", "stages", "stages.0.depth", "stages.0.min_depth", "stages.0.c_out",
    "stages.1.stride", "stages.0.act", "head.1.kind", "more",
]  # fmt: skip
OVERRIDES = HOSTILE | st.integers() | st.floats() | st.sampled_from(["???", "${name}", "1e400"])


@settings(max_examples=100, deadline=None)
@given(key=st.sampled_from(KEYS), value=OVERRIDES, quantum=st.sampled_from([1, 8, 10**6]))
def test_overrides_of_a_space(key: str, value: Any, quantum: int) -> None:
    config = OmegaConf.structured(SpaceSpec)
    config = OmegaConf.merge(config, asdict(load_spec("tiny")))
    try:
        OmegaConf.update(config, key, value)
        spec = OmegaConf.to_object(config)
        assert isinstance(spec, SpaceSpec)
        built = spec.build(quantum)
    except (ValueError, OverflowError, OmegaConfBaseException):  # the second: 1 and 309 zeros
        return
    assert sum(map(len, built.curves().values())) <= 2 * MAX_OPS
    subnet = built.sample(random.Random(0))
    assert Subnet.from_json(subnet.to_json()) == subnet


# -- images ---------------------------------------------------------------------------------------


def attempt_data(load: Callable[[], Any], name: str) -> Any:
    try:
        return load()
    except (ValueError, FileNotFoundError) as error:
        refused = str(error)
    assert name in refused
    return None


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


@few
@given(content=damaged(idx((2, 3, 4), bytes(24))), packed=st.booleans())
def test_idx_files(folder: Path, content: bytes, packed: bool) -> None:
    path = folder / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    array = attempt_data(lambda: read_idx(folder, "images", 3), "images")
    assert array is None or (array.dtype, array.ndim) == (np.uint8, 3)
    assert array is None or array.size == len(content) - 16
    path.unlink()


@few
@given(content=damaged(gzip.compress(idx((2, 3, 4), bytes(24)))))
def test_idx_files_badly_packed(folder: Path, content: bytes) -> None:
    (folder / "packed.gz").write_bytes(content)
    attempt_data(lambda: read_idx(folder, "packed", 3), "packed.gz")


@pytest.mark.parametrize(
    ("shape", "packed"),
    [((1 << 30,), True), ((1 << 29,), False), ((0,), False), ((0, 1 << 31, 1 << 31), False)],
)
def test_sizes_that_no_file_of_its_length_holds(
    tmp_path: Path, shape: tuple[int, ...], packed: bool
) -> None:
    content = idx(shape, bytes(1 << 22))
    path = tmp_path / ("i.gz" if packed else "i")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    with at_most_mb(20), pytest.raises(ValueError, match="damaged"):
        read_idx(tmp_path, "i", len(shape))


def cifar_batch(count: int) -> bytes:
    """Protocol 2 as Python 2 wrote it."""
    raw = bytes(3072 * count)
    size = struct.pack("<i", count)
    return (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01J" + size + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|"
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(raw)) + raw + b"tbU\x06labels](" + b"K\x03" * count + b"eu."
    )  # fmt: skip


def read_batch(content: bytes) -> Any:
    return _cifar_images(_unpickled(content, "batch"), CIFAR10, "batch")


@few
@given(head=damaged(cifar_batch(1)[:200]), tail=damaged(cifar_batch(1)[-40:]), program=programs)
def test_cifar_batches(head: bytes, tail: bytes, program: bytes) -> None:
    good = cifar_batch(1)
    pixels, labels = read_batch(good)
    assert (pixels.shape, labels.tolist()) == ((1, 32, 32, 3), [3])
    for content in (head + good[200:], good[:-40] + tail, program):
        attempt_data(lambda content=content: read_batch(content), "batch")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo of 2^31 entries
        SHARED,
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}U\x0c__defaults__K\x01s\x86b}.",
        b"\x80\x02cnumpy\nndarray\n)\x81}.",
        cifar_batch(1).replace(b"U\x02u1", b"U\x02i1"),
        cifar_batch(1).replace(b"J\x01\x00\x00\x00", b"J\xff\xff\xff\xff", 1),
        cifar_batch(0),
    ],
)
def test_cifar_batches_that_would_harm(content: bytes) -> None:
    with at_most_mb(5), pytest.raises(ValueError, match="batch: "):
        read_batch(content)


def tar(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member, as if it had so many bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        tar("big", 2**62),
        tar("././@PaxHeader", 2**40, tarfile.XHDTYPE),
        tar("././@LongLink", 2**40, tarfile.GNUTYPE_LONGNAME),
        tar("././@LongLink", 0, tarfile.GNUTYPE_LONGNAME) * 5_000,
        tar("cifar-10-batches-py/batches.meta", 2**40),
        tar("../../batches.meta", 0),
        b"\x00" * 100,
        b"",
    ],
)
def test_archives_that_would_harm(tmp_path: Path, content: bytes, packed: bool) -> None:
    path = tmp_path / "c.tar.gz"
    content += bytes(1 << 24)
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    with at_most_mb(60), pytest.raises(ValueError, match=r"c\.tar\.gz"):
        read_cifar(path, CIFAR10)
    assert list(tmp_path.iterdir()) == [path]


@few
@given(content=damaged(tar("cifar-10-batches-py/batches.meta", 3) + b"abc" + bytes(2_000)))
def test_archives_of_any_bytes(folder: Path, content: bytes) -> None:
    path = folder / "any.tar"
    path.write_bytes(content)
    attempt_data(lambda: read_cifar(path, CIFAR10), "any.tar")


@pytest.mark.parametrize("read", [read_list, read_numbers])
@few
@given(
    content=damaged(b"a/b.png 0\nc d.png\t1\n")
    | st.text(st.sampled_from("a/.\\ 01-e\t\n\0\u2028\xe9")).map(str.encode)
)
def test_lists(folder: Path, content: bytes, read: Callable[[Path, Path], Any]) -> None:
    path = folder / "list.txt"
    path.write_bytes(content)
    found = attempt_data(lambda: read(path, folder), "list.txt")
    if found is not None:
        paths, labels = found
        assert len(paths) == len(labels) > 0
        assert np.isfinite(labels).all()
        for name in paths:
            assert Path(os.path.normpath(name)).is_relative_to(folder)


def test_lists_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"a" * 30_000_000)
    with at_most_mb(1), pytest.raises(ValueError, match="line 1: expected up to"):
        read_list(path, tmp_path)
    monkeypatch.setattr(lists, "MAX_IMAGES", 2)
    path.write_text("a 0\nb 0\nc 0\n")
    with pytest.raises(ValueError, match="line 3: expected up to 2"):
        read_list(path, tmp_path)


def test_names_of_classes_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    assert class_folders(tmp_path) == ("ant",)
    (tmp_path / os.fsdecode(b"b\xff")).mkdir()
    with pytest.raises(ValueError, match="isn't a name in UTF-8"):
        class_folders(tmp_path)


# -- weights and checkpoints ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    path = folder / "good.safetensors"
    save_weights(NETWORK.state_dict(), SUBNET, path, TRAINED)
    return path


def attempt_weights(path: Path) -> Any:
    return attempt(lambda p: load_weights(NETWORK, p, complete=False), path)


@few
@given(data=st.data())
def test_weights_of_any_bytes(folder: Path, weights: Path, data: st.DataObject) -> None:
    good = weights.read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    path = folder / "w.safetensors"
    path.write_bytes(data.draw(damaged(good[:end])) + good[end:])
    attempt_weights(path)
    header = json.loads(good[8:end])
    text = data.draw(spoiled(header)).encode(errors="surrogatepass")
    path.write_bytes(len(text).to_bytes(8, "little") + text + good[end:])
    attempt_weights(path)


@few
@given(text=spoiled({"format": "tfnas.weights/1", "trained": asdict(TRAINED), "space": "tiny"}))
def test_what_weights_say_of_themselves(folder: Path, text: str) -> None:
    path = folder / "w.safetensors"
    save_file(dict(NETWORK.state_dict()), path, {"tfnas": text})
    loaded = attempt_weights(path)
    if loaded is not None and loaded.trained is not None:
        assert min(loaded.trained.std) > 0
        json.dumps(asdict(loaded.trained), ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool],
)
def test_weights_of_another_type(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "w.safetensors"
    state = dict(NETWORK.state_dict())
    state["layers.0.conv.weight"] = state["layers.0.conv.weight"].to(dtype)
    save_file(state, path)
    with pytest.raises(ValueError, match=r"wrong type: layers\.0\.conv\.weight .* instead of F32"):
        load_weights(NETWORK, path, complete=True)


def test_refused_weights_leave_the_network(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    before = {name: value.clone() for name, value in NETWORK.state_dict().items()}
    state = {name: torch.ones_like(value) for name, value in before.items()}
    about = {"format": "tfnas.weights/1", "trained": {**asdict(TRAINED), "classes": ["one"]}}
    save_file(state, path, {"tfnas": json.dumps(about)})
    with pytest.raises(ValueError, match="names 1 classes"):
        load_weights(NETWORK, path, complete=True)
    for name, value in NETWORK.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_header_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    text = b"{" + b" " * 9_000_000 + b"}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="a header of 9,000,002 bytes"):
        load_weights(NETWORK, path, complete=True)


def test_what_was_trained_on_a_path_of_any_bytes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(NETWORK.state_dict(), SUBNET, path, replace(TRAINED, data="folder: /a\udcff"))
    loaded = load_weights(NETWORK, path, complete=True)
    assert loaded.trained is not None
    assert loaded.trained.data == "folder: /a?"


def checkpoint(program: bytes) -> bytes:
    """An archive as torch writes it, around the program of a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("data.pkl", program), ("byteorder", b"little"), ("data/0", bytes(64)),
            ("version", b"3\n"),
        ):  # fmt: skip
            archive.writestr(f"c/{name}", content)
    return file.getvalue()


def attempt_checkpoint(path: Path) -> Any:
    return attempt(lambda p: read_checkpoint(p, {"seed": 0}), path)


@pytest.fixture(scope="module")
def good_checkpoint(folder: Path) -> bytes:
    path = folder / "good.ckpt"
    write_checkpoint(path, {"identity": {"seed": 0}, "x": torch.arange(8), "rows": [1.0, None]})
    assert attempt_checkpoint(path)["rows"] == [1.0, None]
    return path.read_bytes()


@few
@given(data=st.data())
def test_checkpoints(folder: Path, good_checkpoint: bytes, data: st.DataObject) -> None:
    path = folder / "any.ckpt"
    with zipfile.ZipFile(io.BytesIO(good_checkpoint)) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        program = archive.read(name)
    path.write_bytes(checkpoint(program))
    assert attempt_checkpoint(path) is not None
    for content in (
        data.draw(damaged(good_checkpoint)),
        checkpoint(data.draw(damaged(program))),
        checkpoint(data.draw(programs)),
    ):
        path.write_bytes(content)
        attempt_checkpoint(path)


# -- ONNX -----------------------------------------------------------------------------------------


def save_model(path: Path, *nodes: onnx.NodeProto, size: int = 8, **more: Any) -> Path:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "g",
        [info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [info("y", TensorProto.FLOAT, None)],
        **more,
    )
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    return path


@few
@given(data=st.data())
def test_models_of_any_bytes(folder: Path, data: st.DataObject) -> None:
    ops = SUBNET.ops
    good = build_model(ops, random_weights(ops, np.random.default_rng(0))).SerializeToString()
    path = folder / "model.onnx"
    path.write_bytes(data.draw(damaged(good)))
    attempt(read_model, path)


def test_models_that_reach_outside_or_never_end(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    profiler = open_profiler("cpu")
    add = helper.make_node("Add", ["x", "w"], ["y"])
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 8, 8])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../../etc/passwd")
    constant = helper.make_node("Constant", [], ["w"], value=outside)
    for model in (
        save_model(path, add, initializer=[outside]),
        save_model(path, constant, add),
    ):
        with pytest.raises(ValueError, match="weights in other files"):
            profiler.model_workload(model)
    body = helper.make_graph([], "b", [], [])
    loop = helper.make_node("Loop", ["", "", "x"], ["y"], body=body)
    with pytest.raises(ValueError, match="'Loop' branches or loops"):
        profiler.model_workload(save_model(path, loop))


def test_models_that_no_memory_holds(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    profiler = open_profiler("cpu")
    relu = helper.make_node("Relu", ["x"], ["y"])
    with at_most_mb(10), pytest.raises(ValueError, match=r"takes \[1, 3, 100000, 100000\]"):
        profiler.model_workload(save_model(path, relu, size=100_000))
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [2**40])
    fill = helper.make_node("ConstantOfShape", ["s"], ["z"])
    total = helper.make_node("ReduceSum", ["z"], ["w"], keepdims=0)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    with pytest.raises(ValueError, match="can't run"):
        profiler.model_workload(save_model(path, fill, total, add, initializer=[shape]))


# -- what is no plain file ------------------------------------------------------------------------

LOADERS: dict[str, Callable[[Path], Any]] = {
    "subnet": Subnet.load,
    "table": LatencyTable.load,
    "import": lambda path: importers.read(path, device="d", batch=1),
    "weights": lambda path: load_weights(NETWORK, path, complete=False),
    "onnx": read_model,
    "checkpoint": lambda path: read_checkpoint(path, {}),
    "idx": lambda path: read_idx(path.parent, path.name, 3),
    "cifar": lambda path: read_cifar(path, CIFAR10),
    "list": lambda path: read_list(path, path.parent),
    "numbers": lambda path: read_numbers(path, path.parent),
    "npz": read_npz,
}
DATA = ("checkpoint", "idx", "cifar", "list", "numbers", "npz")  # may say so by OSError too


@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_no_plain_file_of_usual_size(tmp_path: Path, loader: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(1 << 40)
    refused = (ValueError, OSError) if loader in DATA else ValueError
    for path in (
        tmp_path / "folder", tmp_path / "pipe", tmp_path / "endless", tmp_path / "none",
        tmp_path / "nul\0", tmp_path / ("x" * 5_000), Path("/dev/zero"), Path("/dev/null"),
    ):  # fmt: skip
        with at_most_mb(20), pytest.raises(refused):
            LOADERS[loader](path)


def test_texts_and_numbers_for_messages() -> None:
    assert len(shown("x" * 10**6)) < 300
    assert "digits" in shown(10**5_000)
    assert len(shown([[["x" * 1_000] * 1_000] * 1_000] * 1_000)) < 2_000

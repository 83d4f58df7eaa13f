"""Which nets are compared, and whether they may be."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.nets import tiny_subnet
from tests.support.spaces import load_space, macs_table
from tests.test_report import RESULT
from tfnas.comparison.contenders import (
    Contender,
    as_overrides,
    check_latencies,
    check_shapes,
    find_table,
    latencies,
    load_contenders,
)
from tfnas.latency.table import Calibration, LatencyTable, SpaceFit
from tfnas.space.subnet import Subnet

SPACE = load_space()


def run(folder: Path, seed: int = 0, table: Path | None = None, classes: int = 10) -> Path:
    """The folder of a run, as far as it is looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_subnet(seed, classes).save(folder / "subnet.json")
    if table is not None:
        replace(RESULT, table=str(table)).save(folder / "result.json")
    return folder


def contender(name: str, *subnets: Subnet) -> Contender:
    return Contender(name, tuple(Path(f"{name}{i}") for i in range(len(subnets))), subnets)


def refused(nets: object) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_contenders(nets)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["runs/A", "runs/B", "seeds=[0,1,2]"], ["seeds=[0,1,2]", "nets=[runs/A,runs/B]"]),
        (["-m", "a b", "it's"], ["-m", "nets=['a b','it\\'s']"]),
        (["nets.tfnas=A", "nets.spos=[B,C]"], ["+nets.tfnas=A", "+nets.spos=[B,C]"]),
        (["--cfg", "job", "--config-dir=x", "nets=[A,B]"],
         ["--cfg", "job", "--config-dir=x", "nets=[A,B]"]),
        (["--cfg", "job", "A", "B"], ["--cfg", "job", "nets=[A,B]"]),
        ([], []),
    ],
)  # fmt: skip
def test_runs_may_stand_on_the_command_line_as_they_are(
    given: list[str], expected: list[str]
) -> None:
    assert as_overrides(given) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["A", "nets=[B]"], "A beside nets: give all runs in one way"),
        (["nets.x=B", "A"], "A beside nets: give all runs in one way"),
        (["A", "B", "resume=out"], "the command that a comparison was started with goes on"),
    ],
)
def test_what_a_command_line_can_not_say(given: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        as_overrides(given)


def test_names_are_those_of_folders(tmp_path: Path) -> None:
    a, b = run(tmp_path / "one" / "A"), run(tmp_path / "B", 1)
    found = load_contenders([str(a), str(b / "subnet.json")])
    assert [c.name for c in found] == ["A", "B"]
    assert found[0].paths == (a / "subnet.json",)
    assert found[1].subnets == (tiny_subnet(1),)
    other = run(tmp_path / "two" / "A", 2)
    assert [c.name for c in load_contenders([str(a), str(other)])] == ["one/A", "two/A"]
    own = tmp_path / "own.json"
    tiny_subnet(3).save(own)
    assert [c.name for c in load_contenders([str(own), str(a)])] == ["own", "A"]


def test_several_nets_of_a_method_and_those_of_a_sweep(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for i in range(2):
        run(sweep / str(i), i, table=tmp_path / "t.json")
    (sweep / "multirun.yaml").write_text("")
    pair = [str(run(tmp_path / name, seed)) for name, seed in (("C", 5), ("D", 6))]
    found = load_contenders({"ours": str(sweep), "theirs": pair})
    assert [(c.name, len(c.subnets)) for c in found] == [("ours", 2), ("theirs", 2)]
    (sweep / "1" / "subnet.json").unlink()
    assert "1 of its 2 runs lack one" in refused({"ours": str(sweep), "theirs": pair})
    assert f"resume={sweep}" in refused({"ours": str(sweep), "theirs": pair})


def test_what_names_no_two_nets_is_refused(tmp_path: Path) -> None:
    a, b = str(run(tmp_path / "A")), str(run(tmp_path / "B", 1))
    for nothing in (None, "runs/A", [], [a], {"x": a}, {}):
        assert "give two or more runs, `python -m tfnas.compare RUN RUN`" in refused(nothing)
    assert "names no net" in refused({"x": a, "y": []})
    assert "expected a run's folder" in refused([a, 1.5])
    assert "expected a run's folder" in refused({"x": a, "y": {"z": b}})
    assert "names one net twice" in refused([a, a])
    (tmp_path / "empty").mkdir()
    assert "holds no subnet.json, nor is it a sweep" in refused([a, str(tmp_path / "empty")])
    assert "none" in refused([a, str(tmp_path / "none")])
    (tmp_path / "B" / "subnet.json").write_text("{")
    assert "is not JSON" in refused([a, b])


def test_the_same_net_is_refused(tmp_path: Path) -> None:
    a, b, c = (str(run(tmp_path / name, seed)) for name, seed in (("A", 0), ("B", 0), ("C", 1)))
    assert "A and B are the same net" in refused([a, b])
    assert "would count as several" in refused({"x": [a, b], "y": [c, c]})
    text = refused({"x": [a, c], "y": b})
    assert "2 of x, 1 of y" in text
    assert "two or more of each" in text
    load_contenders({"x": [a, c], "y": [b, str(run(tmp_path / "D", 2))]})  # both found one net


def test_names_that_a_terminal_would_obey_are_cleaned(tmp_path: Path) -> None:
    a, b = str(run(tmp_path / "A")), str(run(tmp_path / "B", 1))
    assert [c.name for c in load_contenders({"\x1b[2Jx\u202e": a, "y" * 999: b})] == [
        "[2Jx", f"{'y' * 299}…"
    ]  # fmt: skip
    assert "expected one that can be printed" in refused({"\x00": a, "y": b})


def test_classes_and_resolutions_must_fit() -> None:
    ten, seven = contender("ten", tiny_subnet()), contender("seven", tiny_subnet(1, classes=7))
    check_shapes([ten], 10, "here")
    with pytest.raises(ValueError, match=r"seven \(seven0\) has 7 classes, the data 10 \(here\)"):
        check_shapes([ten, seven], 10, "here")
    small = replace(SPACE, resolution=16).sample(random.Random(0))
    halved = tuple(replace(op, size=max(1, op.size // 2)) for op in small.ops)
    n = len(small.stem)
    stages, rest = [], list(halved[n : -len(small.head)])
    for depth in small.depths:
        stages.append(tuple(rest[:depth]))
        del rest[:depth]
    small = Subnet("tiny", halved[:n], tuple(stages), halved[-len(small.head):])  # fmt: skip
    with pytest.raises(ValueError, match="ten at 32 px, small at 16 px"):
        check_shapes([ten, contender("small", small)], 10, "here")


def test_the_table_is_the_one_that_all_runs_name(tmp_path: Path) -> None:
    file, other = tmp_path / "t.json", tmp_path / "u.json"
    for path in (file, other):
        macs_table(SPACE).save(path)
    a, b = run(tmp_path / "A", 0, file), run(tmp_path / "B", 1, file)
    two = load_contenders([str(a), str(b)])
    assert find_table(None, two).source == str(file)
    assert find_table(str(other), two).source == str(other)
    run(b, 1, other)
    with pytest.raises(ValueError, match=r"several tables \(A with .*t.json; B with .*u.json\)"):
        find_table(None, two)
    (b / "result.json").unlink()
    with pytest.raises(ValueError, match=r"no .*result.json: give table=FILE"):
        find_table(None, two)
    run(b, 1, file)
    file.unlink()
    with pytest.raises(ValueError, match=r"doesn't exist.*the runs name it"):
        find_table(None, two)


def test_a_net_that_the_table_lacks_is_named() -> None:
    table = macs_table(SPACE)
    net = tiny_subnet(1)
    rows = {op: row for op, row in table.rows.items() if op.curve != net.blocks[-1].curve}
    with pytest.raises(LookupError, match=r"^y \(y0\): this table .* doesn't cover 1 op"):
        latencies(replace(table, rows=rows), [contender("y", net)])


def calibrated(**scales: float) -> LatencyTable:
    fits = {k.replace("_", "-").replace("AT", "@"): SpaceFit(Calibration(scale, 3, 1.0))
            for k, scale in scales.items()}  # fmt: skip
    return replace(macs_table(SPACE), spaces=fits)


def test_the_calibration_is_that_of_the_nets_space() -> None:
    net = tiny_subnet()
    (raw,) = latencies(macs_table(SPACE), [contender("x", net)]).values()
    (ms,) = latencies(
        calibrated(tinyAT32_aa=2.0, tfnasAT224_bb=3.0), [contender("x", net)]
    ).values()
    assert ms == pytest.approx(2 * raw)
    for table, told in (
        (calibrated(tfnasAT224_bb=3.0), "of which none can be that of the space tiny at 32 px"),
        (calibrated(tinyAT32_aa=2.0, tinyAT32_bb=3.0), "of which 2 can be"),
    ):
        with pytest.raises(LookupError, match=told):
            latencies(table, [contender("x", net)])


def two(a_ms: float, b_ms: float) -> tuple[dict[Path, float], list[Contender]]:
    nets = [contender("A", tiny_subnet(0)), contender("B", tiny_subnet(1))]
    return {nets[0].paths[0]: a_ms, nets[1].paths[0]: b_ms}, nets


def test_latencies_must_agree() -> None:
    check_latencies(*two(8.0, 8.079), tolerance=0.01, source="t")
    with pytest.raises(ValueError, match=r"A 8 ms, B 8.1 ms") as caught:
        check_latencies(*two(8.0, 8.1), tolerance=0.01, source="t")
    told = str(caught.value).partition("latency_tolerance=0.01")[2]
    given: Any = float(told.partition("latency_tolerance=")[2].partition(",")[0])
    check_latencies(*two(8.0, 8.1), tolerance=given, source="t")  # as it advises

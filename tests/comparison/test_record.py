"""What a comparison says, and what it doesn't."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.entry import compose_config
from tfnas.app.schemas import CompareConfig
from tfnas.comparison.record import (
    FINISHED,
    UNFINISHED,
    Comparison,
    Cost,
    Data,
    Method,
    Net,
    Table,
    Trial,
    costs_so_far,
    load_accuracies,
)
from tfnas.comparison.verdicts import cautions, table, verdicts, warnings
from tfnas.intervals import difference, paired_difference
from tfnas.training.loop import EpochResult
from tfnas.training.recipe import Recipe


@cache
def recipe() -> Recipe:
    return compose_config(CompareConfig, "compare", "recipe=test").recipe


def epochs(top1: float) -> tuple[EpochResult, ...]:
    return tuple(
        EpochResult(epoch, 0.05, 2.3 / epoch, 2.2, top1 * epoch / 2, 0.9, 1.0) for epoch in (1, 2)
    )


def made_up(*methods: list[list[float]], names: str = "ABCDEFGH", **changes: Any) -> Comparison:
    """A comparison of made-up accuracies.

    Args:
        methods: of each one the nets' top-1 values by seed.
    """
    found, trials, costs = [], [], []
    for name, nets in zip(names, methods, strict=False):
        own = []
        for index, values in enumerate(nets):
            subnet = f"{name}{index}"
            own.append(Net(f"runs/{subnet}/subnet.json", subnet, 8.0, 186_000_000))
            for seed, value in enumerate(values):
                weights = f"out/{subnet}/seed_{seed}/weights.safetensors"
                trials.append(Trial(subnet, seed, value, 0.99, 2.0, weights, epochs(value)))
                costs.append(Cost(subnet, seed, 1.5))
        found.append(Method(name, tuple(own)))
    made = Comparison(
        status=FINISHED, command="python -m tfnas.compare A B", methods=tuple(found),
        seeds=tuple(range(len(methods[0][0]))), trials=tuple(trials), costs=tuple(costs),
        recipe=recipe(), data=Data("fashion_mnist", "shipped cut", 3000),
        table=Table("t.json", "Xeon", "abc"), latency_tolerance=0.01, resolution=32,
        deployed_resolution=32, accelerator="cpu", threads=1, on_nonfinite="stop",
        versions={"tfnas": "0.1.0"},
    )  # fmt: skip
    return replace(made, **changes)


A, B = [0.80, 0.82, 0.84], [0.81, 0.83, 0.85]  # the same difference with every seed
C = [0.84, 0.80, 0.83]


def test_differences_of_single_nets_are_paired_by_seed() -> None:
    c = made_up([A], [[0.815, 0.83, 0.851]], [C])
    assert c.difference(c.methods[1]) == paired_difference([0.815, 0.83, 0.851], A)
    assert c.difference(c.methods[1]).excludes_zero
    assert not c.difference(c.methods[2]).excludes_zero
    assert c.mean(c.methods[0]).n == 3


def test_several_nets_of_a_method_count_once_each() -> None:
    ours, theirs = [A, B], [C, [0.7, 0.7, 0.7]]
    c = made_up(ours, theirs)
    assert c.values(c.methods[0]) == pytest.approx([0.82, 0.83])
    assert c.mean(c.methods[0]).n == 2
    expected = difference(c.values(c.methods[1]), c.values(c.methods[0]))
    assert c.difference(c.methods[1]) == expected
    assert c.results()[1]["difference"]["n"] == 2


def test_seeds_come_before_nets() -> None:
    c = made_up([A], [B])
    assert [(n.subnet, s) for n, s in c.planned] == [
        ("A0", 0), ("B0", 0), ("A0", 1), ("B0", 1), ("A0", 2), ("B0", 2)
    ]  # fmt: skip


def test_an_interval_that_includes_zero_is_no_difference() -> None:
    c = made_up([A], [C])
    (verdict,) = verdicts(c)
    assert verdict.startswith("B can't be told from A: the difference is -")
    assert table(c).splitlines()[2].endswith("  no")
    (verdict,) = verdicts(made_up([A], [[0.815, 0.83, 0.851]]))
    assert verdict.startswith("B is 1.20 points above A (+0.54 to +1.86)")
    assert table(made_up([A], [[0.815, 0.83, 0.851]])).splitlines()[2].endswith("  yes")
    for told in (made_up([A], [C]), made_up([A], [B], [C])):
        text = " ".join([table(told), *verdicts(told), *warnings(told), *cautions(told)])
        assert "better" not in text


def test_equal_differences_tell_nothing_apart() -> None:
    c = made_up([[0.50, 0.52, 0.51]], [[0.51, 0.53, 0.52]])
    assert c.results()[1]["difference"]["told_apart"] is False
    assert table(c).splitlines()[2].endswith("  no")
    (verdict,) = verdicts(c)
    assert verdict.startswith(
        "B can't be told from A: the difference is +1.00 points in all values"
    )
    (told,) = warnings(c)
    assert told.startswith("all differences of B to A are equal")
    assert warnings(replace(c, status=UNFINISHED, trials=())) == []
    flat = made_up([[0.5] * 3, [0.5] * 3], [[0.6] * 3, [0.6] * 3])
    assert not flat.told_apart(flat.methods[1])
    assert [told.partition(" are equal")[0] for told in warnings(flat)] == [
        "all top-1 values of A", "all top-1 values of B"
    ]  # fmt: skip


def test_few_values_are_told_as_few() -> None:
    assert "with 3 seeds an interval is wide: 4.3 standard errors" in cautions(made_up([A], [B]))[0]
    many = [0.8 + i / 1000 for i in range(12)]
    assert "wide" not in " ".join(cautions(made_up([many], [many[::-1]])))
    assert "with 2 nets of a method" in cautions(made_up([A, B], [C, A]))[0]
    assert "each of the 2 differences to A" in cautions(made_up([A], [B], [C]))[-1]
    table = Table("t.json", "Xeon", "abc", "int8")
    assert "accuracies are those in float" in " ".join(cautions(made_up([A], [B], table=table)))
    assert "in float" not in " ".join(cautions(made_up([A], [B])))


def test_what_was_raised_or_lowered_is_told() -> None:
    c = made_up([A], [C])
    assert warnings(c) == []
    slow = replace(c.methods[1], nets=(replace(c.methods[1].nets[0], table_ms=8.4),))
    (told,) = warnings(replace(c, methods=(c.methods[0], slow), latency_tolerance=0.1))
    assert "they differ by 5 %" in told
    (told,) = warnings(replace(c, latency_tolerance=0.1))
    assert told == "latency_tolerance=0.1 was given; the nets differ by 0 %"
    (told,) = warnings(replace(c, resolution=16))
    assert "accuracies are those at 16 px, latencies those at 32 px" in told
    (told,) = warnings(made_up([A], [[0.1, 0.1, 0.1]]))
    assert told.startswith("all top-1 values of B are equal")


def test_the_file_holds_all_values_and_results(tmp_path: Path) -> None:
    c, file = made_up([A], [B]), tmp_path / "compare.json"
    c.save(file)
    record = json.loads(file.read_text())
    assert record["format"] == "tfnas.compare/1"
    assert [t["top1"] for t in record["trials"]] == [*A, *B]
    assert record["results"] == c.results()
    assert record["cpu_seconds"] == 9.0
    assert record["recipe"]["epochs"] == 2
    assert costs_so_far(file) == c.costs
    told = load_accuracies(file)
    assert (told.folder, told.recipe, told.resolution) == (tmp_path, c.recipe.name, c.resolution)
    assert sorted(told.top1.values()) == sorted((tuple(A), tuple(B)))
    replace(c, status=UNFINISHED, trials=c.trials[:3]).save(file)
    record = json.loads(file.read_text())
    assert (record["status"], record["results"]) == ("unfinished", None)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "tfnas.train/1"}', '{"format": "tfnas.compare/1"}',
     '{"format": "tfnas.compare/1", "costs": [{"subnet": "a", "seed": 0}]}',
     '{"format": "tfnas.compare/1", "costs": [{"subnet": "a", "seed": 0, "cpu_seconds": -1.0}]}',
     '{"format": "tfnas.compare/1", "costs": 3}',
     '{"format": "tfnas.compare/1", "recipe": {"name": "x"}, "resolution": 9, "trials": [{}]}',
     "[" * 99_999],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(ValueError, match="is no comparison of"):
        costs_so_far(tmp_path / "compare.json")
    with pytest.raises(ValueError, match="is no comparison of"):
        load_accuracies(tmp_path / "compare.json")

"""Which figures a history gives, and what they name."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.support.browser import Elements, check_self_contained
from tests.support.run_folders import depth_history, history
from tests.support.spaces import load_space
from tfnas.pages import page
from tfnas.pages.history import MOST_PANELS, gather_history, history_figures
from tfnas.strategies.contract import EpochRecord

pytestmark = pytest.mark.slow

SPACE = load_space("tiny")
LEARNED = [
    "Supernet loss", "Supernet accuracy", "Latency of", "Temperature", "Learning rate", "Entropy",
    "Depth probabilities", "Depth of", "How often", "Op probabilities", "Mid width",
]  # fmt: skip
SAMPLED = ["Supernet loss", "Supernet accuracy", "Learning rate", "How often"]


def drawn(records: list[EpochRecord], known: bool = True) -> Elements:
    subnet = SPACE.sample(random.Random(1)) if known else None
    history = gather_history(records, SPACE if known else None, subnet)
    return check_self_contained(page.document("x", *history_figures(history, 8.0)))


@pytest.mark.parametrize(("learns", "captions"), [(True, LEARNED), (False, SAMPLED)])
def test_what_a_strategy_does_not_tell_is_left_out(learns: bool, captions: list[str]) -> None:
    labels = drawn(history(SPACE, learns=learns)).values("aria-label")
    assert len(labels) == len(captions)
    for label, caption in zip(labels, captions, strict=True):
        assert label.startswith(caption)


def test_blocks_and_ops_have_their_names() -> None:
    text = drawn(history(SPACE)).text
    for name in ("k3 e3", "k5 e3 SE", "stage 2", "target"):
        assert name in text
    picks = SPACE.choices_of(SPACE.sample(random.Random(1)))
    for stage, (row, blocks) in enumerate(zip(picks, SPACE.stages, strict=True), 1):
        for block, choices in enumerate(blocks.blocks, 1):
            told = "left out"
            if block <= len(row):
                told = choices[row[block - 1]].name.replace("_se", " SE").replace("_", " ")
            assert f"{stage}.{block}  {told}" in text


def test_where_the_net_is_not_the_most_probable_one() -> None:
    subnet, records = SPACE.sample(random.Random(1)), history(SPACE)
    assert gather_history(records, SPACE, subnet).departures == []  # all are equally probable
    (pick, *_), *_ = SPACE.choices_of(subnet)
    ops, depths = records[-1].op_probs, records[-1].depth_probs
    likely = (pick + 1) % len(ops[0])
    row = tuple(0.7 if i == likely else 0.1 for i in range(len(ops[0])))
    deep = SPACE.stages[0].depths.index(subnet.depths[0])
    depth_row = tuple(0.2 if i == deep else 0.8 for i in range(len(depths[0])))
    last = replace(records[-1], op_probs=(row, *ops[1:]), depth_probs=(depth_row, *depths[1:]))
    stage, block = gather_history([*records[:-1], last], SPACE, subnet).departures or []
    assert (stage.place, block.place) == ("stage 1", "block 1.1")
    assert stage.found.startswith(f"{subnet.depths[0]} block")
    assert (stage.found[-6:], stage.probable[-6:]) == ("(0.20)", "(0.80)")
    name = SPACE.blocks[0][likely].name.replace("_se", " SE").replace("_", " ")
    assert block.probable == f"{name} (0.70)"
    assert gather_history(history(SPACE, learns=False), SPACE, subnet).departures is None


def test_without_the_space_they_have_numbers() -> None:
    text = drawn(history(SPACE), known=False).text
    assert "op 1" in text
    assert "k3" not in text
    assert "The op that was found" not in text
    assert "as a multiple of" not in text


def test_a_skip_op_comes_last() -> None:
    records = [
        replace(r, op_probs=tuple((*row, 0.0) for row in r.op_probs)) for r in history(SPACE)
    ]
    names = gather_history(records, SPACE, None)
    assert names.ops == ["k3 e3", "k5 e3", "k3 e3 SE", "k5 e3 SE", "skip"]


@pytest.mark.parametrize(
    ("depth", "found", "told"),
    [
        ("sink", True, "Depth probabilities"),
        ("fixed", True, "all 4 ops of a block"),
        ("skip_op", False, "all 4 or 5 ops of a block"),
        ("separated_skip", False, "running and of skipping each block"),
    ],
)
def test_a_net_whose_blocks_were_skipped_one_by_one_is_not_pointed_out(
    depth: str, found: bool, told: str
) -> None:
    records = depth_history(SPACE, depth)
    subnet = SPACE.sample(random.Random(1))
    assert (gather_history(records, SPACE, subnet).picks is not None) is found
    assert told in " ".join(drawn(records).values("aria-label"))


def test_a_history_of_another_space_has_numbers() -> None:
    records = history(load_space("small"))
    names = gather_history(records, SPACE, SPACE.sample(random.Random(1)))
    assert (names.blocks[0], names.ops[0], names.picks) == ("1", "op 1", None)


def test_one_epoch_is_a_point() -> None:
    labels = drawn(history(SPACE, epochs=1)).values("aria-label")
    assert len(labels) == len(LEARNED) - 1  # without the temperature, which comes after warm-up


def test_more_blocks_than_can_be_told_apart_are_left_out() -> None:
    many = [replace(r, sampled=((1, 2),) * (MOST_PANELS + 1)) for r in history(SPACE, learns=False)]
    found = drawn(many)
    assert len(found.values("aria-label")) == len(SAMPLED) - 1
    assert "61 blocks or stages are more than can be drawn" in found.text

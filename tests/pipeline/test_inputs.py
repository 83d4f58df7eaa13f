"""What a search checks of a teacher before it starts, and what it keeps of it."""

from __future__ import annotations

import pytest
import torch

from tests.support.entry import compose_config
from tfnas.app.schemas import SearchConfig
from tfnas.pipeline.folder import identity, options_of
from tfnas.pipeline.inputs import load_inputs
from tfnas.runs.teachers import load_teacher

TEACHER = "tests.runs.test_teachers:seeded"
CPU = torch.device("cpu")


def config(*overrides: str) -> SearchConfig:
    return compose_config(
        SearchConfig, "search", "space=tiny", "target_ms=1", "budget=test", "data.root=shipped",
        "data.max_train=400", "accelerator=cpu", *overrides,
    )  # fmt: skip


def test_a_search_has_the_teacher_that_it_is_given() -> None:
    cfg = config(f"teacher={TEACHER}", "teacher_weight=0.5")
    mine, teacher = load_inputs(cfg), load_teacher(TEACHER, CPU)
    assert mine.lesson is not None
    assert (mine.lesson.weight, mine.lesson.temperature) == (0.5, 4.0)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(mine.lesson.logits(images), teacher.logits(images))
    who = identity(cfg, mine.dataset, CPU, teacher=mine.teacher)
    assert who["teacher"] == teacher.identity
    assert options_of(cfg)["teacher"] == TEACHER


def test_a_search_without_a_teacher_has_the_options_of_before() -> None:
    cfg = config()
    mine = load_inputs(cfg)
    assert mine.lesson is mine.teacher is None
    assert not [key for key in identity(cfg, mine.dataset, CPU) if key.startswith("teacher")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher=torch.nn:Identity"], r"gives \(2, 3, 32, 32\).*expected logits \(2, 10\)"),
        (["teacher=none"], "expected the folder of a trained run"),
        ([f"teacher={TEACHER}", "teacher_weight=2"], r"teacher_weight=2\S*: expected"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_inputs(config(*overrides))

"""Latency against the target, by stage, and while closing on it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.support.browser import Elements, check_self_contained
from tests.support.run_folders import RESULT
from tests.support.spaces import load_space, macs_table
from tfnas.latency.stages import StageTime, StageTimes
from tfnas.pages import page
from tfnas.pages.latency import loop_section, scale, stages_section

SPACE = load_space("tiny")
NET = SPACE.sample(random.Random(0))
STAGES = StageTimes(
    device="<b>Xeon",
    parts=(
        StageTime("stem", None, 0.5, (0.49, 0.52)),
        StageTime("stage 1", 1.25, 1.5, (1.4, 1.6)),
    ),
    whole=StageTime("whole net", 1.9, 1.8, (1.78, 1.83)),
)


def page_of(part: Any) -> Elements:
    return check_self_contained(page.document("x", part))


def test_off_the_target() -> None:
    assert page.off(7.92, 8.0) == "−1.00 %"
    assert page.off(8.08, 8.0) == "+1.00 %"


@pytest.mark.parametrize(
    ("changes", "rows"),
    [({}, ["table", "measured"]), ({"measured_ms": None, "measured_ci_ms": None}, ["table"])],
)
def test_the_scale_shows_what_was_measured(changes: dict[str, Any], rows: list[str]) -> None:
    text = page_of(scale(replace(RESULT, **changes))).text
    assert [row for row in ("table", "measured") if row in text] == rows


def test_what_is_lower_than_at_most_is_wanted_too() -> None:
    text = page_of(scale(replace(RESULT, at_most=True, measured_ms=5.0))).text
    assert "the target and all that is lower, with its tolerance of" in text
    assert "the target and its tolerance of" in page_of(scale(RESULT)).text


def test_stages_table_against_device() -> None:
    found = page_of(stages_section(None, None, STAGES))
    for told in ("<b>Xeon", "1.25", "1.5", "± 0.1", "sum of the parts", "whole net", "1.8"):
        assert told in found.text
    assert "don't add up" in found.text


def test_stages_by_the_table_alone() -> None:
    table = macs_table(SPACE)
    found = page_of(stages_section(NET, table, None))
    assert "weren't measured on the device" in found.text
    first = sum(table.ms(op) for op in NET.stages[0])
    assert f"{first:.4g}" in found.text


def test_one_figure_for_stem_and_head_is_one_row() -> None:
    table = replace(macs_table(SPACE), overhead_ms=1.375)
    text = page_of(stages_section(NET, table, None)).text
    assert "stem and head" in text
    assert "1.375" in text


def test_stages_of_which_nothing_is_known() -> None:
    assert "the table can't be read here" in page_of(stages_section(NET, None, None)).text


def test_the_trail_of_the_closed_loop() -> None:
    assert RESULT.loop is not None
    found = page_of(loop_section(RESULT.loop, RESULT))
    for told in ("7.92", "7.97", "± 0.075", "−0.38 %", "20", "3.5"):
        assert told in found.text


def test_a_long_trail_says_what_is_left_out() -> None:
    assert RESULT.loop is not None
    text = page_of(loop_section(RESULT.loop * 203, RESULT)).text
    assert "3 more steps are left out." in text


@pytest.mark.parametrize(
    "step",
    [7, {}, {"measured_ci_ms": 3}, {"measured_ci_ms": [1, "x"]}, {"samples": "<script>"}],
)
def test_a_trail_that_makes_no_sense_is_told(step: Any) -> None:
    assert RESULT.loop is not None
    wrong = {**RESULT.loop[0], **step} if step and isinstance(step, dict) else step
    found = page_of(loop_section([wrong], RESULT))
    assert "can't be read" in found.text

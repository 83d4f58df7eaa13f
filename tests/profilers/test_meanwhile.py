"""What tables tell of the time when they were measured."""

from __future__ import annotations

import pytest

from profilers.onboard.conditions import Conditions, Watch
from profilers.tables.meanwhile import MEANWHILE, MOST, on_other_cores, with_conditions


def watched(cores: str) -> Watch:
    watch = Watch()
    watch.add(Conditions((("cpu_clock_mhz", 3e3), ("cores", cores), ("governor", "powersave"))))
    return watch


@pytest.mark.parametrize(("before", "now"), [("0,1", "0"), ("0", "1"), ("0,1", "0,1,2")])
def test_other_cores_are_told(before: str, now: str) -> None:
    notes = with_conditions(("imported",), watched(before))
    assert on_other_cores(notes, watched(before)) is None
    said = on_other_cores(notes, watched(now))
    assert said is not None
    assert f"cores {before}, this process has {now}:" in said
    later = with_conditions(notes, watched(now))  # the last one counts
    assert on_other_cores(later, watched(now)) is None


def test_nothing_is_said_where_nothing_is_known() -> None:
    notes = with_conditions((), watched("0"))
    assert on_other_cores(notes, Watch()) is None
    assert on_other_cores(("imported from a file",), watched("0")) is None


def test_the_last_few_are_kept() -> None:
    notes: tuple[str, ...] = ("imported",)
    for core in range(MOST + 3):
        notes = with_conditions(notes, watched(str(core)))
    assert notes[0] == "imported"
    assert [MEANWHILE in note for note in notes[1:]] == [True] * MOST
    assert on_other_cores(notes, watched(str(MOST + 2))) is None

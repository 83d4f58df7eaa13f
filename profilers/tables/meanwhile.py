"""What a device was doing while a table was measured, in the table's notes."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from profilers.onboard.conditions import Watch

MEANWHILE, MOST = "while measuring:", 20
CORES = re.compile(rf"{MEANWHILE} (?:.*; )?cores ([\d,]+)")


def with_conditions(notes: Sequence[str], watch: Watch) -> tuple[str, ...]:
    """The notes of a table with what the device was doing today; of such ones the last few."""
    others = [note for note in notes if MEANWHILE not in note]
    before = [note for note in notes if MEANWHILE in note]
    seen = [text for text in (str(watch), *watch.doubts) if text]
    today = [f"{time.strftime('%Y-%m-%d')}, {MEANWHILE} {text}" for text in seen]
    return (*others, *[*before, *today][-MOST:])


def on_other_cores(notes: Sequence[str], watch: Watch) -> str | None:
    """A warning where a table was last measured on other cores than are measured now."""
    before = [found[1] for note in notes if (found := CORES.search(note))]
    now = watch.texts("cores")
    if not before or not now or before[-1] in now:
        return None
    return (
        f"warning: the table was measured on cores {before[-1]}, this process has {now[-1]}: one "
        "core may be slower than another, or shared; start it with the same affinity (taskset -c), "
        "or measure a new table"
    )

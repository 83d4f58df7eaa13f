"""Signals end a run after the step, and a folder has one run at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.entry import environment
from tfnas.process.ranks import Ranks
from tfnas.process.stopping import SIGNALS, interrupt_on_signals, locked, stop_on_signals

HOLD = """
import sys
from pathlib import Path
from tfnas.process.stopping import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_one_process_a_folder_and_the_lock_dies_with_it(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(ValueError, match="another run is writing into"), locked(tmp_path):
        pass
    with locked(tmp_path / "other"):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path):
        assert not list(tmp_path.glob(".*"))  # nothing is left behind


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_sets_a_flag_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with stop_on_signals() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_of_several_processes_none_is_ended_by_a_second_signal(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    ranks = Ranks(0, 2, 0, 2)
    try:
        interrupt_on_signals(ranks)
        with stop_on_signals(ranks) as stop:
            pass
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

        interrupt_on_signals(ranks)
        signal.signal(number, signal.default_int_handler)
        with stop_on_signals(ranks) as stop:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            assert stop()
        os.kill(os.getpid(), number)  # when it has saved and ends
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_what_the_parent_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)

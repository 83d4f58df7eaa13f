"""One thread a process: tests run beside each other, and spinning threads would starve them. What
they measure is noted in a folder of their own: it says nothing of the machine's usual speed. Nor do
they queue for the machine.

The processes that tests start can be ended by signals, also where these tests run in the background
or under nohup, which ignore them: what is ignored stays so in children."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tfnas.strategies.contract import Task

signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="tfnas-tests-")
os.environ["TFNAS_LOCKS"] = os.environ["XDG_STATE_HOME"]
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def task() -> Task:
    """A small search: nothing of it changes, whatever runs on it."""
    from tests.support.searches import new_task

    return new_task()

"""One thread a process: tests run beside each other, and spinning threads would starve them. What
they measure is noted in a folder of their own: it says nothing of the machine's usual speed."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="tfnas-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

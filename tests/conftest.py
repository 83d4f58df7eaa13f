"""One thread a process: tests run beside each other, and spinning threads would starve them."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

"""The CPU cores that are this process's: fewer than the machine's under taskset, in a container, or
in a job of a batch system. And what others do on them."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cores:
    """
    Attributes:
        count: at least 1.
        limit: what makes them fewer than the machine's; empty if nothing does.
    """

    count: int
    limit: str = ""


def usable_cores(root: Path = Path("/")) -> Cores:
    """Those that the affinity mask and the quotas of control groups (v1 and v2) leave.

    Of a quota of 1.5 cores two threads make more than one, so it's rounded up.

    Args:
        root: of the file system, for tests.
    """
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    quota = min(_quotas(root), default=math.inf)
    if quota < allowed:
        return Cores(max(1, math.ceil(quota)), f"a CPU quota of {quota:g}")
    return Cores(allowed, "the affinity mask" if allowed < machine else "")


def _quotas(root: Path) -> Iterator[float]:
    """Cores that this process's control groups may use, and those above them: each limits."""
    groups, mount = "", root / "sys" / "fs" / "cgroup"
    with suppress(OSError):
        groups = (root / "proc" / "self" / "cgroup").read_text("utf-8")
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        parts = [part for part in path.split("/") if part not in ("", "..")]
        if not controllers:  # version 2
            mounts = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [mount / "cpu", mount / controllers]
        else:
            continue
        for folder in {top.joinpath(*parts[:n]) for top in mounts for n in range(len(parts) + 1)}:
            with suppress(OSError, ValueError, ZeroDivisionError):  # not there, or no limit
                yield _quota(folder, version=1 if controllers else 2)


def _quota(folder: Path, version: int) -> float:
    if version == 2:
        quota, period = map(
            int, (folder / "cpu.max").read_text("utf-8").split()
        )  # "max": no number
    else:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text("utf-8")) for name in ("quota", "period")
        )
    if quota <= 0:
        raise ValueError("no limit")
    return quota / period


class OtherWork:
    """What others do on this process's cores, from now on.

    Args:
        root: of the file system, for tests.
    """

    def __init__(self, root: Path = Path("/")):
        self._root = root
        self._begun = time.monotonic(), self._others_s()

    def share(self) -> float | None:
        """Of the cores' time, 0 to 1; None where the system doesn't tell, as outside of Linux."""
        begun, before = self._begun
        now = self._others_s()
        seconds = (time.monotonic() - begun) * usable_cores(self._root).count
        if before is None or now is None or not seconds:
            return None
        return min(max((now - before) / seconds, 0.0), 1.0)

    def _others_s(self) -> float | None:
        """Seconds of the cores of the affinity mask that this process's family didn't use."""
        try:
            ticks_s = 1 / os.sysconf("SC_CLK_TCK")
            allowed = os.sched_getaffinity(0)
            total = 0.0
            for line in (self._root / "proc" / "stat").read_text("utf-8").splitlines():
                name, *counts = line.split()
                if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
                    user, nice, system, _, _, *more = map(int, counts[:8])  # idle and iowait apart
                    total += ticks_s * sum((user, nice, system, *more))
        except (AttributeError, OSError, ValueError):
            return None
        own = time.process_time()
        for child in multiprocessing.active_children():
            with suppress(OSError):
                text = (self._root / "proc" / str(child.pid) / "stat").read_text("utf-8")
                own += ticks_s * sum(map(int, text.rpartition(")")[2].split()[11:13]))
        return total - own

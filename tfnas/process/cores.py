"""The CPU cores that are this process's: fewer than the machine's under taskset, in a container, or
in a job of a batch system."""

from __future__ import annotations

import math
import os
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

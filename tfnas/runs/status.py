"""status.json: what became of a run.

A member of a sweep may run in another process or on another machine, as Hydra's launcher has it, so
the process that started the sweep knows of it what stands in its folder, and so does a report.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from tfnas.files.atomic import write_atomically
from tfnas.process.ranks import Ranks, from_environment
from tfnas.runs.folder import STATUS, load_json, members

STATUS_FORMAT = "tfnas.status/1"


@dataclass(frozen=True)
class Status:
    """status.json: what became of a run.

    Attributes:
        status: its exit status; None from its start to its end, so for ever if it was killed.
        launch: the same for all members that were started together, and for no others.
        pid, host: the process that it runs in.
        processes, local_processes: how many torchrun started, in all and on that machine.
    """

    status: int | None
    launch: str
    pid: int
    host: str
    processes: int = 1
    local_processes: int = 1

    @property
    def launcher(self) -> str:
        """What starts a module by `-m` in as many processes."""
        return Ranks(size=self.processes, local_size=self.local_processes).launcher

    @property
    def running(self) -> bool | None:
        """Whether it still runs; None if it does so elsewhere, or died there."""
        if self.status is not None:
            return False
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # somebody else's process
        return True


def write_status(folder: Path, status: int | None, launch: str) -> None:
    """Leave a run's status in its folder; None at its start. Raises OSError."""
    ranks = from_environment()
    record = Status(status, launch, os.getpid(), socket.gethostname(), ranks.size, ranks.local_size)
    text = json.dumps({"format": STATUS_FORMAT, **asdict(record)})
    write_atomically(folder / STATUS, text + "\n")


def read_status(folder: Path) -> Status | None:
    """None if it left none, or none that can be read."""
    try:
        data = load_json(folder / STATUS)
    except (OSError, ValueError):
        return None
    status, launch, pid, host = (data.get(key) for key in ("status", "launch", "pid", "host"))
    processes, local = (data.get(key, 1) for key in ("processes", "local_processes"))
    if (
        data.get("format") != STATUS_FORMAT
        or (status is not None and (type(status) is not int or not 0 <= status < 256))
        or not isinstance(launch, str)
        or not isinstance(host, str)
        or type(pid) is not int
        or not 0 < pid < 2**31
        or type(processes) is not int
        or type(local) is not int
        or not 0 < local <= processes < 2**31
    ):
        return None
    return Status(status, launch, pid, host, processes, local)


def launched(folder: Path, launch: str) -> dict[Path, Status]:
    """Of the runs within a folder those that were started together."""
    found = {member: read_status(member) for member in members(folder)}
    return {m: status for m, status in found.items() if status and status.launch == launch}

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
from typing import Annotated

from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.decode import load
from tfnas.process.ranks import Ranks, from_environment
from tfnas.runs.folder import MOST_BYTES, RunFolder, members

HEADER = {"format": "tfnas.status/1"}
Processes = Annotated[int, Meta(gt=0, lt=2**31)]


@dataclass(frozen=True)
class Status:
    """status.json: what became of a run.

    Attributes:
        status: its exit status; None from its start to its end, so for ever if it was killed.
        launch: the same for all members that were started together, and for no others.
        pid, host: the process that it runs in.
        processes, local_processes: how many torchrun started, in all and on that machine.
    """

    status: Annotated[int, Meta(ge=0, lt=256)] | None
    launch: str
    pid: Annotated[int, Meta(gt=0, lt=2**31)]
    host: str
    processes: Processes = 1
    local_processes: Processes = 1

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
    text = json.dumps({**HEADER, **asdict(record)})
    write_atomically(RunFolder(folder).status, text + "\n")


def read_status(folder: Path) -> Status | None:
    """None if it left none, or none that can be read."""
    try:
        file = RunFolder(folder).status
        status = load(file, Status, "status", MOST_BYTES, HEADER, partly=True)
    except ValueError:
        return None
    return status if status.local_processes <= status.processes else None


def launched(folder: Path, launch: str) -> dict[Path, Status]:
    """Of the runs within a folder those that were started together."""
    found = {member: read_status(member) for member in members(folder)}
    return {m: status for m, status in found.items() if status and status.launch == launch}

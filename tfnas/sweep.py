"""What the members of a sweep leave in their folders, and how others read it.

A member may run in another process or on another machine, as Hydra's launcher has it, so the
process that started the sweep knows of it what stands in its folder, and so does a report.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tfnas.distributed import Ranks, from_environment
from tfnas.config import UNUSABLE_INPUT
from tfnas.files import write_atomically
from tfnas.untrusted import parse_json, parse_yaml, read_bytes

STATUS = "status.json"
STATUS_FORMAT = "tfnas.status/1"
RESULT = "result.json"
MULTIRUN = "multirun.yaml"  # Hydra writes it into the folder of a sweep
OVERRIDES = "sweep_overrides.yaml"  # and we this, which stays as it was at the first start
# Of Hydra's own options those that say how a sweep runs; where it runs is the folder that is given.
LAUNCHERS = ("hydra/launcher=", "hydra.launcher.")
LAUNCHING = (*LAUNCHERS, "hydra/sweeper=", "hydra.sweeper.")

HYDRA_DIR = ".hydra"  # and this into that of a run
BY_NUMBER = "${hydra.job.num}"  # of conf/: the same overrides give the same folders again
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
DEPTH = 4  # folders between a sweep's and its members'
MOST_MEMBERS = 10_000
MOST_BYTES = 10_000_000


class Watch(Callback):
    """conf/hydra/callbacks/sweep.yaml: notes the folder of the sweep that this process starts.

    Attributes:
        folder: None without a sweep, and in the processes that a launcher runs members in.
    """

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from tfnas.config import refuse_sweep  # which needs this module

        refuse_sweep()
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        given = [str(o) for o in config.hydra.overrides.task]
        if "resume" in config and not any(o.startswith("resume=") for o in given):
            launching = [o for o in config.hydra.overrides.hydra if str(o).startswith(LAUNCHING)]
            try:
                _save_overrides(folder, [*given, *launching])
            except (OSError, ValueError) as error:
                # Hydra turns what a callback raises into a warning, but this.
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(UNUSABLE_INPUT) from None
        Watch.folder = folder


def _save_overrides(folder: Path, overrides: list[str]) -> None:
    """Raises ValueError if another sweep's stand there, or OSError."""
    from tfnas.config import override  # which needs this module

    if (folder / OVERRIDES).exists() or (folder / MULTIRUN).exists():
        raise ValueError(
            f"{folder} holds a sweep: go on with it by {override('resume', folder)}, or give "
            "another folder with hydra.sweep.dir=FOLDER"
        )
    write_atomically(folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(overrides)))


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


def load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError, or ValueError if it holds anything else."""
    return _mapping(parse_json(read_bytes(path, MOST_BYTES).decode()))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises OSError, or ValueError if it holds anything else."""
    return _mapping(parse_yaml(read_bytes(path, MOST_BYTES).decode()))


def _mapping(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"holds a {type(data).__name__}, expected names and values")
    return data


def is_run(folder: Path) -> bool:
    return not (folder / MULTIRUN).is_file() and any(
        (folder / name).exists() for name in (RESULT, STATUS, HYDRA_DIR)
    )


def members(folder: Path) -> list[Path]:
    """The run folders within a folder, in order; the folder itself if it is a run's."""
    if is_run(folder):
        return [folder]
    return sorted(_runs_in(folder, DEPTH), key=natural)


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        if is_run(path):
            yield path
        elif depth > 1:
            yield from _runs_in(path, depth - 1)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """10 comes after 9."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in path.parts]


@dataclass(frozen=True)
class Plan:
    """What a sweep was to run.

    Attributes:
        app: the entry point's name, such as search.
        members: overrides of each member, key to value, by its folder; empty if that can't be told.
    """

    app: str
    members: Mapping[Path, Mapping[str, str]]


def planned(folder: Path) -> Plan | None:
    """The plan of the sweep in a folder, as Hydra noted it; None if it noted none."""
    try:
        hydra = load_yaml(folder / MULTIRUN)["hydra"]
        app = str(hydra["job"]["config_name"])
        if hydra["sweeper"]["_target_"] != BASIC_SWEEPER or hydra["sweep"]["subdir"] != BY_NUMBER:
            return Plan(app, {})
        params = hydra["sweeper"]["params"]
        params = [f"{k}={v}" for k, v in params.items()] if isinstance(params, dict) else []
        combined = _combined([*params, *hydra["overrides"]["task"]])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return None
    except HydraException:  # what can't be told from here, such as glob(*)
        return Plan(app, {})
    return Plan(app, {folder / str(number): values for number, values in enumerate(combined)})


def _combined(overrides: list[str]) -> list[dict[str, str]]:
    """Every combination of what is swept over, in the order of Hydra's own sweeper."""
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            if getattr(override.value(), "shuffle", False):
                raise HydraException("in an order that isn't known")
            texts = list(islice(override.sweep_string_iterator(), MOST_MEMBERS))
        else:
            texts = [override.get_value_element_as_str()]
        values[override.get_key_element()] = texts
    return [
        dict(zip(values, chosen, strict=True))
        for chosen in islice(product(*values.values()), MOST_MEMBERS)
    ]

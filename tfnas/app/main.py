"""How an entry point runs: a Hydra app with one status, one error line and sweeps.

Config objects stop at the entry scripts; library functions take plain values. Nothing heavy is
imported, so that `--help` and an error in a command line come at once.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from tfnas.app.command_line import (
    as_meant,
    in_one_line,
    is_sweep,
    no_such_key,
    output_dir,
    override,
    refuse,
    say,
)
from tfnas.app.sweep import Watch, is_launched, planned
from tfnas.app.values import conf_path
from tfnas.process.bar import ConsoleHandler
from tfnas.process.checks import check_fields
from tfnas.process.exits import (
    DONE,
    FAILED,
    INTERRUPTED,
    STATUS_NAMES,
    UNUSABLE_INPUT,
    end_children,
    end_with_parent,
    show_what_can_be_shown,
    worst,
)
from tfnas.process.ranks import Ranks, from_environment
from tfnas.runs.folder import RunFolder
from tfnas.runs.status import launched, write_status

log = logging.getLogger(__name__)

Config = TypeVar("Config")
Work = Callable[[], int]


@dataclass(frozen=True)
class _Entry:
    """An entry point's `prepare`, for other processes a name: launchers would send them the whole
    module that `python -m` runs, and not all that it uses can be sent.
    """

    prepare: Callable[[Any], Work]

    def __reduce__(self) -> tuple[Callable[..., _Entry], tuple[Any, ...]]:
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if self.prepare.__module__ != "__main__" or spec is None:
            return _Entry, (self.prepare,)
        return _entry_of, (spec.name, self.prepare.__qualname__)


def _entry_of(module: str, name: str) -> _Entry:
    return _Entry(getattr(import_module(module), name))


def main(schema: type[Config], name: str, prepare: Callable[[Config], Work]) -> NoReturn:
    """Run a Hydra app on conf/`name`.yaml and exit with its status.

    `prepare` checks everything that can be checked before work starts and gives the work. A
    ValueError, LookupError or OSError from it is unusable input: one line, exit 2. The work returns
    its status. In a sweep no member ends the sweep; the status is the worst member's, wherever
    members ran, and 130 if the sweep itself was interrupted. Of the processes that torchrun started
    only the first one has a folder and says what is the same for all.
    """
    statuses: list[int] = []
    launch = secrets.token_hex(8)
    entry = _Entry(prepare)

    def job(cfg: DictConfig) -> int:
        status = _run_here(schema, cfg, entry.prepare, launch)
        statuses.append(status)
        if status == INTERRUPTED and Watch.folder is not None:
            raise KeyboardInterrupt  # it was this process that was asked to stop
        return status

    from tfnas.app.resume import resumed  # which needs `override` from here
    from tfnas.app.several import as_sweep
    from tfnas.process.stopping import interrupt_on_signals

    show_what_can_be_shown()
    ranks = Ranks()
    try:
        ranks = from_environment()
        given = as_meant(sys.argv[1:], schema)
        if name == "search":
            given = as_sweep(given, ranks.size)
        sys.argv[1:] = _of_rank(ranks, resumed(name, given))
    except (ValueError, OSError) as error:
        say(f"error: {error}", ranks)
        sys.exit(UNUSABLE_INPUT)
    if ranks.rank:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # --help and the like
    interrupt_on_signals(ranks)
    end_with_parent()
    logging.raiseExceptions = False  # a log that can't be written, on a full disk, says so no more
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    # Hydra hands its errors on then, instead of printing them at length.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        hydra.main(version_base="1.3", config_path=str(conf_path()), config_name=name)(job)()
    except KeyboardInterrupt:
        if ranks.rank == 0:
            print("interrupted", file=sys.stderr)
        _end_sweep(name, launch, INTERRUPTED)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # As in `--help | head`: nobody reads on, nothing is left to be written.
        os._exit(DONE if Watch.folder is None else FAILED)
    except (HydraException, OmegaConfBaseException, YAMLError, OverflowError, OSError) as error:
        text = no_such_key(error, schema) or in_one_line(error)
        if "'hydra/launcher/" in text:
            text += "; launchers are packages of their own, such as hydra-joblib-launcher"
        if "Error parsing override" in text:
            text += "; a value with special characters needs quotes of its own: \"key='it\\'s'\""
        if isinstance(error, OSError) and error.filename:
            text = (
                f"can't write {error.filename}: {error.strerror}; give another folder with "
                "hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER for a sweep"
            )
        say(f"error: {text}", ranks)
        sys.exit(worst([UNUSABLE_INPUT, *_end_sweep(name, launch, UNUSABLE_INPUT)]))
    except Exception as error:
        if Watch.folder is None:
            log.exception("failed")
        else:  # the launcher's, such as a process of its that died
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
            print(f"error: the sweep broke off: {reason}", file=sys.stderr)
            log.debug("", exc_info=error)
        sys.exit(worst([FAILED, *_end_sweep(name, launch, FAILED)]))
    finally:
        end_children()
    sys.exit(worst(statuses if Watch.folder is None else _end_sweep(name, launch, DONE)))


def _of_rank(ranks: Ranks, arguments: list[str]) -> list[str]:
    """A command line as one of several processes runs it: files and log lines are rank 0's."""
    if ranks.rank == 0:
        return arguments
    own = ("hydra.run.dir=", "hydra.output_subdir=", "hydra/job_logging=")
    kept = [a for a in arguments if not a.startswith(own)]
    return [*kept, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=rank"]


def _end_sweep(name: str, launch: str, end: int) -> list[int]:
    """Say what became of the sweep that this process started, if any; its members' statuses.

    Args:
        end: how the sweep ended. After an orderly end (`DONE`) a member that never started failed.
    """
    folder = Watch.folder
    if folder is None:
        return []
    ran = launched(folder, launch)
    if end == INTERRUPTED:
        # Launchers kill what they run; a member that couldn't say so itself was interrupted, too.
        for member, status in ran.items():
            if status.status is None and status.running is False:
                _leave_status(member, INTERRUPTED, launch)
        ran = launched(folder, launch)
    plan = planned(folder)
    idle = len([member for member in plan.members if member not in ran]) if plan else 0
    statuses = [FAILED if s.status is None else s.status for s in ran.values()]
    if end == DONE:
        statuses, idle = [*statuses, *[FAILED] * idle], 0
    if not statuses:
        return []
    counts = Counter(STATUS_NAMES.get(status, "failed") for status in statuses)
    if end != DONE:  # on a cluster members outlive the process that started them
        counts["still running"] = len([s for s in ran.values() if s.running is not False])
        counts["failed"] -= counts["still running"]
        counts["not started"] = idle
    names = [*STATUS_NAMES.values(), "still running", "not started"]
    ends = ", ".join(f"{counts[name]} {name}" for name in names if counts[name])
    print(f"sweep of {len(statuses) + idle}: {ends}")
    if name == "search":
        if idle or {INTERRUPTED, FAILED} & set(statuses):
            print(f"go on: python -m tfnas.search {shlex.join([override('resume', folder)])}")
        print(f"one table: python -m tfnas.report {shlex.quote(str(folder))}")
    return statuses


def _run_here(
    schema: type[Config], cfg: DictConfig, prepare: Callable[[Config], Work], launch: str
) -> int:
    """As `_run_job`, and leaves the status in the run's folder, where it has one of its own.

    A refused run leaves nothing: no work was begun. In a sweep its status is a line of the table.
    """
    own = is_sweep() or HydraConfig.get().output_subdir is not None
    folder = output_dir() if own else None
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler):
            handler.shared = is_launched()
    _leave_status(folder, None, launch)
    try:
        status = _run_job(schema, cfg, prepare)
    except KeyboardInterrupt:
        _leave_status(folder, INTERRUPTED, launch)
        if is_launched():
            return INTERRUPTED  # a launcher's process: the other members have theirs
        raise
    _leave_status(folder, status, launch)
    if status == UNUSABLE_INPUT and folder is not None and not is_sweep():
        RunFolder(folder).remove_unused()
    return status


def _leave_status(folder: Path | None, status: int | None, launch: str) -> None:
    """A member that can't say how it ended doesn't end the sweep; it counts as failed."""
    if folder is None:
        return
    try:
        write_status(folder, status, launch)
    except OSError as error:
        log.error("error: can't write %s: %s", RunFolder(folder).status, error.strerror or error)


def _run_job(schema: type[Config], cfg: DictConfig, prepare: Callable[[Config], Work]) -> int:
    try:
        try:
            config = OmegaConf.to_object(cfg)
            assert isinstance(config, schema)
        except MissingMandatoryValue as error:
            key = str(error.full_key)
            raise ValueError(f"{key} is required: give {key}=VALUE") from None
        except OmegaConfBaseException as error:
            raise ValueError(in_one_line(error)) from None
        if from_environment().rank == 0:  # which says what is wrong, for all
            check_fields("", config)
        work = prepare(config)
    except (ValueError, LookupError, OSError) as error:
        return refuse(error)
    except Exception:
        log.exception("failed")
        return FAILED
    try:
        return work()
    except OSError as error:  # such as a full disk
        log.error("error: %s", error)
        log.debug("", exc_info=error)
        return FAILED
    except Exception:
        # Not input: a fault of ours or of the machine, and the trace tells which.
        log.exception("failed")
        return FAILED

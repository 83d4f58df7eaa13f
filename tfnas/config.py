"""Configuration: the types of what conf/ holds, and how an entry point runs.

Values live in conf/ only, types and units here only. Config objects stop at the entry scripts;
library functions take plain values. Nothing heavy is imported, so that `--help` and an error in a
command line come at once.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shlex
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from platformdirs import user_data_path
from yaml import YAMLError

from tfnas import sweep
from tfnas.distributed import Ranks, from_environment
from tfnas.space import SpaceSpec
from tfnas.strategies.contract import Budget

log = logging.getLogger(__name__)

# Of Hydra's messages: where in its own structures a value stands, and advice for other cases.
TRAILERS = (
    "full_key:", "object_type=", "reference_type=", "Set the environment", "To append",
    "Config search path", "provider=",
)  # fmt: skip

SAID_S = 10.0  # that rank 0 gets to say what is wrong with a command line

DONE, OUTSIDE_TOLERANCE, UNUSABLE_INPUT, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
# From the best to the worst. An interrupted run has no fault and goes on by itself when it is
# resumed; a refused one needs other input, a failed one somebody who looks at it.
STATUS_NAMES = {
    DONE: "done",
    OUTSIDE_TOLERANCE: "missed",
    INTERRUPTED: "interrupted",
    UNUSABLE_INPUT: "refused",
    FAILED: "failed",
}


class DeviceContext(Protocol):
    """What tells of a device in every entry point that measures."""

    device: dict[str, Any]
    threads: int
    batch: int
    precision: str


@dataclass
class DataConfig:
    """A data set (conf/data/); see `tfnas.data.load`."""

    name: str
    root: str | None
    train_list: str | None
    test_list: str | None
    max_train: int | None  # images
    classes: int | None  # null: counted from the data
    workers: int  # processes that decode images


@dataclass
class ProfileConfig:
    """How long and how finely a device is measured (conf/profile/)."""

    max_minutes: float  # stop then, with the precision reached by then
    precision: float  # half-width of the 95 % interval to reach, fraction of the latency
    anchor_nets: int  # whole nets that fix the table's scale


@dataclass
class VerifyConfig:
    """How the last word on a net is spoken (conf/verify/)."""

    max_minutes: float
    precision: float  # half-width of the 95 % interval to reach, fraction of the latency


@dataclass
class ProfilersConfig:
    """python -m profilers"""

    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str  # fp32 | tf32 | fp16
    space: SpaceSpec
    data: DataConfig
    seed: int
    table: str | None  # file to write; null: named after the device
    profile: ProfileConfig


@dataclass
class VerifierConfig:
    """python -m profilers.verify"""

    onnx: str
    target_ms: float
    tolerance: float  # fraction of the target
    at_most: bool  # any lower latency is as good
    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str
    seed: int
    verify: VerifyConfig
    json: str | None  # file to write the result to


@dataclass
class CardConfig:
    """python -m profilers.card"""

    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str
    space: SpaceSpec
    data: DataConfig
    seed: int
    table: str | None  # file; null: this machine's own
    nets: int  # whole random nets to measure
    max_minutes: float
    net_precision: float  # half-width of each net's 95 % interval to reach, fraction


@dataclass
class DeriveConfig:
    """How the subnet is derived from what the search learned (conf/derive/)."""

    method: str  # constrained | greedy
    tol: float  # fraction of the target, on the table
    at_most: bool  # the target is an upper bound


@dataclass
class SearchConfig:
    """python -m tfnas.search"""

    target_ms: float
    tolerance: float  # fraction of the target, on the device
    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str  # fp32 | tf32 | fp16
    space: SpaceSpec
    data: DataConfig
    table: str | None  # file; null: this machine's own
    strategy: Any  # checked against the strategy's own dataclass
    budget: Budget
    derive: DeriveConfig
    profile: ProfileConfig
    loop_minutes: float  # longest time for moving widths on the device, 0 for none
    stage_minutes: float | None  # for measuring stem, stages and head of the net; 0 or null: not
    verify: VerifyConfig
    accelerator: str  # auto | cpu | cuda: what the supernet trains on
    amp: bool  # bfloat16 autocast where a GPU searches
    cores: int | None  # CPU threads of the supernet; null: all
    checkpoint_minutes: float  # the most that a crash can lose; every epoch is saved besides
    on_nonfinite: str  # stop | skip: what becomes of a step with an infinite loss or gradient
    tensorboard: bool | None  # write scalars; null: if the package tensorboard is installed
    resume: str | None  # folder of a run, or of a sweep, to go on with
    seed: int


@dataclass
class Recipe:
    """How a subnet is trained (conf/recipe/)."""

    name: str
    max_train: int | None  # class-balanced upper limit on the training images; null: all
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    warmup_epochs: float  # linear, from 0
    clip: float  # norm of the gradient, 0 for none
    label_smoothing: float
    dropout: float
    drop_connect: float  # grows linearly with depth, from 0 at the first block to near this
    ema: float  # decay of averaged weights, 0 for none
    resolution: int | None  # pixels, at most that of the deployed subnet; null: just that
    crop_scale_min: float | None  # smallest area of a random crop, fraction of the image; null:
    # as the kind of data has it, see `tfnas.data`
    color_jitter: float  # largest change of brightness, contrast and saturation, fraction
    amp: bool  # float16 autocast where a GPU trains


@dataclass
class TrainConfig:
    """python -m tfnas.train"""

    subnet: str
    weights: str | None  # safetensors to start from, such as a run's supernet_weights.safetensors
    out: str | None  # folder; null: that of the subnet
    data: DataConfig
    recipe: Recipe
    seed: int
    threads: int | None  # CPU threads for training; null: all cores
    accelerator: str  # auto | cpu | cuda
    checkpoint_minutes: float  # the most that a crash can lose; every epoch is saved besides
    on_nonfinite: str  # stop | skip: what becomes of a step with an infinite loss or gradient
    tensorboard: bool | None  # write scalars; null: if the package tensorboard is installed
    resume: bool


@dataclass
class CompareConfig:
    """python -m tfnas.compare"""

    nets: Any  # runs, or {name: run or runs}; see `tfnas.contenders.load_contenders`
    table: str | None  # file; null: the one that all runs name
    latency_tolerance: float  # fraction that the nets may differ by on the table
    seeds: list[int]
    out: str | None  # folder; null: runs/compare_ and a digest of nets, recipe and data
    data: DataConfig
    recipe: Recipe
    threads: int | None  # CPU threads for training; null: all cores
    accelerator: str  # auto | cpu | cuda
    checkpoint_minutes: float  # the most that a crash can lose; every epoch is saved besides
    on_nonfinite: str  # stop | skip: what becomes of a step with an infinite loss or gradient


@dataclass
class ExportConfig:
    """python -m tfnas.export"""

    subnet: str
    weights: str | None  # null: weights.safetensors beside the subnet, if there; else untrained
    out: str | None  # file; null: model.onnx beside the subnet
    batch: int | None  # null: dynamic
    target_ms: float | None
    seed: int


def conf_path() -> Path:
    """The folder of conf/: inside the installed package, or beside it in a checkout."""
    return _beside_package("conf")


def shipped_tables_path() -> Path:
    """The folder of latency_tables/, as `conf_path`."""
    return _beside_package("latency_tables")


def _beside_package(name: str) -> Path:
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def user_tables_path() -> Path:
    """Where tables built here land: latency_tables/ of a checkout, else the user's data folder."""
    checkout = Path(__file__).resolve().parent.parent / "latency_tables"
    if checkout.is_dir() and os.access(checkout, os.W_OK):
        return checkout
    return user_data_path("tfnas") / "latency_tables"


def load_space(name: str, classes: int) -> SpaceSpec:
    """conf/space/`name`.yaml for code that is no Hydra app. Raises LookupError if there is none."""
    file = conf_path() / "space" / f"{name}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.yaml"))
        raise LookupError(f"space={name!r}: expected one of {', '.join(known)}")
    values = OmegaConf.merge(OmegaConf.load(file), {"classes": classes})
    spec = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SpaceSpec), values))
    assert isinstance(spec, SpaceSpec)
    return spec


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
        if status == INTERRUPTED and sweep.Watch.folder is not None:
            raise KeyboardInterrupt  # it was this process that was asked to stop
        return status

    from tfnas.resume import resumed  # which needs `override` from here
    from tfnas.stopping import interrupt_on_signals

    ranks = Ranks()
    try:
        ranks = from_environment()
        sys.argv[1:] = _of_rank(ranks, resumed(name, sys.argv[1:]))
    except (ValueError, OSError) as error:
        _say(f"error: {error}", ranks)
        sys.exit(UNUSABLE_INPUT)
    if ranks.rank:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # --help and the like
    interrupt_on_signals(ranks)
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
        os._exit(DONE if sweep.Watch.folder is None else FAILED)
    except (HydraException, OmegaConfBaseException, YAMLError, OSError) as error:
        text = _in_one_line(error)
        if "'hydra/launcher/" in text:
            text += "; launchers are packages of their own, such as hydra-joblib-launcher"
        if "Error parsing override" in text:
            text += "; a value with special characters needs quotes of its own: \"key='it\\'s'\""
        if isinstance(error, OSError) and error.filename:
            text = (
                f"can't write {error.filename}: {error.strerror}; give another folder with "
                "hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER for a sweep"
            )
        _say(f"error: {text}", ranks)
        sys.exit(worst([UNUSABLE_INPUT, *_end_sweep(name, launch, UNUSABLE_INPUT)]))
    except Exception as error:
        if sweep.Watch.folder is None:
            log.exception("failed")
        else:  # the launcher's, such as a process of its that died
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
            print(f"error: the sweep broke off: {reason}", file=sys.stderr)
            log.debug("", exc_info=error)
        sys.exit(worst([FAILED, *_end_sweep(name, launch, FAILED)]))
    sys.exit(worst(statuses if sweep.Watch.folder is None else _end_sweep(name, launch, DONE)))


def _of_rank(ranks: Ranks, arguments: list[str]) -> list[str]:
    """A command line as one of several processes runs it: files and log lines are rank 0's."""
    if ranks.rank == 0:
        return arguments
    own = ("hydra.run.dir=", "hydra.output_subdir=", "hydra/job_logging=")
    kept = [a for a in arguments if not a.startswith(own)]
    return [*kept, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=rank"]


def refuse_sweep() -> None:
    """End a sweep of several processes: its members would need a torchrun each."""
    ranks = from_environment()
    if ranks.size > 1:
        _say("error: no sweep runs under torchrun: start each of its runs by a torchrun", ranks)
        raise SystemExit(UNUSABLE_INPUT)


def _say(text: str, ranks: Ranks) -> None:
    """What all processes would say, once: rank 0's end ends the others, unless it has no reason."""
    if ranks.rank:
        try:
            time.sleep(SAID_S)
        except KeyboardInterrupt:
            return
    print(text, file=sys.stderr)


def worst(statuses: Iterable[int]) -> int:
    """The status of several runs together, see `STATUS_NAMES`; an unknown one is a failure."""
    order = list(STATUS_NAMES)
    known = (status if status in STATUS_NAMES else FAILED for status in statuses)
    return max(known, key=order.index, default=DONE)


def _end_sweep(name: str, launch: str, end: int) -> list[int]:
    """Say what became of the sweep that this process started, if any; its members' statuses.

    Args:
        end: how the sweep ended. After an orderly end (`DONE`) a member that never started failed.
    """
    folder = sweep.Watch.folder
    if folder is None:
        return []
    ran = sweep.launched(folder, launch)
    if end == INTERRUPTED:
        # Launchers kill what they run; a member that couldn't say so itself was interrupted, too.
        for member, status in ran.items():
            if status.status is None and status.running is False:
                _leave_status(member, INTERRUPTED, launch)
        ran = sweep.launched(folder, launch)
    plan = sweep.planned(folder)
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
    told = ", ".join(f"{counts[name]} {name}" for name in names if counts[name])
    print(f"sweep of {len(statuses) + idle}: {told}")
    if name == "search":
        if idle or {INTERRUPTED, FAILED} & set(statuses):
            print(f"go on: python -m tfnas.search {shlex.join([override('resume', folder)])}")
        print(f"one table: python -m tfnas.report {shlex.quote(str(folder))}")
    return statuses


def _in_one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages without their trailers; the innermost one says most."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(TRAILERS)]
    cause = error.__cause__
    if cause is not None and str(cause) not in str(error):
        told.append(_in_one_line(cause))
    key = getattr(error, "full_key", None)
    if key and not any(str(key) in line for line in told):
        told.append(f"(key {key})")
    return " ".join(told) or repr(error)


def _run_here(
    schema: type[Config], cfg: DictConfig, prepare: Callable[[Config], Work], launch: str
) -> int:
    """As `_run_job`, and leaves the status in the run's folder, where it has one of its own."""
    own = is_sweep() or HydraConfig.get().output_subdir is not None
    folder = output_dir() if own else None
    _leave_status(folder, None, launch)
    try:
        status = _run_job(schema, cfg, prepare)
    except KeyboardInterrupt:
        _leave_status(folder, INTERRUPTED, launch)
        if is_sweep() and sweep.Watch.folder is None:
            return INTERRUPTED  # a launcher's process: the other members have theirs
        raise
    _leave_status(folder, status, launch)
    return status


def _leave_status(folder: Path | None, status: int | None, launch: str) -> None:
    """A member that can't say how it ended doesn't end the sweep; it counts as failed."""
    if folder is None:
        return
    try:
        sweep.write_status(folder, status, launch)
    except OSError as error:
        log.error("error: can't write %s: %s", folder / sweep.STATUS, error.strerror or error)


def _run_job(schema: type[Config], cfg: DictConfig, prepare: Callable[[Config], Work]) -> int:
    try:
        try:
            config = OmegaConf.to_object(cfg)
            assert isinstance(config, schema)
        except MissingMandatoryValue as error:
            key = str(error.full_key)
            raise ValueError(f"{key} is required: give {key}=VALUE") from None
        except OmegaConfBaseException as error:
            raise ValueError(_in_one_line(error)) from None
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


def refuse(error: Exception) -> int:
    """Say what is wrong with the input, in one line; the status for it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OmegaConfBaseException):
        text = _in_one_line(error)
    log.error("error: %s", text)
    log.debug("", exc_info=error)
    return UNUSABLE_INPUT


def override(key: str, value: object) -> str:
    """`key=value` for a Hydra command line, whatever characters a path has."""
    if isinstance(value, (int, float)) or value is None:
        return f"{key}={'null' if value is None else value}"
    if re.fullmatch(r"[A-Za-z0-9_./+-]+", str(value)):
        return f"{key}={value}"
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def overrides() -> list[str]:
    """The `key=value` of this job's command line."""
    return list(HydraConfig.get().overrides.task)


def output_dir() -> Path:
    """The run folder of this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def is_sweep() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def check_writable(path: Path) -> None:
    """Raises OSError if a file can't be written at `path`; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"can't write {path}: {error.strerror or error}") from None
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OSError(f"can't write {path}: it is a folder, or its permissions forbid it")


def check_choice(name: str, value: str, known: Any) -> None:
    """Raises ValueError, with the known values, if `value` is none of them."""
    if value not in known:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")


def smallest(*limits: int | None) -> int | None:
    """The smallest of those that are given."""
    return min((limit for limit in limits if limit is not None), default=None)


def check_positive(**values: float | None) -> None:
    """Raises ValueError for the first value that is given and not a finite number above 0."""
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name}={value}: expected a number above 0")

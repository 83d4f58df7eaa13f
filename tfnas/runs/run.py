"""What became of searches, by their folders: of a run, or of all in a folder or a sweep.

What stands in their files is checked, and texts are cleaned: a folder may come from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from tfnas.files.bounded import printable
from tfnas.files.decode import Fraction, load
from tfnas.process.exits import DONE, FAILED, OUTSIDE_TOLERANCE, STATUS_NAMES, UNUSABLE_INPUT
from tfnas.runs.folder import MOST_BYTES, RunFolder, load_yaml
from tfnas.runs.int8 import INT8, Int8Accuracy, load_int8
from tfnas.runs.result import LONGEST_MS, Result, within_tolerance
from tfnas.runs.status import Status, read_status
from tfnas.space.size import Oblong, Size

TRAIN_HEADER = {"format": "tfnas.train/1"}
LOG_TAIL = 50_000  # bytes of a log that are looked at
LONGEST = 300  # characters of what a file says
NOT_STARTED, RUNNING, UNREADABLE = "not started", "running", "unreadable"
# What `tfnas.search resume=` takes up again.
UNFINISHED = ("interrupted", "failed", NOT_STARTED, UNREADABLE)
RECORD = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ ([A-Z]+) (.*)")  # of conf/hydra/job_logging/run.yaml


@dataclass(frozen=True)
class Run:
    """One line of the table; None where nothing is known.

    Attributes:
        status: a name of `STATUS_NAMES`, or running, not started, unreadable.
        reason: why there is no result.
        resume: the folder that `tfnas.search resume=` goes on with, if it can.
        launcher: what starts it there: python, or torchrun with as many processes as before.
        gap: of the measured latency to the target, signed, as a fraction; else of the table's.
        precision: fp32 | tf32 | fp16 | int8, that all latencies are of.
        top1: fraction of the test images, at `top1_resolution` pixels, as the training ended; of
            the net in float, or `top1_in_int8`, simulated.
        int8: what an export found of these weights.
        doubtful: why the measured interval deserves doubt.
    """

    folder: Path
    status: str = ""
    reason: str = ""
    resume: Path | None = None
    launcher: str = "python"
    target_ms: float | None = None
    table_ms: float | None = None
    measured_ms: float | None = None
    measured_ci_ms: tuple[float, float] | None = None
    gap: float | None = None
    within: bool | None = None
    strategy: str | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    space: str | None = None
    top1: float | None = None
    top1_resolution: Size | None = None
    top1_in_int8: bool = False
    int8: Int8Accuracy | None = None
    doubtful: str | None = None

    @property
    def top1_float(self) -> float | None:
        """Of the weights as they are; on the images of the int8 net where there is one."""
        if self.int8 is not None:
            return self.int8.float_top1
        return None if self.top1_in_int8 else self.top1

    @property
    def top1_int8(self) -> float | None:
        """Of the exported int8 net, else as training simulates it."""
        if self.int8 is not None:
            return self.int8.int8_top1
        return self.top1 if self.top1_in_int8 else None

    @property
    def top1_deployed(self) -> float | None:
        """At the precision that the latencies are of; None where it isn't known at that."""
        return self.top1_int8 if self.precision == INT8 else self.top1_float

    @property
    def told_top1_alone(self) -> bool:
        """Whether int8 isn't about, so that there is one accuracy, and it goes with the latency."""
        return self.precision != INT8 and self.int8 is None and not self.top1_in_int8

    @property
    def told_top1(self) -> str | None:
        """The accuracy for a line of text, its precision told wherever int8 is about."""
        if self.top1 is None:
            return None
        where = f" at {self.top1_resolution} px"
        if self.told_top1_alone:
            return f"{100 * self.top1:.1f} %{where}"
        pairs = ("float", self.top1_float), ("int8", self.top1_int8)
        parts = [f"{name} {'–' if x is None else f'{100 * x:.1f} %'}" for name, x in pairs]
        return ", ".join(parts) + where


def read_run(folder: Path) -> tuple[Run, list[str]]:
    """A run by its files, and warnings of those that can't be used."""
    files = RunFolder(folder)
    warnings = []
    left = read_status(folder)
    status, reason = _status(files, left)
    run = Run(folder, status, reason, launcher=left.launcher if left else "python")
    with suppress(OSError, ValueError):  # a result tells it as well
        run = asked(run, load_yaml(files.config))
    if files.result.exists():
        try:
            if not files.result.is_file():
                raise ValueError(f"{files.result} is no plain file")
            run = _with_result(run, Result.load(files.result), files.result)
        except (ValueError, OverflowError) as error:
            file = "" if isinstance(error, ValueError) else f"{files.result}: "
            warnings.append(clean(f"{file}{error}"))
            again = f"delete its {files.result.name} to run it again"
            run = replace(run, status=UNREADABLE, reason=again)
    elif not status:
        run = replace(run, status="failed", reason="it ended without leaving a status")
    elif status in (STATUS_NAMES[DONE], STATUS_NAMES[OUTSIDE_TOLERANCE]) and (
        files.config.parent.is_dir()  # which of the entry points only the search keeps
    ):
        run = replace(run, status=UNREADABLE, reason=f"it has no {files.result.name}")
    if files.trained.exists():
        try:
            found = _accuracy(files.trained)
            run = _with_accuracy(run, found)
            if files.int8.exists():
                run = _with_int8(run, found, load_int8(files.int8))
        except ValueError as error:
            warnings.append(clean(str(error)))
    return run, warnings


def _status(files: RunFolder, status: Status | None) -> tuple[str, str]:
    """What became of a run, and why; "" if it left nothing that tells."""
    if status is None:
        return "", ""
    if status.status is None:
        if status.running is False:
            return "failed", "its process was killed"
        where = f"process {status.pid} on {clean(status.host)}"
        return RUNNING, where if status.running else f"{where}, if that hasn't died"
    name = STATUS_NAMES.get(status.status, "failed")
    return name, _reason(files.log) if status.status in (UNUSABLE_INPUT, FAILED) else ""


def _reason(log: Path) -> str:
    """The last error in a log, or what its trace ends with."""
    if not log.is_file():  # or it may be a pipe, and wait for ever
        return ""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    found, trace = "", False
    for line in lines:
        record = RECORD.fullmatch(line)
        if record:
            trace = record[1] == "ERROR"
            found = record[2] if trace else found
        elif trace and line.strip():
            found = line
    return clean(found.removeprefix("error: "))


def asked(run: Run, values: Mapping[str, Any]) -> Run:
    """What a run was asked for, as far as that is told; of a group its name."""
    target_ms: Any = values.get("target_ms")
    is_latency = type(target_ms) in (int, float) and 0 < target_ms < LONGEST_MS
    seed = values.get("seed")
    strategy, space = (
        value.get("name") if isinstance(value, dict) else value
        for value in (values.get("strategy"), values.get("space"))
    )
    return replace(
        run,
        target_ms=float(target_ms) if is_latency else None,
        seed=seed if type(seed) is int else None,
        strategy=clean(strategy) if isinstance(strategy, str) else None,
        space=clean(space) if isinstance(space, str) else None,
    )


def _with_result(run: Run, result: Result, file: Path) -> Run:
    """Raises ValueError for values that no run can have."""
    low, high = result.measured_ci_ms or (0, 0)
    if low > high:
        raise ValueError(f"{file}: measured_ci_ms={low, high}, expected low, high")
    if result.within is not within_tolerance(
        result.last_ms, result.target_ms, result.tolerance, result.at_most
    ):
        raise ValueError(
            f"{file}: within={result.within}, but it is {100 * result.gap:+.2g} % "
            f"off its target, with tolerance={result.tolerance}"
        )
    return replace(
        run,
        # Not that of a later try, such as one that was refused.
        status=STATUS_NAMES[DONE if result.within else OUTSIDE_TOLERANCE],
        reason="",
        target_ms=result.target_ms,
        table_ms=result.table_ms,
        measured_ms=result.measured_ms,
        measured_ci_ms=result.measured_ci_ms,
        gap=result.gap,
        within=result.within,
        strategy=clean(result.strategy),
        seed=result.seed,
        device=clean(result.device),
        precision=clean(result.precision),
        space=clean(result.space),
        doubtful=clean(result.noisy) if result.noisy else None,
    )


@dataclass(frozen=True)
class _Accuracy:
    """What a report takes from train.json."""

    top1: Fraction | None
    resolution: Annotated[int, Meta(gt=0, lt=100_000)] | Oblong
    subnet: str | None = None
    recipe: Mapping[str, Any] | None = None


def _accuracy(file: Path) -> _Accuracy:
    """Raises ValueError for what isn't train.json."""
    return load(file, _Accuracy, "result of a training", MOST_BYTES, TRAIN_HEADER, partly=True)


def _with_accuracy(run: Run, found: _Accuracy) -> Run:
    if found.top1 is None:
        return run
    in_int8 = (found.recipe or {}).get("qat") is True
    return replace(run, top1=found.top1, top1_resolution=found.resolution, top1_in_int8=in_int8)


def _with_int8(run: Run, found: _Accuracy, int8: Int8Accuracy) -> Run:
    """What an export found, if it was of these weights."""
    if found.top1 is None or not int8.is_of(found.subnet, found.top1):
        return run
    return replace(run, int8=int8, top1_resolution=int8.resolution)


def clean(text: str) -> str:
    """What a file says, in one line of bearable length."""
    return printable(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")

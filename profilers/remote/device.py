"""Devices at the end of a link: boards and phones.

Everything that reads a clock runs on the device: a job goes there with its models, rounds of
samples come back, see `profilers.onboard.job` and `profilers.remote.rounds`. The link carries
files and waits; it enters no figure.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import random
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from profilers.contract import Profiler, fingerprint
from profilers.cpu import op_model, read_model
from profilers.onboard.job import Job, Round
from profilers.onboard.linux import parse_cores
from profilers.onboard.lock import machine_lock
from profilers.onboard.ort import OrtWorkload
from profilers.onboard.rounds import Workload
from profilers.remote.rounds import SHORT_S, RemoteRounds, RemoteWorkload, remote
from profilers.remote.transport import DeviceError, Ran, Transport
from tfnas.files.bounded import shown
from tfnas.latency.table import Device
from tfnas.process.checks import check_choice, check_positive
from tfnas.space.ops import OpSpec

# With the folder, and the names of the runner's files.
CLEAR = """
cd "$1" || exit 0
here=$1; shift
rm -rf models; rm -f "$@"
find jobs -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + 2> /dev/null
cd /; rmdir "$here/jobs" "$here" 2> /dev/null
"""


@dataclass
class RemoteOptions:
    """What boards and phones have in common in conf/device/."""

    cores: str | None  # such as 4-7; null: those with the highest clock
    rest_s: float  # pause after each round, for phones to cool down
    job_s: float  # seconds that one job on the device lasts: a broken link costs at most these
    memory_mb: float  # of models that a job loads at once


@dataclass(frozen=True)
class Described:
    """A device as its runner tells of it.

    Attributes:
        name: for people, such as `Raspberry Pi 5 Model B Rev 1.0`.
        hardware: what identifies it for its latencies.
        cores, fastest_cores: that may be used.
        versions: of what runs the models and what they run on.
    """

    name: str
    hardware: Mapping[str, object]
    cores: tuple[int, ...]
    fastest_cores: tuple[int, ...]
    versions: tuple[tuple[str, str], ...]


class Runner(Protocol):
    """What runs the models on the device: a runtime, and how to drive it there.

    Attributes:
        runtime: as `Job.runtime` has it.
        precision: what it computes in.
    """

    runtime: str
    precision: str

    def files(self) -> Mapping[str, bytes]:
        """What it needs on the device beside the models, by name."""
        ...

    def describing_files(self) -> Mapping[str, bytes]:
        """Those of them that `describe` needs."""
        ...

    def describe(self, transport: Transport, folder: str) -> Described:
        """The device. Raises LookupError, with what to install, for one that can't run models."""
        ...

    def models(self, onnx: bytes) -> Mapping[str, bytes]:
        """A model as the runtime wants it, by suffix. Raises ValueError where it can't be had."""
        ...

    def job_files(self, job: Job, folder: str) -> Mapping[str, bytes]:
        """What tells the device its job, by name, JOB among them."""
        ...

    def command(self, folder: str, job_folder: str) -> Sequence[str]:
        """Does the job: ends with 0, BUSY or UNUSABLE and leaves its answer in SAMPLES."""
        ...

    def rounds(self, answer: bytes, job: Job) -> Iterator[Round]:
        """What it measured. Raises ValueError where the answer stops making sense."""
        ...


class RemoteProfiler(Profiler):
    """A device at the end of a link.

    Raises:
        LookupError, ValueError: for a device that can't do what is asked.
        LinkError: if it can't be reached.
    """

    def __init__(
        self,
        kind: str,
        transport: Transport,
        runner: Runner,
        options: RemoteOptions,
        *,
        threads: int,
        batch: int,
        precision: str,
    ):
        check_choice(f"precision of device={kind}", precision, (runner.precision,))
        check_positive(**{"device.job_s": options.job_s, "device.memory_mb": options.memory_mb})
        if not 0 <= options.rest_s < math.inf:
            raise ValueError(f"device.rest_s={options.rest_s}: expected 0 or more")
        self.transport, self.runner, self.settings = transport, runner, options
        self._local = Path(tempfile.mkdtemp(prefix="tfnas-"))
        weakref.finalize(self, shutil.rmtree, self._local, ignore_errors=True)
        # Of one host and user, so that nobody takes another's models or answers away.
        owner = f"{platform.node()} {os.getuid()} {transport.name}"
        key = hashlib.sha256(f"{owner} {runner.runtime} {threads} {batch}".encode())
        self.folder = f"{transport.scratch}/tfnas-{key.hexdigest()[:12]}"
        if not re.fullmatch(r"/[^\n\0]*/tfnas-[0-9a-f]{12}", self.folder):
            raise ValueError(f"{transport.name}: {shown(self.folder)} can't be a folder there")
        told = self._describe()
        self.cores = _cores(options.cores, told, threads)
        pinned = (("cores", ",".join(map(str, self.cores))),) if self.cores else ()
        versions = (*told.versions, *pinned)
        context = {
            "versions": versions, "threads": threads, "batch": batch, "precision": precision,
        }  # fmt: skip
        self.device = Device(
            kind=kind,
            name=told.name,
            backend=runner.runtime,
            precision=precision,
            batch=batch,
            threads=threads,
            fingerprint=fingerprint(dict(told.hardware), context),
            versions=dict(versions),
        )

    def _describe(self) -> Described:
        """What the runner tells, in a folder that is gone again: nobody may ever measure."""
        folder = f"{self.folder}-about"
        files = self.runner.describing_files()
        if not files:
            return self.runner.describe(self.transport, folder)
        try:
            self.check(["mkdir", "-p", "-m", "700", folder])
            self.put(files, folder)
            return self.runner.describe(self.transport, folder)
        finally:
            self._remove(folder)

    def prepare(self) -> None:
        """Make the folder on the device, with the runner in it."""
        self.check(["mkdir", "-p", "-m", "700", self.folder])
        self.check(["mkdir", "-p", f"{self.folder}/models", f"{self.folder}/jobs"])
        self.put(self.runner.files(), self.folder)

    def workload(self, ops: Sequence[OpSpec]) -> RemoteWorkload:
        model = op_model(ops, self.device.batch)
        name = " | ".join(map(str, ops))
        return RemoteWorkload(name, self.runner.models(model), self._local)

    def model_workload(self, onnx_path: Path) -> RemoteWorkload:
        model = read_model(onnx_path)
        # What can't run here can't run there, and here that is known at once.
        OrtWorkload(str(onnx_path), model, threads=1, batch=self.device.batch).close()
        return RemoteWorkload(str(onnx_path), self.runner.models(model), self._local)

    @contextmanager
    def exclusive(self, progress: Callable[[str], None]) -> Iterator[None]:
        """One process of this host at a time; the runner holds the device's own lock."""
        name = hashlib.sha256(self.transport.name.encode()).hexdigest()[:12]
        with machine_lock(progress, f"device-{name}"):
            try:
                self.prepare()
                yield
            finally:
                self._clear()

    def _clear(self) -> None:
        """Remove models and runner. Jobs are removed one by one, when their answers have counted:
        one that is still there is the next run's, or a week old."""
        with suppress(OSError):
            command = ["sh", "-c", CLEAR, "sh", self.folder, *self.runner.files()]
            self.transport.run(command, timeout_s=SHORT_S)

    def _remove(self, folder: str) -> None:
        with suppress(OSError):
            self.transport.run(["rm", "-rf", folder], timeout_s=SHORT_S)

    def rounds(
        self, reference: Workload, rng: random.Random, now: Callable[[], float]
    ) -> RemoteRounds:
        return RemoteRounds(self, remote(reference), rng, now)

    def check(self, command: Sequence[str]) -> Ran:
        """Run a command that must succeed. Raises LinkError, or DeviceError with what it said."""
        ran = self.transport.run(command, timeout_s=SHORT_S)
        if ran.status:
            raise DeviceError(
                f"{self.transport.name}: `{' '.join(command)}` failed: {ran.last_line}"
            )
        return ran

    def put(self, contents: Mapping[str, bytes], folder: str) -> None:
        """Write small files on the device."""
        with tempfile.TemporaryDirectory(dir=self._local) as local:
            files = {name: Path(local) / name for name in contents}
            for name, path in files.items():
                path.write_bytes(contents[name])
            self.transport.push(files, folder)


def _cores(asked: str | None, told: Described, threads: int) -> tuple[int, ...]:
    """Those to pin to; empty for all."""
    if asked is not None:
        cores = parse_cores(asked)
        if not set(cores) <= set(told.cores):
            have = ", ".join(map(str, told.cores))
            raise ValueError(f"device.cores={asked}: {told.name} has the cores {have}")
    else:
        cores = list(told.fastest_cores)
    if threads > len(cores):
        raise ValueError(
            f"threads={threads}: {told.name} would run on {len(cores)} of its cores; choose others "
            f"with device.cores=FIRST-LAST (it has {', '.join(map(str, told.cores))})"
        )
    return () if set(cores) == set(told.cores) else tuple(cores)

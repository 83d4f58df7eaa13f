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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from profilers.contract import Profiler, fingerprint
from profilers.models import read_model
from profilers.onboard.job import Job
from profilers.onboard.linux import parse_cores
from profilers.onboard.lock import machine_lock
from profilers.onboard.ort import ort_workload
from profilers.onboard.rounds import Workload
from profilers.remote import rounds
from profilers.remote.folder import DeviceFolder
from profilers.remote.rounds import RemoteRounds, RemoteWorkload, remote
from profilers.remote.runner import Described, Runner
from profilers.remote.transport import Transport
from tfnas.files.bounded import shown
from tfnas.latency.table import Device
from tfnas.process.checks import check_choice, check_positive


@dataclass
class RemoteOptions:
    """What boards and phones have in common in conf/device/."""

    cores: str | None  # such as 4-7; null: those with the highest clock
    rest_s: float  # pause after each round, for phones to cool down
    job_s: float  # seconds that one job on the device lasts: a broken link costs at most these
    memory_mb: float  # of models that a job loads at once
    activations: str  # auto | uint8 | int8: of int8 models; auto: the faster ones


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
        precisions = (runner.precision, "int8") if runner.int8 else (runner.precision,)
        check_choice(f"precision of device={kind}", precision, precisions)
        check_positive(**{"device.job_s": options.job_s, "device.memory_mb": options.memory_mb})
        if not 0 <= options.rest_s < math.inf:
            raise ValueError(f"device.rest_s={options.rest_s}: expected 0 or more")
        self.runner, self.settings = runner, options
        self._local = Path(tempfile.mkdtemp(prefix="tfnas-"))
        weakref.finalize(self, shutil.rmtree, self._local, ignore_errors=True)
        # Of one host and user, so that nobody takes another's models or answers away.
        owner = f"{platform.node()} {os.getuid()} {transport.name}"
        key = hashlib.sha256(f"{owner} {runner.runtime} {threads} {batch}".encode())
        path = f"{transport.scratch}/tfnas-{key.hexdigest()[:12]}"
        if not re.fullmatch(r"/[^\n\0]*/tfnas-[0-9a-f]{12}", path):
            raise ValueError(f"{transport.name}: {shown(path)} can't be a folder there")
        self.folder = DeviceFolder(transport, path, self._local, runner.files())
        described = runner.describe(transport)
        self.cores = _cores(options.cores, described, threads)
        pinned = (("cores", ",".join(map(str, self.cores))),) if self.cores else ()
        versions = (*described.versions, *pinned)
        context = {
            "versions": versions, "threads": threads, "batch": batch,
            "precision": runner.precision,
        }  # fmt: skip
        self.device = Device(
            kind=kind,
            name=described.name,
            backend=runner.runtime,
            precision=runner.precision,
            batch=batch,
            threads=threads,
            fingerprint=fingerprint(described.hardware, context),
            versions=dict(versions),
        )

    def load(self, name: str, model: bytes) -> RemoteWorkload:
        return RemoteWorkload(name, self.runner.models(model), self._local)

    def model_workload(self, onnx_path: Path) -> RemoteWorkload:
        name, model = str(onnx_path), read_model(onnx_path)
        # What can't run here can't run there, and here that is known at once.
        ort_workload(name, model, threads=1, batch=self.device.batch).close()
        return self.load(name, model)

    @contextmanager
    def exclusive(self, progress: Callable[[str], None]) -> Iterator[None]:
        """One process of this host at a time; the runner holds the device's own lock."""
        name = hashlib.sha256(self.folder.transport.name.encode()).hexdigest()[:12]
        with machine_lock(progress, f"device-{name}"):
            try:
                self.folder.make()
                yield
            finally:
                self.folder.clear()

    def rounds(
        self, reference: Workload, rng: random.Random, now: Callable[[], float]
    ) -> RemoteRounds:
        model = remote(reference)
        job = Job(
            device=self.device.fingerprint,
            runtime=self.runner.runtime,
            threads=self.device.threads,
            batch=self.device.batch,
            cores=self.cores,
            seed="",
            reference=model.stem,
            targets=(),
            at_least=1,
            seconds=0.0,
            rest_s=self.settings.rest_s,
            lock_s=rounds.LOCK_S,
            nonce="",
        )
        return RemoteRounds(
            self.folder, self.runner, job, model, rng, now,
            job_s=self.settings.job_s, memory_mb=self.settings.memory_mb,
        )  # fmt: skip


def _cores(asked: str | None, described: Described, threads: int) -> tuple[int, ...]:
    """Those to pin to; empty for all."""
    have = ", ".join(map(str, described.cores))
    cores = list(described.fastest_cores) if asked is None else parse_cores(asked)
    if not set(cores) <= set(described.cores):
        raise ValueError(f"device.cores={asked}: {described.name} has the cores {have}")
    if threads > len(cores):
        raise ValueError(
            f"threads={threads}: {described.name} would run on {len(cores)} of its cores; choose "
            f"others with device.cores=FIRST-LAST (it has {have})"
        )
    return () if set(cores) == set(described.cores) else tuple(cores)

"""Devices at the end of a link: boards and phones.

Everything that reads a clock runs on the device: a job goes there with its models, rounds of
samples come back, see `profilers.job`. The link carries files and waits; it enters no figure. What
a broken link leaves on the device is fetched by the next job, in this process or a later one.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import random
import re
import secrets
import shutil
import tempfile
import time
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import profilers
from profilers import Profiler, fingerprint
from profilers.conditions import Watch
from profilers.convert import ncnn_files
from profilers.cpu import op_model, read_model
from profilers.job import BUSY, JOB, SAMPLES, UNUSABLE, Job, Round, read_rounds
from profilers.linux import parse_cores, readable
from profilers.lock import machine_lock
from profilers.ort import OrtWorkload
from profilers.rounds import References, Target, Workload
from profilers.transport import LinkError, Ran, Transport
from tfnas.config import check_choice, check_positive
from tfnas.space import OpSpec
from tfnas.table import Device
from tfnas.untrusted import check_text, parse_json, shown

log = logging.getLogger(__name__)

SHORT_S = 30.0  # for commands that do next to nothing
LOAD_S = 600.0  # for loading the models of a job
LOCK_S = 20.0  # that one job waits on the device for other measuring processes
LINK_S = 120.0  # that a broken link is waited for, before the run ends with what it has
TRIES = 3  # of one job
MAX_ANSWER = 200_000_000  # bytes
# Of the runner on the device; what they import, and no more, goes with them.
RUNNER_FILES = (
    "conditions.py", "job.py", "linux.py", "lock.py", "ncnn_net.py", "ort.py", "rounds.py",
    "runner.py",
)  # fmt: skip


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

    def rounds(self, answer: bytes, job: Job) -> list[Round]:
        """What it measured. Raises ValueError for an answer that makes no sense."""
        ...


class PythonRunner:
    """A board with Python and a runtime as a package: `profilers.runner`, pushed as a zip.

    Args:
        python: the interpreter there.
    """

    def __init__(self, runtime: str, python: str):
        self.runtime = runtime
        self.precision = "fp32"
        self._python = python

    def files(self) -> Mapping[str, bytes]:
        return {"runner.pyz": runner_zip()}

    def describe(self, transport: Transport, folder: str) -> Described:
        command = [self._python, f"{folder}/runner.pyz", "describe"]
        ran = transport.run(command, timeout_s=SHORT_S, max_bytes=1_000_000)
        if ran.status:
            raise LookupError(
                f"{transport.name}: {self._python} can't run there ({_last_line(ran)}): expected "
                f"Python 3.10 or newer with {self.runtime}; another one is given with "
                "device.python=PATH"
            )
        try:
            told = parse_json(ran.out.decode())
            versions = {check_text(k, 100): check_text(v, 100) for k, v in told["runtimes"]}
            hardware = told["hardware"]
            found = Described(
                name=check_text(told["board"], 200) or readable(check_text(hardware["model"], 200)),
                hardware={**hardware, "board": told["board"]},
                cores=tuple(int(core) for core in told["cores"]),
                fastest_cores=tuple(int(core) for core in told["fastest_cores"]),
                versions=((self.runtime, versions.get(self.runtime, "")),),
            )
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"{transport.name} tells no sense of itself: {error!r}") from None
        if self.runtime not in versions:
            raise LookupError(
                f"{transport.name} lacks {self.runtime}: run `{self._python} -m pip install "
                f"{self.runtime} numpy` there, or give an environment that has it with "
                "device.python=PATH"
            )
        return found

    def models(self, onnx: bytes) -> Mapping[str, bytes]:
        return ncnn_files(onnx) if self.runtime == "ncnn" else {".onnx": onnx}

    def job_files(self, job: Job, folder: str) -> Mapping[str, bytes]:
        return {JOB: job.to_json().encode()}

    def command(self, folder: str, job_folder: str) -> Sequence[str]:
        return [self._python, f"{folder}/runner.pyz", "measure", job_folder]

    def rounds(self, answer: bytes, job: Job) -> list[Round]:
        return list(read_rounds(answer, len(job.targets)))


def runner_zip() -> bytes:
    """The runner as a zip that Python runs; the same bytes for the same sources."""
    buffer = io.BytesIO()
    source = Path(profilers.__file__).parent
    main = "import sys\nfrom profilers.runner import main\nsys.exit(main(sys.argv[1:]))\n"
    contents = {"__main__.py": main, "profilers/__init__.py": ""}
    contents |= {f"profilers/{name}": (source / name).read_text() for name in RUNNER_FILES}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


class RemoteWorkload:
    """A model that lies here until a job takes it to the device.

    Attributes:
        stem: of its files' names, by their content.
        files: name -> file here.
    """

    def __init__(self, name: str, models: Mapping[str, bytes], folder: Path):
        digest = hashlib.sha256()
        for suffix, content in models.items():
            digest.update(f"{suffix} {len(content)}\n".encode() + content)
        self.name = name
        self.stem = digest.hexdigest()[:24]
        self.files = {self.stem + suffix: folder / (self.stem + suffix) for suffix in models}
        for suffix, content in models.items():
            path = folder / (self.stem + suffix)
            if not path.exists():
                path.write_bytes(content)
        self.size = sum(map(len, models.values()))

    def burst(self, runs: int) -> NoReturn:
        raise RuntimeError("runs in the rounds of `RemoteRounds` only: the clock is on the device")

    def close(self) -> None:
        """Files stay until the profiler goes: another workload may have the same content."""


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
        key = hashlib.sha256(f"{transport.name} {runner.runtime} {threads} {batch}".encode())
        self.folder = f"{transport.scratch}/tfnas-{key.hexdigest()[:12]}"
        if not re.fullmatch(r"/[^\n\0]*/tfnas-[0-9a-f]{12}", self.folder):
            raise ValueError(f"{transport.name}: {shown(self.folder)} can't be a folder there")
        told = self._describe()
        self.cores = _cores(options.cores, told, threads)
        hardware = dict(told.hardware)
        context = {
            "versions": told.versions, "threads": threads, "batch": batch, "precision": precision,
            "cores": self.cores,
        }  # fmt: skip
        self.device = Device(
            kind=kind,
            name=told.name,
            backend=runner.runtime,
            precision=precision,
            batch=batch,
            threads=threads,
            fingerprint=fingerprint(hardware, context),
            versions=told.versions,
        )

    def _describe(self) -> Described:
        """What the runner tells, in a folder that is gone again: what an earlier run may have left
        on the device stays where it is."""
        folder = f"{self.transport.scratch}/tfnas-{secrets.token_hex(6)}"
        self.check(["mkdir", "-p", "-m", "700", folder])
        try:
            self.put(self.runner.files(), folder)
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
            self.prepare()
            try:
                yield
            except LinkError:
                raise  # what it measured lies there still, for the next run
            except BaseException:
                self.clear()
                raise
            else:
                self.clear()

    def clear(self) -> None:
        """Remove everything from the device, if it can be reached."""
        self._remove(self.folder)

    def _remove(self, folder: str) -> None:
        with suppress(OSError):
            self.transport.run(["rm", "-rf", folder], timeout_s=SHORT_S)

    def rounds(
        self, reference: Workload, rng: random.Random, now: Callable[[], float]
    ) -> RemoteRounds:
        return RemoteRounds(self, _remote(reference), rng, now)

    def check(self, command: Sequence[str]) -> Ran:
        """Run a command that must succeed. Raises LinkError, or OSError with what it said."""
        ran = self.transport.run(command, timeout_s=SHORT_S)
        if ran.status:
            raise OSError(f"{self.transport.name}: `{' '.join(command)}` failed: {_last_line(ran)}")
        return ran

    def put(self, contents: Mapping[str, bytes], folder: str) -> None:
        """Write small files on the device."""
        with tempfile.TemporaryDirectory(dir=self._local) as local:
            files = {name: Path(local) / name for name in contents}
            for name, path in files.items():
                path.write_bytes(contents[name])
            self.transport.push(files, folder)


class RemoteRounds:
    """Rounds on a device, job by job; see `profilers.rounds.Sampler`."""

    def __init__(
        self,
        profiler: RemoteProfiler,
        reference: RemoteWorkload,
        rng: random.Random,
        now: Callable[[], float] = time.monotonic,
    ):
        self.now = now
        self.watch = Watch()
        self._profiler, self._transport = profiler, profiler.transport
        self._reference, self._rng = reference, rng
        self._references = References()
        self._there: set[str] | None = None  # names of the models on the device
        self._left = self._fetch_left()

    @property
    def floor_ms(self) -> float:
        return self._references.floor_ms

    @property
    def quiet_share(self) -> float:
        return self._references.quiet_share

    def take(self, targets: Sequence[Target], at_least: int, seconds: float) -> int:
        """As many rounds as one job of `RemoteOptions.job_s` has time for.

        Raises:
            LinkError: if the link broke and didn't come back; what was measured before is in the
                targets, and what is left on the device is fetched by the next run.
            ValueError, RuntimeError: if the device can't run a model.
        """
        self._use_left(targets)
        groups = self._grouped(targets)
        span_s = min(seconds, self._profiler.settings.job_s)
        job_rounds = [self._run(group, at_least, span_s / len(groups)) for group in groups]
        return min(job_rounds)

    def close(self) -> None:
        self._reference.close()

    def _grouped(self, targets: Sequence[Target]) -> list[list[Target]]:
        """In parts that the device has memory for; each is measured beside the same reference."""
        most = 1e6 * self._profiler.settings.memory_mb
        groups: list[list[Target]] = [[]]
        size = 0.0
        for target in targets:
            own = _remote(target.workload).size
            if groups[-1] and size + own > most:
                groups.append([])
                size = 0.0
            groups[-1].append(target)
            size += own
        return groups

    def _run(self, targets: Sequence[Target], at_least: int, seconds: float) -> int:
        """One job; how many rounds it gave."""
        profiler = self._profiler
        device, runner = profiler.device, profiler.runner
        job = Job(
            runtime=runner.runtime,
            threads=device.threads,
            batch=device.batch,
            cores=profiler.cores,
            seed=f"{self._rng.random()}",
            reference=self._reference.stem,
            targets=tuple((_remote(t.workload).stem, t.fill_ms) for t in targets),
            at_least=at_least,
            seconds=seconds,
            rest_s=profiler.settings.rest_s,
            lock_s=LOCK_S,
        )
        name = hashlib.sha256(job.to_json().encode()).hexdigest()[:12]
        folder = f"{profiler.folder}/jobs/{name}"
        broken: LinkError | None = None
        for _ in range(TRIES):
            try:
                if broken is not None:
                    self._wait_for_link(broken)
                    profiler.prepare()
                self._push([self._reference, *(_remote(t.workload) for t in targets)])
                if broken is None or not (rounds := self._fetch(folder, job)):
                    profiler.check(["mkdir", "-p", folder])
                    profiler.put(runner.job_files(job, profiler.folder), folder)
                    self._do(job, folder)
                    rounds = self._fetch(folder, job)
                if not rounds:
                    raise RuntimeError(f"{self._transport.name} measured nothing in a job")
                profiler.check(["rm", "-rf", folder])
            except LinkError as error:
                broken, self._there = error, None
                continue
            except KeyboardInterrupt:
                with suppress(OSError, ValueError):
                    self._note(self._fetch(folder, job), targets)
                raise
            self._note(rounds, targets)
            return len(rounds)
        assert broken is not None
        raise broken

    def _do(self, job: Job, folder: str) -> None:
        profiler = self._profiler
        timeout_s = job.lock_s + LOAD_S + 10 * (job.seconds + job.rest_s * job.at_least)
        command = profiler.runner.command(profiler.folder, folder)
        while True:
            ran = self._transport.run(command, timeout_s=timeout_s)
            if ran.status != BUSY:
                break
            log.info("%s: %s; waiting", self._transport.name, _last_line(ran))
        if ran.status == UNUSABLE:
            raise RuntimeError(f"{self._transport.name}: {_last_line(ran)}")
        if ran.status:
            raise RuntimeError(
                f"{self._transport.name}: measuring ended with status {ran.status}: "
                f"{_last_line(ran)}; less may be loaded at once with device.memory_mb="
                f"{self._profiler.settings.memory_mb / 2:g}"
            )

    def _push(self, workloads: Sequence[RemoteWorkload]) -> None:
        """What isn't there yet, of all of them at once."""
        folder = f"{self._profiler.folder}/models"
        if self._there is None:
            names = self._profiler.check(["ls", folder]).out.decode(errors="replace").split()
            # A push that broke off may have left half a file; sizes are the cheapest check.
            self._there = set()
            if names:
                self._profiler.check(["rm", "-rf", folder])
                self._profiler.check(["mkdir", "-p", folder])
        files = {k: v for w in workloads for k, v in w.files.items() if k not in self._there}
        if files:
            self._transport.push(files, folder)
            self._there |= set(files)

    def _fetch(self, folder: str, job: Job) -> list[Round]:
        try:
            answer = self._transport.pull(f"{folder}/{SAMPLES}", MAX_ANSWER)
        except FileNotFoundError:
            return []
        return self._profiler.runner.rounds(answer, job)

    def _fetch_left(self) -> list[tuple[Job, list[Round]]]:
        """Of jobs whose answer never arrived here, from before this process too."""
        profiler, found = self._profiler, []
        jobs = f"{profiler.folder}/jobs"
        for name in profiler.check(["ls", jobs]).out.decode(errors="replace").split():
            if not re.fullmatch(r"[0-9a-f]{12}", name):
                continue
            with suppress(FileNotFoundError, ValueError):
                text = self._transport.pull(f"{jobs}/{name}/{JOB}", 10_000_000).decode()
                job = Job.from_json(text)
                if (job.cores, job.reference) == (profiler.cores, self._reference.stem):
                    found.append((job, self._fetch(f"{jobs}/{name}", job)))
            profiler.check(["rm", "-rf", f"{jobs}/{name}"])
        if rounds := sum(len(r) for _, r in found):
            log.info("%s: %d rounds were left there and are used", self._transport.name, rounds)
        return found

    def _use_left(self, targets: Sequence[Target]) -> None:
        by_stem = {(_remote(t.workload).stem, t.fill_ms): t for t in targets}
        kept = []
        for job, rounds in self._left:
            wanted = [by_stem.get(key) for key in job.targets]
            if 2 * sum(target is not None for target in wanted) < len(wanted):
                kept.append((job, rounds))  # of another measurement of this session, as it seems
                continue
            for taken in rounds:
                for index, sample in taken.samples:
                    if (target := wanted[index]) is not None:
                        target.out.append(sample)
        self._left = kept

    def _note(self, rounds: Sequence[Round], targets: Sequence[Target]) -> None:
        for taken in rounds:
            for index, sample in taken.samples:
                targets[index].out.append(sample)
            for ms in taken.reference_ms:
                self._references.add(ms)
            if taken.conditions.readings:
                self.watch.add(taken.conditions)

    def _wait_for_link(self, error: LinkError) -> None:
        """Raises the error again if the link doesn't come back."""
        log.warning("warning: %s; waiting up to %.0f s for it", error, LINK_S)
        end = time.monotonic() + LINK_S
        while True:
            try:
                self._transport.run(["true"], timeout_s=SHORT_S)
                return
            except LinkError:
                if time.monotonic() > end:
                    raise error from None
                time.sleep(2)


def _remote(workload: Workload) -> RemoteWorkload:
    assert isinstance(workload, RemoteWorkload)
    return workload


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
        raise ValueError(f"threads={threads}: {told.name} would run on {len(cores)} cores")
    return () if set(cores) == set(told.cores) else tuple(cores)


def _last_line(ran: Ran) -> str:
    lines = [line for line in ran.err.splitlines() if line.strip()]
    text = lines[-1] if lines else f"status {ran.status}"
    return "".join(c if c.isprintable() else "?" for c in text)[:500].removeprefix("error: ")

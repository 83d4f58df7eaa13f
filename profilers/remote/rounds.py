"""Rounds on a device at the end of a link, job by job.

Every answer counts once, whatever breaks off when. It stays on the device until the caller asks for
more, and so has saved what it got; before it is removed there, this host notes that it counted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from profilers.contract import DeviceError, LinkError
from profilers.onboard.conditions import Conditions, Watch
from profilers.onboard.job import BUSY, JOB, SAMPLES, UNUSABLE, Job, Round, name_of
from profilers.onboard.rounds import References, Target, Workload
from profilers.remote.folder import DeviceFolder
from profilers.remote.runner import Runner
from profilers.remote.transport import SHORT_S
from tfnas.files.atomic import write_atomically
from tfnas.files.decode import load
from tfnas.files.places import user_folder

log = logging.getLogger(__name__)

LOAD_S = 600.0  # for loading the models of a job
LOCK_S = 20.0  # that one job waits on the device for other measuring processes
LINK_S = 120.0  # that a broken link is waited for, before the run ends with what it has
TRIES = 3  # of one job
MAX_ANSWER = 200_000_000  # bytes
MAX_JOB = 10_000_000
MAX_USED = 1_000  # jobs that this host remembers
OWN = ("device", "cores", "reference")  # of a job: what its answer must share to be used


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


def remote(workload: Workload) -> RemoteWorkload:
    assert isinstance(workload, RemoteWorkload)
    return workload


class RemoteRounds:
    """See the module's docstring, and `profilers.onboard.rounds.Sampler`.

    Args:
        job: what all jobs have in common.
        reference: the model that `job` names.
        job_s, memory_mb: see `profilers.remote.device.RemoteOptions`.
    """

    def __init__(
        self,
        folder: DeviceFolder,
        runner: Runner,
        job: Job,
        reference: RemoteWorkload,
        rng: random.Random,
        now: Callable[[], float] = time.monotonic,
        *,
        job_s: float,
        memory_mb: float,
    ):
        self.watch, self.references = Watch(), References()
        self._folder, self._transport = folder, folder.transport
        self._runner, self._job, self._reference = runner, job, reference
        self._rng, self._job_s, self._memory_mb = rng, job_s, memory_mb
        self._host_now, self._waited_s = now, 0.0
        self._there: dict[str, int] | None = None  # models on the device: name -> bytes
        self._used_file = user_folder("state") / f"{Path(folder.path).name}.json"
        self._used = _read_used(self._used_file)  # rounds that counted of answers still there
        self._counted: list[tuple[str, int]] = []  # jobs with rounds that the caller got last
        self._left = self._find_left()

    def now(self) -> float:
        """Seconds; those that other processes kept the device busy aren't the caller's."""
        return self._host_now() - self._waited_s

    def take(self, targets: Sequence[Target], at_least: int, seconds: float) -> int:
        """As many rounds as one job of `RemoteOptions.job_s` has time for.

        Raises:
            LinkError: if the link broke and didn't come back; what was measured before is in the
                targets, and what is left on the device is fetched by the next run.
            DeviceError: if the device can't run a model; what it had measured is in the targets.
        """
        self._acknowledge()
        self._use_left(targets)
        groups = self._grouped(targets)
        span_s = min(seconds, self._job_s)
        return min([self._run(group, at_least, span_s / len(groups)) for group in groups])

    def close(self) -> None:
        self._acknowledge()
        self._reference.close()

    def _grouped(self, targets: Sequence[Target]) -> list[list[Target]]:
        """In parts that the device has memory for; each is measured beside the same reference."""
        groups: list[list[Target]] = [[]]
        size = 0.0
        for target in targets:
            own = remote(target.workload).size
            if groups[-1] and size + own > 1e6 * self._memory_mb:
                groups.append([])
                size = 0.0
            groups[-1].append(target)
            size += own
        return groups

    def _run(self, targets: Sequence[Target], at_least: int, seconds: float) -> int:
        """One job; how many rounds it gave."""
        job = replace(
            self._job,
            seed=f"{self._rng.random()}",
            targets=tuple((remote(t.workload).stem, t.fill_ms) for t in targets),
            at_least=at_least,
            seconds=seconds,
            nonce=secrets.token_hex(8),
        )
        broken: LinkError | None = None
        for _ in range(TRIES):
            if broken is not None:
                self._wait_for_link(broken)
            try:
                rounds = [] if broken is None else self._fetch(job)
                if not rounds:
                    self._do(job, targets)
                    rounds = self._fetch(job)
                if not rounds:
                    raise DeviceError(f"{self._transport.name} measured nothing in a job")
            except LinkError as error:
                broken, self._there = error, None
                continue
            except (DeviceError, KeyboardInterrupt):
                with suppress(OSError):
                    self._use(job, self._fetch(job, whole=False), list(targets))
                raise
            self._use(job, rounds, list(targets))
            return len(rounds)
        assert broken is not None
        raise broken

    def _do(self, job: Job, targets: Sequence[Target]) -> None:
        """Set the device up and have it do a job, from its beginning."""
        job_folder = self._folder.job(job.name)
        if self._there is None:
            self._folder.make()
        self._push([self._reference, *(remote(t.workload) for t in targets)])
        # What may be there is of a try whose link broke before its first round.
        self._folder.check(["rm", "-rf", job_folder])
        self._folder.check(["mkdir", "-p", job_folder])
        self._folder.put(self._runner.job_files(job), job_folder)
        timeout_s = job.lock_s + LOAD_S + 10 * (job.seconds + job.rest_s * job.at_least)
        command = self._runner.command(self._folder.path, job_folder)
        while True:
            start = self._host_now()
            ran = self._transport.run(command, timeout_s=timeout_s)
            if ran.status != BUSY:
                break
            self._waited_s += self._host_now() - start
            log.info("%s: %s; waiting", self._transport.name, ran.last_line)
        if ran.status == UNUSABLE:
            raise DeviceError(f"{self._transport.name}: {ran.last_line}")
        if ran.status:
            raise DeviceError(
                f"{self._transport.name}: measuring ended with status {ran.status}: "
                f"{ran.last_line}; if its memory was too small, less is loaded at once with "
                f"device.memory_mb={self._memory_mb / 2:g}"
            )

    def _push(self, workloads: Sequence[RemoteWorkload]) -> None:
        """What isn't there yet, of all of them at once."""
        folder = f"{self._folder.path}/models"
        if self._there is None:  # at first, and after a link broke, perhaps in the middle of a file
            script = 'cd "$1" && for f in *; do [ ! -f "$f" ] || wc -c "$f"; done'
            listing = self._folder.check(["sh", "-c", script, "sh", folder]).out.decode("latin-1")
            found = re.findall(r"^ *([0-9]{1,12}) ([0-9a-f]{24}\.[a-z]+)$", listing, re.MULTILINE)
            self._there = {name: int(size) for size, name in found}
        files = {
            name: path
            for workload in workloads
            for name, path in workload.files.items()
            if self._there.get(name) != path.stat().st_size
        }
        if files:
            self._transport.push(files, folder)
            self._there |= {name: path.stat().st_size for name, path in files.items()}

    def _fetch(self, job: Job, *, whole: bool = True) -> list[Round]:
        """A job's answer so far; with `whole` false up to where it stops making sense.

        Raises:
            DeviceError: for an answer that makes no sense.
        """
        try:
            answer = self._transport.pull(f"{self._folder.job(job.name)}/{SAMPLES}", MAX_ANSWER)
        except FileNotFoundError:
            return []
        found: list[Round] = []
        try:
            for taken in self._runner.rounds(answer, job):
                if sorted(index for index, _ in taken.samples) != list(range(len(job.targets))):
                    raise ValueError("a round without a sample of every target")
                found.append(taken)
        except ValueError as error:
            if whole:
                raise DeviceError(f"{self._transport.name}: {error}") from None
        return found

    def _use(self, job: Job, rounds: Sequence[Round], targets: Sequence[Target | None]) -> None:
        """Let an answer count."""
        self._counted.append((job.name, len(rounds)))
        for taken in rounds:
            for index, sample in taken.samples:
                if (target := targets[index]) is not None:
                    target.out.append(sample)
            for ms in taken.reference_ms:
                self.references.add(ms)
            if taken.conditions != Conditions():
                self.watch.add(taken.conditions)

    def _acknowledge(self) -> None:
        """Remove answers that the caller got; a link that is broken, the next command will see."""
        for name, rounds in self._counted:
            self._note_used({**self._used, name: self._used.get(name, 0) + rounds})
            with suppress(OSError):
                self._folder.check(["rm", "-rf", self._folder.job(name)])
                self._note_used({k: v for k, v in self._used.items() if k != name})
        self._counted.clear()

    def _note_used(self, rows: Mapping[str, int]) -> None:
        self._used = dict(list(rows.items())[-MAX_USED:])
        with suppress(OSError):
            write_atomically(self._used_file, json.dumps(self._used) + "\n")

    def _find_left(self) -> list[Job]:
        """Jobs of a run that was cut off, if they are of this very device and context."""
        found = []
        listing = self._folder.check(["ls", self._folder.job("")]).out.decode("latin-1")
        for name in listing.split():
            if not re.fullmatch(r"[0-9a-f]{12}", name):
                continue
            try:
                text = self._transport.pull(f"{self._folder.job(name)}/{JOB}", MAX_JOB).decode()
                if name_of(text) != name:
                    continue  # cut off, or none of ours
                job = Job.from_json(text)
            except (FileNotFoundError, ValueError):
                continue
            if all(getattr(job, key) == getattr(self._job, key) for key in OWN):
                found.append(job)
        return found

    def _use_left(self, targets: Sequence[Target]) -> None:
        by_stem = {(remote(t.workload).stem, t.fill_ms): t for t in targets}
        for job in list(self._left):
            wanted = [by_stem.get(key) for key in job.targets]
            if 2 * sum(target is not None for target in wanted) < len(wanted):
                continue  # of another measurement: it may be the next one's
            self._left.remove(job)
            rounds = self._fetch(job, whole=False)[self._used.get(job.name, 0) :]
            if rounds:
                name = self._transport.name
                log.info("%s: %d rounds were left there and are used", name, len(rounds))
            self._use(job, rounds, wanted)

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


def _read_used(path: Path) -> dict[str, int]:
    try:
        return load(path, dict[str, int], "file of used rounds", 1_000_000)
    except ValueError:
        return {}

"""Shuffled rounds of samples beside a reference: what reads the clock, wherever that is.

Only the standard library: the same file runs on this machine and on boards and phones. What the
samples mean is `profilers.measure.timing`'s.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from profilers.onboard.conditions import Watch

BURST_MS = 0.8  # a sample repeats a small op this long, so that the clock's own cost vanishes
NET_BURST_MS = 10.0  # of whole nets that fix the scale: bursts of one length are alike in luck
MAX_RUNS = 10_000  # of an op in one sample
MAX_INPUT = 2**28  # values of a batch: 1 GiB
QUIET = 1.03  # a reference burst within this of the smallest counts as undisturbed


@dataclass(frozen=True)
class Burst:
    """Some runs of a workload in a row.

    Attributes:
        ms: on the clock that the device's estimate rests on (CPU time, device events).
        wall_ms: on the wall clock.
    """

    ms: float
    wall_ms: float


class Workload(Protocol):
    """Something that a device can run, again and again."""

    name: str

    def burst(self, runs: int) -> Burst:
        """Run once to warm up, then time `runs` runs; returns when the device has finished."""
        ...

    def close(self) -> None:
        """Free what it holds on the device. May be called again."""
        ...


class CpuWorkload:
    """A call on this machine's CPU.

    The clock is the thread's CPU time where one thread runs, so that a sample isn't charged for
    what the scheduler gives to others; with several threads CPU time is their sum, so it is the
    wall clock.

    Args:
        name: for messages.
        run: is called with the argument, and returns when it has finished.
    """

    def __init__(self, name: str, run: Callable[[Any], object], argument: Any, *, threads: int):
        self.name = name
        self._run, self._argument = run, argument
        self._clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns

    def burst(self, runs: int) -> Burst:
        run, argument, clock = self._run, self._argument, self._clock
        run(argument)
        wall, start = time.perf_counter_ns(), clock()
        for _ in range(runs):
            run(argument)
        return Burst((clock() - start) / 1e6, (time.perf_counter_ns() - wall) / 1e6)

    def close(self) -> None:
        """Free the net."""
        self._run, self._argument = closed, None


def closed(*_: object) -> None:
    """Stands for what ran in a workload before it was closed."""
    raise RuntimeError("this workload was closed")


class Sample(NamedTuple):
    """One sample of a workload.

    Attributes:
        ratio: time of one run / time of one run of the reference beside it.
        ms, wall_ms: time of one run.
    """

    ratio: float
    ms: float
    wall_ms: float


class Target(NamedTuple):
    """A workload in the rounds.

    Attributes:
        fill_ms: how long one sample repeats it.
        out: where its samples are appended.
    """

    workload: Workload
    fill_ms: float
    out: list[Sample]


class References:
    """The reference's bursts so far.

    Attributes:
        floor_ms: of the fastest.
    """

    def __init__(self) -> None:
        self.floor_ms = math.inf
        self._ms: list[float] = []

    def add(self, ms: float) -> None:
        self._ms.append(ms)
        self.floor_ms = min(self.floor_ms, ms)

    def since(self, count: int) -> list[float]:
        """All but the first `count`, in ms."""
        return self._ms[count:]

    @property
    def quiet_share(self) -> float:
        """The share of bursts that nothing disturbed."""
        return sum(ms <= QUIET * self.floor_ms for ms in self._ms) / max(len(self._ms), 1)


class Sampler(Protocol):
    """Takes rounds of samples on a device.

    Attributes:
        references: the reference's bursts so far.
        watch: what the device was doing meanwhile.
    """

    references: References
    watch: Watch

    def now(self) -> float:
        """Seconds."""
        ...

    def take(self, targets: Sequence[Target], at_least: int, seconds: float) -> int:
        """One round or more over the targets; how many.

        Args:
            at_least, seconds: how many rounds, and how much time, the caller still means to give.
                Where every call has its price, as on the other end of a link, they tell how much
                to do in one.
        """
        ...

    def close(self) -> None:
        """Free the reference."""
        ...


class Rounds:
    """Shuffled rounds over workloads, each sample between two bursts of the reference.

    Args:
        reference: a fixed block; the same for everything that is to be compared.
        now: seconds; replaced where a device is simulated.
    """

    def __init__(
        self,
        reference: Workload,
        rng: random.Random,
        now: Callable[[], float] = time.monotonic,
        watch: Watch | None = None,
    ):
        self.reference = reference
        self.rng = rng
        self.now = now
        self.watch = watch or Watch()
        self.references = References()
        self._reference_runs = runs_for(reference)
        self._runs: dict[tuple[int, float], tuple[Workload, int]] = {}

    def take(self, targets: Sequence[Target], at_least: int = 1, seconds: float = 0.0) -> int:
        """One round: one sample of each target."""
        order = [(target, self._runs_of(target)) for target in targets]
        self.rng.shuffle(order)
        before = self._refer()
        for (workload, _, out), runs in order:
            burst = workload.burst(runs)
            after = self._refer()
            ms = burst.ms / runs
            out.append(Sample(2 * ms / (before + after), ms, burst.wall_ms / runs))
            before = after
        self.watch.look(self.now())
        return 1

    def close(self) -> None:
        self.reference.close()

    def _refer(self) -> float:
        ms = self.reference.burst(self._reference_runs).ms / self._reference_runs
        self.references.add(ms)
        return ms

    def _runs_of(self, target: Target) -> int:
        """How many runs fill one sample; measured once. The workload is kept, so that no other
        can get its id."""
        key = id(target.workload), target.fill_ms
        if key not in self._runs:
            self._runs[key] = target.workload, runs_for(target.workload, target.fill_ms)
        return self._runs[key][1]


def runs_for(workload: Workload, fill_ms: float = BURST_MS) -> int:
    """How many runs fill one sample."""
    once = min(workload.burst(1).ms for _ in range(3))
    return max(1, min(MAX_RUNS, math.ceil(fill_ms / max(once, 1e-6))))

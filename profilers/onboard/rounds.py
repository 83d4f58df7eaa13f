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
from typing import NamedTuple, Protocol

from profilers.onboard.conditions import Watch

BURST_MS = 0.8  # a sample repeats a small op this long, so that the clock's own cost vanishes
NET_BURST_MS = 10.0  # of whole nets that fix the scale: bursts of one length are alike in luck
MAX_RUNS = 10_000  # of an op in one sample
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


class Sampler(Protocol):
    """Takes rounds of samples on a device.

    Attributes:
        floor_ms: the fastest burst of the reference so far.
        quiet_share: share of the reference's bursts that nothing disturbed.
        watch: what the device was doing meanwhile.
    """

    watch: Watch

    def now(self) -> float:
        """Seconds."""
        ...

    @property
    def floor_ms(self) -> float: ...

    @property
    def quiet_share(self) -> float: ...

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


class References:
    """The reference's bursts so far."""

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
        return sum(ms <= QUIET * self.floor_ms for ms in self._ms) / max(len(self._ms), 1)


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

    @property
    def floor_ms(self) -> float:
        return self.references.floor_ms

    @property
    def quiet_share(self) -> float:
        return self.references.quiet_share

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

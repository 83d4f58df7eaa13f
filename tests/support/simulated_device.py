"""A device with known latencies on a fake clock, as noisy as a busy machine."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from profilers.contract import Profiler
from profilers.onboard.rounds import Burst
from tfnas.latency.table import Device
from tfnas.space.ops import OpSpec

DEVICE = Device(
    kind="cpu", name="simulated", backend="none", precision="fp32", batch=1, threads=1,
    fingerprint="aaaaaa-bbbbbb", versions={"numpy": "1"},
)  # fmt: skip


@dataclass
class Machine:
    """Time and the load that other work puts on it.

    Attributes:
        load: typical size of the slow changes, as a fraction; 0 for a quiet machine.
        jitter: noise of single samples, as a fraction.
        drift_per_s: how much slower everything gets with every second.
        share: of the processor that it has; a CPU quota's or another process's leaves less than 1.
    """

    load: float = 0.0
    jitter: float = 0.0
    drift_per_s: float = 0.0
    share: float = 1.0
    seed: int = 0
    seconds: float = 0.0
    _until: float = 0.0
    _factor: float = 1.0
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def now(self) -> float:
        return self.seconds

    def spend(self, ms: float) -> Burst:
        """Run for what takes `ms` on a quiet machine."""
        if self.load and self.seconds >= self._until:
            # Others come and go: stretches of milliseconds to seconds, some of them heavy.
            self._until = self.seconds + self.rng.expovariate(4.0)
            busy = self.rng.random() < 0.7
            self._factor = 1 + (abs(self.rng.gauss(0, self.load)) if busy else 0.0)
        noise = 1 + abs(self.rng.gauss(0, self.jitter)) if self.jitter else 1.0
        took = ms * self._factor * noise * (1 + self.drift_per_s * self.seconds)
        wall = took / self.share
        if self.load and self.rng.random() < 0.1:
            wall += self.rng.uniform(1, 10)  # the scheduler gave the core away
        self.seconds += wall / 1e3
        return Burst(took, wall)


@dataclass
class Model:
    """A workload of a known latency."""

    name: str
    ms: float
    machine: Machine
    bursts: int = 0

    def burst(self, runs: int) -> Burst:
        self.bursts += 1
        self.machine.spend(self.ms)
        return self.machine.spend(self.ms * runs)

    def close(self) -> None:
        """Nothing is held."""


def plain_ms(op: OpSpec) -> float:
    """A latency that is affine in the mid width."""
    return 0.01 + op.macs / 2e7


@dataclass
class SimulatedProfiler(Profiler):
    """A profiler of a `Machine`; whole nets cost `whole` times the sum of their ops."""

    machine: Machine
    op_ms: Callable[[OpSpec], float] = plain_ms
    whole: float = 1.0
    net_error: float = 0.0  # of single nets, as a fraction
    device: Device = DEVICE

    def workload(self, ops: Sequence[OpSpec]) -> Model:
        return Model(" | ".join(map(str, ops)), self.latency_ms(ops), self.machine)

    def latency_ms(self, ops: Sequence[OpSpec]) -> float:
        ms = sum(map(self.op_ms, ops))
        if len(ops) == 1:
            return ms
        own = random.Random(zlib.crc32("|".join(map(str, ops)).encode()))
        return ms * self.whole * (1 + own.uniform(-1, 1) * self.net_error)

    def load(self, name: str, model: bytes) -> Model:
        raise ValueError(f"{name}: nothing can be loaded here")

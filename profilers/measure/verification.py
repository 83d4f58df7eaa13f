"""The last word on a net: measured in a fresh process, without table or scale.

Against a target, or just so; beside other models too, run by run, which tells their ratio better
than two figures of two sessions can.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from profilers.contract import Profiler
from profilers.measure.bench import Bench
from profilers.measure.timing import Measured, Progress
from profilers.onboard.rounds import Sample
from tfnas.runs.result import RawSamples, within_tolerance

log = logging.getLogger(__name__)

SINGLE_RUNS = 300  # for percentiles
SINGLE_SHARE = 0.1  # of the time, for them
USABLE = 1.0  # width of an interval, as a fraction, beyond which a figure says nothing


@dataclass(frozen=True)
class SingleRuns:
    """Runs one by one on the wall clock, as whoever waits for them sees them; ms."""

    p50: float
    p90: float
    p99: float
    runs: int

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> SingleRuns:
        wall_ms = [sample.wall_ms for sample in samples]
        p50, p90, p99 = (float(q) for q in np.percentile(wall_ms, (50, 90, 99)))
        return cls(p50, p90, p99, len(wall_ms))

    def __str__(self) -> str:
        return (
            f"p50 {self.p50:.4g}, p90 {self.p90:.4g}, p99 {self.p99:.4g} ms on the wall clock "
            f"({self.runs} runs)"
        )


@dataclass(frozen=True)
class Rival:
    """Another model that was measured beside.

    Attributes:
        ratio: of its latency to the first model's, with a 95 % interval that the machine's own
            speed has no part in.
    """

    onnx: str
    measured_ms: float
    measured_ci_ms: tuple[float, float]
    single_runs: SingleRuns
    ratio: float
    ratio_ci: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.measured_ci_ms
        return "\n".join([
            self.onnx,
            f"  measured  {self.measured_ms:.4g} ms, 95 % interval {low:.4g} to {high:.4g} ms",
            f"  single    {self.single_runs}",
            f"  takes     {self.ratio:.4g} times the first one's time, 95 % interval "
            f"{self.ratio_ci[0]:.4g} to {self.ratio_ci[1]:.4g}",
        ])  # fmt: skip


@dataclass(frozen=True)
class Verification:
    """What was measured of a model, against what was asked.

    Attributes:
        target_ms: None where nothing was asked, and `within` is None then.
        measured_ms: the estimate; latency on a quiet machine, warm, one batch.
        measured_ci_ms: its 95 % interval (low, high).
        measured_raw_ms: smallest sample and wall median, as they were.
        within: whether `measured_ms` is inside the tolerance; the interval doesn't decide.
        noisy: why the interval deserves doubt, or None.
        session_ms: the estimate at this session's own speed; `measured_ms` is that at the machine's
            usual one, where so many `usual_sessions` before tell it.
        conditions: what the device was doing meanwhile, see
        `profilers.onboard.conditions.Watch.to_json`.
        per_second: inputs, at `measured_ms` for a batch.
        against: other models, measured in the same rounds.
    """

    device: str
    target_ms: float | None
    tolerance: float
    measured_ms: float
    measured_ci_ms: tuple[float, float]
    measured_raw_ms: RawSamples
    samples: int
    within: bool | None
    noisy: str | None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    session_ms: float | None = None
    usual_sessions: int = 0
    single_runs: SingleRuns | None = None
    per_second: float | None = None
    against: tuple[Rival, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the interval is narrow enough for a verdict."""
        low, high = self.measured_ci_ms
        return high - low < USABLE * self.measured_ms

    @property
    def below_samples(self) -> bool:
        """Whether the estimate, which is of a quiet machine, was never seen as it is."""
        return self.measured_ms < self.measured_raw_ms.min

    def __str__(self) -> str:
        low, high = self.measured_ci_ms
        lines = [
            f"  measured  {self.measured_ms:.4g} ms, 95 % interval {low:.4g} to {high:.4g} ms "
            f"({self.samples} samples)",
            f"  raw       minimum {self.measured_raw_ms.min:.4g} ms, "
            f"wall median {self.measured_raw_ms.median:.4g} ms",
        ]
        if self.below_samples:
            lines.append("            the measured figure is below every sample that was taken")
        if self.usual_sessions and self.session_ms:
            lines.append(
                f"  session   {self.session_ms:.4g} ms as this session runs, × "
                f"{self.measured_ms / self.session_ms:.4f} to the usual speed of "
                f"{self.usual_sessions} sessions before"
            )
        if self.single_runs is not None:
            lines.append(f"  single    {self.single_runs}; {self.per_second:,.1f} inputs a second")
        if self.noisy:
            lines.insert(2, f"  doubtful  {self.noisy}")
        lines += [str(rival) for rival in self.against]
        if self.target_ms is not None:
            lines.insert(0, f"  target    {self.target_ms:.4g} ms ± {self.tolerance:.2%}")
            if self.usable:
                verdict, gap = "met" if self.within else "MISSED", self.measured_ms / self.target_ms
                lines.append(f"{verdict}: {gap - 1:+.2%} off the target")
        return "\n".join(lines)


def verify(
    profiler: Profiler,
    onnx_path: Path,
    target_ms: float | None,
    tolerance: float,
    *,
    at_most: bool = False,
    max_minutes: float,
    precision: float,
    seed: int,
    against: Sequence[Path] = (),
    progress: Progress = log.info,
) -> Verification:
    """Measure a model, and others beside it; see the module's docstring.

    Raises:
        ValueError: if the device can't run one of them.
    """
    with Bench(profiler, seed, progress) as bench:
        workloads = [bench.model_workload(path) for path in (onnx_path, *against)]
        measured, *others = bench.measure(
            workloads,
            precision=precision,
            max_seconds=(1 - SINGLE_SHARE) * 60 * max_minutes,
            own_anchors=range(len(workloads)),
            absolute=True,
            min_rounds=100,
            label=f"measuring {onnx_path.name}",
        )
        single, *singles = (
            SingleRuns.of(samples)
            for samples in bench.single_runs(
                workloads, SINGLE_RUNS, SINGLE_SHARE * 60 * max_minutes
            )
        )
    rivals = zip(against, others, singles, strict=True)
    return replace(
        judge(profiler.device.name, measured, target_ms, tolerance, at_most),
        conditions=bench.watch.to_json(),
        single_runs=single,
        per_second=1000 * profiler.device.batch / measured.median_ms,
        against=tuple(beside(str(path), measured, other, runs) for path, other, runs in rivals),
    )


def judge(
    device: str,
    measured: Measured,
    target_ms: float | None,
    tolerance: float,
    at_most: bool = False,
) -> Verification:
    within = None
    if target_ms is not None:
        within = within_tolerance(measured.median_ms, target_ms, tolerance, at_most)
    return Verification(
        device=device,
        target_ms=target_ms,
        tolerance=tolerance,
        measured_ms=measured.median_ms,
        measured_ci_ms=measured.ci_ms,
        measured_raw_ms=RawSamples(measured.raw_min_ms, measured.raw_median_ms),
        samples=measured.samples,
        within=within,
        noisy=measured.noisy,
        session_ms=measured.median_ms / measured.factor,
        usual_sessions=measured.sessions,
    )


def beside(onnx: str, first: Measured, other: Measured, single_runs: SingleRuns) -> Rival:
    """Compare with the first model; both have the same scale, so its error is no part of it."""
    ratio = other.median_ms / first.median_ms
    half = math.hypot(other.spread_ms / other.median_ms, first.spread_ms / first.median_ms)
    ci = ratio / (1 + half), ratio * (1 + half)
    return Rival(onnx, other.median_ms, other.ci_ms, single_runs, ratio, ci)

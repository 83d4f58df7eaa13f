"""The last word on a net: measured in a fresh process, without table or scale."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from profilers.contract import Profiler
from profilers.measure.bench import Bench
from profilers.measure.timing import Measured, Progress
from tfnas.runs.result import RawSamples, within_tolerance

log = logging.getLogger(__name__)

USABLE = 1.0  # width of an interval, as a fraction, beyond which a figure says nothing


@dataclass(frozen=True)
class Verification:
    """What was measured of a model, against what was asked.

    Attributes:
        measured_ms: the estimate; latency on a quiet machine, warm, one batch.
        measured_ci_ms: its 95 % interval (low, high).
        measured_raw_ms: smallest sample and wall median, as they were.
        within: whether `measured_ms` is inside the tolerance; the interval doesn't decide.
        noisy: why the interval deserves doubt, or None.
        session_ms: the estimate at this session's own speed; `measured_ms` is that at the machine's
            usual one, where so many `usual_sessions` before tell it.
        conditions: what the device was doing meanwhile, see
        `profilers.onboard.conditions.Watch.to_json`.
    """

    device: str
    target_ms: float
    tolerance: float
    measured_ms: float
    measured_ci_ms: tuple[float, float]
    measured_raw_ms: RawSamples
    samples: int
    within: bool
    noisy: str | None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    session_ms: float | None = None
    usual_sessions: int = 0

    @property
    def usable(self) -> bool:
        """Whether the interval is narrow enough for a verdict."""
        low, high = self.measured_ci_ms
        return high - low < USABLE * self.measured_ms

    @property
    def below_samples(self) -> bool:
        """Whether the estimate, which is of a quiet machine, was never seen as it is."""
        return self.measured_ms < self.measured_raw_ms.min

    @property
    def gap(self) -> float:
        """Fraction of the target, signed."""
        return self.measured_ms / self.target_ms - 1

    def __str__(self) -> str:
        low, high = self.measured_ci_ms
        lines = [
            f"  target    {self.target_ms:.4g} ms ± {self.tolerance:.2%}",
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
        if self.usable:
            lines.append(f"{'met' if self.within else 'MISSED'}: {self.gap:+.2%} off the target")
        if self.noisy:
            lines.insert(3, f"  doubtful  {self.noisy}")
        return "\n".join(lines)


def verify(
    profiler: Profiler,
    onnx_path: Path,
    target_ms: float,
    tolerance: float,
    *,
    at_most: bool = False,
    max_minutes: float,
    precision: float,
    seed: int,
    progress: Progress = log.info,
) -> Verification:
    """Measure a model; see the module's docstring.

    Raises:
        ValueError: if the device can't run the model.
    """
    with Bench(profiler, seed, progress) as bench:
        measured = bench.measure(
            [bench.model_workload(onnx_path)],
            precision=precision,
            max_seconds=60 * max_minutes,
            own_anchors=(0,),
            absolute=True,
            min_rounds=100,
            label=f"measuring {onnx_path.name}",
        )[0]
    judged = judge(profiler.device.name, measured, target_ms, tolerance, at_most)
    return replace(judged, conditions=bench.watch.to_json())


def judge(
    device: str, measured: Measured, target_ms: float, tolerance: float, at_most: bool = False
) -> Verification:
    return Verification(
        device=device,
        target_ms=target_ms,
        tolerance=tolerance,
        measured_ms=measured.median_ms,
        measured_ci_ms=measured.ci_ms,
        measured_raw_ms=RawSamples(measured.raw_min_ms, measured.raw_median_ms),
        samples=measured.samples,
        within=within_tolerance(measured.median_ms, target_ms, tolerance, at_most),
        noisy=measured.noisy,
        session_ms=measured.median_ms / measured.factor,
        usual_sessions=measured.sessions,
    )

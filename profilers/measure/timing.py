"""From samples to a latency, on machines that others use too. Knows no runtime and no device.

On a busy machine the median of plain timings reads twice the true value and wanders by 10-25 %, and
a minimum shifts by some percent between runs. What holds still is a ratio: a target's time over the
time of a fixed reference block run just before and just after it. So every sample is such a ratio,
samples are taken in shuffled rounds over all workloads and spread over time, and the median ratio
is the estimate. A ratio is precise but has no unit. The unit is fixed by anchors, whole nets in the
same rounds: the mean of (an anchor's time in quiet moments / its median ratio). It stands for the
latency on a quiet machine, warm. The quiet moments are a low quantile: over fresh processes on a
busy machine, minima of whole nets scattered by 1.1-3.0 %, this by 0.3-1.2 %. A short burst's luck
exceeds a long one's, so the bursts of all anchors last about as long.

Intervals are computed across rounds, and across long stretches of them as well as short ones.
Samples of one moment share its noise, and what else the machine does comes and goes over minutes:
an interval from within is far too narrow. Over ten fresh processes on a shared machine, nets
scattered by 0.71 % (standard deviation); intervals across 16 stretches alone said 0.45 %, those
here 0.68 %.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from profilers.onboard.rounds import BURST_MS, NET_BURST_MS, Sample, Sampler, Target, Workload
from tfnas.intervals import mean_interval
from tfnas.process.bar import Bar

log = logging.getLogger(__name__)

MIN_ROUNDS = 6  # fewer give no interval; taken even when the time is over
STRETCHES = (4, 16)  # of time that an interval is computed across; the wider one counts
QUIET_QUANTILE = 0.1  # of an anchor's samples: its time in quiet moments
UNUSUAL = 0.06  # a session whose speed differs so much from the usual one stands for itself,
UNLIKE = 3.0  # and one that differs by so many of the deviations of the sessions before,
AS_USUAL = 0.02  # but for what sessions of any machine differ by
WALL_OVER = 1.5  # by the wall clock so many times the estimate: others have the processor too
FEWEST_SESSIONS = 4  # before a machine's usual speed is known
QUIET_SHARE = 0.02  # of the reference's bursts, below which the absolute scale is doubtful
SAY_EVERY_S = 4.0
NO_BAR = Bar()


@dataclass(frozen=True, eq=False)
class Samples:
    """What was sampled of one workload, in order of time; pools by `+`.

    Attributes:
        ratio: time of one run / time of one run of the reference beside it, (n,).
        ms, wall_ms: time of one run, (n,).
    """

    ratio: np.ndarray = field(default_factory=lambda: np.empty(0))
    ms: np.ndarray = field(default_factory=lambda: np.empty(0))
    wall_ms: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.ratio)

    def __add__(self, other: Samples) -> Samples:
        return Samples(
            np.concatenate((self.ratio, other.ratio)),
            np.concatenate((self.ms, other.ms)),
            np.concatenate((self.wall_ms, other.wall_ms)),
        )

    @property
    def quiet_ms(self) -> float:
        """Time of one run in quiet moments."""
        return float(np.quantile(self.ms, QUIET_QUANTILE))

    @property
    def wall_over(self) -> float:
        """By the wall clock how many times what the estimate's clock says, medians of both."""
        return float(np.median(self.wall_ms) / np.median(self.ms))

    def split(self, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(ms, ratio), each in so many stretches of time."""
        return np.array_split(self.ms, count), np.array_split(self.ratio, count)

    def half_width(self) -> float:
        """Half the 95 % interval of the median ratio, a fraction of it; inf below 6 samples."""
        n = len(self)
        if n < MIN_ROUNDS:
            return math.inf
        middle = float(np.median(self.ratio))
        across = max(
            _across([float(np.median(s)) for s in np.array_split(self.ratio, min(count, n // 2))])
            for count in STRETCHES
        )
        # The interval of a median by order statistics: right for independent samples, and no
        # narrower than the noise of single samples allows where few stretches happen to agree.
        ranked = np.sort(self.ratio)
        reach = 0.98 * n**0.5
        low = ranked[max(0, math.floor(n / 2 - reach))]
        high = ranked[min(n - 1, math.ceil(n / 2 + reach) - 1)]
        return max(across, float(high - low) / 2) / middle

    def drift(self) -> float:
        """Second half against first half of the time, as a fraction."""
        half = len(self) // 2
        if half < MIN_ROUNDS:
            return 0.0
        return float(np.median(self.ratio[half:]) / np.median(self.ratio[:half])) - 1


@dataclass(frozen=True)
class Usual:
    """How fast a machine was in sessions before this one; see `profilers.measure.usual`.

    Attributes:
        anchors_ms: quiet time of each anchor.
        half_width: of the machine's usual speed, relative, 95 %.
        spread: standard deviation of the sessions' speeds, relative.
    """

    anchors_ms: tuple[float, ...]
    half_width: float
    sessions: int
    spread: float = UNUSUAL


@dataclass(frozen=True)
class Unit:
    """The absolute scale of ratios: ms of a ratio of 1.

    Attributes:
        between, over_time: relative 95 % half-widths: what nets disagree on, and how the machine's
            speed shifts.
        unusual: by what fraction everything takes longer than usual, where that is so far off that
            this session stands for itself.
        factor: that brought `ms` from this session's speed to the usual one of so many `sessions`.
    """

    ms: float
    between: float
    over_time: float = 0.0
    unusual: float | None = None
    factor: float = 1.0
    sessions: int = 0

    @property
    def half_width(self) -> float:
        return math.hypot(self.between, self.over_time)


@dataclass(frozen=True)
class Measured:
    """The latency of one workload, one batch, on a quiet machine, warm.

    Attributes:
        ci_ms: 95 % interval (low, high), across rounds, with the absolute scale's own.
        spread_ms: half-width without the absolute scale's: what comparing within one run needs.
        raw_min_ms: smallest single sample on the estimate's clock, as it was.
        raw_median_ms: median on the wall clock, as it was.
        samples: how many samples it rests on.
        noisy: why the interval deserves doubt, or None.
        pool: the samples, to go on with.
        factor, sessions: see `Unit`.
    """

    median_ms: float
    ci_ms: tuple[float, float]
    spread_ms: float
    raw_min_ms: float
    raw_median_ms: float
    samples: int
    noisy: str | None
    pool: Samples = field(default_factory=Samples, repr=False, compare=False)
    factor: float = 1.0
    sessions: int = 0

    @property
    def half_width_pct(self) -> float:
        return 50 * (self.ci_ms[1] - self.ci_ms[0]) / self.median_ms

    def __str__(self) -> str:
        return f"{self.median_ms:.4g} ms ± {self.half_width_pct:.2g} % ({self.samples} samples)"


Progress = Callable[[str], None]
Checkpoint = Callable[[Sequence[Measured]], None]


def _across(values: Sequence[float]) -> float:
    """Half the 95 % interval of a mean."""
    return mean_interval(values).half_width


def unit_of(anchors: Sequence[Samples]) -> Unit:
    """The absolute scale from whole nets; see the module's docstring."""
    known = [a for a in anchors if len(a)]
    if not known:
        return Unit(math.nan, math.inf)
    each = [_quiet_unit(a.ms, a.ratio) for a in known]
    mean = float(np.mean(each))
    if len(each) < 2:
        return Unit(mean, math.inf)
    unit = Unit(mean, _across(each) / mean)
    count = min(STRETCHES)
    if any(len(a) < 2 * count for a in known):
        return unit
    stretches = [
        [_quiet_unit(ms, ratio) for ms, ratio in zip(*a.split(count), strict=True)] for a in known
    ]
    return replace(unit, over_time=_across(np.mean(stretches, axis=0).tolist()) / mean)


def at_usual_speed(unit: Unit, anchors: Sequence[Samples], usual: Usual | None) -> Unit:
    """The scale at the machine's usual speed, if this session's is near it."""
    if usual is None or not anchors or any(len(a) < MIN_ROUNDS for a in anchors):
        return unit
    now = [a.quiet_ms for a in anchors]
    shift = float(np.mean(np.log(usual.anchors_ms) - np.log(now)))
    if abs(shift) > min(UNUSUAL, max(AS_USUAL, UNLIKE * usual.spread)):
        return replace(unit, unusual=math.exp(-shift) - 1)
    factor = math.exp(shift)
    return replace(
        unit, ms=unit.ms * factor, over_time=usual.half_width, factor=factor,
        sessions=usual.sessions,
    )  # fmt: skip


def _quiet_unit(ms: np.ndarray, ratio: np.ndarray) -> float:
    """Of one net: its time in quiet moments / its median ratio."""
    return float(np.quantile(ms, QUIET_QUANTILE) / np.median(ratio))


class Series:
    """A workload with its samples, those of this call and those from before."""

    def __init__(self, workload: Workload, fill_ms: float, before: Samples | None = None):
        self._known = before or Samples()
        self._fresh: list[Sample] = []
        self.target = Target(workload, fill_ms, self._fresh)

    @property
    def samples(self) -> Samples:
        """All so far."""
        if self._fresh:
            self._known = self._known + Samples(*np.array(self._fresh).T)
            self._fresh.clear()
        return self._known


class Anchors:
    """Whole nets that fix the absolute scale; their samples are kept from call to call.

    Args:
        usual: the machine's speed in sessions before, for the same nets.
    """

    def __init__(self, workloads: Sequence[Workload] = (), usual: Usual | None = None):
        self.series = [Series(workload, NET_BURST_MS) for workload in workloads]
        self.usual = usual

    @property
    def samples(self) -> list[Samples]:
        return [series.samples for series in self.series]

    def unit(self, others: Sequence[Samples], floor_ms: float) -> Unit:
        """The absolute scale.

        Args:
            others: samples of other whole nets, which serve as anchors too.
            floor_ms: the scale where there is no whole net, good for comparing only.
        """
        own = self.samples
        if not own and not others:
            return Unit(floor_ms, math.inf)
        return at_usual_speed(unit_of([*own, *others]), own, self.usual)


class Report:
    """Tells how far something is: draws a bar, and gives a line every few seconds."""

    def __init__(self, label: str, progress: Progress, shown: Bar, now: Callable[[], float]):
        self._label, self._progress, self._shown, self._now = label, progress, shown, now
        self._last_s = now()

    def begin(self, text: str, more: str) -> None:
        self._progress(f"{self._label}: {text}{more}")
        self._shown.draw(0.0, text)

    def tell(self, share: float, text: str, more: str = "") -> None:
        """Tell what share is done; `more` stands in lines only."""
        self._shown.draw(share, text)
        if self._now() - self._last_s >= SAY_EVERY_S:
            self._last_s = self._now()
            self._shown.say(self._progress, f"{self._label}: {text}{more}")


def measure(
    workloads: Sequence[Workload],
    rounds: Sampler,
    *,
    precision: float,
    max_seconds: float,
    anchors: Anchors | None = None,
    own_anchors: Sequence[int] = (),
    pooled: Sequence[Samples] | None = None,
    absolute: bool = False,
    min_rounds: int = 24,
    label: str = "measuring",
    progress: Progress = log.info,
    shown: Bar = NO_BAR,
    checkpoint: Checkpoint | None = None,
    checkpoint_every_s: float = 5.0,
) -> list[Measured]:
    """Measure workloads side by side until each is known to `precision` or the time is over.

    Args:
        precision: half-width of the 95 % interval to reach, as a fraction. A workload that has
            reached it is left out of further rounds.
        max_seconds: stop then, but never before `MIN_ROUNDS` rounds.
        anchors: whole nets that fix the absolute scale, sampled in every round. Without any the
            scale is the reference's floor, good for comparing only.
        own_anchors: indices of workloads that are whole nets and serve as anchors too.
        pooled: samples of the workloads from before, to go on with.
        absolute: the precision is to be reached with the absolute scale's own interval.
        shown: a bar that shows how far it is.
        checkpoint: called with what is known so far, at most every `checkpoint_every_s`.

    Returns:
        One `Measured` for each workload, in order.
    """
    if not workloads:
        return []
    anchors = anchors or Anchors()
    nets = set(own_anchors)
    series = [
        Series(workload, NET_BURST_MS if i in nets else BURST_MS, pooled[i] if pooled else None)
        for i, workload in enumerate(workloads)
    ]

    def scale() -> Unit:
        own = [series[i].samples for i in own_anchors]
        return anchors.unit(own, rounds.references.floor_ms)

    def results() -> list[Measured]:
        unit = scale()
        return [_measured(s.samples, unit, rounds, precision, absolute) for s in series]

    start = saved_s = rounds.now()
    report = Report(label, progress, shown, rounds.now)
    report.begin(f"{len(workloads)} to measure", f", at most {max_seconds:.0f} s")
    active, done, next_check = series, 0, min_rounds
    try:
        while True:
            done += rounds.take(
                # Anchors first: where a device takes targets in parts, no part goes without unit.
                [s.target for s in (*anchors.series, *active)],
                max(1, MIN_ROUNDS - done),
                max(0.0, max_seconds - (rounds.now() - start)),
            )
            elapsed = rounds.now() - start
            over = elapsed >= max_seconds and done >= MIN_ROUNDS
            if over or done >= next_check:
                # Medians of hundreds of series cost as much as a small round.
                next_check = done + max(1, done // 10)
                common = scale().half_width if absolute else 0.0
                active = [
                    s for s in series if math.hypot(s.samples.half_width(), common) > precision
                ]
            if over or not active:
                break
            report.tell(
                elapsed / max_seconds if elapsed < max_seconds else 1.0,
                f"{len(series) - len(active)} of {len(series)} within ±{precision:.2%}, "
                f"round {done}",
                f", at most {max(0.0, max_seconds - elapsed):.0f} s left",
            )
            if checkpoint and rounds.now() - saved_s >= checkpoint_every_s:
                saved_s = rounds.now()
                checkpoint(results())
    except (KeyboardInterrupt, OSError):  # a link that broke, a device that gave up
        if checkpoint:
            checkpoint(results())
        raise
    found = results()
    if checkpoint:
        checkpoint(found)
    return found


def _measured(
    samples: Samples, unit: Unit, rounds: Sampler, precision: float, absolute: bool
) -> Measured:
    if not len(samples):
        return Measured(
            math.nan, (math.nan, math.nan), math.nan, math.nan, math.nan, 0, "no sample"
        )
    ms = float(np.median(samples.ratio)) * unit.ms
    own = samples.half_width()
    half = math.hypot(own, unit.half_width)
    return Measured(
        median_ms=ms,
        ci_ms=(ms * (1 - half), ms * (1 + half)),
        spread_ms=own * ms,
        raw_min_ms=float(samples.ms.min()),
        raw_median_ms=float(np.median(samples.wall_ms)),
        samples=len(samples),
        noisy=_doubt(samples, half if absolute else own, unit, rounds, precision),
        pool=samples,
        factor=unit.factor,
        sessions=unit.sessions,
    )


def _doubt(
    samples: Samples, half: float, unit: Unit, rounds: Sampler, precision: float
) -> str | None:
    """What makes an interval doubtful: too wide, drifting, or never a quiet moment."""
    busy = float(np.median(samples.wall_ms) / samples.ms.min())
    reasons = []
    if half > precision:
        reasons.append(f"the interval is ±{half:.2%} where ±{precision:.2%} was asked")
    drift = samples.drift()
    if abs(drift) > 3 * half:
        reasons.append(f"the second half of the time reads {drift:+.1%} against the first")
    if unit.unusual is not None:
        reasons.append(f"everything takes {unit.unusual:+.1%} against this machine's usual time")
    if (over := samples.wall_over) > WALL_OVER:
        reasons.append(f"by the wall clock a run takes {over:.2f}× the time that it is given")
    if rounds.references.quiet_share < QUIET_SHARE:
        reasons.append("hardly a quiet moment, so the absolute scale may read high")
    reasons += rounds.watch.doubts
    if not reasons:
        return None
    return "; ".join(reasons) + f" (other work on the machine: wall median {busy:.2f}× the minimum)"

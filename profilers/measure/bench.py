"""A device set up for measuring: reference block, anchor nets, lock.

Table rows, calibration nets, cards, the closed loop and `verify` all measure through here, so that
all mean the same: the latency of a net on a quiet machine, warm.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

from profilers.contract import Profiler
from profilers.measure.timing import (
    WALL_OVER,
    Anchors,
    Checkpoint,
    Measured,
    Progress,
    Report,
    Samples,
    measure,
)
from profilers.measure.usual import History
from profilers.onboard.conditions import Watch
from profilers.onboard.rounds import Sample, Target, Workload
from tfnas.process.bar import bar
from tfnas.space.ops import OpSpec

log = logging.getLogger(__name__)

FEWEST_SINGLE = 20  # runs, whatever time they take
SESSION = 40  # samples of each anchor that make a session worth noting


def _block(
    size: int, c_in: int, c_mid: int, c_se: int, c_out: int, kernel: int, stride: int
) -> OpSpec:
    act = "relu" if size >= 56 else "swish"
    return OpSpec("mbconv", size, c_in, c_mid, c_se, c_out, kernel, stride, act)


# A block of middling size with all kinds of layers: 1x1 and depthwise convolutions, squeeze-excite.
REFERENCE = (_block(14, 80, 320, 80, 80, 5, 1),)

_STEM = OpSpec("conv", 224, 3, 0, 0, 32, 3, 2, "relu")
_HEAD = (
    OpSpec("conv", 7, 320, 0, 0, 1280, 1, 1, "swish"),
    OpSpec("classifier", 7, 1280, 0, 0, 1000, 1, 1, "none"),
)
# Fixed nets, small enough to be run often. They belong to no space, so that what is measured with
# them means the same whatever is searched. Widths are multiples of 32: on every device's fast path.
ANCHORS = (
    (
        _STEM, _block(112, 32, 64, 0, 32, 3, 2), _block(56, 32, 96, 0, 64, 3, 2),
        _block(28, 64, 192, 64, 96, 5, 2), _block(14, 96, 288, 0, 192, 3, 2),
        _block(7, 192, 576, 0, 320, 3, 1), *_HEAD,
    ),
    (
        _STEM, _block(112, 32, 128, 32, 32, 5, 2), _block(56, 32, 128, 0, 64, 5, 2),
        _block(28, 64, 256, 0, 64, 3, 1), _block(28, 64, 256, 64, 96, 3, 2),
        _block(14, 96, 384, 96, 192, 5, 2), _block(7, 192, 768, 192, 320, 5, 1), *_HEAD,
    ),
    (
        _STEM, _block(112, 32, 96, 0, 32, 3, 2), _block(56, 32, 128, 32, 64, 3, 2),
        _block(28, 64, 192, 0, 96, 5, 2), _block(14, 96, 384, 96, 96, 3, 1),
        _block(14, 96, 576, 0, 192, 3, 2), _block(7, 192, 768, 0, 320, 3, 1), *_HEAD,
    ),
    (
        _STEM, _block(112, 32, 128, 0, 32, 3, 2), _block(56, 32, 128, 32, 32, 3, 1),
        _block(56, 32, 160, 0, 64, 5, 2), _block(28, 64, 256, 64, 64, 5, 1),
        _block(28, 64, 384, 0, 96, 3, 2), _block(14, 96, 576, 96, 96, 3, 1),
        _block(14, 96, 576, 96, 192, 5, 2), _block(7, 192, 1152, 192, 320, 3, 1), *_HEAD,
    ),
    (
        _STEM, _block(112, 32, 160, 32, 32, 3, 2), _block(56, 32, 160, 0, 32, 5, 1),
        _block(56, 32, 192, 32, 64, 3, 2), _block(28, 64, 384, 0, 64, 3, 1),
        _block(28, 64, 384, 64, 96, 5, 2), _block(14, 96, 576, 0, 96, 5, 1),
        _block(14, 96, 768, 192, 96, 3, 1), _block(14, 96, 576, 0, 192, 3, 2),
        _block(7, 192, 1152, 0, 192, 5, 1), _block(7, 192, 768, 192, 320, 3, 1), *_HEAD,
    ),
)  # fmt: skip


class Bench:
    """One device set up for measuring. Use as a context; it waits for its turn.

    Args:
        anchors: the nets that fix the absolute scale; `ANCHORS` if not given.
        now: seconds; replaced where a device is simulated.
    """

    def __init__(
        self,
        profiler: Profiler,
        seed: int,
        progress: Progress = log.info,
        *,
        anchors: Sequence[Sequence[OpSpec]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self.profiler = profiler
        self.progress = progress
        self._seed = seed
        self._anchor_ops = ANCHORS if anchors is None else anchors
        self._now = now
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        with ExitStack() as stack:
            stack.enter_context(self.profiler.exclusive(self.progress))
            rounds = self.profiler.rounds(
                self.profiler.workload(REFERENCE), random.Random(self._seed), self._now
            )
            self._rounds = stack.enter_context(closing(rounds))
            nets = [
                stack.enter_context(closing(self.profiler.workload(ops)))
                for ops in self._anchor_ops
            ]
            self._rounds.watch.look(self._now(), at_once=True)
            self._history = History.of(self.profiler.device, self._anchor_ops)
            self._anchors = Anchors(nets, self._history.usual)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if meanwhile := str(self.watch):
                self.progress(f"{self.profiler.device.name} meanwhile: {meanwhile}")
            for doubt in self.watch.doubts:
                self.progress(f"warning: {self.profiler.device.name}: {doubt}")
            sampled = self._anchors.samples
            long = all(len(samples) >= SESSION for samples in sampled)
            if sampled and long and not self._is_doubtful(sampled):
                self._history.note([samples.quiet_ms for samples in sampled])
        finally:  # the lock is held until the session is noted
            self._stack.__exit__(kind, error, trace)

    def _is_doubtful(self, anchors: Sequence[Samples]) -> bool:
        """Whether this session tells nothing of how fast the machine usually is."""
        return bool(self.watch.doubts) or max(a.wall_over for a in anchors) > WALL_OVER

    @property
    def watch(self) -> Watch:
        """What the device was doing meanwhile."""
        return self._rounds.watch

    def workload(self, ops: Sequence[OpSpec]) -> Workload:
        """A workload that is closed with the bench, if not before."""
        return self._stack.enter_context(closing(self.profiler.workload(ops)))

    def workloads(self, models: Sequence[Sequence[OpSpec]]) -> list[Workload]:
        """Many of them; tells how far it is."""
        found, label = [], "building models"
        with bar(label) as shown:
            report = Report(label, self.progress, shown, time.monotonic)
            for index, ops in enumerate(models, 1):
                found.append(self.workload(ops))
                report.tell(index / len(models), f"{index} of {len(models)}")
        return found

    def model_workload(self, path: Path) -> Workload:
        return self._stack.enter_context(closing(self.profiler.model_workload(path)))

    def measure(
        self,
        workloads: Sequence[Workload],
        *,
        precision: float,
        max_seconds: float,
        anchored: bool = True,
        own_anchors: Sequence[int] = (),
        pooled: Sequence[Samples] | None = None,
        absolute: bool = False,
        min_rounds: int = 24,
        label: str = "measuring",
        checkpoint: Checkpoint | None = None,
        checkpoint_every_s: float = 5.0,
    ) -> list[Measured]:
        """As `timing.measure`, with this bench's reference and, if `anchored`, its anchors."""
        with bar(label) as shown:
            found = measure(
                workloads,
                self._rounds,
                precision=precision,
                max_seconds=max_seconds,
                anchors=self._anchors if anchored else None,
                own_anchors=own_anchors,
                pooled=pooled,
                absolute=absolute,
                min_rounds=min_rounds,
                label=label,
                progress=self.progress,
                shown=shown,
                checkpoint=checkpoint,
                checkpoint_every_s=checkpoint_every_s,
            )
        self.watch.look(self._now(), at_once=True)
        return found

    def single_runs(
        self, workloads: Sequence[Workload], count: int, max_seconds: float
    ) -> list[list[Sample]]:
        """Run each by itself so many times, in shuffled rounds as ever; fewer if time is over."""
        targets = [Target(workload, 0.0, []) for workload in workloads]
        done, start = 0, self._now()
        while done < count and (done < FEWEST_SINGLE or self._now() - start < max_seconds):
            left_s = max(0.0, max_seconds - (self._now() - start))
            done += self._rounds.take(targets, min(count - done, FEWEST_SINGLE), left_s)
        return [target.out for target in targets]

"""Figures of an epoch: in short below a bar, and as scalars for trackers.

Steps are epochs, from 1 as in log lines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfnas.nets.weights import told
from tfnas.process.checks import lookup
from tfnas.runs.trackers import TRACKERS, Scalar, Tracked, Tracker
from tfnas.space.search_space import SearchSpace
from tfnas.strategies.contract import EpochRecord

if TYPE_CHECKING:
    from tfnas.training.loop import EpochResult

log = logging.getLogger(__name__)


def search_scalars(r: EpochRecord, space: SearchSpace, target_ms: float) -> list[Scalar]:
    """What one epoch of a search tells; blocks and stages are numbered from 1.

    `sampling/variation` is the standard deviation over the mean of how often the ops of a block
    were trained, the mean of all blocks; `sampling/least` the count of the op that was trained
    least, over the mean of its block. `largest_op_probability` is that of a block's most probable
    op. `width/relative` is the mean of all ops' mid widths, each
    over its initial one.
    """
    found = [
        ("loss/train", r.train_loss),
        ("top1_pct/train", r.train_top1),
        ("top1_pct/held_out", r.held_out_top1),
        ("learning_rate", r.learning_rate),
    ]
    if r.temperature is not None:
        found.append(("temperature", r.temperature))
    if r.derived_ms is not None and r.scaled_ms is not None:
        found += [
            ("latency_ms/derived", r.derived_ms),
            ("latency_ms/scaled", r.scaled_ms),
            ("latency_ms/target", target_ms),
        ]
    if r.expected_ms is not None:
        found.append(("latency_ms/expected", r.expected_ms))
    if r.entropy:
        found.append(("entropy_nats/mean", float(np.mean(r.entropy))))
    found += _numbered("entropy_nats/block", r.entropy)
    found += _numbered("largest_op_probability/block", [max(row) for row in r.op_probs])
    found += _numbered("depth/stage", r.expected_depths)
    if r.sampled:
        shares = [np.array(row) / max(np.mean(row), 1e-9) for row in r.sampled]
        found += [
            ("sampling/variation", float(np.mean([np.std(share) for share in shares]))),
            ("sampling/least", float(min(share.min() for share in shares))),
        ]
    if r.widths:
        rows = zip(r.widths, space.blocks, strict=True)
        relative = [
            width / choice.op.c_mid
            for widths, block in rows
            for width, choice in zip(widths, block, strict=True)
            if choice.op.has_width
        ]
        found.append(("width/relative", float(np.mean(relative))))
    return found


def training_scalars(r: EpochResult) -> list[Scalar]:
    """What one epoch of a training tells."""
    tops = ("top1", r.top1), ("top5", r.top5)
    return [
        ("loss/train", r.train_loss),
        ("loss/test", r.loss),
        *((f"{name}_pct/test", 100 * x) for name, x in tops if x is not None),
        *((f"{score.name.replace(' ', '_')}/test", score.value) for score in r.scores),
        ("learning_rate", r.lr),
    ]


def _numbered(tag: str, values: Iterable[float]) -> list[Scalar]:
    return [(f"{tag}_{number:02d}", value) for number, value in enumerate(values, 1)]


def search_figures(r: EpochRecord, target_ms: float) -> str:
    """The last epoch of a search in one line."""
    parts = [f"loss {r.train_loss:.3f}", f"top-1 {r.train_top1:.1f} %"]
    parts.append(f"held out {r.held_out_top1:.1f} %")
    if r.scaled_ms is not None:
        parts.append(f"scaled {r.scaled_ms:.4g} of {target_ms:.4g} ms")
    if r.entropy:
        parts.append(f"entropy {np.mean(r.entropy):.3g} nats")
    if r.temperature is not None:
        parts.append(f"temperature {r.temperature:.3g}")
    return " · ".join(parts)


def training_figures(r: EpochResult) -> str:
    """The last epoch of a training in one line."""
    top5 = "" if r.top5 is None else f" · top-5 {100 * r.top5:.1f} %"
    return (
        f"train loss {r.train_loss:.3f} · test loss {r.loss:.3f} · {told(r.top1, r.scores)}{top5} "
        f"· lr {r.lr:.3g}"
    )


def check_trackers(tensorboard: bool | None, trackers: Sequence[str]) -> None:
    """Raises ValueError for a tracker that is asked for and isn't known or can't be imported."""
    if tensorboard is False and "tensorboard" in trackers:
        raise ValueError("tensorboard=false beside trackers=[tensorboard]: give one of them")
    for name in trackers:
        _check_tracker(name, f"trackers=[{','.join(trackers)}]", f"leave out {name}")
    if tensorboard:
        _check_tracker("tensorboard", "tensorboard=true", "give tensorboard=false")


def _check_tracker(name: str, asked: str, otherwise: str) -> None:
    module = lookup(f"{asked}: tracker", name, TRACKERS).module
    how = f"pip install 'tfnas[{name}]', or {otherwise}"
    if find_spec(name) is None:
        raise ValueError(f"{asked}: the package {name} isn't installed; {how}")
    try:
        import_module(module)
    except Exception as error:  # a broken installation raises anything
        raise ValueError(
            f"{asked}: the package {name} can't be imported ({error!r}); {how}"
        ) from None


@contextmanager
def _same_handlers() -> Iterator[None]:
    """Leave the log lines as they are: what MLflow makes its database with configures all anew."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


class ScalarWriter:
    """Scalars of one run to its trackers. What one can't write ends nothing: one warning, and no
    more scalars there.

    Args:
        tensorboard: false writes no event file; None does if the package is installed.
        run: its folder.
        kind: search | train, which may share the folder.
        first_step: that comes next; what a tracker has from there on is of a try before.
        trackers: others of `TRACKERS`.
        about: options that tell the run from others.
    """

    def __init__(
        self,
        tensorboard: bool | None,
        run: Path,
        kind: str,
        first_step: int,
        trackers: Sequence[str] = (),
        about: Mapping[str, str | float] | None = None,
    ) -> None:
        tracked = Tracked(run, kind, first_step, about or {})
        names = dict.fromkeys(trackers)
        if tensorboard or (tensorboard is None and find_spec("tensorboard") is not None):
            names["tensorboard"] = None
        self._open: dict[str, Tracker] = {}
        for name in names:
            title = TRACKERS[name].title
            try:
                with _same_handlers():
                    self._open[title] = TRACKERS[name].start(tracked)
            except Exception as error:  # as above, or of the disk, or a server's
                log.warning("warning: no scalars for %s: %r", title, error)
            else:
                log.info("scalars: %s", self._open[title].shown_by)

    def __enter__(self) -> ScalarWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._each(lambda tracker: tracker.close(kind is None))

    def add(self, step: int, scalars: Sequence[Scalar]) -> None:
        """Write what an epoch tells."""
        self._each(lambda tracker: tracker.add(step, scalars))

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for title, tracker in list(self._open.items()):
            try:
                work(tracker)
            except Exception as error:  # also what TensorBoard's thread came upon
                log.warning("warning: no more scalars for %s: %s", title, error)
                del self._open[title]

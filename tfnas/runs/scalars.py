"""Figures of an epoch: in short below a bar, and as scalars for TensorBoard.

`tensorboard --logdir RUN` shows them. Steps are epochs, from 1 as in log lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfnas.nets.weights import told
from tfnas.space.search_space import SearchSpace
from tfnas.strategies.contract import EpochRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from tfnas.training.loop import EpochResult

log = logging.getLogger(__name__)

FOLDER = "tensorboard"  # in that of a run
Scalar = tuple[str, float]
"""A tag, such as `latency_ms/derived`, and its value."""


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


def check_tensorboard(asked: bool | None) -> None:
    """Raises ValueError if scalars are asked for and can't be written."""
    if not asked:
        return
    how = "pip install 'tfnas[tensorboard]', or give tensorboard=false"
    if find_spec("tensorboard") is None:
        raise ValueError(f"tensorboard=true: the package tensorboard isn't installed; {how}")
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception as error:  # a broken installation raises anything
        raise ValueError(
            f"tensorboard=true: the package tensorboard can't be imported ({error!r}); {how}"
        ) from None


class ScalarWriter:
    """An event file of one run. What can't be written ends nothing: one warning, no more scalars.

    Args:
        asked: false writes nothing; None writes if the package tensorboard is installed.
        run: its folder.
        kind: search | train, which may share the folder.
        first_step: that comes next; TensorBoard forgets what stands there from it on.
    """

    def __init__(self, asked: bool | None, run: Path, kind: str, first_step: int) -> None:
        self._writer: SummaryWriter | None = None
        if asked is False or find_spec("tensorboard") is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run / FOLDER / kind), purge_step=first_step)
            self._writer.flush()
        except Exception as error:  # as above, or of the disk
            log.warning("warning: no scalars for TensorBoard: %r", error)
            self._writer = None
            return
        log.info("scalars: tensorboard --logdir %s", run)

    def add(self, step: int, scalars: Iterable[Scalar]) -> None:
        """Write what an epoch tells."""
        if self._writer is None:
            return
        try:
            for tag, value in scalars:
                self._writer.add_scalar(tag, value, step)
            self._writer.flush()
        except OSError as error:  # also what its thread came upon
            log.warning("warning: no more scalars for TensorBoard: %s", error)
            self._writer = None

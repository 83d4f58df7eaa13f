"""Figures of an epoch: in short below a bar, and as scalars for TensorBoard.

`tensorboard --logdir RUN` shows them. Steps are epochs, from 1 as in log lines. Records are written
one after the other in this thread: `torch.utils.tensorboard.SummaryWriter` does it in another one,
which prints a traceback when the disk is full, and is there when processes are forked.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfnas.space.search_space import SearchSpace
from tfnas.strategies.contract import EpochRecord

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

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
        ]
        found.append(("width/relative", float(np.mean(relative))))
    return found


def training_scalars(r: EpochResult) -> list[Scalar]:
    """What one epoch of a training tells."""
    return [
        ("loss/train", r.train_loss),
        ("loss/test", r.loss),
        ("top1_pct/test", 100 * r.top1),
        ("top5_pct/test", 100 * r.top5),
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
    return (
        f"train loss {r.train_loss:.3f} · test loss {r.loss:.3f} · top-1 {100 * r.top1:.1f} % · "
        f"top-5 {100 * r.top5:.1f} % · lr {r.lr:.3g}"
    )


def check_tensorboard(asked: bool | None) -> None:
    """Raises ValueError if scalars are asked for and can't be written."""
    if not asked:
        return
    how = "pip install 'tfnas[tensorboard]', or give tensorboard=false"
    if find_spec("tensorboard") is None:
        raise ValueError(f"tensorboard=true: the package tensorboard isn't installed; {how}")
    try:
        _import_tensorboard()
    except Exception as error:
        raise ValueError(
            f"tensorboard=true: the package tensorboard can't be imported ({error!r}); {how}"
        ) from None


def _import_tensorboard() -> None:
    """All that is used of it; a broken installation raises anything."""
    import tensorboard.compat.proto.event_pb2
    import tensorboard.compat.proto.summary_pb2
    import tensorboard.summary.writer.record_writer  # noqa: F401


class ScalarWriter:
    """An event file of one run. What can't be written ends nothing: one warning, no more scalars.

    Args:
        asked: false writes nothing; None writes if the package tensorboard is installed.
        run: its folder.
        kind: search | train, which may share the folder.
        first_step: that comes next; TensorBoard forgets what stands there from it on.
    """

    def __init__(self, asked: bool | None, run: Path, kind: str, first_step: int) -> None:
        self._file: Path | None = None
        if asked is False or find_spec("tensorboard") is None:
            return
        try:
            _import_tensorboard()
        except Exception as error:
            log.warning("warning: no scalars: tensorboard can't be imported (%r)", error)
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        now_s = time.time()
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{now_s:017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = run / FOLDER / kind / name
        start = SessionLog(status=SessionLog.START)
        self._write(
            [
                Event(wall_time=now_s, file_version="brain.Event:2"),
                Event(wall_time=now_s, step=first_step, session_log=start),
            ]
        )
        if self._file is not None:
            log.info("scalars: tensorboard --logdir %s", run)

    def add(self, step: int, scalars: Iterable[Scalar]) -> None:
        """Write what an epoch tells."""
        if self._file is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars]
        self._write([Event(wall_time=time.time(), step=step, summary=Summary(value=values))])

    def _write(self, events: Iterable[Event]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._file is not None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                records = RecordWriter(file)
                for event in events:
                    records.write(event.SerializeToString())
        except OSError as error:
            log.warning("warning: no more scalars for TensorBoard: %s", error)
            self._file = None

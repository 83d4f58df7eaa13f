"""The profilers from Python: what the commands measure, as functions of plain values."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profilers.contract import Profiler as Profiler
from profilers.devices import open_profiler
from tfnas.app.values import load
from tfnas.latency.table import LatencyTable
from tfnas.process.checks import check_writable
from tfnas.runs.found import FoundNet
from tfnas.space.spec import SpaceSpec

if TYPE_CHECKING:
    from profilers.measure.verification import Verification
    from tfnas.deploy.onnx_file import Exported

log = logging.getLogger(__name__)


def open(  # as a file is opened: cheaply, and to be read from
    kind: str = "cpu", *, threads: int = 1, batch: int = 1, precision: str = "fp32", **options: Any
) -> Profiler:
    """Open a device: cpu, gpu, ssh or adb. Nothing is measured yet.

    Args:
        batch: images of one run; all latencies are those of a batch.
        precision: fp32 | tf32 | fp16 | int8, as far as the backend has it.
        options: on top of those of conf/device/`kind`.yaml.

    Raises:
        ValueError, LookupError: for a device, option or precision that can't be had from here.
        OSError: for one that can't be reached.
    """
    return open_profiler(kind, threads=threads, batch=batch, precision=precision, **options)


def profile(
    device: Profiler,
    space: SpaceSpec,
    *,
    path: str | Path | None = None,
    max_minutes: float | None = None,
    seed: int = 0,
) -> LatencyTable:
    """Find this device's latency table, and measure what it lacks of a space.

    Args:
        path: the table's file; None: the device's own, where the commands find it too.
        max_minutes: the most that measuring may take; None: as conf/profile/quick.yaml has it.

    Raises:
        ValueError: if the file is unusable or another device's.
        LookupError: if the time was too short to cover the space.
    """
    from profilers.tables.build import build_table
    from profilers.tables.own import ELSEWHERE, find_table, table_path

    values = load("profile", "quick")
    known = Path(path) if path is not None else find_table(device.device)
    file = known or table_path(device.device)
    check_writable(file, ELSEWHERE)
    return build_table(
        device,
        space,
        file,
        max_minutes=max_minutes or values.max_minutes,
        precision=values.precision,
        anchor_nets=values.anchor_nets,
        seed=seed,
    )


def close_loop(
    device: Profiler,
    found: FoundNet,
    target_ms: float | None = None,
    *,
    others: Sequence[Profiler] = (),
    tolerance: float = 0.01,
    max_minutes: float = 2.0,
    seed: int = 0,
) -> FoundNet:
    """Move few widths of a found net until it meets its target as measured on the device.

    Args:
        target_ms: None: the one it was found for.
        others: devices of the tables that the net was found for `also`, to be met there, too.
        tolerance: fraction of the target that the whole interval is to lie inside.

    Returns:
        The net nearest to the target; its `table_ms` is what the table says of it.

    Raises:
        ValueError: for one of `others` that no table is of.
    """
    from profilers.tables.closing import close_all

    target_ms = target_ms or found.target_ms
    ended = close_all(
        device,
        found.space,
        found.table,
        found.subnet,
        target_ms,
        tolerance=tolerance,
        at_most=found.at_most,
        max_minutes=max_minutes,
        seed=seed,
        beside=found.beside,
        at_hand={_place(other, found): other for other in others},
    )
    return replace(found, subnet=ended.subnet, table_ms=ended.table_ms, target_ms=target_ms)


def _place(device: Profiler, found: FoundNet) -> int:
    """Which of the constraints beside the target is of this device."""
    for i, constraint in enumerate(found.beside):
        if (
            constraint.is_latency
            and constraint.table.device.fingerprint == device.device.fingerprint
        ):
            return i
    raise ValueError(f"others: the net was found for no table of {device.device.name}")


def verify_onnx(
    device: Profiler,
    model: Exported | str | Path,
    target_ms: float | None = None,
    *,
    against: Sequence[str | Path] = (),
    tolerance: float = 0.01,
    at_most: bool = False,
    max_minutes: float | None = None,
    seed: int | None = None,
) -> Verification:
    """Measure an ONNX file on a device against its target, without table or scale.

    `python -m profilers.verify` does it in a fresh process; printed, the result is its output.

    Args:
        target_ms: None: it is just timed.
        against: other ONNX files, measured beside it and compared with it.
        max_minutes: None: as conf/verify/quick.yaml has it.

    Raises:
        ValueError: if the device can't run the model.
    """
    from profilers.measure.verification import verify

    values = load("verify", "quick")
    return verify(
        device,
        Path(model) if isinstance(model, str | Path) else model.path,
        target_ms,
        tolerance,
        at_most=at_most,
        max_minutes=max_minutes or values.max_minutes,
        precision=values.precision,
        seed=random.randrange(1_000_000) if seed is None else seed,
        against=[Path(file) for file in against],
    )

"""Where the milliseconds of a net go on a device: its parts alone, and the whole net beside them.

A row of ops is a workload on every device, so stem, stages and head are measured like anything
else, in the same rounds as the net. What a part costs inside the net is not what it costs alone
(caches, changes of memory layout at its ends): both are shown, and neither is made to fit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from profilers.contract import Profiler
from profilers.measure.bench import Bench
from profilers.measure.timing import Measured, Progress
from tfnas.latency.stages import StageTime, StageTimes, parts_of, table_ms
from tfnas.latency.table import LatencyTable
from tfnas.space.subnet import Subnet

log = logging.getLogger(__name__)

PRECISION = 0.001  # finer than is reached in the time, so that no part leaves the rounds early


def measure_stages(
    profiler: Profiler,
    table: LatencyTable,
    subnet: Subnet,
    *,
    max_minutes: float,
    seed: int,
    progress: Progress = log.info,
    now: Callable[[], float] = time.monotonic,
) -> StageTimes:
    """Measure stem, stages, head and the whole of a net.

    Args:
        max_minutes: of sampling; on all parts alike.

    Raises:
        LookupError: if the table doesn't cover the net.
        ValueError: if the device gave too few samples to tell an interval.
    """
    parts = parts_of(subnet)
    table_says = [table_ms(table, name, ops) for name, ops in parts]
    whole = table.total(subnet)
    with Bench(profiler, seed, progress, now=now) as bench:
        workloads = bench.workloads([*(ops for _, ops in parts), subnet.ops])
        *measured, net = bench.measure(
            workloads,
            precision=PRECISION,
            max_seconds=60 * max_minutes,
            own_anchors=(len(parts),),
            label="measuring stem, stages and head",
        )
    return StageTimes(
        device=table.device.name,
        parts=tuple(
            _time(name, ms, found)
            for (name, _), ms, found in zip(parts, table_says, measured, strict=True)
        ),
        whole=_time("whole net", whole, net),
    )


def _time(name: str, ms: float | None, measured: Measured) -> StageTime:
    if not all(map(math.isfinite, measured.ci_ms)):
        raise ValueError(f"{name}: {measured.samples} samples are too few for an interval")
    return StageTime(name, ms, measured.median_ms, measured.ci_ms)

"""The device of a search: its table, whether it can be reached, what the space reaches on it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from profilers.configured import configured_device
from profilers.contract import Profiler
from profilers.devices import open_profiler
from profilers.tables.build import extremes_ms, is_complete
from profilers.tables.own import check_own, find_table, same_machine, table_path
from tfnas.app.schemas import DeriveConfig, SearchConfig
from tfnas.derive.architecture import Architecture, Constraint
from tfnas.derive.menu import feasible
from tfnas.derive.methods import derive_constrained
from tfnas.files.bounded import shown
from tfnas.files.checkpoint import State
from tfnas.latency.table import IMPORTED, LatencyTable
from tfnas.space.search_space import SearchSpace
from tfnas.space.spec import SpaceSpec

log = logging.getLogger(__name__)

CLEARLY = 0.05  # a target so far outside the measured extremes is refused before profiling


def check_device(
    saved: State, profiler: Profiler | None, table: LatencyTable | None, file: Path
) -> None:
    """Refuse to go on with another device's latencies, or to measure them all again.

    Raises:
        ValueError: names both devices, or the table that is missing.
    """
    device = table.device if table is not None else profiler.device if profiler else None
    if device is not None and device.fingerprint != saved.get("device"):
        raise ValueError(
            f"the search began on the device {shown(saved.get('device'))}, this one is "
            f"{device.fingerprint} ({device.name}, threads {device.threads}, batch {device.batch}, "
            f"{device.precision}): give the table that it began with, table=FILE, or start "
            "without resume="
        )
    if table is None:
        raise ValueError(
            f"the table that the search began with, {file}, is gone or incomplete: measured anew, "
            "it would tell other latencies; give a copy with table=FILE, or start without resume="
        )


def find_device(
    cfg: SearchConfig, spec: SpaceSpec, resumes: bool = False
) -> tuple[Profiler | None, LatencyTable | None, Path]:
    """The device if it can be reached, its table if there is one, and the table's file.

    `table=FILE` is obeyed: it defines device, batch, precision and threads of the run.

    Args:
        resumes: a search that has begun. It goes on with the rows that it began with, also where
            the time to profile ended before they were known as well as they could be.
    """
    if cfg.table is not None:
        file = Path(cfg.table)
        table = LatencyTable.load(file)
        if table.unit != "ms":
            raise ValueError(
                f"{file} is in {table.unit}: it is no target; give a table of latencies, and this "
                f"one as also=[{{table: {file}, {table.unit.lower()}: 30}}]"
            )
        space = spec.build(table.device.quantum)
        table = table.for_space(space)
        if other := table.stand_in(space.head[-1]):
            log.warning(
                "warning: %s has a classifier of %d classes only: its latency stands for that of "
                "%d classes, which takes less or more than %.3g ms",
                file, other.c_out, space.classes, table.rows[other].median_ms,
            )  # fmt: skip
        return reach(table, cfg.device), table, file
    profiler = configured_device(cfg)
    found = find_table(profiler.device)
    if found is None:
        return profiler, None, table_path(profiler.device)
    table = LatencyTable.load(found)
    space = spec.build(table.device.quantum)
    if is_complete(table, spec) or (resumes and not table.missing(space)):
        return profiler, table.for_space(space), found
    return profiler, None, found  # to be completed


def reach(table: LatencyTable, options: Mapping[str, Any]) -> Profiler | None:
    """The profiler of a table's device, if that device is the one at hand.

    Args:
        options: how to reach it, where they are of the table's kind of device.

    Raises:
        ValueError: if the table is of this very machine, but of another runtime.
        ValueError, LookupError, OSError: if a device of the table's kind was asked for in so many
            words and can't be had.
    """
    device = table.device
    if device.kind == IMPORTED:
        log.info("an imported table, of %s: the net isn't measured here", device.name)
        return None
    asked = options["kind"] == device.kind != "cpu"
    backend, *ways = device.backend.split("+")
    own = {**(options if options["kind"] == device.kind else {}), **dict.fromkeys(ways, True)}
    if device.activations is not None:
        own["activations"] = device.activations
    try:
        profiler = open_profiler(
            **{**own, "kind": device.kind, "backend": backend},
            threads=device.threads,
            batch=device.batch,
            precision=device.precision,
        )
    except (LookupError, ValueError, OSError) as error:
        if asked:
            raise
        log.info("the table's device can't be reached from here: %s", error)
        return None
    if same_machine(profiler.device, device):
        check_own(device, profiler.device, Path(table.source))
    elif profiler.device.fingerprint != device.fingerprint:
        log.info(
            "the table is of another device (%s) than this one (%s): nothing will be measured",
            device.name,
            profiler.device.name,
        )
        return None
    return profiler


def reachable(
    space: SearchSpace,
    table: LatencyTable,
    target_ms: float,
    *,
    derive: DeriveConfig,
    tolerance: float,
    beside: Sequence[Constraint] = (),
    told: bool = True,
) -> Constraint:
    """Make the target a constraint on the table; log what the space reaches.

    A small space may have no net within `derive.tol` of a target. The tolerance on the table is
    widened then, as far as `tolerance`.

    Raises:
        ValueError: if no net of the space meets the target and what is beside it; names the nearest
            one that can be met.
    """
    low, high = feasible(space, table)
    if told:
        log.info("reachable on this table: %.3g to %.4g ms", low, high)
    if target_ms < low or (target_ms > high and not derive.at_most):
        raise ValueError(unreachable(target_ms, low, high, space, table.device.name))
    tol = derive.tol
    while True:
        constraint = Constraint(table, target_ms, derive.at_most, tol)
        if derive.method == "greedy":
            return constraint
        try:
            derive_constrained(space, Architecture.initial(space), [constraint, *beside])
        except ValueError:
            if tol >= tolerance:
                raise
            tol = min(2 * tol, tolerance)
            continue
        if tol > derive.tol and told:
            log.info("no net is within derive.tol=%g of it; searching within %g", derive.tol, tol)
        return constraint


def unreachable(target_ms: float, low: float, high: float, space: SearchSpace, device: str) -> str:
    low, high = rounded(low, math.ceil), rounded(high, math.floor)  # so the advice is reachable
    nearest = low if target_ms < low else high
    return (
        f"target_ms={target_ms:g} is out of reach: the nets of space={space.name} take {low:g} to "
        f"{high:g} ms on {device}; the nearest is target_ms={nearest:g}"
    )


def rounded(ms: float, towards: Callable[[float], float]) -> float:
    """To three significant digits."""
    digits = 2 - math.floor(math.log10(ms))
    return round(towards(ms * 10**digits) / 10**digits, max(digits, 0))


def check_extremes(
    profiler: Profiler, space: SearchSpace, targets: Sequence[float], at_most: bool
) -> None:
    """Without a table yet: measure the smallest and the largest net, in seconds.

    Raises:
        ValueError: if a target is clearly out of reach.
    """
    log.info(
        "no complete table for %s yet; measuring its smallest and largest net", profiler.device.name
    )
    low, high = extremes_ms(profiler, space)
    log.info("roughly reachable: %.3g to %.4g ms", low, high)
    for target_ms in targets:
        too_slow = target_ms > high * (1 + CLEARLY) and not at_most
        if target_ms < low * (1 - CLEARLY) or too_slow:
            raise ValueError(unreachable(target_ms, low, high, space, profiler.device.name))

"""What a net must meet beside its target: limits, and latencies on other tables.

A part of `tfnas.search`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tfnas.app.command_line import in_one_line
from tfnas.app.schemas import SearchConfig
from tfnas.costs import LIMITS
from tfnas.derive.architecture import Constraint
from tfnas.files.bounded import shown
from tfnas.latency.table import LatencyTable
from tfnas.space.spec import SpaceSpec

FINENESS = 0.01  # of a limit: ten times what the solver tells apart
WITHIN = 5e-4  # of a latency that is to be met exactly, as conf/derive/constrained.yaml has it
VALUE_BYTES = {"fp16": 2, "int8": 1}  # 4 elsewhere: tf32 is how a GPU multiplies, not how it stores


@dataclass
class Also:
    """A latency, or an energy, on another table."""

    table: str  # file
    ms: float | None = None
    mj: float | None = None  # of a table of energies
    exact: bool = False  # as for the target; otherwise any lower latency is as good


def beside(cfg: SearchConfig, spec: SpaceSpec) -> tuple[Constraint, ...]:
    """The constraints of `limits` and `also`.

    Raises:
        ValueError, LookupError: for one that makes no sense, or a table that doesn't fit the space.
    """
    also = [_loaded(a) for a in map(_also, cfg.also)]
    limits = {name: most for name, most in asdict(cfg.limits).items() if most is not None}
    precision = cfg.precision
    if limits and cfg.table is not None:  # which says what the net is to be
        precision = LatencyTable.load(cfg.table).device.precision
    found = constraints(limits, also, spec, precision)
    if found and cfg.derive.method == "greedy":
        raise ValueError(f"{found[0]}: derive=greedy knows of the target alone; give "
                         "derive=constrained")  # fmt: skip
    return found


def constraints(
    limits: Mapping[str, float],
    also: Iterable[tuple[LatencyTable, float, bool]],
    spec: SpaceSpec,
    precision: str = "fp32",
) -> tuple[Constraint, ...]:
    """Make constraints of limits by name, and of tables with milliseconds and whether exact."""
    made = []
    for name, most in limits.items():
        if name not in LIMITS:
            raise ValueError(f"limits.{shown(name)}: expected one of {', '.join(LIMITS)}")
        if type(most) not in (int, float):
            raise ValueError(f"limits.{name}={shown(most)}: expected a number")
        cost = LIMITS[name](VALUE_BYTES.get(precision, 4))
        made.append(Constraint(cost, most, at_most=True, tol=FINENESS))
    for table, ms, exact in also:
        if not isinstance(table, LatencyTable):
            raise ValueError(f"also={shown(table)}: expected a LatencyTable with its milliseconds")
        fitting = table.for_space(spec.build(table.device.quantum))
        given = f"also {table.unit.lower()}={ms:g} on {table.source}"
        made.append(Constraint(fitting, ms, not exact, WITHIN if exact else FINENESS, given))
    for constraint in made:
        if not 0 < constraint.target < float("inf"):
            raise ValueError(f"{constraint}: expected a number above 0")
    return tuple(made)


def _loaded(also: Also) -> tuple[LatencyTable, float, bool]:
    table = LatencyTable.load(also.table)
    value = also.ms if table.unit == "ms" else also.mj
    if value is None or None not in (also.ms, also.mj):
        key = table.unit.lower()
        raise ValueError(
            f"also={{table: {also.table}}}: it is in {table.unit}; expected such as {key}: 30, "
            "and no other figure"
        )
    return table, value, also.exact


def _also(given: Any) -> Also:
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Also), given))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ValueError(
            f"also={shown(given)}: expected such as also=[{{table: PHONE.json, ms: 30}}] "
            f"({in_one_line(error)})"
        ) from None
    assert isinstance(made, Also)
    return made

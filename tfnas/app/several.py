"""Several targets by one search: a sweep whose first run searches; the others take its scores.

`target_ms=[6,8,10]` on a command line becomes such a sweep, with the middle target first: what was
scored for it serves targets to both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tfnas.app.command_line import is_sweep, output_dir
from tfnas.app.schemas import SearchConfig
from tfnas.app.sweep import is_launched, planned
from tfnas.runs.folder import RunFolder

FIRST = "first"  # as the value of reuse=
LATER = 0.25  # of the loop's minutes: it begins with what the first one measured of the table
ONE = "give one process, or a search for each target"


def as_sweep(arguments: Sequence[str], processes: int = 1) -> list[str]:
    """Arguments with a list of targets as a sweep over them; others as they are.

    Raises:
        ValueError: if the list holds no numbers, or what else is given doesn't go with it.
    """
    lists = [(i, targets) for i, a in enumerate(arguments) if (targets := _targets(a)) is not None]
    if not lists:
        return list(arguments)
    place, targets = lists[-1]
    if len(targets) < 2 or min(targets) <= 0 or len(set(targets)) < len(targets):
        raise ValueError(f"{arguments[place]}: expected different numbers above 0, two or more")
    if any(a.startswith("reuse=") for a in arguments):
        raise ValueError(
            f"{arguments[place]} beside reuse=: write -m target_ms={','.join(map(str, targets))}"
        )
    if processes > 1:
        raise ValueError(f"{arguments[place]} under torchrun: {ONE}")
    ordered = sorted(targets)
    middle = ordered[(len(ordered) - 1) // 2]
    rest = [target for target in targets if target != middle]
    own = [a for a in arguments if _targets(a) is None and a not in ("-m", "--multirun")]
    own = [a.replace("hydra.run.dir=", "hydra.sweep.dir=", 1) for a in own]
    swept = ",".join(f"{target:g}" for target in (middle, *rest))
    return ["--multirun", *own, f"target_ms={swept}", f"reuse={FIRST}"]


def _targets(argument: str) -> list[float] | None:
    if not argument.startswith("target_ms=["):
        return None
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
        values = parsed.value()
        return [float(str(value)) for value in values] if isinstance(values, list) else []
    except (HydraException, ValueError):
        raise ValueError(f"{argument}: expected numbers, such as target_ms=[6,8,10]") from None


def of_first(cfg: SearchConfig) -> SearchConfig:
    """What `reuse=first` stands for in this run of a sweep: none in the first one, else that one.

    Raises:
        ValueError: outside a sweep, where runs don't come one after the other, for a strategy
            without scores, or where the first run has left none.
    """
    if cfg.reuse != FIRST:
        return cfg
    if cfg.strategy["name"] != "surrogate":
        raise ValueError(
            f"several targets by one search need strategy=surrogate, whose scores serve them all; "
            f"with strategy={cfg.strategy['name']} search each: -m target_ms=6,8,10"
        )
    if not is_sweep():
        raise ValueError(
            f"reuse={FIRST}: goes with several runs, such as target_ms=[6,8,10]; give the folder "
            "of a run"
        )
    if is_launched():
        raise ValueError(f"reuse={FIRST}: runs wait for the first one; leave out hydra/launcher=")
    if HydraConfig.get().job.num == 0:
        return replace(cfg, reuse=None)
    first = output_dir().parent / "0"
    if not RunFolder(first).scores.is_file():
        raise ValueError(f"the first run of the sweep, {first}, has come to no scores; see there")
    return replace(cfg, reuse=str(first), loop_minutes=LATER * cfg.loop_minutes)


def other_targets(cfg: SearchConfig) -> list[float]:
    """Targets of the runs that will reuse this one, which is the first of its sweep."""
    if cfg.reuse != FIRST or not is_sweep() or HydraConfig.get().job.num != 0:
        return []
    plan = planned(Path(str(HydraConfig.get().sweep.dir)).absolute())
    texts = [member.get("target_ms", "") for member in plan.members.values()] if plan else []
    return [float(text) for text in dict.fromkeys(texts) if _is_number(text)]


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False

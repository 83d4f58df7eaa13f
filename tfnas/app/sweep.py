"""Sweeps of an entry point: the folder, what was planned there, and how it is resumed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tfnas.app.command_line import is_sweep, override, say
from tfnas.files.atomic import write_atomically
from tfnas.process.exits import UNUSABLE_INPUT
from tfnas.process.ranks import from_environment
from tfnas.runs.folder import MULTIRUN, SWEEP_OVERRIDES, load_yaml


def refuse_sweep() -> None:
    """End a sweep of several processes: its members would need a torchrun each."""
    ranks = from_environment()
    if ranks.size > 1:
        say("error: no sweep runs under torchrun: start each of its runs by a torchrun", ranks)
        raise SystemExit(UNUSABLE_INPUT)


def is_launched() -> bool:
    """Whether this is one of several processes of a sweep that a launcher runs."""
    return HydraConfig.initialized() and is_sweep() and Watch.folder is None


# Of Hydra's own options those that say how a sweep runs; where it runs is the folder that is given.
LAUNCHERS = ("hydra/launcher=", "hydra.launcher.")
LAUNCHING = (*LAUNCHERS, "hydra/sweeper=", "hydra.sweeper.")
BY_NUMBER = "${hydra.job.num}"  # of conf/: the same overrides give the same folders again
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
MOST_MEMBERS = 10_000


class Watch(Callback):
    """conf/hydra/callbacks/sweep.yaml: notes the folder of the sweep that this process starts.

    Attributes:
        folder: None without a sweep, and in the processes that a launcher runs members in.
    """

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        refuse_sweep()
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        given = [str(o) for o in config.hydra.overrides.task]
        if "resume" in config and not any(o.startswith("resume=") for o in given):
            launching = [o for o in config.hydra.overrides.hydra if str(o).startswith(LAUNCHING)]
            try:
                _save_overrides(folder, [*given, *launching])
            except (OSError, ValueError) as error:
                # Hydra turns what a callback raises into a warning, but this.
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(UNUSABLE_INPUT) from None
        Watch.folder = folder


def _save_overrides(folder: Path, overrides: list[str]) -> None:
    """Raises ValueError if another sweep's stand there, or OSError."""
    if (folder / SWEEP_OVERRIDES).exists() or (folder / MULTIRUN).exists():
        raise ValueError(
            f"{folder} holds a sweep: go on with it by {override('resume', folder)}, or give "
            "another folder with hydra.sweep.dir=FOLDER"
        )
    write_atomically(folder / SWEEP_OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(overrides)))


@dataclass(frozen=True)
class Plan:
    """What a sweep was to run.

    Attributes:
        app: the entry point's name, such as search.
        members: overrides of each member, key to value, by its folder; empty if that can't be told.
    """

    app: str
    members: Mapping[Path, Mapping[str, str]]


def planned(folder: Path) -> Plan | None:
    """The plan of the sweep in a folder, as Hydra noted it; None if it noted none."""
    try:
        hydra = load_yaml(folder / MULTIRUN)["hydra"]
        app = str(hydra["job"]["config_name"])
        if hydra["sweeper"]["_target_"] != BASIC_SWEEPER or hydra["sweep"]["subdir"] != BY_NUMBER:
            return Plan(app, {})
        params = hydra["sweeper"]["params"]
        params = [f"{k}={v}" for k, v in params.items()] if isinstance(params, dict) else []
        combined = _combined([*params, *hydra["overrides"]["task"]])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return None
    except HydraException:  # what can't be told from here, such as glob(*)
        return Plan(app, {})
    return Plan(app, {folder / str(number): values for number, values in enumerate(combined)})


def _combined(overrides: list[str]) -> list[dict[str, str]]:
    """Every combination of what is swept over, in the order of Hydra's own sweeper."""
    values: dict[str, list[str]] = {}
    for parsed in OverridesParser.create().parse_overrides(overrides):
        if parsed.is_sweep_override():
            if getattr(parsed.value(), "shuffle", False):
                raise HydraException("in an order that isn't known")
            texts = list(islice(parsed.sweep_string_iterator(), MOST_MEMBERS))
        else:
            texts = [parsed.get_value_element_as_str()]
        values[parsed.get_key_element()] = texts
    return [
        dict(zip(values, chosen, strict=True))
        for chosen in islice(product(*values.values()), MOST_MEMBERS)
    ]

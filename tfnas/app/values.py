"""Where conf/ and the latency tables lie, and the values that stand there by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tfnas.app.schemas import DeriveConfig, ProfileConfig, VerifyConfig
from tfnas.files.places import user_folder
from tfnas.process.checks import check_fields
from tfnas.space.spec import SpaceSpec
from tfnas.strategies import strategy_class
from tfnas.strategies.contract import Budget
from tfnas.training.recipe import Recipe


def conf_path() -> Path:
    """The folder of conf/: inside the installed package, or beside it in a checkout."""
    return _beside_package("conf")


def shipped_tables_path() -> Path:
    """The folder of latency_tables/, as `conf_path`."""
    return _beside_package("latency_tables")


def _beside_package(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def user_tables_path() -> Path:
    """Where tables built here land: latency_tables/ of a checkout, else the user's data folder."""
    checkout = Path(__file__).resolve().parents[2] / "latency_tables"
    if checkout.is_dir() and os.access(checkout, os.W_OK):
        return checkout
    return user_folder("data") / "latency_tables"


KINDS: Mapping[str, type[Any]] = {
    "budget": Budget, "derive": DeriveConfig, "profile": ProfileConfig, "recipe": Recipe,
    "space": SpaceSpec, "verify": VerifyConfig,
}  # fmt: skip


def load(kind: str, name: str, **changes: Any) -> Any:
    """The values of conf/`kind`/`name`.yaml, some of them changed, as the type that they have.

    `load("recipe", "quick", epochs=1)` is a `Recipe`; of a strategy the strategy itself comes.

    Raises:
        LookupError: for an unknown kind or name; names those that there are.
        ValueError: for a change of an unknown field, of the wrong type, or out of bounds.
    """
    if kind not in (*KINDS, "strategy"):
        raise LookupError(
            f"kind {kind!r}: expected one of {', '.join(sorted([*KINDS, 'strategy']))}"
        )
    file = conf_path() / kind / f"{name}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.yaml"))
        raise LookupError(f"{kind}={name!r}: expected one of {', '.join(known)}")
    values = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(values, dict)
    schema = strategy_class(name) if kind == "strategy" else KINDS[kind]
    if kind == "strategy":
        del values["name"]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values, changes)
        made = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, OverflowError) as error:
        raise ValueError(f"{kind}={name}: {str(error).splitlines()[0]}") from None
    assert isinstance(made, schema)
    check_fields(kind, made)
    return made


def default(command: str, key: str) -> Any:
    """What a command does where the option isn't given, as conf/`command`.yaml has it."""
    values = OmegaConf.load(conf_path() / f"{command}.yaml")
    assert isinstance(values, DictConfig)
    return values[key]


def load_space(name: str, classes: int, **changes: Any) -> SpaceSpec:
    """conf/space/`name`.yaml for so many classes, with changes such as `in_channels=1`.

    Raises:
        LookupError: if there is none of that name.
        ValueError: for a change of an unknown field, or of the wrong type.
    """
    spec = load("space", name, classes=classes, **changes)
    assert isinstance(spec, SpaceSpec)
    return spec

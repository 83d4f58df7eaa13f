"""Where conf/ and the latency tables lie, and the values that stand there by name."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import OmegaConf
from platformdirs import user_data_path

from tfnas.space.spec import SpaceSpec


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
    return user_data_path("tfnas") / "latency_tables"


def load_space(name: str, classes: int) -> SpaceSpec:
    """conf/space/`name`.yaml for code that is no Hydra app. Raises LookupError if there is none."""
    file = conf_path() / "space" / f"{name}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.yaml"))
        raise LookupError(f"space={name!r}: expected one of {', '.join(known)}")
    values = OmegaConf.merge(OmegaConf.load(file), {"classes": classes})
    spec = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SpaceSpec), values))
    assert isinstance(spec, SpaceSpec)
    return spec

"""Entry points for tests: run as a user runs them, and their configs composed without running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tfnas.app.values import conf_path
from tfnas.process.checks import check_fields

REPOSITORY = Path(__file__).resolve().parents[2]
Config = TypeVar("Config")


def environment() -> dict[str, str]:
    """This checkout importable from any folder, one thread."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run_entry(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` in the folder `cwd`, not queueing for the machine's lock."""
    own = cwd.with_name(f"{cwd.name}_tmp")
    own.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={**environment(), "TMPDIR": str(own)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def compose_config(
    schema: type[Config], name: str, *overrides: str, conf: Path | None = None
) -> Config:
    """What `prepare` of the entry point conf/`name`.yaml gets.

    Args:
        conf: folder of the configuration, if not this checkout's.
    """
    GlobalHydra.instance().clear()
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    with initialize_config_dir(str(conf or conf_path()), version_base="1.3"):
        composed = compose(name, overrides=list(overrides))
    config = OmegaConf.to_object(composed)
    assert isinstance(config, schema)
    check_fields("", config)
    return config

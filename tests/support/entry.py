"""Entry points for tests: run as a user runs them, and their configs composed without running."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
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


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["onnx", "onnxruntime", "tfnas.pipeline.run", "tfnas.runs.trained"])


def run_entry(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` in the folder `cwd`, not queueing for the machine's lock.

    The process is forked from one that has imported torch, which takes longer than most commands.
    """
    own = cwd.with_name(f"{cwd.name}_tmp")
    own.mkdir(exist_ok=True)
    env = {**environment(), "TMPDIR": str(own)}
    files = (own / "stdout", own / "stderr")
    process = FORKS.Process(target=_command, args=(module, arguments, cwd, env, files))
    process.start()
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired([module, *arguments], 300)
    texts = [file.read_text() for file in files]
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, *texts)


def _command(
    module: str, arguments: tuple[str, ...], cwd: Path, env: dict[str, str], files: tuple[Path, ...]
) -> None:
    """Be that process, and end as the interpreter does: a forked one leaves out the last steps."""
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()


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

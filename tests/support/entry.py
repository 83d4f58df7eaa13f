"""Entry points for tests: run as a user runs them, and their configs composed without running."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
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
# What takes seconds to import, some of it only once a search is under way.
FORKS.set_forkserver_preload(
    ["hydra.core.override_parser.overrides_parser", "matplotlib.backends.backend_svg",
     "matplotlib.figure", "onnx", "onnxruntime", "tfnas.pages.run", "tfnas.pipeline.run",
     "tfnas.runs.trained", "torch._dynamo", "torch.utils.tensorboard"]
)  # fmt: skip


def fork_entry(
    module: str,
    *arguments: str,
    cwd: Path,
    files: tuple[Path, Path],
    own_group: bool = False,
    **variables: str,
) -> ForkServerProcess:
    """`python -m module arguments` in the folder `cwd`, not queueing for the machine's lock.

    The process is forked from one that has imported torch, which takes longer than most commands.

    Args:
        module: or a script, `FILE.py`.
        files: for what it prints, and for its errors.
        own_group: it and its children can be killed together, as a group of its own.
        variables: of its environment.
    """
    env = {**environment(), "TFNAS_LOCKS": str(_own(cwd)), **variables}
    process = FORKS.Process(target=_command, args=(module, arguments, cwd, env, files, own_group))
    process.start()
    return process


def run_entry(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A forked entry point from its beginning to its end."""
    files = (_own(cwd) / "stdout", _own(cwd) / "stderr")
    process = fork_entry(module, *arguments, cwd=cwd, files=files)
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired([module, *arguments], 300)
    texts = [file.read_text() for file in files]
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, *texts)


class Entry:
    """A forked entry point that is watched while it runs, and killed with the block if it still
    does.

    Attributes:
        lines: what it writes, errors too.
    """

    def __init__(self, module: str, *arguments: str, cwd: Path) -> None:
        pipe = _own(cwd) / f"{time.monotonic_ns()}.pipe"
        os.mkfifo(pipe)
        self._process = fork_entry(module, *arguments, cwd=cwd, files=(pipe, pipe))
        self.lines = pipe.open()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self.lines.close()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def until(self, seen: Callable[[str], bool]) -> None:
        """Read to a line that is `seen`; fails if it ends before."""
        read = []
        for line in self.lines:
            read.append(line)
            if seen(line):
                return
        raise AssertionError("".join(read))

    def is_running(self) -> bool:
        return self._process.is_alive()

    def finish(self) -> tuple[int, str]:
        """The exit status, and what it wrote since what was read."""
        text = self.lines.read()
        self._process.join(30)
        assert self._process.exitcode is not None, text
        return self._process.exitcode, text


def _own(cwd: Path) -> Path:
    """A folder for what is not the command's: temporary files, its output."""
    own = cwd.with_name(f"{cwd.name}_tmp")
    own.mkdir(exist_ok=True)
    return own


def _command(
    module: str,
    arguments: tuple[str, ...],
    cwd: Path,
    env: dict[str, str],
    files: tuple[Path, Path],
    own_group: bool,
) -> None:
    """Be that process, and end as the interpreter does: a forked one leaves out the last steps."""
    if own_group:
        os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, flags), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    try:
        if module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
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

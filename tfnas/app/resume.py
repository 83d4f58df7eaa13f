"""`resume=FOLDER` on a command line: the options that the run, or the sweep, was started with.

They lie in the folder; what is given beside `resume=` comes on top. Of a sweep every member is
taken up again in its own folder: those that are finished have nothing left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tfnas.app.command_line import override, overrides, value_of
from tfnas.app.sweep import LAUNCHERS, LAUNCHING
from tfnas.files.atomic import write_atomically
from tfnas.runs.folder import SWEEP_OVERRIDES as SWEEP
from tfnas.runs.folder import RunFolder

MAX_BYTES = 10_000_000
# Options that may change when a run goes on: they don't touch what has been done so far.
HARMLESS = {
    "search": (
        "tolerance", "loop_minutes", "stage_minutes", "checkpoint_minutes", "on_nonfinite",
        "resume", "cores", "table", "profile", "verify", "data.workers", "tensorboard", "trackers",
        "finals.jobs", "finals.backend",
        # Where images lie; which they are, a digest tells.
        "data.root", "data.train_list", "data.test_list", "data.check", "data.on_unreadable",
        # How a device is reached; which one it is, the latencies tell.
        "device.host", "device.port", "device.config", "device.serial", "device.scratch",
        "device.python", "device.program", "device.libraries", "device.job_s", "device.rest_s",
        "device.memory_mb",
    ),
    "train": (
        "threads", "checkpoint_minutes", "on_nonfinite", "data.workers", "tensorboard", "trackers",
        "data.root", "data.train_list", "data.test_list", "data.check", "data.on_unreadable",
    ),
}  # fmt: skip


def resumed(name: str, arguments: Sequence[str]) -> list[str]:
    """A command line's arguments, those of the resumed run or sweep put before them.

    Args:
        name: of the entry point: search | train.

    Raises:
        ValueError: if the folder isn't one of a run or a sweep.
    """
    folders = [value_of(a) for a in arguments if a.startswith("resume=")]
    if not folders or folders[-1].lower() in ("", "null", "true", "false"):
        return list(arguments)
    folder, again = Path(folders[-1]), override("resume", folders[-1])
    files = RunFolder(folder)
    begun = files.train_overrides if name == "train" else files.overrides
    given = [a for a in arguments if not a.startswith("resume=")]
    ours: set[str] = set()  # what this function says itself
    if (folder / SWEEP).is_file():
        saved = _load(folder / SWEEP)
        if not isinstance(saved, list):
            raise ValueError(f"{folder / SWEEP} holds no list of options")
        where = ["--multirun", override("hydra.sweep.dir", folder)]
        given = [a for a in given if a not in ("-m", "--multirun")]
        harmless = HARMLESS.get(name, ())
        known = ("-", *harmless, *LAUNCHERS)
        swept = {_key(o) for o in saved if isinstance(o, str) and _sweeps(o)}
        if other := [a for a in given if not a.startswith(known) or _sweeps(a) or _key(a) in swept]:
            raise ValueError(
                f"{', '.join(other)}: would make other runs of the sweep in {folder}; beside "
                f"resume= it takes only {', '.join(harmless)}, and how to launch"
            )
    elif name == "train" and begun.is_file():
        saved, where = _load(begun), [override("out", folder)]
        ours.add("out")
        if any(_key(a) == "out" for a in given):
            raise ValueError(f"out= beside resume={folder}: a training goes on in its own folder")
    elif begun.is_file():
        saved, where = _load(begun), [override("hydra.run.dir", folder)]
    else:
        raise ValueError(
            f"resume={folder}: expected the folder of a run, with the file {begun.name}, "
            f"or of a sweep, with {SWEEP}; where nothing was begun, start without resume="
        )
    launching = LAUNCHING if "--multirun" in where else ()
    if not isinstance(saved, list) or not all(_is_override(o, launching) for o in saved):
        raise ValueError(f"{folder} holds no list of options: expected lines such as key=value")
    # In the place of what it replaces: the order of options numbers the members of a sweep.
    changed = {_key(a): a for a in given}
    others = [str(o) for o in saved if _key(o) != "resume" and _key(o) not in ours]
    kept = [changed.get(_key(o), o) for o in others]
    rest = [a for a in given if a not in kept]
    return [*where, *kept, *rest, "resume=true" if name == "train" else again]


def _sweeps(argument: str) -> bool:
    """Whether an option has several values, each for a run of its own."""
    if argument.startswith("-"):
        return False
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return False  # which Hydra will say itself
    return bool(parsed.is_sweep_override())


def save_overrides(path: Path, begun: bool) -> None:
    """Leave this run's options; those of one that has begun stay. Raises OSError."""
    if not (begun and path.exists()):
        write_atomically(path, OmegaConf.to_yaml(overrides()))


def _load(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML of options: {error}") from None


def _is_override(text: object, launching: tuple[str, ...]) -> bool:
    """Whether it is `key=value`, and nothing of Hydra's own that could name code to run."""
    if not isinstance(text, str) or "=" not in text:
        return False
    if text.startswith(launching):  # an empty tuple: never
        return "_target_" not in text
    return not _key(text).startswith("hydra")


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")

"""Checkpoints of searches and trainings: written atomically, read without unpickling more than
tensors, the last two kept, so that a damaged one loses minutes and not the run."""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tfnas.files.atomic import replacing
from tfnas.files.bounded import shown

log = logging.getLogger(__name__)

FORMAT = "tfnas.checkpoint/1"
State = dict[str, Any]
"""What a checkpoint can hold: tensors, numbers, texts, None, and lists and dicts of these."""


class DamagedError(ValueError):
    """A file that is no whole checkpoint."""


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def exists(path: Path) -> bool:
    """Whether there is one to go on from, damaged or not."""
    return path.is_file() or previous(path).is_file()


def remove(path: Path) -> None:
    """Both: they have had their use."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a `State`; the last one becomes the previous one. A crash at any moment leaves one.

    Args:
        state: with `identity`, the options that a run which goes on must have in common.

    Raises:
        OSError: if it can't be written; what was there stays.
    """
    with replacing(path) as new:
        with new.open("wb") as file:
            try:
                torch.save({"format": FORMAT, **state}, file)
            except RuntimeError as error:  # torch's own, where the file system is full
                raise OSError(f"can't write {path}: {error}") from None
        if path.is_file():
            path.replace(previous(path))


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> State:
    """The last whole state that `write_checkpoint` wrote, its tensors in main memory.

    Raises:
        ValueError: if there is none, all are damaged, or it is that of another run: the options
            that differ are named.
    """
    found = [p for p in (path, previous(path)) if p.is_file()]
    if not found:
        raise ValueError(f"there is no {path} to go on from: start without resume=")
    reasons = [] if path in found else [f"{path} is gone"]
    for candidate in found:
        try:
            state = _read(candidate)
        except DamagedError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            log.warning("warning: %s; going on from the one before, %s", reason, candidate)
        _check_identity(candidate, state, identity)
        return state
    which = " and ".join(map(str, found))
    raise DamagedError(f"{'; '.join(reasons)}: delete {which}, and the same command starts anew")


def _read(path: Path) -> State:
    """Raises DamagedError."""
    try:
        # Torch tries the formats of its early days on what is no archive, and skips checksums.
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise ValueError(f"{broken} has another checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever it stumbles over
        reason = str(error).strip().partition("\n")[0]
        raise DamagedError(f"{path} is damaged ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DamagedError(f"{path} is no checkpoint of format {FORMAT}")
    if not isinstance(state.get("identity"), dict):
        raise DamagedError(f"{path} is no checkpoint of a run: it doesn't say which")
    return state


def _check_identity(path: Path, state: State, identity: Mapping[str, Any]) -> None:
    if changed := changes(state["identity"], identity):
        raise ValueError(
            f"{path} is of another run ({changed}): give the options that it had, or start "
            "without resume="
        )


def changes(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which options differ, `key: VALUE there, VALUE now`; "" if none do.

    Of a group of options that is another one by its `name` nothing else is named.
    """
    names = [n for n in {**now, **there} if there.get(n) != now.get(n)]
    groups = [name.removesuffix("name") for name in names if name.endswith(".name")]
    named = [n for n in names if n.endswith(".name") or not n.startswith(tuple(groups))]
    return "; ".join(
        f"{name}: {shown(there.get(name))} there, {shown(now.get(name))} now" for name in named
    )

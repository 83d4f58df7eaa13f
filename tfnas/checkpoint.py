"""Checkpoints of a training: written atomically, read without unpickling anything but tensors."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tfnas.weights import replacing

FORMAT = "tfnas.checkpoint/1"


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Tensors, numbers, texts, lists and dicts. A crash leaves the old checkpoint or the new one.

    Args:
        state: with `identity`, the options that a run which goes on must have in common.
    """
    with replacing(path) as new, new.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The state that `write_checkpoint` wrote, its tensors in main memory.

    Raises:
        ValueError: if there is none, it is damaged, or it is that of another run: the options that
            differ are named.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path} to go on from: start without resume=true")
    try:
        if not zipfile.is_zipfile(path):  # or torch tries the formats of its early days
            raise ValueError("not a zip archive")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever it stumbles over
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{path} is damaged ({reason}): delete it and start without resume=true"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of format {FORMAT}")
    saved = state.get("identity")
    if not isinstance(saved, dict):
        raise ValueError(f"{path} is no checkpoint of a training: it doesn't say which")
    changed = [
        f"{name}: {saved.get(name)!r} there, {identity.get(name)!r} now"
        for name in (*identity, *(name for name in saved if name not in identity))
        if saved.get(name) != identity.get(name)
    ]
    if changed:
        raise ValueError(f"{path} is of another training ({'; '.join(changed)})")
    return state

"""A search's folder: whether a search may begin or go on there, and with which options."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tfnas.app.command_line import override
from tfnas.app.resume import HARMLESS
from tfnas.app.schemas import SearchConfig
from tfnas.data.images import Dataset
from tfnas.files import checkpoint
from tfnas.files.checkpoint import State
from tfnas.process.ranks import ALONE, Ranks
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import Result
from tfnas.training.recipe import options as recipe_options

# Fields of a space that searches of before didn't have, with the values that make it the same.
NEWER: Mapping[str, tuple[Any, ...]] = {
    "kernels": (None,), "expansions": (None,), "squeeze_excite": (None,), "ops": (None, []),
    "se_divisor": (1,), "se_kind": ("mbconv",),
}  # fmt: skip
ABSENT = ("minutes", "reuse", "limits.", "also")  # options that most searches don't have


def check_unused(folder: RunFolder, resume: str | None, ranks: Ranks = ALONE) -> None:
    """Raise ValueError if a search would overwrite another one, finished or not."""
    if folder.result.exists():
        raise ValueError(
            f"{folder.path} holds a finished search: give another folder with "
            f"hydra.run.dir=FOLDER, or see its result with `{command(folder)}`"
        )
    if resume is None and (checkpoint.exists(folder.checkpoint) or folder.overrides.exists()):
        raise ValueError(
            f"{folder.path} holds an unfinished search: go on with `{command(folder, ranks)}`, or "
            "give another folder with hydra.run.dir=FOLDER"
        )


def finished(folder: RunFolder, cfg: SearchConfig) -> Result | None:
    """The result of the search in `folder`, if it is finished.

    Raises:
        ValueError: if the options that are given now would have made it another search.
    """
    if not folder.result.is_file():
        return None
    result = Result.load(folder.result)
    # `accelerator` may say auto; what it came to isn't known here. A folder may have been moved.
    then, now = (
        {
            **o, "accelerator": None, "reuse": o.get("reuse") is not None,
            "teacher": None if o.get("teacher") is None else Path(o["teacher"]).name,
        }
        for o in (result.options, options_of(cfg))
    )  # fmt: skip
    if changed := checkpoint.changes(then, now):
        raise ValueError(
            f"{folder.path} is finished, and with other options ({changed}): start another search "
            "without resume="
        )
    return result


def saved(folder: RunFolder, cfg: SearchConfig, who: Mapping[str, Any]) -> State | None:
    """The checkpoint to go on with, if there is one.

    Args:
        who: see `identity`.

    Raises:
        ValueError: if it is damaged, or of another search.
    """
    if cfg.resume is None or not checkpoint.exists(folder.checkpoint):
        return None
    return checkpoint.read_checkpoint(folder.checkpoint, who)


def identity(
    cfg: SearchConfig,
    dataset: Dataset,
    accelerator: torch.device,
    ranks: Ranks = ALONE,
    teacher: str | None = None,
) -> dict[str, Any]:
    """What a search that goes on must have in common with the one that was stopped.

    Args:
        teacher: its identity, wherever it lies.
    """
    return {
        **options_of(cfg),
        **({} if teacher is None else {"teacher": teacher}),
        "data.images": dataset.identity,
        "accelerator": accelerator.type,
        "processes": ranks.size,
    }


def options_of(cfg: SearchConfig) -> dict[str, Any]:
    """By dotted key, as JSON has them; what is `ABSENT` only where there is some, as finals."""
    absent = {"finals.": cfg.finals.name == "none", "teacher": cfg.teacher is None}
    left_out = (*HARMLESS["search"], *(prefix for prefix, is_so in absent.items() if is_so))
    values = {**asdict(cfg), "space": _as_before(asdict(cfg.space))}
    values["finals"]["recipe"] = recipe_options(cfg.finals.recipe)
    kept = {k: v for k, v in _flat(values) if not k.startswith(left_out)}
    for key in [key for key in kept if key.startswith(ABSENT) and kept[key] in (None, [])]:
        del kept[key]
    options: dict[str, Any] = json.loads(json.dumps(kept))
    return options


def _as_before(values: Any) -> Any:
    """Without the fields that are `NEWER`, where they change nothing."""
    if isinstance(values, list):
        return [_as_before(value) for value in values]
    if isinstance(values, dict):
        return {k: _as_before(v) for k, v in values.items() if v not in NEWER.get(k, ())}
    return values


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, values


def command(folder: RunFolder, ranks: Ranks = ALONE) -> str:
    """The command line that goes on there, with as many processes."""
    return f"{ranks.launcher} -m tfnas.search {shlex.quote(override('resume', folder.path))}"

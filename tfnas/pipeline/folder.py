"""A search's folder: what lies in it, and whether a search may begin or go on there."""

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
from tfnas.process.checks import check_positive
from tfnas.process.ranks import ALONE, Ranks
from tfnas.runs.folder import SEARCH_OVERRIDES
from tfnas.runs.result import Result

CHECKPOINT, RESULT = "search.ckpt", "result.json"


def check_unused(folder: Path, resume: str | None, ranks: Ranks = ALONE) -> None:
    """Raises ValueError if a search would overwrite another one, finished or not."""
    if (folder / RESULT).exists():
        raise ValueError(
            f"{folder} holds a finished search: give another folder with hydra.run.dir=FOLDER, or "
            f"see its result with `{command(folder)}`"
        )
    if resume is None and (
        checkpoint.exists(folder / CHECKPOINT) or (folder / SEARCH_OVERRIDES).exists()
    ):
        raise ValueError(
            f"{folder} holds an unfinished search: go on with `{command(folder, ranks)}`, or "
            "give another folder with hydra.run.dir=FOLDER"
        )


def finished(folder: Path, cfg: SearchConfig) -> Result | None:
    """The result of the search in `folder`, if it is finished.

    Raises:
        ValueError: if the options that are given now would have made it another search.
    """
    if not (folder / RESULT).is_file():
        return None
    check_positive(tolerance=cfg.tolerance)
    result = Result.load(folder / RESULT)
    # `accelerator` may say auto; what it came to isn't known here.
    then, now = ({**o, "accelerator": None} for o in (result.options, options_of(cfg)))
    if changed := checkpoint.changes(then, now):
        raise ValueError(
            f"{folder} is finished, and with other options ({changed}): start another search "
            "without resume="
        )
    return result


def saved(folder: Path, cfg: SearchConfig, who: Mapping[str, Any]) -> State | None:
    """The checkpoint to go on with, if there is one.

    Args:
        who: see `identity`.

    Raises:
        ValueError: if it is damaged, or of another search.
    """
    if cfg.resume is None or not checkpoint.exists(folder / CHECKPOINT):
        return None
    return checkpoint.read_checkpoint(folder / CHECKPOINT, who)


def identity(
    cfg: SearchConfig, dataset: Dataset, accelerator: torch.device, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """What a search that goes on must have in common with the one that was stopped."""
    return {
        **options_of(cfg),
        "data": dataset.origin,
        "accelerator": accelerator.type,
        "processes": ranks.size,
    }


def options_of(cfg: SearchConfig) -> dict[str, Any]:
    """By dotted key, as JSON has them."""
    kept = {k: v for k, v in _flat(asdict(cfg)) if not k.startswith(HARMLESS["search"])}
    options: dict[str, Any] = json.loads(json.dumps(kept))
    return options


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, values


def command(folder: Path, ranks: Ranks = ALONE) -> str:
    """The command line that goes on there, with as many processes."""
    return f"{ranks.launcher} -m tfnas.search {shlex.quote(override('resume', folder))}"

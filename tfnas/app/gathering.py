"""Searches of a folder or a sweep, found by their folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tfnas.app.sweep import planned
from tfnas.files.bounded import parse_yaml
from tfnas.runs.folder import DEPTH, MULTIRUN, RunFolder, members, natural
from tfnas.runs.run import NOT_STARTED, Run, asked, read_run


def gather(folder: Path) -> tuple[list[Run], list[str]]:
    """The runs within a folder, and warnings of files that can't be used.

    Raises:
        ValueError: if there is no run.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of a run or of a sweep")
    found = members(folder)
    sweeps = {member: _sweep_of(member) for member in found}
    plans = {sweep: planned(sweep) for sweep in {folder, *sweeps.values()} if sweep}
    runs, warnings = [], []
    for member, sweep in sweeps.items():
        run, unusable = read_run(member)
        plan = plans[sweep] if sweep else None
        if plan and plan.app == "search":
            run = replace(run, resume=sweep)
        elif RunFolder(member).overrides.is_file():
            run = replace(run, resume=member)
        runs.append(run)
        warnings += unusable
    for sweep, plan in plans.items():
        if plan is None or not sweep.is_relative_to(folder):
            continue
        for member, overrides in plan.members.items():
            if member not in sweeps:
                values = {key: _plain(text) for key, text in overrides.items()}
                run = asked(Run(member, NOT_STARTED), values)
                runs.append(replace(run, resume=sweep if plan.app == "search" else None))
    if not runs:
        raise ValueError(f"{folder} holds no run, nor a sweep's")
    return sorted(runs, key=lambda run: natural(run.folder)), warnings


def _sweep_of(member: Path) -> Path | None:
    return next((p for p in list(member.parents)[:DEPTH] if (p / MULTIRUN).is_file()), None)


def _plain(text: str) -> Any:
    """The value in an override; None if it isn't a simple one."""
    try:
        return parse_yaml(text)
    except ValueError:
        return None

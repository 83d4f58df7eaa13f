"""Planning a run: what `minutes` stand for becomes options, as if they had been given."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from profilers.tables.closing import most_minutes
from tfnas.app.command_line import overrides
from tfnas.app.data import load_data
from tfnas.derive.architecture import Constraint
from tfnas.pipeline import folder
from tfnas.pipeline.drive import new_task
from tfnas.pipeline.inputs import Prepared, check_finals, load_inputs
from tfnas.pipeline.planned import EXPORT_S, Ground, applied, given_keys, make_plan


def planned(p: Prepared, constraint: Constraint) -> Prepared:
    """The search with what was planned; as it is where nothing is to be planned, or was before.

    Raises:
        ValueError: if the minutes are too few for this machine.
    """
    cfg, mine = p.inputs.cfg, p.inputs
    if cfg.minutes is None or p.plan is not None:
        return p
    begun = time.monotonic()
    given = given_keys(overrides())
    finals = None if cfg.finals.name == "none" else cfg.finals
    whole = mine.dataset
    if finals is not None and cfg.budget.max_train is not None:
        whole = load_data(cfg.data, None)
    fixed = {"export": EXPORT_S}
    if p.profiler is not None:
        fixed |= {
            "loop": 60 * most_minutes(cfg.loop_minutes, len(p.at_hand)),
            "verify": 60 * cfg.verify.max_minutes * (1 + len(p.at_hand)),
            "stages": 60 * (cfg.stage_minutes or 0),
        }
    ground = Ground(
        task=new_task(mine, mine.spec.build(constraint.table.device.quantum), constraint),
        strategy=mine.strategy,
        given=given,
        fixed=fixed,
        images=len(mine.dataset.train),
        finals=finals,
        whole=whole,
        workers=cfg.data.workers,
        threads=torch.get_num_threads(),
    )
    plan = make_plan(cfg.minutes, ground)
    cfg = applied(cfg, plan)
    check_finals(cfg)
    inputs = load_inputs(cfg, mine.ranks)
    who = folder.identity(cfg, inputs.dataset, inputs.accelerator, inputs.ranks)
    return replace(p, inputs=inputs, who=who, plan=plan, planning_s=time.monotonic() - begun)

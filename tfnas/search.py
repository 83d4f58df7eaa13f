"""python -m tfnas.search target_ms=8

Finds the network that takes the milliseconds asked for: profiles this machine if it has no table
yet, searches, derives, exports, and measures the exported net in a fresh process. What is checked
first stands in `tfnas.pipeline.inputs`, what is done then in `tfnas.pipeline.run`.
"""

from __future__ import annotations

from dataclasses import replace

from tfnas.app.command_line import output_dir, overrides
from tfnas.app.main import Work, main
from tfnas.app.schemas import SearchConfig
from tfnas.app.several import of_first, other_targets


def prepare(cfg: SearchConfig) -> Work:
    """Check the input. Imports torch, which `--help` and a wrong command line can do without."""
    from tfnas.pipeline.drive import follow
    from tfnas.pipeline.folder import finished
    from tfnas.pipeline.inputs import prepared
    from tfnas.pipeline.planned import applied, given_keys, open_budget, read_plan, with_own_minutes
    from tfnas.pipeline.run import conclude_again, run
    from tfnas.process.ranks import join
    from tfnas.runs.folder import RunFolder

    targets = other_targets(cfg)
    cfg = with_own_minutes(of_first(cfg), overrides())
    ranks = join()
    if ranks.rank:  # rank 0 checks, and says what is wrong
        return lambda: follow(cfg, ranks)
    out = RunFolder(output_dir())
    plan = None
    if cfg.minutes is not None:
        given = given_keys(overrides())
        plan = read_plan(out, cfg, given)
        opened = replace(cfg, budget=open_budget(cfg.budget, given))
        cfg = opened if plan is None else applied(cfg, plan)
    if cfg.resume is not None and (result := finished(out, cfg)) is not None:
        return lambda: conclude_again(result, out.path, cfg.tolerance)
    checked = prepared(cfg, out, ranks, plan, targets)
    return lambda: run(checked)


if __name__ == "__main__":
    main(SearchConfig, "search", prepare)

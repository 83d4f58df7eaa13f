"""python -m profilers device=cpu

Builds, or completes, the latency table of a device for a search space: `space=tfnas` by default.
"""

from __future__ import annotations

from pathlib import Path

from profilers.configured import configured_device, configured_space
from profilers.tables.build import build_table, open_table
from profilers.tables.own import ELSEWHERE, table_path
from tfnas.app.main import Work, main
from tfnas.app.schemas import ProfilersConfig
from tfnas.process.checks import check_writable
from tfnas.process.exits import DONE


def prepare(config: ProfilersConfig) -> Work:
    """Check the input; raises ValueError or LookupError if it is unusable."""
    profile = config.profile
    profiler = configured_device(config)
    spec = configured_space(config.space, config.data)
    spec.build()
    path = Path(config.table) if config.table else table_path(profiler.device)
    open_table(profiler, path)

    check_writable(path, ELSEWHERE)

    def work() -> int:
        build_table(
            profiler,
            spec,
            path,
            max_minutes=profile.max_minutes,
            precision=profile.precision,
            anchor_nets=profile.anchor_nets,
            seed=config.seed,
        )
        return DONE

    return work


if __name__ == "__main__":
    main(ProfilersConfig, "profilers", prepare)

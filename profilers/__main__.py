"""python -m profilers device=cpu

Builds, or completes, the latency table of a device for a search space: `space=tfnas` by default.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from profilers import open_configured, table_path
from profilers.build import build_table, open_table
from tfnas.config import (
    DONE,
    DataConfig,
    ProfilersConfig,
    Work,
    check_positive,
    check_writable,
    main,
)
from tfnas.data import num_classes
from tfnas.space import SpaceSpec


def prepare(config: ProfilersConfig) -> Work:
    """Check the input; raises ValueError or LookupError if it is unusable."""
    profile = config.profile
    check_positive(max_minutes=profile.max_minutes, precision=profile.precision)
    profiler = open_configured(config)
    spec = with_classes(config.space, config.data)
    spec.build()
    path = Path(config.table) if config.table else table_path(profiler.device)
    open_table(profiler, path)

    check_writable(path)

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


def with_classes(space: SpaceSpec, data: DataConfig) -> SpaceSpec:
    """The space with as many classes as the data has, where it doesn't say itself."""
    if space.classes is not None:
        return space
    classes = num_classes(
        data.name, root=data.root, train_list=data.train_list, test_list=data.test_list
    )
    return replace(space, classes=classes)


if __name__ == "__main__":
    main(ProfilersConfig, "profilers", prepare)

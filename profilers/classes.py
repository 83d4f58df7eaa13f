"""A space with the number of classes of a configured data set."""

from __future__ import annotations

from dataclasses import replace

from tfnas.app.schemas import DataConfig
from tfnas.data.sets import num_classes
from tfnas.space.spec import SpaceSpec


def with_classes(space: SpaceSpec, data: DataConfig) -> SpaceSpec:
    """The space with as many classes as the data has, where it doesn't say itself."""
    if space.classes is not None:
        return space
    classes = num_classes(
        data.name, root=data.root, train_list=data.train_list, test_list=data.test_list
    )
    return replace(space, classes=classes)

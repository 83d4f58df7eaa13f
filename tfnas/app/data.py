"""The images that a configuration names."""

from __future__ import annotations

from tfnas.app.schemas import DataConfig
from tfnas.data.images import Dataset
from tfnas.data.sets import load_images
from tfnas.process.checks import smallest


def load_data(d: DataConfig, max_train: int | None, *, by_class: bool = True) -> Dataset:
    """The images, at most `max_train` to train on. Raises as `load_images`, ValueError for classes.

    Args:
        max_train: of a recipe or budget; the configuration's own may be smaller.
        by_class: whether each image must have one class, and not numbers.
    """
    dataset = load_images(
        d.name,
        root=d.root,
        train_list=d.train_list,
        test_list=d.test_list,
        max_train=smallest(d.max_train, max_train),
        check=d.check,
        on_unreadable=d.on_unreadable,
        numbers=not by_class,
    )
    if by_class:
        dataset.check_by_class()
    if d.classes is not None and d.classes != len(dataset.classes):
        raise ValueError(f"data.classes={d.classes}, but {d.name} has {len(dataset.classes)}")
    return dataset

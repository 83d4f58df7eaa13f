"""Whether image files can be read, found before anything is measured or trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import numpy as np

from tfnas.data.images import Dataset, FileImages
from tfnas.data.pieces import file_of
from tfnas.process.cores import usable_cores
from tfnas.process.progress import duration

log = logging.getLogger(__name__)

UNASKED_S = 60.0  # a check that takes longer is made only where it is asked for
TIMED = 32  # files that tell how long all of them take
NAMED = 5  # files in an error
ON_UNREADABLE = ("stop", "skip")


def readable(dataset: Dataset, check: bool | None, on_unreadable: str) -> Dataset:
    """The set without the files that can't be read, where those are to be skipped.

    Args:
        check: decode all files; None: where that takes less than a minute; False: look at the first
            header of each class alone.
        on_unreadable: stop | skip, which checks whatever the time.

    Raises:
        ValueError: naming files that can't be read, or for an unknown `on_unreadable`.
    """
    if on_unreadable not in ON_UNREADABLE:
        raise ValueError(f"data.on_unreadable={on_unreadable}: expected stop or skip")
    train, test = dataset.train, dataset.test
    if not (isinstance(train, FileImages) and isinstance(test, FileImages)):
        return dataset
    if on_unreadable == "stop":
        _check_first(train, test)
        if check is False:
            return dataset
    paths = (*train.paths, *test.paths)
    if check is not True and on_unreadable == "stop" and (seconds := _seconds(paths)) > UNASKED_S:
        log.info(
            "the %d image files aren't read beforehand, which takes %s; data.check=true does it",
            len(paths), duration(seconds),
        )  # fmt: skip
        return dataset
    bad = dict(_unreadable(paths, tuple(file_of(path).stat().st_mtime_ns for path in paths)))
    if not bad:
        return dataset
    some = "; ".join(list(bad.values())[:NAMED])
    text = f"{len(bad):,} of {len(paths):,} image files can't be read: {some}"
    text += "; …" if len(bad) > NAMED else ""
    if on_unreadable == "stop":
        raise ValueError(f"{text}; take them out, or data.on_unreadable=skip leaves them out")
    log.warning("warning: %s; they are left out", text)
    kept = [np.array([p not in bad for p in part.paths]).nonzero()[0] for part in (train, test)]
    return replace(dataset, train=train.take(kept[0]), test=test.take(kept[1]))


def _check_first(*parts: FileImages) -> None:
    """Raises ValueError where the first file of a class, or of all, has no header of an image."""
    from tfnas.data.augment import check_header

    for part in parts:
        by_class = part.labels.ndim == 1
        for first in np.unique(part.labels, return_index=True)[1] if by_class else (0,):
            check_header(part.paths[first])


def _seconds(paths: Sequence[str]) -> float:
    """About what it takes to decode all files."""
    some = paths[:: max(1, len(paths) // TIMED)]
    begun = time.monotonic()
    for path in some:
        _fault(path)
    return (time.monotonic() - begun) / len(some) * len(paths) / usable_cores().count


@lru_cache(maxsize=2)  # finals and their jobs load the set again
def _unreadable(paths: tuple[str, ...], _times: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    """Files with what is wrong with them. Pillow decodes beside other threads.

    Args:
        _times: when they were written, of which the answer depends.
    """
    with ThreadPoolExecutor(usable_cores().count) as pool:
        found = zip(paths, pool.map(_fault, paths), strict=True)
        return tuple((path, fault) for path, fault in found if fault is not None)


def _fault(path: str) -> str | None:
    from tfnas.data.augment import check_readable

    try:
        check_readable(path)
    except ValueError as error:
        return str(error)
    return None

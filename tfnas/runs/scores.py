"""The scores that a search was decided by: scores.json, which searches of other targets reuse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tfnas.files.atomic import write_atomically
from tfnas.files.bounded import MAX_NAME
from tfnas.files.decode import Positive, encode, load
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Evaluation

MAX_BYTES = 100_000_000
HEADER = {"format": "tfnas.scores/1"}
OLDER = ("nets", "key")  # what files of before may lack


@dataclass(frozen=True)
class Judged:
    """A net with what the search estimates it to be worth, in the unit of the scores."""

    source: Annotated[str, Meta(max_length=MAX_NAME)]  # as in finals: searched | handmade
    subnet: Subnet
    value: float


@dataclass(frozen=True)
class ScoreFile:
    """Nets that were scored, and where.

    Attributes:
        space: `SearchSpace.skeleton`.
        images: identity of the images.
        target_ms: that they were scored for; nets near it are known best.
        nets: at the target, the one that was found first; files of before have none.
        key: `SearchSpace.key` where every width is allowed; files of before have none.
    """

    space: Annotated[str, Meta(max_length=2 * MAX_NAME)]
    images: Annotated[str, Meta(max_length=2 * MAX_NAME)]
    target_ms: Positive
    evaluations: Annotated[tuple[Evaluation, ...], Meta(min_length=2)]
    nets: tuple[Judged, ...] = ()
    key: Annotated[str, Meta(max_length=2 * MAX_NAME)] | None = None

    def save(self, path: Path) -> None:
        write_atomically(path, encode(self, HEADER))

    @classmethod
    def load(cls, path: Path) -> ScoreFile:
        """Read what `save` wrote. Raises ValueError if it is unreadable or holds no scores."""
        return load(path, cls, "file of a search's scores", MAX_BYTES, HEADER, older=OLDER)

"""How fast a machine usually is: the quiet times of the anchor nets in the sessions before.

Over minutes a machine's clock and its neighbours shift every net alike. On a shared virtual machine
windows of 20 s read 1.2 % below to 2.0 % above their mean, and nets of 7 to 15 ms followed the
anchors to 0.25-0.4 %. One session can't see that, however precise; so every session that had its
processor to itself notes its anchors, and what is reported stands for the usual speed, as far as
this session's is near it. It is no table's scale: whoever measures on this machine, table or
`verify`, compares with the same fixed nets.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from profilers.measure.timing import FEWEST_SESSIONS, Usual
from tfnas.files.atomic import write_atomically
from tfnas.files.bounded import shown
from tfnas.files.decode import load
from tfnas.files.places import user_folder
from tfnas.latency.table import Device
from tfnas.space.ops import OpSpec

log = logging.getLogger(__name__)

HEADER = {"format": "tfnas.usual/1"}
MAX_BYTES = 1_000_000
SESSIONS = 40  # that are kept, the last ones


@dataclass(frozen=True)
class History:
    """The file of one device and one set of anchors.

    Attributes:
        sessions: of each one the quiet ms of every anchor, in order of time.
    """

    path: Path
    anchors: int
    sessions: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, device: Device, anchors: Sequence[Sequence[OpSpec]]) -> History:
        """What is known of a device; nothing, with a warning, where the file is damaged."""
        text = "|".join(str(op) for ops in anchors for op in ops)
        digest = hashlib.sha256(text.encode()).hexdigest()[:6]
        name = f"usual-{device.fingerprint}-{digest}.json"
        path = user_folder("state") / name
        sessions: tuple[tuple[float, ...], ...] = ()
        try:
            if path.exists():
                sessions = _load_sessions(path, len(anchors))
        except (OSError, ValueError) as error:
            log.warning("warning: %s; it is left out", error)
        return cls(path, len(anchors), sessions)

    @property
    def usual(self) -> Usual | None:
        """None before there are sessions enough to tell."""
        if len(self.sessions) < FEWEST_SESSIONS:
            return None
        logs = np.log(np.array(self.sessions))  # (sessions, anchors)
        middle = np.median(logs, axis=0)
        shifts = (logs - middle).mean(axis=1)
        # Of a median, from the median deviation: a session beside a busy neighbour moves neither.
        spread = 1.4826 * float(np.median(abs(shifts)))
        half = 1.96 * 1.2533 * spread / math.sqrt(len(self.sessions))
        return Usual(tuple(np.exp(middle).tolist()), half, len(self.sessions), spread)

    def note(self, quiet_ms: Sequence[float]) -> None:
        """Add a session. A file that can't be written is no reason to lose a measurement."""
        sessions = (*self.sessions, tuple(quiet_ms))[-SESSIONS:]
        text = json.dumps({**HEADER, "sessions": sessions})
        try:
            write_atomically(self.path, text + "\n")
        except OSError as error:
            log.debug("can't write %s: %s", self.path, error)


@dataclass(frozen=True)
class _Sessions:
    sessions: tuple[tuple[Annotated[float, Meta(gt=1e-6, lt=1e9)], ...], ...]


def _load_sessions(path: Path, anchors: int) -> tuple[tuple[float, ...], ...]:
    """Raises ValueError for what is no such file."""
    rows = load(path, _Sessions, "file of sessions", MAX_BYTES, HEADER).sessions
    for row in rows:
        if len(row) != anchors:
            raise ValueError(f"{path} holds {shown(row)}, expected the ms of {anchors} nets")
    return rows

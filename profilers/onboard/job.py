"""What a host asks a runner on a device to measure, and what comes back: JSON both ways.

Only the standard library: both ends read this file. A job's answer is a file with one line for
every round, written as rounds end, so that a broken link or a reboot loses at most the last one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from profilers.onboard.conditions import Conditions
from profilers.onboard.rounds import Sample

FORMAT = "tfnas.job/1"
JOB, SAMPLES = "job.json", "samples.jsonl"
BUSY = 75  # exit status of a runner that another measuring process kept waiting too long
UNUSABLE = 2  # of one that can't run a model, or lacks a runtime: its last line says why
MAX_MS = 1e9
MAX_TEXT = 200


@dataclass(frozen=True)
class Job:
    """Rounds to take on a device.

    Attributes:
        device: the fingerprint of what measures, see `tfnas.latency.table.Device`.
        runtime: what runs the models: onnxruntime, ncnn, or a program's name.
        threads, batch: as in `tfnas.latency.table.Device`.
        cores: to run on; empty for all.
        seed: of the order in the rounds.
        reference: the model that every sample is compared with, by the stem of its file.
        targets: (model, ms that one sample of it lasts).
        at_least, seconds: rounds are taken until both are reached.
        rest_s: pause after every round, so that a phone can cool down.
        lock_s: how long to wait for other measuring processes there.
        nonce: makes the names of jobs differ that ask for the same.
    """

    device: str
    runtime: str
    threads: int
    batch: int
    cores: tuple[int, ...]
    seed: str
    reference: str
    targets: tuple[tuple[str, float], ...]
    at_least: int
    seconds: float
    rest_s: float
    lock_s: float
    nonce: str

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @property
    def name(self) -> str:
        """Of its folder: a digest of all that it asks for."""
        return name_of(self.to_json())

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` gave. Raises ValueError for another version's job."""
        try:
            data = json.loads(text)
        except RecursionError:
            raise ValueError("a job that makes no sense: nested too deeply") from None
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise ValueError(f"no job of format {FORMAT}: host and runner differ in version")
        if set(data) != {f.name for f in fields(cls)}:
            raise ValueError(f"a job with the keys {', '.join(map(str, data))}")
        try:
            data["cores"] = tuple(map(int, data["cores"]))
            data["targets"] = tuple((str(stem), float(ms)) for stem, ms in data["targets"])
        except (TypeError, LookupError) as error:
            raise ValueError(f"a job that makes no sense: {error}") from None
        return cls(**data)


def name_of(text: str) -> str:
    """The name of the job with this text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Round:
    """One round as it was taken.

    Attributes:
        reference_ms: of every burst of the reference.
        samples: (index of the target, its sample).
        conditions: of the device after it.
    """

    reference_ms: tuple[float, ...]
    samples: tuple[tuple[int, Sample], ...]
    conditions: Conditions

    def to_json(self) -> str:
        """One line."""
        return json.dumps(
            {
                "reference_ms": self.reference_ms,
                "samples": [[index, *sample] for index, sample in self.samples],
                "readings": self.conditions.readings,
                "doubts": self.conditions.doubts,
            }
        )


def read_rounds(content: bytes, targets: int) -> Iterator[Round]:
    """The rounds of an answer; a last line that was cut off is passed over.

    Raises:
        ValueError: for anything that no runner writes: it comes from elsewhere and isn't trusted.
    """
    for line in content.split(b"\n")[:-1]:
        try:
            yield _round(json.loads(line.decode()), targets)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise ValueError(f"the device's answer makes no sense: {line[:MAX_TEXT]!r}") from None


def _round(data: dict[str, list], targets: int) -> Round:
    samples = []
    for index, ratio, ms, wall_ms in data["samples"]:
        if type(index) is not int or not 0 <= index < targets:
            raise ValueError
        samples.append((index, Sample(_positive(ratio), _positive(ms), _positive(wall_ms))))
    readings = tuple((short_text(name), _value(value)) for name, value in data["readings"][:100])
    return Round(
        tuple(_positive(ms) for ms in data["reference_ms"]),
        tuple(samples),
        Conditions(readings, tuple(short_text(doubt) for doubt in data["doubts"][:100])),
    )


def _positive(value: object) -> float:
    if type(value) not in (int, float) or not 0 < value < MAX_MS:  # type: ignore[operator]
        raise ValueError
    return float(value)  # type: ignore[arg-type]


def _value(value: object) -> float | str:
    if isinstance(value, str):
        return short_text(value)
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError
    return float(value)  # type: ignore[arg-type]


def short_text(value: object) -> str:
    """A text from a device, if it is short and printable. Raises ValueError if it isn't."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_TEXT:
        raise ValueError(f"the device's answer makes no sense: {str(value)[:MAX_TEXT]!r}")
    return value

"""history.jsonl of a run: one `EpochRecord` a line, read as a file from elsewhere."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from tfnas.files.bounded import read_bytes
from tfnas.files.decode import decode
from tfnas.strategies.contract import EpochRecord

MAX_BYTES = 20_000_000  # ninety epochs of the published space take half a million
MAX_EPOCHS = 2_000
OLDER = [f.name for f in fields(EpochRecord) if f.default is not MISSING]
NAMED = 3  # unusable lines that are named one by one


@dataclass(frozen=True)
class History:
    """What could be read.

    Attributes:
        records: in the order of their epochs, all of the same blocks, ops and stages.
        warnings: of what could not.
    """

    records: tuple[EpochRecord, ...] = ()
    warnings: tuple[str, ...] = ()


def load_history(path: Path) -> History:
    """The epochs of a run; a senseless line is left out with a warning."""
    try:
        lines = read_bytes(path, MAX_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        return History(warnings=(f"can't read {path}: {error}",))
    records: list[EpochRecord] = []
    wrong = []
    for number, line in enumerate(lines[:MAX_EPOCHS], 1):
        try:
            record = _record(line)
            if records and record.epoch <= records[-1].epoch:
                raise ValueError(f"is epoch {record.epoch} after {records[-1].epoch}")
            if records and _shape(record) != _shape(records[0]):
                raise ValueError("has other blocks, ops or stages than the epochs before")
        except ValueError as error:
            wrong.append(f"line {number} of {path} {error}")
        else:
            records.append(record)
    warnings = wrong[:NAMED]
    if len(wrong) > NAMED:
        warnings.append(f"{len(wrong) - NAMED} more lines of {path} are left out")
    if len(lines) > MAX_EPOCHS:
        warnings.append(f"of {len(lines):,} lines of {path} the first {MAX_EPOCHS:,} are shown")
    return History(tuple(records), tuple(warnings))


def _record(line: str) -> EpochRecord:
    record = decode(line, EpochRecord, older=OLDER)
    by_block = record.entropy, record.op_probs, record.sampled, record.widths
    by_stage = record.depths, record.expected_depths
    for lists in (by_block, by_stage):
        lengths = {len(rows) for rows in lists if rows}
        if len(lengths) > 1:
            raise ValueError(
                f"has lists of {', '.join(map(str, sorted(lengths)))} blocks or stages, expected "
                "one number"
            )
    ops = [len(row) for row in record.op_probs or record.sampled]
    sampled, widths = ([len(row) for row in rows] for rows in (record.sampled, record.widths))
    # A skip op has no width.
    if (sampled and sampled != ops) or (
        ops and not all(n - w in (0, 1) for n, w in zip(ops, widths, strict=False))
    ):
        raise ValueError("has other numbers of ops in op_probs, sampled and widths")
    return record


def _shape(record: EpochRecord) -> tuple[Any, ...]:
    nested = (record.op_probs, record.depth_probs, record.sampled, record.widths)
    return (
        len(record.depths),
        len(record.entropy),
        *(tuple(len(row) for row in rows) for rows in nested),
    )

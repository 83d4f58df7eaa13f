"""history.jsonl of a run: one `EpochRecord` a line, read as a file from elsewhere."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from tfnas.files.bounded import parse_json, read_bytes, shown
from tfnas.strategies.contract import EpochRecord

HISTORY = "history.jsonl"
MAX_BYTES = 20_000_000  # ninety epochs of the published space take half a million
MAX_EPOCHS = 2_000
MAX_BLOCKS, MAX_OPS = 1_000, 100  # blocks or stages; ops of a block or depths of a stage
TOLD = 3  # unusable lines that are told one by one


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
    """The epochs of a run; a line that makes no sense is left out and told, never an error."""
    try:
        lines = read_bytes(path, MAX_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        return History(warnings=(f"can't read {path}: {error}",))
    records: list[EpochRecord] = []
    wrong = []
    for number, line in enumerate(lines[:MAX_EPOCHS], 1):
        try:
            record = _record(parse_json(line))
            if records and record.epoch <= records[-1].epoch:
                raise ValueError(f"is epoch {record.epoch} after {records[-1].epoch}")
            if records and _shape(record) != _shape(records[0]):
                raise ValueError("has other blocks, ops or stages than the epochs before")
        except ValueError as error:
            wrong.append(f"line {number} of {path} {error}")
        else:
            records.append(record)
    warnings = wrong[:TOLD]
    if len(wrong) > TOLD:
        warnings.append(f"{len(wrong) - TOLD} more lines of {path} are left out")
    if len(lines) > MAX_EPOCHS:
        warnings.append(f"of {len(lines):,} lines of {path} the first {MAX_EPOCHS:,} are shown")
    return History(tuple(records), tuple(warnings))


def _record(values: Any) -> EpochRecord:
    known = {f.name: str(f.type) for f in fields(EpochRecord)}
    needed = {f.name for f in fields(EpochRecord) if f.default is MISSING}  # older runs lack others
    if not isinstance(values, dict) or not needed <= set(values) <= set(known):
        raise ValueError(f"holds {shown(values)}, expected the fields {', '.join(known)}")
    found = {name: _value(value, known[name], name) for name, value in values.items()}
    for name in ("train_top1", "held_out_top1"):
        if not 0 <= found[name] <= 100:
            raise ValueError(f"has {name}={found[name]:g}, expected percent")
    record = EpochRecord(**found)
    by_block = record.entropy, record.op_probs, record.sampled, record.widths
    by_stage = record.depths, record.expected_depths
    for lists in (by_block, by_stage, (record.depth_probs,)):
        lengths = {len(rows) for rows in lists if rows}
        if len(lengths) > 1 or max(lengths, default=0) > MAX_BLOCKS:
            raise ValueError(
                f"has lists of {', '.join(map(str, sorted(lengths)))} blocks or stages, expected "
                f"one number up to {MAX_BLOCKS:,}"
            )
    for rows in (record.op_probs, record.sampled, record.widths, record.depth_probs):
        if not all(0 < len(row) <= MAX_OPS for row in rows):
            raise ValueError(f"has a block or stage without choices, or with more than {MAX_OPS}")
    if max(record.depths, default=0) > MAX_BLOCKS:
        raise ValueError(f"has depths={shown(record.depths)}, expected up to {MAX_BLOCKS:,}")
    ops = [len(row) for row in record.op_probs or record.sampled]
    sampled, widths = ([len(row) for row in rows] for rows in (record.sampled, record.widths))
    # A skip op has no width.
    if (sampled and sampled != ops) or (
        ops and not all(n - w in (0, 1) for n, w in zip(ops, widths, strict=False))
    ):
        raise ValueError("has other numbers of ops in op_probs, sampled and widths")
    return record


def _value(value: Any, kind: str, name: str) -> Any:
    """A JSON value as a field of that type; raises ValueError if it can't be one."""
    if kind.endswith(" | None"):
        return None if value is None else _value(value, kind.removesuffix(" | None"), name)
    if inner := re.fullmatch(r"tuple\[(.*), \.\.\.\]", kind):
        if type(value) is not list:
            raise ValueError(f"has {name}={shown(value)}, expected a list")
        return tuple(_value(v, inner[1], name) for v in value)
    if kind == "int":
        if type(value) is int and value >= 0:
            return value
        raise ValueError(f"has {name}={shown(value)}, expected a whole number from 0 on")
    if type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"has {name}={shown(value)}, expected a number")


def _shape(record: EpochRecord) -> tuple[Any, ...]:
    nested = (record.op_probs, record.depth_probs, record.sampled, record.widths)
    return (
        len(record.depths),
        len(record.entropy),
        *(tuple(len(row) for row in rows) for rows in nested),
    )

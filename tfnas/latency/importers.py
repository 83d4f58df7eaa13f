"""Published latency tables of other projects, read into ours.

`tfnas.latency.layouts` has a small reader for each documented layout. Foreign files are data, never
code: `tfnas.files.bounded` reads numbers, texts, lists and dicts and refuses anything else.

An imported table says what is known and no more: device and batch as stated on import, spread and
versions unknown. Its device isn't here, so nothing found with it counts as verified.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfnas.files.bounded import MAX_NAME, check_text, parse_json, parse_yaml, read_bytes, shown
from tfnas.files.pickles import parse_pickle
from tfnas.latency.layouts import LAYOUTS, Entry, Foreign
from tfnas.latency.table import IMPORTED, Device, LatencyTable, Measurement, Unit
from tfnas.space.ops import OpSpec

MAX_BYTES = 20_000_000
POSSIBLE = (1e-9, 1e9)  # latencies, in whatever unit; beyond, dividing them overflows
UNITS: Mapping[str, tuple[Unit, float]] = {  # the table's unit, and how many of it one is
    "s": ("ms", 1e3), "ms": ("ms", 1.0), "us": ("ms", 1e-3),
    "J": ("mJ", 1e3), "mJ": ("mJ", 1.0), "uJ": ("mJ", 1e-3),
}  # fmt: skip
PICKLES = (".pkl", ".pickle")
OUTLIER = 0.3  # distance from the line between both neighbours, as a fraction of it


@dataclass(frozen=True)
class Imported:
    """A table and what was noticed about the file, a line each."""

    table: LatencyTable
    report: tuple[str, ...]


def read(
    path: Path | str,
    *,
    layout: str | None = None,
    unit: str | None = None,
    device: str,
    batch: int,
    precision: str = "fp32",
    threads: int = 0,
    partial: bool = False,
) -> Imported:
    """Import a foreign table.

    Args:
        layout: a key of `LAYOUTS`; None to recognize it.
        unit: s | ms | us of the file's values, or J | mJ | uJ where they are energies; needed where
            the layout doesn't fix it.
        device: what it was measured on, in words.
        batch: images in each measured run.
        threads: 0 if unknown.
        partial: leave out what `OpSpec` can't express, and report it, instead of raising.

    Raises:
        ValueError: for an unreadable, unsafe or unknown file, a unit missing or in conflict with
            the layout's, and ops that can't be expressed.
    """
    path = Path(path)
    if not 1 <= batch <= 1_000_000 or not device:
        raise ValueError(f"device={device!r} batch={batch}: state what the table was measured on")
    for key, text in (("device", device), ("precision", precision)):
        try:
            check_text(text, MAX_NAME)
        except ValueError as error:
            raise ValueError(f"{key} {error}") from None
    name, foreign = _foreign(path, layout, batch)
    unit = _unit(name, unit)
    own_unit, factor = UNITS[unit]
    lost = [entry for entry in foreign.entries if entry.op is None and entry.measured]
    if lost and (not partial or len(lost) == len(foreign.entries)):
        raise ValueError(
            f"{path}: {len(lost)} of {len(foreign.entries)} entries can't be expressed as ops of "
            f"this project, such as {shown(lost[0].key)}; --partial (partial=True) "
            "imports the others"
        )
    report = [f"layout {name} ({LAYOUTS[name].source}), unit {unit}"]
    report += _impossible(foreign, unit)
    if lost:
        report.append(
            f"{len(lost)} entries left out, which no op here expresses, such as "
            f"{shown(lost[0].key)}"
        )
    rows, dropped, repeated = _rows(foreign, factor)
    if not rows:
        raise ValueError(f"{path}: no usable entry")
    overhead_ms = None if foreign.overhead is None else foreign.overhead * factor
    if overhead_ms is not None and not 0 <= overhead_ms <= POSSIBLE[1]:
        raise ValueError(f"{path}: impossible latency of {overhead_ms} ms for stem and head")
    interpolated = sum(not entry.measured for entry in foreign.entries)
    report.append(
        f"{len(rows)} measured points kept"
        + (f", {interpolated} that the file interpolates left out" if interpolated else "")
        + (f", {dropped} impossible ones dropped" if dropped else "")
        + (f", {repeated} repeated ones merged into medians" if repeated else "")
    )
    name_of_file = path.name.encode(errors="replace").decode()
    notes = (f"imported from {name_of_file}", *report, *foreign.notes)
    table = LatencyTable(
        device=Device(
            kind=IMPORTED,
            name=device,
            backend="unknown",
            precision=precision,
            batch=batch,
            threads=threads,
            fingerprint=f"imported {name}: {device}, {precision}, batch {batch}",
            quantum=foreign.quantum,
        ),
        rows=rows,
        overhead_ms=overhead_ms,
        notes=notes,
        unit=own_unit,
        source=str(path),
    )
    return Imported(table, (*report, *foreign.notes))


def impossible_values(
    path: Path | str, *, layout: str | None = None, unit: str | None = None
) -> tuple[str, ...]:
    """What a lint says of the raw file: values that aren't positive, and outliers of curves.

    Without a unit where the layout fixes none, values keep the file's own unit.

    Raises:
        ValueError: if the file can't be read.
    """
    name, foreign = _foreign(Path(path), layout, 1)
    return tuple(_impossible(foreign, LAYOUTS[name].unit or unit or "(unit not stated)"))


def fixed_unit(path: Path | str, layout: str | None = None) -> str | None:
    """The unit that a file's layout fixes, if it does. Raises ValueError as `read`."""
    name, _ = _foreign(Path(path), layout, 1)
    return LAYOUTS[name].unit


def recognize(path: Path | str) -> str:
    """The layout of a file, a key of `LAYOUTS`.

    Raises:
        ValueError: if it is unreadable, or of none or several layouts.
    """
    return _recognize(Path(path), _parse(Path(path)))


def _recognize(path: Path, content: Any) -> str:
    found = [name for name, layout in LAYOUTS.items() if layout.recognizes(content)]
    if len(found) != 1:
        raise ValueError(
            f"{path} is of {'no' if not found else 'more than one'} known layout "
            f"({', '.join(found or LAYOUTS)}); say which with --layout NAME if it is one of them"
        )
    return found[0]


def _foreign(path: Path, layout: str | None, batch: int) -> tuple[str, Foreign]:
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    content = _parse(path)
    name = layout or _recognize(path, content)
    if not LAYOUTS[name].recognizes(content):
        raise ValueError(f"{path} doesn't have the layout {name} ({LAYOUTS[name].source})")
    try:
        return name, LAYOUTS[name].read(content, batch)
    except ValueError as error:
        raise ValueError(f"{path}, read as {name}: {error}") from None


def _unit(name: str, unit: str | None) -> str:
    fixed = LAYOUTS[name].unit
    if unit is not None and unit not in UNITS:
        raise ValueError(f"unit {unit!r}: expected one of {', '.join(UNITS)}")
    if fixed is None and unit is None:
        raise ValueError(
            f"the layout {name} doesn't fix the unit of its values: give --unit (unit=), one of "
            f"{', '.join(UNITS)}"
        )
    if fixed is not None and unit not in (None, fixed):
        raise ValueError(f"unit={unit}: the layout {name} is in {fixed}")
    return fixed or unit or ""


def _rows(foreign: Foreign, ms: float) -> tuple[dict[OpSpec, Measurement], int, int]:
    """Measured rows, number of impossible points dropped, number of repeated points merged."""
    values: dict[OpSpec, list[float]] = {}
    dropped = 0
    for entry in foreign.entries:
        if entry.op is None or not entry.measured:
            continue
        if _possible(entry.value):
            values.setdefault(entry.op, []).append(entry.value * ms)
        else:
            dropped += 1
    rows = {op: Measurement(float(np.median(v)), math.nan, len(v)) for op, v in values.items()}
    return rows, dropped, sum(len(v) for v in values.values()) - len(values)


def _possible(value: float) -> bool:
    return POSSIBLE[0] < value < POSSIBLE[1]


def _impossible(foreign: Foreign, unit: str) -> list[str]:
    lines = []
    bad = [entry for entry in foreign.entries if not _possible(entry.value)]
    if bad:
        keys = {_curve_key(entry) for entry in bad}
        least = min(bad, key=lambda entry: (math.isfinite(entry.value), entry.value))
        measured = sum(entry.measured for entry in bad)
        lines.append(
            f"{len(bad)} of {len(foreign.entries)} entries are impossible (not positive), in "
            f"{len(keys)} keys; least {least.value:.4g} {unit} at {shown(least.key)}; {measured} "
            "of them are measured points"
        )
    if outliers := _outliers(foreign):
        share, entry = max(outliers, key=lambda pair: abs(pair[0]))
        lines.append(
            f"{len(outliers)} measured points lie more than {OUTLIER:.0%} off the line between "
            f"their neighbours; worst {share:+.0%}, {entry.value:.4g} {unit} at {shown(entry.key)}"
        )
    return lines


def _curve_key(entry: Entry) -> str:
    return entry.key.partition(" · ")[0]


def _outliers(foreign: Foreign) -> list[tuple[float, Entry]]:
    curves: dict[OpSpec, list[Entry]] = {}
    for entry in foreign.entries:
        if entry.op is not None and entry.measured and _possible(entry.value):
            curves.setdefault(entry.op.curve, []).append(entry)
    found = []
    for entries in curves.values():
        ordered = sorted(entries, key=lambda e: e.op.c_mid if e.op else 0)
        x = np.array([e.op.c_mid if e.op else 0 for e in ordered], float)
        y = np.array([e.value for e in ordered])
        if len(ordered) < 3 or (np.diff(x) == 0).any():
            continue
        share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
        line = y[:-2] + share * (y[2:] - y[:-2])
        off = y[1:-1] / line - 1
        found += [(float(off[i]), ordered[i + 1]) for i in np.flatnonzero(abs(off) > OUTLIER)]
    return found


# --- files, safely -------------------------------------------------------------------------------


def _parse(path: Path) -> Any:
    try:
        data = read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ValueError(f"can't read {path}: {error}") from None
    if path.suffix in PICKLES or data[:1] == b"\x80":
        try:
            return parse_pickle(data)
        except ValueError as error:
            raise ValueError(f"{path}: refused: the pickle {error}") from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no pickle, and no text in UTF-8: {error}") from None
    try:
        return parse_json(text) if text.lstrip().startswith("[") else parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None

"""python -m tfnas.table show | page | lint | compare | import FILE ...

A plain command line: exit 0 done (warnings included), 1 lint errors, 2 unusable input.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np

from tfnas.files.atomic import write_atomically
from tfnas.latency.lint import lint
from tfnas.latency.table import CARD_FIELDS, LatencyTable, Measurement
from tfnas.process.exits import DONE, exit_after

if TYPE_CHECKING:
    from tfnas.latency.importers import Imported

LINT_ERRORS = 1
SHOWN = 5  # findings of a kind
Key = TypeVar("Key")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse, run, and exit with the status."""
    args = _parser().parse_args(arguments)
    commands = {
        "show": _show, "page": _page, "lint": _lint, "compare": _compare, "import": _import,
    }  # fmt: skip
    exit_after(lambda: commands[args.command](args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tfnas.table", description="Latency tables.")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print a table's context and rows")
    page = commands.add_parser("page", help="draw a table and its calibration card as an HTML page")
    lint_ = commands.add_parser(
        "lint", help="say what is wrong or odd in a table; exit 1 on errors"
    )
    compare = commands.add_parser("compare", help="say how two tables differ in what both measured")
    import_ = commands.add_parser("import", help="read another project's table")
    for command in (show, page, lint_, compare, import_):
        command.add_argument("file", type=Path)
    compare.add_argument("other", type=Path)
    show.add_argument("--rows", type=int, default=20, help="how many rows to print (0: all)")
    page.add_argument(
        "--out", type=Path, help="page to write; FILE.html beside the table if not given"
    )
    lint_.add_argument("--all", action="store_true", help="print all findings of each kind")
    import_.add_argument("--out", type=Path, required=True, help="table file to write")
    for command in (lint_, import_):
        command.add_argument("--device", help="name of the device that it was measured on")
        command.add_argument("--batch", type=int, help="images in a batch there")
        command.add_argument("--unit", help="unit of its latencies, where the file doesn't say")
        command.add_argument("--layout", help="the project it comes from, where that isn't plain")
        command.add_argument(
            "--partial", action="store_true", help="leave out ops that this project doesn't have"
        )
    return parser


def _show(args: argparse.Namespace) -> int:
    table = _load(args.file)
    device = table.device
    versions = ", ".join(f"{name} {version}" for name, version in device.versions.items())
    print(f"{args.file}")
    print(
        f"  device       {device.name} ({device.kind}, {device.backend}; {versions or 'unknown'})"
    )
    print(f"  context      {device.precision}, batch {device.batch}, threads {device.threads}")
    print(f"  fingerprint  {device.fingerprint}")
    print(f"  quantum      {device.quantum} ({len(table.quantum_evidence)} widths probed)")
    if table.overhead_ms is not None:
        print(f"  overhead     {table.overhead_ms:.4g} ms for stem and head")
    for key, fit in table.spaces.items():
        print(f"  space        {key}")
        if c := fit.calibration:
            print(f"    calibration  × {c.scale:.4f} from {c.nets} nets (error {c.mape_pct:.2f} %)")
        if h := fit.held_out:
            print(f"    held out     {h.mean_pct:.2f} % mean, {h.p95_pct:.2f} % p95 "
                  f"({h.points} points)")  # fmt: skip
        if fit.card:
            figures = ((name, fit.card.get(name)) for name in CARD_FIELDS)
            shown = ", ".join(f"{name} {value:.3g}" for name, value in figures if value is not None)
            print(f"    card         {shown}")
    for note in table.notes:
        print(f"  note         {note}")
    print(f"  rows         {len(table.rows)}, as measured (before calibration)")
    rows = sorted(table.rows.items(), key=lambda item: str(item[0]))
    limit = args.rows or len(rows)
    for op, row in rows[:limit]:
        known = row.median_ms > 0 and not math.isnan(row.spread_ms)
        spread = f" ± {100 * row.spread_ms / row.median_ms:.1f} %" if known else ""
        print(f"    {row.median_ms:9.4f} {table.unit}{spread}  {op}  ({row.runs} samples)")
    if len(rows) > limit:
        print(f"    ... {len(rows) - limit} more (--rows 0 prints all)")
    return DONE


def _page(args: argparse.Namespace) -> int:
    out: Path = args.out or args.file.with_suffix(".html")
    if out.resolve() == args.file.resolve():
        raise ValueError(f"{out} is the table itself; give another file with --out")
    table = _load(args.file)
    if table.unit != "ms":
        raise ValueError(
            f"{args.file} is in {table.unit}: pages are drawn of latencies; see `show`"
        )
    from tfnas.pages.table import table_page

    write_atomically(out, table_page(table))
    print(f"wrote {out}")
    return DONE


def _compare(args: argparse.Namespace) -> int:
    """Ops and whole nets that both measured: the second against the first."""
    tables = [_load(path) for path in (args.file, args.other)]
    for path, table in zip((args.file, args.other), tables, strict=True):
        d = table.device
        print(f"{path}: {d.name} ({d.kind}, {d.backend}, {d.precision}, batch {d.batch}, "
              f"threads {d.threads}), quantum {d.quantum}")  # fmt: skip
    one, other = tables
    compared = [
        _comparison(what, pairs)
        for what, pairs in (
            ("ops", _common(one.rows, other.rows)),
            ("nets", _common(one.nets, other.nets)),
        )
        if pairs
    ]
    if not compared:
        raise ValueError("the tables have no op and no net in common")
    print("\n".join(compared))
    return DONE


def _common(
    rows: Mapping[Key, Measurement], others: Mapping[Key, Measurement]
) -> list[tuple[Measurement, Measurement]]:
    return [(row, others[key]) for key, row in rows.items() if key in others]


def _comparison(what: str, pairs: Sequence[tuple[Measurement, Measurement]]) -> str:
    """How the second measurements stand to the first."""
    ratios = np.array([b.median_ms / a.median_ms for a, b in pairs])
    middle = float(np.median(ratios))
    off = 100 * abs(ratios / middle - 1)
    # Both half-widths are of 95 % intervals, so their difference has one of the root of squares.
    noise = [math.hypot(a.spread_ms / a.median_ms, b.spread_ms / b.median_ms) for a, b in pairs]
    known = np.isfinite(noise)
    within = "their intervals aren't known"
    if known.any():
        inside = 100 * np.mean(off[known] / 100 <= np.array(noise)[known])
        within = f"{inside:.0f} % of {known.sum()} within both 95 % intervals"
    total = sum(b.median_ms for _, b in pairs) / sum(a.median_ms for a, _ in pairs)
    return (
        f"  {len(pairs)} {what}: median ratio {middle:.4f}, ratio of sums {total:.4f}; off the "
        f"median ratio by {off.mean():.2f} % on average, {np.percentile(off, 95):.2f} % (95th "
        f"percentile); {within}"
    )


def _lint(args: argparse.Namespace) -> int:
    """Lint a table of ours, or any file that `import` reads, as far as it can be read."""
    raw: tuple[str, ...] = ()
    unstated = False
    if _is_ours(args.file):
        findings = lint(LatencyTable.load(args.file))
    else:
        from tfnas.latency.importers import fixed_unit, impossible_values

        raw = impossible_values(args.file, layout=args.layout, unit=args.unit)
        unstated = not (args.unit or fixed_unit(args.file, args.layout))
        args.unit, args.partial = "ms" if unstated else args.unit, True
        imported = _read(args)
        findings = lint(imported.table)
        for line in imported.report[1 + len(raw) :]:
            print(line)
    kinds: Counter[str] = Counter()
    for line in raw:
        print(f"error: {line}")
    for finding in findings:
        kinds[finding.rule] += 1
        if args.all or kinds[finding.rule] <= SHOWN:
            # The figures are those of the file then, whatever they are.
            print(re.sub(r"(?<=\d) ms\b", "", str(finding)) if unstated else finding)
    for rule, count in kinds.items():
        if count > SHOWN and not args.all:
            print(f"... {count - SHOWN} more of {rule} (--all prints them)")
    errors = len(raw) + sum(finding.error for finding in findings)
    print(f"{args.file}: {errors} errors, {len(raw) + len(findings) - errors} warnings")
    return LINT_ERRORS if errors else DONE


def _load(path: Path) -> LatencyTable:
    """A table of ours. Raises ValueError."""
    if not _is_ours(path):
        raise ValueError(
            f"{path} is no table of this project; `python -m tfnas.table import {path} --out FILE` "
            "reads other projects' tables"
        )
    return LatencyTable.load(path)


def _is_ours(path: Path) -> bool:
    """Whether a file is to be read as a table of ours: JSON, or not there at all."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"{"


def _read(args: argparse.Namespace) -> Imported:
    from tfnas.latency.importers import read

    return read(
        args.file,
        layout=args.layout,
        unit=args.unit,
        device=args.device or f"unknown device of {args.file.name}",
        batch=1 if args.batch is None else args.batch,
        partial=args.partial,
    )


def _import(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise ValueError(f"{args.out} exists; delete it or write another file")
    for name, value in (("--device", args.device), ("--batch", args.batch)):
        if value is None:
            print(f"warning: no {name} given; the table says unknown device, batch 1", flush=True)
    imported = _read(args)
    for line in imported.report:
        print(line)
    imported.table.save(args.out)
    print(f"wrote {args.out}: {len(imported.table.rows)} rows")
    return DONE


if __name__ == "__main__":
    main()

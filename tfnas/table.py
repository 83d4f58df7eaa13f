"""python -m tfnas.table show | page | lint | compare | import FILE ...

A plain command line: exit 0 done (warnings included), 1 lint errors, 2 unusable input. With --json
standard output is the result alone.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tfnas.files.atomic import write_atomically
from tfnas.files.decode import encode
from tfnas.latency.lint import Finding, lint
from tfnas.latency.summary import CompareResult, LintResult, Summary
from tfnas.latency.table import CARD_FIELDS, LatencyTable
from tfnas.process.exits import DONE, exit_after

if TYPE_CHECKING:
    from tfnas.latency.importers import Imported

LINT_ERRORS = 1
SHOWN = 5  # findings of a kind


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
    for command in (show, lint_, compare):
        command.add_argument("--json", action="store_true", help="print all of it as JSON")
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
    found = Summary.of(_load(args.file))
    if args.json:
        print(encode(found), end="")
        return DONE
    device = found.device
    versions = ", ".join(f"{name} {version}" for name, version in device.versions.items())
    print(f"{found.file}")
    print(
        f"  device       {device.name} ({device.kind}, {device.backend}; {versions or 'unknown'})"
    )
    print(f"  context      {device.numbers}, batch {device.batch}, threads {device.threads}")
    print(f"  fingerprint  {device.fingerprint}")
    print(f"  quantum      {device.quantum} ({found.widths_probed} widths probed)")
    if found.overhead_ms is not None:
        print(f"  overhead     {found.overhead_ms:.4g} ms for stem and head")
    for key, fit in found.spaces.items():
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
    for note in found.notes:
        print(f"  note         {note}")
    print(f"  rows         {len(found.rows)}, as measured (before calibration)")
    limit = args.rows or len(found.rows)
    for row in found.rows[:limit]:
        spread = ""
        if row.spread is not None and row.median > 0:
            spread = f" ± {100 * row.spread / row.median:.1f} %"
        print(f"    {row.median:9.4f} {found.unit}{spread}  {row.op}  ({row.samples} samples)")
    if len(found.rows) > limit:
        print(f"    ... {len(found.rows) - limit} more (--rows 0 prints all)")
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
    found = CompareResult.of(_load(args.file), _load(args.other))
    if args.json:
        print(encode(found), end="")
        return DONE
    for file, d in zip(found.files, found.devices, strict=True):
        print(f"{file}: {d.name} ({d.kind}, {d.backend}, {d.numbers}, batch {d.batch}, "
              f"threads {d.threads}), quantum {d.quantum}")  # fmt: skip
    print("\n".join(map(str, found.agreements)))
    return DONE


def _lint(args: argparse.Namespace) -> int:
    found = _linted(args)
    if args.json:
        print(encode(found), end="")
        return LINT_ERRORS if found.errors else DONE
    for line in found.remarks:
        print(line)
    kinds: Counter[str] = Counter()
    for finding in found.findings:
        kinds[finding.rule] += 1
        if args.all or kinds[finding.rule] <= SHOWN:
            print(finding)
    for rule, count in kinds.items():
        if count > SHOWN and not args.all:
            print(f"... {count - SHOWN} more of {rule} (--all prints them)")
    print(f"{found.file}: {found.errors} errors, {found.warnings} warnings")
    return LINT_ERRORS if found.errors else DONE


def _linted(args: argparse.Namespace) -> LintResult:
    """Lint a table of ours, or any file that `import` reads, as far as it can be read."""
    if _is_ours(args.file):
        return LintResult.of(str(args.file), lint(LatencyTable.load(args.file)), ())
    from tfnas.latency.importers import fixed_unit, impossible_values

    raw = impossible_values(args.file, layout=args.layout, unit=args.unit)
    unstated = not (args.unit or fixed_unit(args.file, args.layout))
    args.unit, args.partial = "ms" if unstated else args.unit, True
    imported = _read(args)
    findings = [Finding(True, "raw values", line) for line in raw] + lint(imported.table)
    if unstated:  # the figures are those of the file then, whatever they are
        findings = [replace(f, text=re.sub(r"(?<=\d) ms\b", "", f.text)) for f in findings]
    return LintResult.of(str(args.file), findings, imported.report[1 + len(raw) :])


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

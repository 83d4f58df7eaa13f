"""python -m tfnas.report RUN [RUN ...]

One table of what runs of `tfnas.search` found, and of what became of those that found nothing, and
a page: of one run all that its folder tells, of several how they compare. nets.csv beside the
table has all nets that these searches know of, results.csv those that are trained. A RUN is the
folder of a run or of a sweep. What stands in their files is checked and escaped before
it is printed or written: a folder may come from elsewhere. A plain command line: exit 0 done, 2
unusable input, 3 if the page could not be drawn. With --json standard output is the runs alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tfnas.app.command_line import override
from tfnas.app.gathering import gather
from tfnas.files.atomic import write_atomically
from tfnas.files.bounded import csv_cell, printable
from tfnas.intervals import plus_minus
from tfnas.process.checks import check_writable
from tfnas.process.exits import DONE, FAILED, STATUS_NAMES, UNUSABLE_INPUT, exit_after
from tfnas.runs.files import read_files
from tfnas.runs.folder import RunFolder
from tfnas.runs.nets import Net, together
from tfnas.runs.nets import to_csv as nets_csv
from tfnas.runs.run import UNFINISHED, Run, clean

NOTHING = "–"
NETS, RESULTS = "nets.csv", "results.csv"
HEADER = (
    "run", "target", "table", "measured ± 95 %", "precision", "gap", "within", "strategy", "seed",
    "device", "space", "accuracy", "status",
)  # fmt: skip
COLUMNS = (
    "run", "target_ms", "table_ms", "measured_ms", "measured_low_ms", "measured_high_ms", "gap",
    "within", "strategy", "seed", "device", "space", "top1", "top1_resolution", "doubtful",
    "status", "told", "precision", "top1_float", "top1_int8",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse, report, and exit with the status."""
    args = _parser().parse_args(arguments)
    exit_after(lambda: _report(args.runs, args.csv, args.json))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfnas.report", description="What searches found: one table, and a page."
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of a sweep"
    )
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="table file to write; runs.csv in the folder if one is given, else in the current one",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the runs as JSON, all else on standard error"
    )
    return parser


def _report(folders: Sequence[Path], file: Path | None, as_json: bool) -> int:
    file = file or (folders[0] if len(folders) == 1 else Path()) / "runs.csv"
    single = len(folders) == 1 and RunFolder(folders[0]).is_run
    if not single and RunFolder(file.parent).is_run:
        raise ValueError(
            f"{file.parent} is a run's folder, whose own page that of several runs would "
            "replace: give another folder's file with --csv FILE"
        )
    found: dict[Path, Run] = {}
    for folder in folders:
        runs, warnings = gather(folder)
        for line in warnings:
            print(f"warning: {line}", file=sys.stderr)
        for run in runs:
            found.setdefault(run.folder.resolve(), run)
    runs = list(found.values())
    if not as_json:
        print("\n".join([table(runs), *advice(runs)]))
        return _write(folders[0] if single else None, runs, file)
    print(to_json(runs), end="", flush=True)
    with redirect_stdout(sys.stderr):
        return _write(folders[0] if single else None, runs, file)


def _write(single: Path | None, runs: Sequence[Run], file: Path) -> int:
    """The table files, and the pages; the exit status."""
    check_writable(file)
    write_atomically(file, to_csv(runs))
    print(f"wrote {file}: {len(runs)} run{'s' if len(runs) != 1 else ''}")
    nets = together(read_files(run.folder) for run in runs if run.gap is not None)
    if nets:
        write_atomically(file.parent / NETS, nets_csv(nets))
        print(f"wrote {file.parent / NETS}: {len(nets)} nets")
    _write_results(runs, file.parent / RESULTS)
    return _write_pages(single, runs, nets, file.parent)


def _write_results(runs: Sequence[Run], file: Path) -> None:
    """The nets that are trained, if any is; one that can't be read is a warning."""
    from tfnas.runs.timm_results import to_csv as results_csv
    from tfnas.runs.timm_results import trained_net

    trained = []
    for run in runs:
        try:
            net = trained_net(run.folder) if run.top1 is not None else None
        except ValueError as error:
            print(f"warning: {clean(str(error))}", file=sys.stderr)
            continue
        trained += [net] if net else []
    if trained:
        write_atomically(file, results_csv(trained))
        print(f"wrote {file}")


def _write_pages(single: Path | None, runs: Sequence[Run], nets: Sequence[Net], base: Path) -> int:
    """The page of the one run that was given, else of all, in `base`, with those of single runs
    that have a result and none yet; the exit status. One that fails is a warning: the table is
    printed already."""
    from tfnas.pages.run import write_report  # which draws: matplotlib takes its time

    if single is not None:
        return DONE if _written(single, lambda: write_report(single)) else FAILED
    from tfnas.pages.runs import runs_page

    for run in runs:
        if run.gap is not None and not RunFolder(run.folder).report.exists():
            _written(run.folder, partial(write_report, run.folder), told=False)

    def write_all() -> Path:
        file = RunFolder(base).report
        write_atomically(file, runs_page(runs, base, nets))
        return file

    return DONE if _written(base, write_all) else FAILED


def _written(folder: Path, write: Callable[[], Path], *, told: bool = True) -> bool:
    """Whether a page could be written: whatever is raised for what a file holds is a warning."""
    try:
        file = write()
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}")
        print(f"warning: no page in {folder} ({reason})", file=sys.stderr)
        return False
    if told:
        print(f"wrote {file}")
    return True


def table(runs: Iterable[Run]) -> str:
    """The runs as text, in columns."""
    rows = [HEADER, *(tuple(map(printable, _cells(run))) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cells(run: Run) -> tuple[str, ...]:
    measured = _ms(run.measured_ms)
    if run.measured_ms is not None and run.measured_ci_ms is not None:
        measured = f"{run.measured_ms:.4g} {plus_minus(*run.measured_ci_ms)} ms"
    return (
        str(run.folder),
        _ms(run.target_ms),
        _ms(run.table_ms),
        measured + (" (doubtful)" if run.doubtful else ""),
        run.precision or NOTHING,
        NOTHING if run.gap is None else f"{100 * run.gap:+.2f} %",
        NOTHING if run.within is None else ("yes" if run.within else "NO"),
        run.strategy or NOTHING,
        NOTHING if run.seed is None else str(run.seed),
        run.device or NOTHING,
        run.space or NOTHING,
        run.told_top1 or NOTHING,
        run.status,
    )


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g} ms"


def advice(runs: Sequence[Run]) -> list[str]:
    """Why runs have no result, and how to go on."""
    lines = []
    for run in runs:
        if run.reason:
            log = RunFolder(run.folder).log
            see = f"; see {log}" if run.status == "failed" and log.is_file() else ""
            lines.append(f"{run.folder}: {run.status}: {run.reason}{see}")
    if any(run.status == STATUS_NAMES[UNUSABLE_INPUT] for run in runs):
        lines.append("what is refused needs other options: the same ones are refused again")
    again = {r.resume: r.launcher for r in runs if r.resume and r.status in UNFINISHED}
    for folder, launcher in again.items():
        given = shlex.quote(override("resume", folder))
        lines.append(f"go on: {launcher} -m tfnas.search {given}")
    return list(map(printable, lines))


def to_csv(runs: Iterable[Run]) -> str:
    """The runs as comma-separated values, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in runs:
        writer.writerow(map(csv_cell, _values(run).values()))
    return text.getvalue()


def to_json(runs: Sequence[Run]) -> str:
    """The runs by the names of the columns, and why some have no result."""
    rows = [_values(run) for run in runs]
    return json.dumps({"runs": rows, "advice": advice(runs)}, indent=1, allow_nan=False) + "\n"


def _values(run: Run) -> dict[str, Any]:
    """By `COLUMNS`."""
    low, high = run.measured_ci_ms or (None, None)
    return {
        **{name: getattr(run, name, None) for name in COLUMNS},
        "run": str(run.folder),
        "told": run.reason,
        "measured_low_ms": low,
        "measured_high_ms": high,
    }


if __name__ == "__main__":
    main()

"""python -m benchmarks.quality DATA [COMPARISON ...] --out FOLDER [--processes 2] [--group 0]

Does the search pay? On real images, in a space whose deployed resolution is the trained one
(conf/space/small.yaml, 32 px, with the table `benchmarks/quality/table.json`), all nets at one
latency on that table, trained from scratch by one recipe (conf/recipe/small.yaml).

DATA is `fashion_mnist` (the shipped cut) or an archive that `benchmarks.quality.make_emoji` made.
Comparisons, all of them if none is named:

    pays         TF-NAS's nets against random ones, SPOS's, and hand-made ones
    rank         does a supernet rank? its accuracy against trained accuracy of the random nets
    inherit      training from the supernet's weights against training from scratch
    start        ops that start alike against ops with starts of their own, as published
    derive       sink-connecting against skip as an op, constrained against greedy derivation
    second_path  bi-sampling against single sampling at equal cost, and other second paths

N and budget of each stand at the top of `benchmarks/quality/plan.py`, and are written into FOLDER
before anything runs. A job's result is a line of FOLDER/results.jsonl as soon as it is there; the
same command goes on with what is missing. The tables are printed at the end, whatever they say;
`--tables` prints those of what is done. Seeds begin at 100 times the group. Times are those of the
CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.quality.jobs import Job, Setting, Study, run
from benchmarks.quality.plan import RESULTS, SHIPPED, check_group, check_setting, plan, setting_of
from benchmarks.quality.tables import Results, tables
from tfnas.files.atomic import write_atomically
from tfnas.process.stopping import locked


def go_on(out: Path, data: str, setting: Setting, jobs: list[Job], processes: int) -> None:
    """Run the jobs that have no result yet, `processes` beside each other."""
    file = out / RESULTS
    results = Results.load(file)
    # A process that was killed may have left half a line.
    write_atomically(file, "".join(json.dumps(record) + "\n" for record in results.values()))
    waiting = [job for job in jobs if job.name not in results]
    running: dict[Future[dict[str, Any]], Job] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        while waiting or running:
            # What a search found is trained before the next search: a cut study has whole rows.
            ready = sorted(
                (j for j in waiting if all(n.name in results for n in j.needs)),
                key=lambda job: not job.needs,
            )
            for job in ready[: processes - len(running)]:
                waiting.remove(job)
                found = results.get(job.needs[0].name) if job.needs else None
                running[pool.submit(run, out, data, setting, job, found)] = job
            if not running:
                raise SystemExit(f"{waiting[0].name} needs {waiting[0].needs}, which isn't planned")
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(ended, key=lambda f: f.exception() is not None):
                job, record = running.pop(future), future.result()
                with file.open("a") as lines:
                    lines.write(json.dumps(record) + "\n")
                results[job.name] = record
                print(f"{_short(record)}; {len(waiting) + len(running)} to go", flush=True)


def _short(record: Mapping[str, Any]) -> str:
    plain = (float, int, str)
    return ", ".join(f"{k} {v}" for k, v in record.items() if isinstance(v, plain))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA", help="fashion_mnist, or a file of images")
    parser.add_argument("comparisons", nargs="*", metavar="COMPARISON", help=", ".join(plan(0)))
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="of the results, and to go on in"
    )
    parser.add_argument("--processes", type=int, default=2, help="beside each other, a core each")
    parser.add_argument("--group", type=int, default=0, help="of seeds: 0, 1 …")
    parser.add_argument("--tables", action="store_true", help="of what is done, and nothing else")
    args = parser.parse_intermixed_args()
    jobs = plan(100 * args.group)
    if unknown := set(args.comparisons) - set(jobs):
        parser.error(f"{', '.join(unknown)}: expected some of {', '.join(jobs)}")
    if args.processes < 1:
        parser.error(f"--processes {args.processes}: expected 1 or more")
    if args.group < 0:
        parser.error(f"--group {args.group}: expected 0 or more")
    names = args.comparisons or list(jobs)
    chosen = list(dict.fromkeys(job for name in names for job in jobs[name]))
    if args.tables:
        try:
            check_group(args.out, args.data, jobs)
            results = Results.load(args.out / RESULTS)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        if not results:
            parser.error(f"{args.out / RESULTS}: no job is done")
        print(tables(results, {name: jobs[name] for name in names}))
        return
    if args.data != SHIPPED and not (args.data.endswith(".npz") and Path(args.data).is_file()):
        parser.error(f"{args.data}: expected {SHIPPED}, or an .npz file that is there")
    try:
        images = len(Study(args.data, setting_of(args.data, args.group, 1000)).dataset.train)
        study = Study(args.data, setting_of(args.data, args.group, images))
    except (ValueError, LookupError, OSError) as error:
        parser.error(str(error))
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started here
    with ExitStack() as stack:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(args.out))
            Results.load(args.out / RESULTS)  # unusable ones are refused before any work
        except (ValueError, OSError) as error:
            parser.error(str(error))
        check_setting(args.out, study, jobs)
        try:
            go_on(args.out, args.data, study.setting, chosen, args.processes)
        except KeyboardInterrupt:
            sys.exit("stopped; the same command goes on with what is missing")
    print(tables(Results.load(args.out / RESULTS), {name: jobs[name] for name in names}))


if __name__ == "__main__":
    main()

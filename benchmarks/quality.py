"""python -m benchmarks.quality DATA [COMPARISON ...] --out FOLDER [--processes 2] [--group 0]

Does the search pay? On real images, in a space whose deployed resolution is the trained one
(conf/space/small.yaml, 32 px, with the table `benchmarks/quality_table.json`), all nets at one
latency on that table, trained from scratch by one recipe (conf/recipe/small.yaml).

DATA is `fashion_mnist` (the shipped cut) or an archive that `benchmarks/make_emoji.py` made.
Comparisons, all of them if none is named:

    pays         TF-NAS's nets against random ones, SPOS's, and hand-made ones
    rank         does a supernet rank? its accuracy against trained accuracy of the random nets
    inherit      training from the supernet's weights against training from scratch
    start        ops that start alike against ops with starts of their own, as published
    derive       sink-connecting against skip as an op, constrained against greedy derivation
    second_path  bi-sampling against single sampling at equal cost, and other second paths

N and budget of each stand at the top of this file, and are written into FOLDER before anything
runs. A job's result is a line of FOLDER/results.jsonl as soon as it is there; the same command goes
on with what is missing. The tables are printed at the end, whatever they say; `--tables` prints
those of what is done. Seeds begin at 100 times the group. Times are those of the CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.quality_jobs import Job, Rank, Search, Setting, Study, Train, run
from benchmarks.quality_tables import Results, tables
from tfnas.files.atomic import write_atomically
from tfnas.process.stopping import locked

SEARCHES = 3  # of each way to search
TRAININGS = 2  # of each net of the main comparison; one in the others
RANDOM_NETS = 20
HAND_MADE = ("mobilenetv2", "mobilenetv3")
HAND_TRAININGS = 4
SHIPPED = "fashion_mnist"
RECIPE = "small"
TRAINING_IMAGES = 110_000  # that a training sees, about, whatever the data: 20 epochs of emoji
SETTING, RESULTS = "setting.json", "results.jsonl"  # in the folder of --out
TARGET_MS = 0.1  # the few nets of 0.14 and 0.24 ms that were tried were no better
MAX_TRAIN = 6000  # images that a search sees
BUDGET = (
    "budget.epochs=20", "budget.warmup_epochs=4", "budget.batch_size=32",
    f"budget.max_train={MAX_TRAIN}",
    "budget.resolution=null", "budget.start_alike=true",
)  # fmt: skip
OURS = ("strategy.arch_every=4", "strategy.arch_lr=0.03", "strategy.candidates=100")
# Epochs that cost what the twenty of TF-NAS cost: on emoji an epoch takes 23 s of a CPU core, 9 in
# the warm-up, 15 with single sampling and 5.5 with SPOS, which scores 200 nets besides.
SINGLE_EPOCHS, SPOS_EPOCHS = 28, 60
VARIANTS = {
    "tfnas": OURS,
    "spos": ("strategy=spos", f"budget.epochs={SPOS_EPOCHS}", "budget.warmup_epochs=0"),
    "own_start": (*OURS, "budget.start_alike=false"),
    "skip_op": (*OURS, "strategy.depth=skip_op", "strategy.candidates=1"),
    "single": (*OURS, "strategy.second_path=none", f"budget.epochs={SINGLE_EPOCHS}"),
    "gumbel": (*OURS, "strategy.second_path=gumbel"),
    "max": (*OURS, "strategy.second_path=max"),
    "min": (*OURS, "strategy.second_path=min"),
}
UNIFORM_EPOCHS = 20
UNIFORM = ("strategy=spos", f"budget.epochs={UNIFORM_EPOCHS}", "budget.warmup_epochs=0")


def proxies(images: int) -> dict[str, tuple[str, ...]]:
    """Ways to train a supernet on uniform paths, for less.

    Args:
        images: training images of the data.
    """
    return {
        "uniform": (),
        "channel_factor=0.5": ("budget.channel_factor=0.5",),
        "resolution=16": ("budget.resolution=16",),
        "half the samples": (f"budget.max_train={min(images, MAX_TRAIN) // 2}",),
        "half the epochs": (f"budget.epochs={UNIFORM_EPOCHS // 2}",),
    }


PROXIES = tuple(proxies(0))


def plan(first_seed: int) -> dict[str, list[Job]]:
    """The jobs of each comparison, in the order that they run in."""
    seeds = range(first_seed, first_seed + SEARCHES)
    trainings = range(first_seed, first_seed + TRAININGS)

    def searches(*variants: str) -> list[Search]:
        return [Search(variant, seed) for variant in variants for seed in seeds]

    def once(*variants: str) -> list[Job]:
        return [*searches(*variants), *(Train.found(s, first_seed) for s in searches(*variants))]

    ours, spos = searches("tfnas"), searches("spos")
    hand = range(first_seed, first_seed + HAND_TRAININGS)
    random: list[Job] = [Train(f"random-{i}", first_seed) for i in range(RANDOM_NETS)]
    found: list[Job] = [*ours, *(Train.found(s, seed) for seed in trainings for s in ours)]
    pays: list[Job] = [
        *found,
        *random,
        *(Train(net, seed) for net in HAND_MADE for seed in hand),
        *spos,
        *(Train.found(source, seed) for seed in trainings for source in spos),
    ]
    inherited = [Train.found(s, seed, inherits=True) for seed in trainings for s in ours]
    others = [Train.found(s, first_seed, how) for how in ("likely", "greedy") for s in ours]
    return {
        "pays": pays,
        "rank": [*random, *ours, *(Rank(proxy, seed) for proxy in PROXIES for seed in seeds)],
        "inherit": [*found, *inherited],
        "start": [*once("tfnas"), *once("own_start")],
        "derive": [*once("tfnas"), *others, *once("skip_op")],
        "second_path": [*once("tfnas"), *once("single", "gumbel", "max", "min")],
    }


def setting_of(data: str, group: int, images: int) -> Setting:
    return Setting(
        data=Path(data).name,
        target_ms=TARGET_MS,
        first_seed=100 * group,
        variants={name: (*BUDGET, *own) for name, own in VARIANTS.items()},
        proxies={name: (*BUDGET, *UNIFORM, *own) for name, own in proxies(images).items()},
        random_nets=RANDOM_NETS,
        recipe=RECIPE,
        recipe_epochs=max(1, round(TRAINING_IMAGES / images)),
    )


def check_setting(out: Path, study: Study, jobs: Mapping[str, Sequence[Job]]) -> None:
    """Write down what is planned and every value in it, or make sure that it stands there.

    Raises:
        SystemExit: if another plan or other values do.
    """
    names = {name: [job.name for job in chosen] for name, chosen in jobs.items()}
    text = json.dumps({**study.written_down(), "jobs": names}, indent=1) + "\n"
    file = out / SETTING
    if file.is_file() and file.read_bytes() != text.encode():
        raise SystemExit(f"{file} has another setting than this command: give another --out")
    write_atomically(file, text)


def check_group(out: Path, data: str, jobs: Mapping[str, Sequence[Job]]) -> None:
    """Make sure that a folder has results of these data and jobs. Raises ValueError, or OSError."""
    file = out / SETTING
    try:
        setting = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{out} has no {SETTING}: expected the --out of an earlier run") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(setting, dict) or "data" not in setting:
        raise ValueError(f"{file} is no setting of this benchmark")
    if setting["data"] != Path(data).name:
        raise ValueError(f"{out} is of {setting['data']}, not of {data}")
    planned = setting.get("jobs", {}).get("pays")  # absent in those of an earlier version
    if planned and jobs["pays"][0].name not in planned:
        raise ValueError(f"{out} begins with {planned[0]}: give its --group")


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
            Results.load(args.out / RESULTS)  # unusable ones are told before any work
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

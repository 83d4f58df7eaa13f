"""What runs on a board: takes rounds there, with the same code and clock as on a host.

    python3 runner.pyz describe          # JSON on standard output: machine and runtimes
    python3 runner.pyz measure FOLDER    # does FOLDER/job.json, writes FOLDER/samples.jsonl

A zip of this file and the few it imports is all that is pushed; it needs Python 3.10, and the
runtime that measures. Models lie in `models` beside the folder of jobs.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from importlib import metadata
from pathlib import Path

from profilers.onboard.conditions import LOOK_EVERY_S, Conditions
from profilers.onboard.job import BUSY, JOB, SAMPLES, UNUSABLE, Job, Round
from profilers.onboard.linux import (
    board_name,
    fastest_cores,
    own_conditions,
    own_cores,
    own_hardware,
    watched_files,
)
from profilers.onboard.lock import machine_lock
from profilers.onboard.rounds import Rounds, Sample, Target, Workload

RUNTIMES = ("onnxruntime", "ncnn")
FORMAT = "tfnas.runner/1"


def describe() -> str:
    """This machine, its cores and the runtimes that are installed, as JSON."""
    allowed = sorted(own_cores())
    return json.dumps(
        {
            "format": FORMAT,
            "hardware": own_hardware(),
            "board": board_name(),
            "python": platform.python_version(),
            "cores": allowed,
            "fastest_cores": fastest_cores(watched_files(), allowed),
            "runtimes": [[name, version] for name in RUNTIMES if (version := _version(name))],
        }
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def measure(folder: Path) -> None:
    """Do the job in a folder.

    Raises:
        ValueError, LookupError, OSError: for a job that can't be done here.
        TimeoutError: if another process measures for too long.
    """
    job = Job.from_json((folder / JOB).read_text())
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    load = _loader(job, folder.parent.parent / "models")
    with ExitStack() as stack:
        stack.enter_context(machine_lock(_say, wait_s=job.lock_s))

        def opened(stem: str) -> Workload:
            return stack.enter_context(closing(load(stem)))

        rounds = Rounds(opened(job.reference), random.Random(job.seed))
        targets = [Target(opened(stem), fill_ms, []) for stem, fill_ms in job.targets]
        lines = stack.enter_context((folder / SAMPLES).open("a"))
        start, done, told, looked = time.monotonic(), 0, 0, -LOOK_EVERY_S
        while done < job.at_least or time.monotonic() - start < job.seconds:
            if not (folder / JOB).exists():
                raise FileNotFoundError(f"{folder} is gone: nobody waits for this job any more")
            rounds.take(targets)
            done += 1
            taken: list[tuple[int, Sample]] = []
            for index, target in enumerate(targets):
                taken += [(index, sample) for sample in target.out]
                target.out.clear()
            references = rounds.references.since(told)
            told += len(references)
            seen = Conditions()
            if time.monotonic() - start - looked >= LOOK_EVERY_S:
                looked, seen = time.monotonic() - start, own_conditions()
                os.fsync(lines.fileno())  # a reboot loses no more than a second or two
            lines.write(Round(tuple(references), tuple(taken), seen).to_json() + "\n")
            lines.flush()
            time.sleep(job.rest_s)


def _loader(job: Job, models: Path) -> Callable[[str], Workload]:
    if job.runtime == "onnxruntime":
        from profilers.onboard.ort import OrtWorkload

        def load(stem: str) -> Workload:
            model = (models / f"{stem}.onnx").read_bytes()
            return OrtWorkload(stem, model, threads=job.threads, batch=job.batch)

        return load
    if job.runtime == "ncnn":
        from profilers.onboard.ncnn_net import NcnnWorkload

        def load_ncnn(stem: str) -> Workload:
            files = models / f"{stem}.param", models / f"{stem}.bin"
            return NcnnWorkload(stem, *files, threads=job.threads)

        return load_ncnn
    raise LookupError(f"runtime {job.runtime!r}: this runner knows {', '.join(RUNTIMES)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    try:
        if arguments == ["describe"]:
            print(describe())
        elif len(arguments) == 2 and arguments[0] == "measure":
            measure(Path(arguments[1]))
        else:
            raise ValueError(f"{arguments}: expected describe, or measure FOLDER")
    except TimeoutError as error:
        _say(f"busy: {error}")
        return BUSY
    except (ValueError, LookupError, OSError, ImportError) as error:
        _say(f"error: {error}")
        return UNUSABLE
    return 0

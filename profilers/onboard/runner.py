"""What runs on a board: takes rounds there, with the same code and clock as on a host.

    python3 runner.pyz measure FOLDER    # does FOLDER/job.json, writes FOLDER/samples.jsonl

A zip of this folder is all that is pushed; it needs Python 3.10, and the
runtime that measures. Models lie in `models` beside the folder of jobs.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from profilers.onboard.conditions import LOOK_EVERY_S, Conditions
from profilers.onboard.job import BUSY, JOB, SAMPLES, UNUSABLE, Job, Round
from profilers.onboard.linux import own_conditions
from profilers.onboard.lock import machine_lock
from profilers.onboard.rounds import Rounds, Sample, Target, Workload

RUNTIMES = ("onnxruntime", "ncnn")


def measure(folder: Path) -> None:
    """Do the job in a folder.

    Raises:
        ValueError, LookupError, OSError: for a job that can't be done here.
        TimeoutError: if another process measures for too long.
    """
    job = Job.from_json((folder / JOB).read_text(encoding="utf-8"))
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    models = folder.parent.parent / "models"
    with ExitStack() as stack:
        stack.enter_context(machine_lock(_say, wait_s=job.lock_s))

        def opened(stem: str) -> Workload:
            return stack.enter_context(closing(_load(job, models, stem)))

        rounds = Rounds(opened(job.reference), random.Random(job.seed))
        targets = [Target(opened(stem), fill_ms, []) for stem, fill_ms in job.targets]
        lines = stack.enter_context((folder / SAMPLES).open("a", encoding="utf-8"))
        start, done, written, looked = time.monotonic(), 0, 0, -LOOK_EVERY_S
        while done < job.at_least or time.monotonic() - start < job.seconds:
            if not (folder / JOB).exists():
                raise FileNotFoundError(f"{folder} is gone: nobody waits for this job any more")
            rounds.take(targets)
            done += 1
            taken: list[tuple[int, Sample]] = []
            for index, target in enumerate(targets):
                taken += [(index, sample) for sample in target.out]
                target.out.clear()
            references = rounds.references.since(written)
            written += len(references)
            seen = Conditions()
            if time.monotonic() - start - looked >= LOOK_EVERY_S:
                looked, seen = time.monotonic() - start, own_conditions()
                os.fsync(lines.fileno())  # a reboot loses no more than a second or two
            lines.write(Round(tuple(references), tuple(taken), seen).to_json() + "\n")
            lines.flush()
            time.sleep(job.rest_s)


def _load(job: Job, models: Path, stem: str) -> Workload:
    if job.runtime == "onnxruntime":
        from profilers.onboard.ort import ort_workload

        model = (models / f"{stem}.onnx").read_bytes()
        return ort_workload(stem, model, threads=job.threads, batch=job.batch)
    if job.runtime == "ncnn":
        from profilers.onboard.ncnn_net import ncnn_workload

        files = models / f"{stem}.param", models / f"{stem}.bin"
        return ncnn_workload(stem, *files, threads=job.threads)
    raise LookupError(f"runtime {job.runtime!r}: this runner knows {', '.join(RUNTIMES)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    try:
        if len(arguments) != 2 or arguments[0] != "measure":
            raise ValueError(f"{arguments}: expected measure FOLDER")
        measure(Path(arguments[1]))
    except TimeoutError as error:
        _say(f"busy: {error}")
        return BUSY
    except (ValueError, LookupError, OSError, ImportError) as error:
        _say(f"error: {error}")
        return UNUSABLE
    return 0

"""Jobs one after the other in this process, or side by side on an engine that joblib knows.

A job that is lost with its process, or that ends with an error, is tried once more, alone; then it
is given up. Others lose at most what they hadn't saved.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tfnas.pipeline.rung import Job, Outcome, is_done, read_curve, run_job
from tfnas.process.errors import StoppedError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
LONGEST = 200  # characters of an engine's error
ENGINES = {"dask": "distributed", "ray": "ray.util.joblib"}  # what registers with joblib


def check_backend(jobs: int, backend: str) -> None:
    """Raises ValueError if jobs can't run side by side so."""
    if jobs == 1:
        return
    if backend in ("threading", "sequential"):
        raise ValueError(
            f"finals.backend={backend}: trainings side by side need a process each, expected loky "
            "or another backend of processes"
        )
    try:
        import joblib

        if backend in ENGINES:  # starting one takes seconds
            import_module(ENGINES[backend])
        else:
            joblib.parallel_config(backend=backend, n_jobs=jobs).unregister()
    except ImportError as error:
        raise ValueError(
            f"finals.jobs={jobs} finals.backend={backend}: {error}; "
            "`pip install '.[jobs]'` has joblib, dask and ray are packages of their own"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"finals.backend={backend}: joblib can't use it ({error})") from None


def run_jobs(
    jobs: Sequence[Job], side_by_side: int, backend: str, stop: Callable[[], bool]
) -> dict[str, Outcome]:
    """What each job came to, by its name.

    Raises:
        StoppedError: once `stop()` is true, when all have saved.
        OSError: from a job in this process.
    """
    if side_by_side == 1:
        found = {}
        for job in jobs:
            found[job.name] = run_job(job, stop)
            if found[job.name].stopped:
                raise StoppedError
        return found
    file = Path(jobs[0].stop_file)
    with _handing_on(stop, file):
        found = _on_engine(jobs, side_by_side, backend)
        for job in jobs:
            if (why := found[job.name].error) is None:
                continue
            if stop():
                break
            log.warning("warning: %s is tried once more, alone: %s", job.name, why)
            found |= _on_engine([job], side_by_side, backend)
    if stop() or any(outcome.stopped for outcome in found.values()):
        raise StoppedError
    return found


def _on_engine(jobs: Sequence[Job], side_by_side: int, backend: str) -> dict[str, Outcome]:
    """What each job came to; where the engine broke, what had been done by then."""
    import joblib

    try:
        with _engine(side_by_side, backend):
            run = joblib.Parallel(n_jobs=side_by_side, batch_size=1, pre_dispatch=side_by_side)
            outcomes = run(joblib.delayed(run_job)(job) for job in jobs)
    except (KeyboardInterrupt, ImportError):
        raise
    except Exception as error:  # each engine has its own for a worker that died
        log.debug("", exc_info=error)
        why = f"{type(error).__name__}: {error}".partition("\n")[0][:LONGEST]
        outcomes = [_left(job, why) for job in jobs]
    return {job.name: outcome for job, outcome in zip(jobs, outcomes, strict=True)}


def _left(job: Job, error: str) -> Outcome:
    """What a job came to on an engine that broke: perhaps it was done."""
    curve = read_curve(Path(job.folder))
    return Outcome(curve, error=None if is_done(job, curve) else error)


@contextmanager
def _engine(jobs: int, backend: str) -> Iterator[None]:
    """joblib's backend.

    Raises:
        ImportError: if joblib or the engine isn't installed.
        ValueError: if joblib doesn't know it.
    """
    import joblib

    with ExitStack() as stack:
        if backend == "dask":
            stack.enter_context(_dask(jobs))
        elif backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        stack.enter_context(joblib.parallel_config(backend=backend, n_jobs=jobs))
        yield


@contextmanager
def _dask(jobs: int) -> Iterator[Any]:
    """The cluster that is connected to, or one of as many processes on this machine."""
    from distributed import Client, get_client

    try:
        yield get_client()
    except ValueError:
        with Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None) as client:
            yield client


@contextmanager
def _handing_on(stop: Callable[[], bool], file: Path) -> Iterator[None]:
    """Leave the file that other processes look for, once `stop()` is true."""
    file.unlink(missing_ok=True)
    over = threading.Event()

    def watch() -> None:
        while not stop():
            if over.wait(LOOK_EVERY_S):
                return
        file.touch()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        file.unlink(missing_ok=True)

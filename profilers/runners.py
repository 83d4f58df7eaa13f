"""What runs models on devices at the end of a link, by the name of the backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profilers.programs import PROGRAMS, ProgramRunner
from profilers.remote import PythonRunner, RemoteOptions, Runner
from profilers.runner import RUNTIMES
from tfnas.config import check_choice

BACKENDS = ("auto", *RUNTIMES, *PROGRAMS)


@dataclass
class RunnerOptions(RemoteOptions):
    """What chooses a runner, in conf/device/ of boards and phones."""

    backend: str  # auto | onnxruntime | ncnn, with Python there; else one of PROGRAMS
    python: str  # the interpreter there
    program: str | None  # a file here: the benchmark program, built for the device
    libraries: list[str]  # files here that it loads


def runner_for(options: RunnerOptions, *, batch: int) -> Runner:
    """The runner that the options ask for; auto is onnxruntime, or the program that is given.

    Raises:
        ValueError: for a backend that doesn't go with the other options or the batch.
    """
    check_choice("device.backend", options.backend, BACKENDS)
    backend = options.backend
    if backend == "auto":
        backend = Path(options.program).name if options.program else "onnxruntime"
        if options.program and backend not in PROGRAMS:
            raise ValueError(
                f"device.program={options.program}: device.backend tells which program it is, one "
                f"of {', '.join(PROGRAMS)}"
            )
    program = PROGRAMS.get(backend)
    if (program is None) != (options.program is None):
        raise ValueError(
            f"device.backend={backend} runs with Python there, without device.program"
            if program is None
            else f"device.backend={backend} needs device.program=PATH, built for the device"
        )
    if batch != 1 and (backend == "ncnn" or (program and not program.batches)):
        raise ValueError(f"batch={batch}: device.backend={backend} runs one image at a time")
    if program is not None:
        paths = [Path(library) for library in options.libraries]
        return ProgramRunner(program, Path(str(options.program)), paths, batch)
    return PythonRunner(backend, options.python)

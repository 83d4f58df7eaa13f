"""What runs models on devices at the end of a link, by the name of the backend."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from profilers import onboard
from profilers.onboard.job import JOB, Job, Round, read_rounds
from profilers.onboard.linux import readable
from profilers.onboard.runner import RUNTIMES
from profilers.remote.convert import ncnn_files
from profilers.remote.device import Described, RemoteOptions, Runner
from profilers.remote.programs import PROGRAMS, ProgramRunner
from profilers.remote.rounds import SHORT_S
from profilers.remote.transport import Transport
from tfnas.files.bounded import check_text, parse_json
from tfnas.process.checks import check_choice

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
    if not options.python:
        raise ValueError("device.python is empty: expected an interpreter on the device")
    if program is not None:
        paths = [Path(library) for library in options.libraries]
        return ProgramRunner(program, Path(str(options.program)), paths, batch)
    return PythonRunner(backend, options.python)


class PythonRunner:
    """A board with Python and a runtime as a package: `profilers.onboard.runner`, pushed as a zip.

    Args:
        python: the interpreter there.
    """

    def __init__(self, runtime: str, python: str):
        self.runtime = runtime
        self.precision = "fp32"
        self._python = python

    def files(self) -> Mapping[str, bytes]:
        return {"runner.pyz": runner_zip()}

    def describing_files(self) -> Mapping[str, bytes]:
        return self.files()

    def describe(self, transport: Transport, folder: str) -> Described:
        command = [self._python, f"{folder}/runner.pyz", "describe"]
        ran = transport.run(command, timeout_s=SHORT_S, max_bytes=1_000_000)
        if ran.status:
            raise LookupError(
                f"{transport.name}: {self._python} can't run there ({ran.last_line}): expected "
                f"Python 3.10 or newer with {self.runtime} and numpy; another one is given with "
                "device.python=PATH, a path without ~"
            )
        try:
            told = parse_json(ran.out.decode())
            versions = {check_text(k, 100): check_text(v, 100) for k, v in told["runtimes"]}
            hardware = told["hardware"]
            found = Described(
                name=check_text(told["board"], 200) or readable(check_text(hardware["model"], 200)),
                hardware={**hardware, "board": told["board"]},
                cores=tuple(int(core) for core in told["cores"]),
                fastest_cores=tuple(int(core) for core in told["fastest_cores"]),
                versions=((self.runtime, versions.get(self.runtime, "")),),
            )
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(
                f"{transport.name}: what {self._python} says there makes no sense: "
                f"{error}; expected a Python interpreter"
            ) from None
        if self.runtime not in versions:
            raise LookupError(
                f"{transport.name} lacks {self.runtime}: run `{self._python} -m pip install "
                f"{self.runtime} numpy` there, or give an environment that has it with "
                "device.python=PATH"
            )
        return found

    def models(self, onnx: bytes) -> Mapping[str, bytes]:
        return ncnn_files(onnx) if self.runtime == "ncnn" else {".onnx": onnx}

    def job_files(self, job: Job, folder: str) -> Mapping[str, bytes]:
        return {JOB: job.to_json().encode()}

    def command(self, folder: str, job_folder: str) -> Sequence[str]:
        return [self._python, f"{folder}/runner.pyz", "measure", job_folder]

    def rounds(self, answer: bytes, job: Job) -> Iterator[Round]:
        return read_rounds(answer, len(job.targets))


def runner_zip() -> bytes:
    """The runner as a zip that Python runs; the same bytes for the same sources."""
    buffer = io.BytesIO()
    main = "import sys\nfrom profilers.onboard.runner import main\nsys.exit(main(sys.argv[1:]))\n"
    contents = {"__main__.py": main, "profilers/__init__.py": ""}
    folder = Path(onboard.__file__).parent
    contents |= {f"profilers/onboard/{f.name}": f.read_text() for f in sorted(folder.glob("*.py"))}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()

"""What runs models on devices at the end of a link, by the name of the backend."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from profilers import onboard
from profilers.onboard.job import JOB, Job, Round, read_rounds
from profilers.onboard.runner import RUNTIMES
from profilers.remote.convert import ncnn_files
from profilers.remote.device import RemoteOptions
from profilers.remote.programs import PROGRAMS, ProgramRunner
from profilers.remote.runner import Described, Runner, describe
from profilers.remote.transport import SHORT_S, Transport
from tfnas.files.bounded import shown
from tfnas.process.checks import check_choice

BACKENDS = ("auto", *RUNTIMES, *PROGRAMS)
# With the name of a package; tells its version, or none.
VERSION = """
import sys
from importlib import metadata
if sys.version_info < (3, 10):
    sys.exit("it is Python " + sys.version)
try:
    print(sys.argv[1], metadata.version(sys.argv[1]))
except metadata.PackageNotFoundError:
    print(sys.argv[1], "")
"""


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
        self.int8 = runtime == "onnxruntime"
        self._python = python

    def files(self) -> Mapping[str, bytes]:
        return {"runner.pyz": runner_zip()}

    def describe(self, transport: Transport) -> Described:
        ran = transport.run([self._python, "-c", VERSION, self.runtime], timeout_s=SHORT_S)
        if ran.status:
            raise LookupError(
                f"{transport.name}: {self._python} can't run there ({ran.last_line}): expected "
                f"Python 3.10 or newer with {self.runtime} and numpy; another one is given with "
                "device.python=PATH, a path without ~"
            )
        found = re.fullmatch(rf"{self.runtime} ([!-~]{{0,100}})\s*", ran.out.decode("latin-1"))
        if found is None:
            raise ValueError(
                f"{transport.name}: what {self._python} says there makes no sense: "
                f"{shown(ran.out[:100])}; expected a Python interpreter"
            )
        if not found[1]:
            raise LookupError(
                f"{transport.name} lacks {self.runtime}: run `{self._python} -m pip install "
                f"{self.runtime} numpy` there, or give an environment that has it with "
                "device.python=PATH"
            )
        return replace(describe(transport), versions=((self.runtime, found[1]),))

    def models(self, onnx: bytes) -> Mapping[str, bytes]:
        return ncnn_files(onnx) if self.runtime == "ncnn" else {".onnx": onnx}

    def job_files(self, job: Job) -> Mapping[str, bytes]:
        return {JOB: job.to_json().encode()}

    def command(self, folder: str, job_folder: str) -> Sequence[str]:
        return [self._python, f"{folder}/runner.pyz", "measure", job_folder]

    def rounds(self, answer: bytes, job: Job) -> Iterator[Round]:
        return read_rounds(answer, len(job.targets))


def runner_zip() -> bytes:
    """The runner as a zip that Python runs; the same bytes for the same sources."""
    buffer = io.BytesIO()
    main = "import sys\nfrom profilers.onboard.runner import main\nsys.exit(main(sys.argv[1:]))\n"
    contents = {"__main__.py": main.encode(), "profilers/__init__.py": b""}
    files = (path for path in Path(onboard.__file__).parent.iterdir() if path.is_file())
    contents |= {f"profilers/onboard/{path.name}": path.read_bytes() for path in sorted(files)}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()

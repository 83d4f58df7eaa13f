"""Phones and boards without Python: a runtime's own benchmark program, driven by a shell script.

The user gives the program, built for the device; `measure.sh` runs it there on one model after the
other, in rounds as `profilers.onboard.rounds` takes them. A process starts for every sample, so a
round costs more than where `profilers.onboard.runner` runs. The clock is the program's own, a wall
clock: what the system gives to others is charged to the model, and only the reference beside it
evens it out.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from profilers import onboard
from profilers.onboard.conditions import Conditions
from profilers.onboard.job import JOB, MAX_MS, Job, Round, short_text
from profilers.onboard.linux import WATCHED, conditions
from profilers.onboard.rounds import Sample
from profilers.remote import convert
from profilers.remote.runner import Described, describe
from profilers.remote.transport import Transport
from tfnas.deploy.tflite_file import tflite_file
from tfnas.files.bounded import shown

FILL_MS = 20.0  # a sample lasts at least: starting the process takes as long
MOST_S = 300.0  # that a job lasts beyond its time for the rounds that it is to reach
ORDERS = 64  # of rounds, then they come again
MAX_COPIES = 64
SCRIPT = "measure.sh"
NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)(?![0-9.])"
TOOLS = ("awk", "flock", "sed", "tail")  # that measure.sh needs there


@dataclass(frozen=True)
class Program:
    """A benchmark program of a runtime.

    Attributes:
        name: as its project calls it.
        command: for a POSIX shell, with $program, $model (a path without suffix), $runs, $threads.
        pattern: what stands before the mean time of one run in its output; understood by awk
            and Python alike, without groups. The last one counts.
        unit_ms: of that time.
        precision: what it computes with, where it isn't asked.
        batches: whether it takes more than one image at a time.
        models: an ONNX file with a fixed batch as it wants it, by suffix.
    """

    name: str
    command: str
    pattern: str
    unit_ms: float
    precision: str
    batches: bool
    models: Callable[[bytes], Mapping[str, bytes]]

    def ms(self, output: str) -> float:
        """The time of one run that it tells. Raises ValueError if it tells none above 0."""
        found = re.findall(f"(?:{self.pattern}){NUMBER}", output)
        ms = self.unit_ms * float(found[-1]) if found else math.nan
        if not 0 < ms < MAX_MS:
            last = (output.strip().splitlines() or [""])[-1]
            raise ValueError(f"{self.name} printed no time: {shown(last)}")
        return ms


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            name="onnxruntime_perf_test",
            command='"$program" -I -m times -r "$runs" -x "$threads" -y 1 -e cpu "$model.onnx"',
            pattern="Average inference time cost[ a-z]*: *",
            unit_ms=1.0,
            precision="fp32",
            batches=True,
            models=lambda onnx: {".onnx": onnx},
        ),
        Program(
            name="benchmark_model",
            command='"$program" "--graph=$model.tflite" "--num_threads=$threads" '
            '"--num_runs=$runs" --min_secs=0 --warmup_runs=1 --warmup_min_secs=0 '
            "--use_xnnpack=true",
            pattern="Inference [(]avg[)]: *|no stats: *",
            unit_ms=1e-3,
            precision="fp32",
            batches=True,
            models=lambda onnx: {".tflite": tflite_file(onnx)},
        ),
        # Told to use powersave -1, which it doesn't know, it leaves the cores as they are pinned.
        Program(
            name="benchncnn",
            command='"$program" "$runs" "$threads" -1 -1 0 "param=$model.param" '
            '"shape=$(cat "$model.shape")"',
            pattern="max = *[0-9.]+  avg = *",
            unit_ms=1.0,
            precision="fp16",  # where the CPU has it; there is no option against it
            batches=False,
            models=convert.benchncnn_files,
        ),
    )
}


class ProgramRunner:
    """See the module's docstring, and `profilers.remote.runner.Runner`.

    Args:
        program: what it is.
        path: the file here that is pushed and run.
        libraries: files that it loads, pushed beside it.

    Raises:
        ValueError: if a file can't be read or its name is no plain one.
    """

    def __init__(self, program: Program, path: Path, libraries: Sequence[Path], batch: int):
        self.runtime, self.precision = program.name, program.precision
        self.int8 = program.name == "onnxruntime_perf_test"
        self._program, self._batch = program, batch
        self._files = {"program": _read("device.program", path)}
        for library in libraries:
            if not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*\.so[.0-9]*", library.name):
                raise ValueError(f"device.libraries={library}: expected names such as libx.so")
            self._files[library.name] = _read("device.libraries", library)

    def files(self) -> Mapping[str, bytes]:
        script = Path(onboard.__file__).with_name(SCRIPT).read_bytes()
        return {**self._files, SCRIPT: script}

    def describe(self, transport: Transport) -> Described:
        digest = hashlib.sha256()
        for file, content in sorted(self._files.items()):
            digest.update(f"{file} {len(content)}\n".encode() + content)
        versions = ((self.runtime, digest.hexdigest()[:12]),)
        return replace(describe(transport, TOOLS), versions=versions)

    def models(self, onnx: bytes) -> Mapping[str, bytes]:
        return self._program.models(convert.with_batch(onnx, self._batch))

    def job_files(self, job: Job) -> Mapping[str, bytes]:
        rng = random.Random(job.seed)
        indices = [str(index) for index in range(len(job.targets))]
        orders = [" ".join(rng.sample(indices, len(indices))) for _ in range(ORDERS)]
        models = [f"r {job.reference} {FILL_MS:g}"]
        for index, (stem, fill_ms) in zip(indices, job.targets, strict=True):
            models.append(f"{index} {stem} {max(fill_ms, FILL_MS):g}")
        values = {
            "name": self.runtime,
            "mask": f"{sum(1 << core for core in job.cores):x}" if job.cores else "",
            "threads": job.threads,
            "at_least": job.at_least,
            "seconds": math.ceil(job.seconds),
            "most_s": math.ceil(job.seconds + MOST_S),
            "lock_s": math.ceil(job.lock_s),
            "rest_s": f"{job.rest_s:.3f}".rstrip("0").rstrip("."),
            "watched": " ".join(WATCHED),
            "pattern": self._program.pattern,
            "unit_ms": f"{self._program.unit_ms:f}",
        }
        lines = [f"{key}={shlex.quote(str(value))}" for key, value in values.items()]
        lines.append(f"run_model() {{ {self._program.command}; }}")
        texts = {"job.sh": lines, "models": models, "orders": orders}
        contents = {name: ("\n".join(rows) + "\n").encode() for name, rows in texts.items()}
        return {**contents, JOB: job.to_json().encode()}

    def command(self, folder: str, job_folder: str) -> Sequence[str]:
        return ["sh", f"{folder}/{SCRIPT}", folder, job_folder]

    def rounds(self, answer: bytes, job: Job) -> Iterator[Round]:
        """See `Runner`; `Sample.ms` and `wall_ms` are one, the program's own."""
        return _rounds(self._program, answer.decode(errors="replace"), job)


@dataclass
class _Run:
    """One run of the program: of which target (None: the reference), of how many copies."""

    target: int | None
    copies: int
    output: list[str]

    def ms(self, program: Program) -> float:
        return program.ms("\n".join(self.output)) / self.copies


def _rounds(program: Program, answer: str, job: Job) -> Iterator[Round]:
    """What measure.sh wrote; a round that was cut off is passed over."""
    runs: list[_Run] = []
    files: dict[str, str] = {}
    for line in answer.split("\n")[:-1]:
        word, _, rest = line.partition(" ")
        if not word:
            if runs:
                runs[-1].output.append(rest)
        elif word == "@run" and (found := re.fullmatch(r"(r|[0-9]{1,6}) ([0-9]{1,3})", rest)):
            target = None if found[1] == "r" else int(found[1])
            copies = int(found[2])
            if not 1 <= copies <= MAX_COPIES or (target or 0) >= len(job.targets):
                raise ValueError(f"the device's answer makes no sense: {shown(line)}")
            runs.append(_Run(target, copies, []))
        elif word == "@file":
            path, _, value = rest.partition(" ")
            files[path] = value
        elif line == "@round":
            yield _round(program, runs, _conditions(files, job.cores))
            runs, files = [], {}
        elif line == "@begin":
            runs, files = [], {}
        else:
            raise ValueError(f"the device's answer makes no sense: {shown(line)}")


def _round(program: Program, runs: Sequence[_Run], seen: Conditions) -> Round:
    references, targets = runs[::2], runs[1::2]
    if not targets or len(references) != len(targets) + 1 or any(
        run.target is not None for run in references
    ):  # fmt: skip
        raise ValueError("the device's answer makes no sense: a round without its references")
    reference_ms = [run.ms(program) for run in references]
    samples = []
    for run, before, after in zip(targets, reference_ms, reference_ms[1:], strict=False):
        if run.target is None:
            raise ValueError("the device's answer makes no sense: a sample of no target")
        ms = run.ms(program)
        samples.append((run.target, Sample(2 * ms / (before + after), ms, ms)))
    return Round(tuple(reference_ms), tuple(samples), seen)


def _conditions(files: Mapping[str, str], cores: Sequence[int]) -> Conditions:
    known = (re.search(r"/cpu([0-9]{1,4})/cpufreq/", path) for path in files)
    seen = conditions(files, cores or sorted({int(core[1]) for core in known if core}))
    for _, value in seen.readings:
        short_text(str(value))
    return seen


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{option}={path}: {error.strerror}") from None

"""Benchmark programs on devices without Python: the script under the shells that devices have, what
the programs print, and tables from it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import profilers.measure.bench
import profilers.remote.programs
import profilers.remote.rounds
import profilers.tables.build
from profilers.models import op_model
from profilers.onboard.job import BUSY, SAMPLES, UNUSABLE, Job
from profilers.onboard.lock import machine_lock
from profilers.onboard.rounds import Target
from profilers.remote.convert import with_batch
from profilers.remote.device import RemoteOptions, RemoteProfiler
from profilers.remote.programs import PROGRAMS, ProgramRunner
from profilers.remote.runners import PythonRunner, RunnerOptions, runner_for
from profilers.remote.transport import Ran
from profilers.tables.build import build_table
from profilers.tables.plan import extremes, plan
from tests.support.entry import REPOSITORY
from tests.support.local_transport import LocalTransport
from tests.support.spaces import load_space, load_spec
from tfnas.space.ops import OpSpec

pytestmark = pytest.mark.slow

OPTIONS = RemoteOptions(cores=None, rest_s=0.0, job_s=2.0, memory_mb=400, activations="auto")
PERF_TEST = PROGRAMS["onnxruntime_perf_test"]
BENCHNCNN = PROGRAMS["benchncnn"]
# A device's shell and its tools: busybox and toybox by links of their names.
SHELLS = ("dash", "mksh", "busybox", "toybox")
# Tells a time that is fixed by the model's size: no process of Python's for every sample.
TELLS = """#!/bin/sh
for model; do :; done
[ "$(wc -c < "$model")" -gt 0 ] || exit 3
awk -v bytes="$(wc -c < "$model")" 'BEGIN {
    printf "Average inference time cost total: %.6f ms\\n", 0.02 + bytes / 1e6
}'
"""
JOB = Job(
    device="aaaaaa-bbbbbb", runtime="onnxruntime_perf_test", threads=1, batch=1,
    cores=(), seed="0.5", reference="aa",
    targets=(("bb", 0.8), ("cc", 0.8)), at_least=3, seconds=0.0, rest_s=0.0, lock_s=2.0, nonce="x",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in tests/profilers/test_remote.py: nothing is measured that is kept."""
    small, large = extremes(load_space())
    monkeypatch.setattr(profilers.measure.bench, "ANCHORS", (small.ops, large.ops))
    monkeypatch.setattr(profilers.tables.build, "PROBE_SECONDS", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def program(folder: Path, text: str = TELLS) -> Path:
    path = folder / "onnxruntime_perf_test"
    path.write_text(text)
    return path


def runner(folder: Path, text: str = TELLS) -> ProgramRunner:
    return ProgramRunner(PERF_TEST, program(folder, text), [], batch=1)


def device(folder: Path, own: ProgramRunner, job: Job) -> tuple[Path, Path]:
    """A folder as a device has it, with a job in it."""
    here = folder / "device's folder"
    there = here / "jobs" / "x"
    there.mkdir(parents=True)
    (here / "models").mkdir()
    for name, content in own.files().items():
        (here / name).write_bytes(content)
    for name, content in own.job_files(job).items():
        (there / name).write_bytes(content)
    for size, stem in enumerate((job.reference, *(stem for stem, _ in job.targets)), 1):
        (here / "models" / f"{stem}.onnx").write_bytes(b"x" * 100_000 * size)
    return here, there


def shell(name: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """What starts a script under it, and the environment with its tools alone."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    tools = folder / f"{name} tools"
    tools.mkdir()
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    if name in ("dash", "mksh"):
        return [found], environment
    run = subprocess.run([found, *(["--list"] if name == "busybox" else [])],
                         capture_output=True, text=True, check=True)  # fmt: skip
    for tool in run.stdout.split():
        (tools / tool).symlink_to(found)
    # Android's shell is mksh; toybox is its tools.
    return ([found, "sh"] if name == "busybox" else [shutil.which("mksh") or "sh"]), environment


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_runs_under_the_shells_of_devices(name: str, tmp_path: Path) -> None:
    own = runner(tmp_path)
    core = min(os.sched_getaffinity(0))
    job = replace(JOB, cores=(core,), rest_s=0.01)
    here, there = device(tmp_path, own, job)
    start, environment = shell(name, tmp_path)
    command = [*start, *own.command(str(here), str(there))[1:]]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    answer = (there / SAMPLES).read_bytes()
    rounds = list(own.rounds(answer, job))
    assert len(rounds) == 3
    for taken in rounds:
        assert sorted(index for index, _ in taken.samples) == [0, 1]
        assert taken.reference_ms == pytest.approx([0.12] * 3)
        for index, sample in taken.samples:
            assert sample.ms == sample.wall_ms == pytest.approx(0.22 + 0.1 * index)
            assert sample.ratio == pytest.approx(sample.ms / 0.12)
    assert (there / "0.runs").read_text() == "bb 91\n"  # of 0.22 ms, 20 ms
    # A tail that was cut off costs its round and no more.
    assert len(list(own.rounds(answer[:-9], job))) == 2
    assert len(list(own.rounds(answer + b"@begin\n@run r 1\n Aver", job))) == 3
    # Another process measures, of the Python runner's too.
    with machine_lock(lambda _: None):
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert ran.returncode == BUSY
    assert "another measuring process" in ran.stderr


def test_a_job_that_is_killed_leaves_its_rounds_and_no_lock(tmp_path: Path) -> None:
    own = runner(tmp_path)
    job = replace(JOB, at_least=10_000)
    here, there = device(tmp_path, own, job)
    answer = there / SAMPLES
    with subprocess.Popen(own.command(str(here), str(there))) as process:
        while not answer.exists() or answer.read_bytes().count(b"@round") < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert len(list(own.rounds(answer.read_bytes(), job))) >= 2
    with machine_lock(lambda _: None, wait_s=2.0):
        """It is free: the kernel took it from the dead."""
    # The same job again: what it had is kept, what it had half is not.
    text = (there / "job.sh").read_text()
    (there / "job.sh").write_text(text.replace("at_least=10000", "at_least=2"))
    before = len(list(own.rounds(answer.read_bytes(), job)))
    subprocess.run(own.command(str(here), str(there)), check=True)
    assert len(list(own.rounds(answer.read_bytes(), job))) == before + 2


def test_a_job_ends_though_its_rounds_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profilers.remote.programs, "MOST_S", 0.0)
    own = runner(tmp_path)
    job = replace(JOB, at_least=10_000, seconds=1.0)
    here, there = device(tmp_path, own, job)
    subprocess.run(own.command(str(here), str(there)), check=True, timeout=30)
    assert list(own.rounds((there / SAMPLES).read_bytes(), job))


def test_orders_differ_and_come_from_the_seed(tmp_path: Path) -> None:
    own = runner(tmp_path)
    many = replace(JOB, targets=tuple((f"{i:x}", 0.8) for i in range(30)))
    orders = own.job_files(many)["orders"].decode().splitlines()
    assert len(set(orders)) == len(orders)
    assert {tuple(sorted(map(int, order.split()))) for order in orders} == {tuple(range(30))}
    assert own.job_files(many)["orders"].decode().splitlines() == orders
    assert own.job_files(replace(many, seed="1"))["orders"].decode().splitlines() != orders


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\necho no such flag >&2; exit 1\n", "ended with status 1 on .*no such flag"),
        ("#!/bin/sh\necho Average inference time cost: fast\n", "printed no time"),
        ("#!/bin/sh\necho Average inference time cost: 0 ms\n", "printed no time"),
        ("\x7fELF of another machine", "ended with status"),
    ],
)
def test_a_program_that_does_not_work_ends_the_job(text: str, said: str, tmp_path: Path) -> None:
    own = runner(tmp_path, text)
    here, there = device(tmp_path, own, JOB)
    ran = subprocess.run(own.command(str(here), str(there)), capture_output=True, text=True)
    assert ran.returncode == UNUSABLE
    assert re.search(said, ran.stderr)
    assert ran.stderr.splitlines()[-1].startswith("error: ")


def test_cores_that_cannot_be_had_end_the_job(tmp_path: Path) -> None:
    own = runner(tmp_path)
    here, there = device(tmp_path, own, replace(JOB, cores=(4095,)))
    ran = subprocess.run(own.command(str(here), str(there)), capture_output=True, text=True)
    assert ran.returncode == UNUSABLE
    assert "can't be pinned" in ran.stderr


ANSWER = (
    b"@begin\n"
    b"@run r 1\n Average inference time cost total: 1.0 ms\n\n"
    b"@run 1 2\n Average inference time cost total: 6.0 ms\n\n"
    b"@run r 1\n Average inference time cost total: 2.0 ms\n"
    b"@file /sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq 1800000\n"
    b"@file /sys/class/thermal/thermal_zone0/type cpu-0-0\n"
    b"@file /sys/class/thermal/thermal_zone0/temp 91000\n"
    b"@round\n"
)


def test_an_answer_is_read(tmp_path: Path) -> None:
    (taken,) = runner(tmp_path).rounds(ANSWER, JOB)
    assert taken.reference_ms == (1.0, 2.0)
    assert taken.samples == ((1, (2.0, 3.0, 3.0)),)
    assert ("cpu_clock_mhz", 1800.0) in taken.conditions.readings
    assert any(doubt.startswith("hot") for doubt in taken.conditions.doubts)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"cost total: 6.0 ms", b"cost total: nan ms"),
        (b"cost total: 6.0 ms", b"cost total: -6.0 ms"),
        (b"cost total: 6.0 ms", b"cost total: 1e99 ms"),
        (b"cost total: 6.0 ms", b"cost total: 1.2.3 ms"),
        (b"@run 1 2", b"@run 2 2"),
        (b"@run 1 2", b"@run 1 0"),
        (b"@run 1 2", b"@run 1 999"),
        (b"@run 1 2", b"@run r 1"),
        (b"@run 1 2", b"@run $(reboot) 1"),
        (b"@begin\n@run r 1", b"@begin\n@run 0 1"),
        (b"@begin", b"@end"),
        (b"@begin\n@run r 1\n Average inference time cost total: 1.0 ms\n", b""),
        (b"cpufreq/scaling_cur_freq 1800000", b"cpufreq/scaling_governor a\x1bb"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    assert old in ANSWER
    with pytest.raises(ValueError, match=r"makes no sense|printed no time|prints"):
        list(runner(tmp_path).rounds(ANSWER.replace(old, new, 1), JOB))


@given(st.binary(max_size=200), st.integers(0, len(ANSWER)))
def test_any_bytes_are_rounds_or_a_value_error(noise: bytes, at: int) -> None:
    for answer in (noise + b"\n", ANSWER[:at] + noise + ANSWER[at:]):
        try:
            rounds = list(
                profilers.remote.programs._rounds(PERF_TEST, answer.decode("latin1"), JOB)
            )
        except ValueError:
            continue
        for taken in rounds:
            assert all(np.isfinite(sample.ms) and sample.ms > 0 for _, sample in taken.samples)


# What the programs print, word for word.
NEW_PERF_TEST = """\
Setting intra_op_num_threads to 1
Session creation time cost: 0.217932 s
First inference time cost: 196 ms
Total inference time cost: 0.49481 s
Total inference requests: 5
Average inference time cost total: 98.961997 ms
Total inference run time: 0.494854 s
Number of inferences per second: 10.104
Avg CPU usage: 11 %
Peak working set size: 271122432 bytes
Avg CPU usage:11
Peak working set size:271122432
Runs:5
Min Latency: 0.0958204 s
"""
OLD_PERF_TEST = """\
Session creation time cost: 0.0214 s
Total inference time cost: 5.88 s
Total inference requests: 1000
Average inference time cost: 5.88 ms
Total inference run time: 5.89 s
"""
NEW_BENCHNCNN = """\
powersave -1 not supported
loop_count = 20
num_threads = 1
powersave = 0
gpu_device = -1
cooling_down = 0
   /data/local/tmp/m.param  min =   20.34  max =   40.57  avg =   26.02
"""
NEW_BENCHMARK_MODEL = """\
INFO: STARTING!
INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if \
exceeding 150 seconds.
INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 \
p5=1238753 median=1239807 p95=1247415

INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, \
Inference (avg): 1.24027e+06
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only \
APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your \
discretion.
"""
OLD_BENCHMARK_MODEL = """\
count=50 first=49042 curr=50889 min=47067 max=54474 avg=49684 std=1442
Average inference timings in us: Warmup: 50123, Init: 4209, no stats: 49684
"""


@pytest.mark.parametrize(
    ("name", "output", "ms"),
    [
        ("onnxruntime_perf_test", NEW_PERF_TEST, 98.961997),
        ("onnxruntime_perf_test", OLD_PERF_TEST, 5.88),
        ("benchncnn", NEW_BENCHNCNN, 26.02),
        ("benchmark_model", NEW_BENCHMARK_MODEL, 1240.27),
        ("benchmark_model", OLD_BENCHMARK_MODEL, 49.684),
    ],
)
def test_what_programs_print_is_understood(name: str, output: str, ms: float) -> None:
    found = PROGRAMS[name]
    assert found.ms(output) == pytest.approx(ms)
    # The device's awk finds the same.
    script = "match($0, pattern) { print unit * substr($0, RSTART + RLENGTH) }"
    for awk in ("mawk", "gawk", "busybox"):
        if shutil.which(awk) is None:
            continue
        command = [awk, *(["awk"] if awk == "busybox" else []), "-v", f"pattern={found.pattern}",
                   "-v", f"unit={found.unit_ms:f}", script]  # fmt: skip
        told = subprocess.run(command, input=output, capture_output=True, text=True, check=True)
        assert float(told.stdout.split()[-1]) == pytest.approx(ms, rel=1e-4)
        assert told.stderr == ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_refuses_what_tells_no_time(name: str) -> None:
    for output in ("", "Segmentation fault", "avg = 3", NEW_PERF_TEST[:150], "error: 12 ms"):
        with pytest.raises(ValueError, match="printed no time"):
            PROGRAMS[name].ms(output)


@pytest.fixture
def board(tmp_path: Path) -> LocalTransport:
    folder = tmp_path / "device's folder"
    folder.mkdir()
    return LocalTransport(str(folder))


def opened(board: LocalTransport, own: ProgramRunner, precision: str = "fp32") -> RemoteProfiler:
    return RemoteProfiler("ssh", board, own, OPTIONS, threads=1, batch=1, precision=precision)


def test_a_table_from_a_device_without_python(board: LocalTransport, tmp_path: Path) -> None:
    own = runner(tmp_path)
    table = build_table(
        opened(board, own), load_spec(), tmp_path / "t.json",
        max_minutes=0.2, precision=0.5, anchor_nets=2, seed=0, progress=lambda _: None,
    )  # fmt: skip
    wanted = plan(load_space(quantum=table.device.quantum)).ops
    assert set(wanted) <= set(table.rows)
    assert table.device.backend == "onnxruntime_perf_test"
    for op in wanted[:10]:
        told = 0.02 + len(op_model([op], 1)) / 1e6
        assert table.rows[op].median_ms == pytest.approx(told, rel=0.01)
    assert not any(Path(board.scratch).iterdir())
    # Its version is the program's content.
    assert opened(board, own).device.fingerprint == table.device.fingerprint
    assert opened(board, runner(tmp_path, TELLS + "#")).device.fingerprint != (
        table.device.fingerprint
    )


def sampled(profiler: RemoteProfiler, ops: Sequence[OpSpec], rounds: int) -> list[float]:
    """The median ratio of each, beside the first."""
    workloads = [profiler.workload([op]) for op in ops]
    with profiler.exclusive(lambda _: None):
        taken = profiler.rounds(workloads[0], random.Random(0), time.monotonic)
        targets = [Target(workload, 5.0, []) for workload in workloads]
        assert taken.take(targets, rounds, 0.0) >= rounds
    return [float(np.median([sample.ratio for sample in target.out])) for target in targets]


SMALL, LARGE = (OpSpec("mbconv", 28, 16, mid, 0, 16, 3, 1, "relu") for mid in (16, 192))


def test_onnxruntime_in_a_process_for_every_sample(board: LocalTransport, tmp_path: Path) -> None:
    stand_in = REPOSITORY / "tests" / "support" / "perf_test.py"
    own = runner(tmp_path, f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
    same, large = sampled(opened(board, own), [SMALL, LARGE], 3)
    assert 0.5 < same < 2
    assert large > 1.5 * same


def test_litert_in_a_process_for_every_sample(board: LocalTransport, tmp_path: Path) -> None:
    if find_spec("ai_edge_litert") is None:
        pytest.skip("needs LiteRT: pip install ai-edge-litert")
    stand_in = REPOSITORY / "tests" / "support" / "benchmark_model.py"
    path = program(tmp_path, f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
    own = ProgramRunner(PROGRAMS["benchmark_model"], path, [], batch=1)
    same, large = sampled(opened(board, own), [SMALL, LARGE], 2)
    assert 0.3 < same < 3
    assert large > 1.5 * same


def test_benchncnn_itself(board: LocalTransport, tmp_path: Path) -> None:
    """TFNAS_BENCHNCNN tells where it is: no package has it."""
    pytest.importorskip("pnnx", reason="needs pnnx: pip install pnnx")
    path = os.environ.get("TFNAS_BENCHNCNN")
    if path is None:
        pytest.skip("needs TFNAS_BENCHNCNN=PATH of a benchncnn that runs here")
    own = ProgramRunner(BENCHNCNN, Path(path), [], batch=1)
    with pytest.raises(ValueError, match="expected one of fp16"):
        opened(board, own, "fp32")
    profiler = opened(board, own, "fp16")
    assert profiler.device.precision == "fp16"
    same, large = sampled(profiler, [SMALL, LARGE], 5)
    assert 0.5 < same < 2
    assert large > 1.5 * same


class Told(LocalTransport):
    """A device that tells this of itself."""

    text = ""

    def run(self, command: Sequence[str], *, timeout_s: float, max_bytes: int = 10_000_000) -> Ran:
        if command[:2] == ["sh", "-c"]:
            return Ran(0, self.text.encode(), "")
        return super().run(command, timeout_s=timeout_s, max_bytes=max_bytes)


PHONE = """@machine
aarch64
@cpuinfo
processor\t: 0
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm aes fphp asimdhp asimddp
CPU implementer\t: 0x51
CPU variant\t: 0xd
CPU part\t: 0x805

processor\t: 4
CPU part\t: 0x804
@online
0-7
@allowed
0-7
@board

@phone
Google Pixel 4
@clocks
/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq 1785600
/sys/devices/system/cpu/cpu4/cpufreq/cpuinfo_max_freq 2419200
/sys/devices/system/cpu/cpu7/cpufreq/cpuinfo_max_freq 2841600
@missing
@end
"""


def test_a_phone_is_described(tmp_path: Path) -> None:
    board = Told(str(tmp_path))
    board.text = PHONE
    own = runner(tmp_path)
    described = own.describe(board)
    assert described.name == "Google Pixel 4"
    assert described.cores == tuple(range(8))
    assert described.fastest_cores == (7,)
    assert described.hardware["flags"] == ["asimd", "asimdhp", "asimddp", "fphp"]
    assert [name for name, _ in described.versions] == ["onnxruntime_perf_test"]
    assert len(described.versions[0][1]) == 12
    board.text = PHONE.replace("@missing\n", "@missing\nawk\nflock\n")
    with pytest.raises(LookupError, match="lacks 'awk', 'flock'"):
        own.describe(board)
    for text in ("", PHONE[:300], PHONE.replace("0-7", "all"), PHONE.replace("Pixel", "\x1b[2J")):
        board.text = text
        with pytest.raises(ValueError, match="tells no sense of itself"):
            own.describe(board)


def test_this_machine_is_described_as_by_the_python_runner(board: LocalTransport) -> None:
    folder = Path(board.scratch)
    by_program = opened(board, runner(folder)).device
    by_python = RemoteProfiler(
        "ssh", board, PythonRunner("onnxruntime", sys.executable), OPTIONS, threads=1, batch=1,
        precision="fp32",
    ).device  # fmt: skip
    assert by_program.fingerprint.partition("-")[0] == by_python.fingerprint.partition("-")[0]
    assert by_program.name == by_python.name


def options(**changes: object) -> RunnerOptions:
    usual = RunnerOptions(
        cores=None, rest_s=0.0, job_s=2.0, memory_mb=400, activations="auto", backend="auto",
        python="python3", program=None, libraries=[],
    )  # fmt: skip
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_the_backend_chooses_the_runner(tmp_path: Path) -> None:
    path = str(program(tmp_path))
    library = tmp_path / "libonnxruntime.so.1.31"
    library.write_bytes(b"x")
    assert runner_for(options(), batch=2).runtime == "onnxruntime"
    assert runner_for(options(backend="ncnn"), batch=1).runtime == "ncnn"
    chosen = runner_for(options(program=path, libraries=[str(library)]), batch=2)
    assert chosen.runtime == "onnxruntime_perf_test"
    assert {"program", "libonnxruntime.so.1.31", "measure.sh"} == set(chosen.files())
    (tmp_path / "tool").write_bytes(b"x")
    for changes, batch, said in (
        ({"backend": "tensorrt"}, 1, "expected one of auto, onnxruntime, ncnn"),
        ({"program": str(tmp_path / "tool")}, 1, "tells which program it is"),
        ({"backend": "benchncnn"}, 1, "needs device.program=PATH"),
        ({"backend": "ncnn", "program": path}, 1, "without device.program"),
        ({"backend": "benchncnn", "program": path}, 2, "one image at a time"),
        ({"backend": "ncnn"}, 2, "one image at a time"),
        ({"program": f"{tmp_path}/nowhere/onnxruntime_perf_test"}, 1, "No such file"),
        ({"program": path, "libraries": [path]}, 1, "expected names such as libx.so"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            runner_for(options(**changes), batch=batch)


def test_an_open_batch_is_fixed() -> None:
    import onnx

    from tfnas.deploy.onnx_graph import build_model, random_weights

    op = OpSpec("conv", 8, 3, 0, 0, 8, 3, 2, "relu")
    model = build_model([op], random_weights([op], np.random.default_rng(0)), None)
    fixed = onnx.load_model_from_string(with_batch(model.SerializeToString(), 3))
    onnx.checker.check_model(fixed, full_check=True)
    for value in (*fixed.graph.input, *fixed.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_value == 3
    own = op_model([op], 2)
    assert with_batch(own, 2) == own
    with pytest.raises(ValueError, match="made for batch=2, asked was batch=3"):
        with_batch(own, 3)


def test_a_job_says_what_it_needs_in_plain_words(tmp_path: Path) -> None:
    files = runner(tmp_path).job_files(replace(JOB, cores=(4, 5, 6, 7), rest_s=0.5))
    assert json.loads(files["job.json"])["runtime"] == "onnxruntime_perf_test"
    text = files["job.sh"].decode()
    assert "mask=f0\n" in text
    assert "rest_s=0.5\n" in text
    assert files["models"].decode() == "r aa 20\n0 bb 20\n1 cc 20\n"

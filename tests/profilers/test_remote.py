"""Devices at the end of a link: what is asked of them, what comes back, and links that break."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import profilers.measure.bench
import profilers.remote.rounds
import profilers.tables.build
from profilers.contract import DeviceError, LinkError
from profilers.onboard.conditions import Conditions
from profilers.onboard.job import SAMPLES, UNUSABLE, Job, Round, name_of, read_rounds
from profilers.onboard.lock import machine_lock
from profilers.onboard.rounds import Sample, Target
from profilers.remote.device import RemoteOptions, RemoteProfiler
from profilers.remote.runner import Described
from profilers.remote.runners import PythonRunner, runner_zip
from profilers.remote.transport import Transport
from profilers.tables.build import build_table
from profilers.tables.plan import extremes, plan
from tests.support.entry import REPOSITORY
from tests.support.local_transport import LocalTransport
from tests.support.spaces import load_space, load_spec
from tfnas.latency.table import LatencyTable

pytestmark = pytest.mark.slow

OPTIONS = RemoteOptions(cores=None, rest_s=0.0, job_s=2.0, memory_mb=400, activations="auto")
JOB = Job(
    device="aaaaaa-bbbbbb", runtime="onnxruntime", threads=1, batch=1, cores=(4, 5), seed="s",
    reference="a", targets=(("b", 0.8),), at_least=6, seconds=2.0, rest_s=0.0, lock_s=20.0,
    nonce="x",
)  # fmt: skip
ONE = Round((0.3, 0.31), ((0, Sample(2.0, 0.6, 0.61)),), Conditions((("cpu_clock_mhz", 1e3),)))


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in tests/profilers/test_build.py: nothing is measured that is kept."""
    small, large = extremes(load_space())
    monkeypatch.setattr(profilers.measure.bench, "ANCHORS", (small.ops, large.ops))
    monkeypatch.setattr(profilers.tables.build, "PROBE_SECONDS", 0.0)  # one job
    monkeypatch.setattr(profilers.remote.rounds, "LINK_S", 3.0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def board(tmp_path: Path) -> Iterator[LocalTransport]:
    folder = tmp_path / "device's folder"
    folder.mkdir()
    transport = LocalTransport(str(folder))
    yield transport
    transport.end()


def opened(
    board: LocalTransport, options: RemoteOptions = OPTIONS, **context: int
) -> RemoteProfiler:
    runner = PythonRunner("onnxruntime", sys.executable)
    settings = {"threads": 1, "batch": 1, **context}
    return RemoteProfiler("ssh", board, runner, options, precision="fp32", **settings)


def build(
    board: LocalTransport,
    path: Path,
    options: RemoteOptions = OPTIONS,
    progress: Callable[[str], None] = lambda _: None,
) -> LatencyTable:
    return build_table(
        opened(board, options), load_spec(), path,
        max_minutes=0.1, precision=0.5, anchor_nets=2, seed=0, progress=progress,
    )  # fmt: skip


def is_covered(table: LatencyTable) -> bool:
    wanted = plan(load_space(quantum=table.device.quantum)).ops
    return set(wanted) <= set(table.rows) and table.calibration is not None


def test_a_table_from_the_other_end(board: LocalTransport, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    said: list[str] = []
    table = build(board, path, replace(OPTIONS, memory_mb=0.5), said.append)
    assert is_covered(table)
    assert table.device.kind == "ssh"
    assert table.device.backend == "onnxruntime"
    assert all(row.runs >= 6 and row.median_ms > 0 for row in table.rows.values())
    assert not any(Path(board.scratch).iterdir())  # everything was removed
    assert table.device.fingerprint == opened(board).device.fingerprint
    assert table.device.fingerprint != opened(board, batch=2).device.fingerprint


def test_models_are_pushed_once(board: LocalTransport, tmp_path: Path) -> None:
    pushed: list[str] = []

    def fault(what: str) -> None:
        if what.startswith("push"):
            pushed.extend(name for name in what.split() if name.endswith(".onnx"))

    board.fault = fault
    build(board, tmp_path / "t.json")
    assert pushed
    assert len(pushed) == len(set(pushed))


def test_a_link_that_breaks_and_comes_back_loses_nothing(
    board: LocalTransport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board.break_after = 2
    assert is_covered(build(board, tmp_path / "t.json"))
    assert "the link broke" in caplog.text


def test_a_link_that_stays_broken_ends_the_run_and_the_next_goes_on(
    board: LocalTransport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.json"
    jobs = 0

    def fault(what: str) -> None:
        nonlocal jobs
        jobs += "measure" in what
        if jobs == 2:  # the first one finds the quantum
            board.break_after = 3
        if board.left_running:
            raise LinkError("a folder: gone")

    board.fault = fault
    with pytest.raises(LinkError, match="the same command goes on"):
        build(board, path)
    assert LatencyTable.load(path).quantum_evidence
    board.end()
    left = list(Path(board.scratch).glob("tfnas-*/jobs/*/samples.jsonl"))
    rounds = sum(len(f.read_text().splitlines()) for f in left)
    assert rounds >= 3
    board.fault, board.break_after = lambda what: None, None
    caplog.set_level("INFO")
    table = build(board, path)
    assert f"{rounds} rounds were left there" in caplog.text
    assert is_covered(table)
    assert all(row.runs >= rounds + 6 for row in table.rows.values())
    assert not any(Path(board.scratch).iterdir())


def test_a_device_that_was_rebooted_is_set_up_again(board: LocalTransport, tmp_path: Path) -> None:
    rebooted = False

    def fault(what: str) -> None:
        nonlocal rebooted
        if "measure" in what and not rebooted:
            rebooted = True
            for folder in Path(board.scratch).iterdir():
                shutil.rmtree(folder)
            raise LinkError("a folder: it reboots")

    board.fault = fault
    assert is_covered(build(board, tmp_path / "t.json"))
    assert rebooted


def test_ctrl_c_keeps_what_was_measured(board: LocalTransport, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    jobs = 0

    def fault(what: str) -> None:
        nonlocal jobs
        jobs += "measure" in what
        if jobs == 2:
            board.break_after, board.error = 4, KeyboardInterrupt()  # of six at least

    board.fault = fault
    with pytest.raises(KeyboardInterrupt):
        build(board, path)
    assert LatencyTable.load(path).rows
    assert not any(Path(board.scratch).iterdir())
    (orphan,) = board.left_running
    assert orphan.wait(timeout=20) == UNUSABLE  # nobody waits for it any more, and it sees that


def test_a_link_that_is_back_at_the_end_takes_no_answer_away(
    board: LocalTransport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It never lasts long enough to fetch one; everything else works."""
    path = tmp_path / "t.json"

    def fault(what: str) -> None:
        if path.exists() and what.startswith("pull") and what.endswith(SAMPLES):
            raise LinkError("a folder: the link broke")

    board.fault = fault
    with pytest.raises(LinkError, match="the same command goes on"):
        build(board, path)
    (left,) = Path(board.scratch).glob("tfnas-*/jobs/*/samples.jsonl")
    assert left.read_text().count("\n") >= 6
    assert not list(Path(board.scratch).glob("tfnas-*/models"))
    board.fault = lambda what: None
    caplog.set_level("INFO")
    assert is_covered(build(board, path))
    assert "were left there and are used" in caplog.text


def test_a_link_that_breaks_between_parts_damages_no_table(
    board: LocalTransport, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    jobs = 0

    def fault(what: str) -> None:
        nonlocal jobs
        jobs += path.exists() and "measure" in what
        if jobs >= 2:
            raise LinkError("a folder: gone")

    board.fault = fault
    with pytest.raises(LinkError):
        build(board, path, replace(OPTIONS, memory_mb=0.4))
    table = LatencyTable.load(path)
    assert table.rows
    assert all(math.isfinite(row.median_ms) for row in table.rows.values())


def test_what_was_measured_before_the_device_gave_up_is_kept(
    board: LocalTransport, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"

    def fault(what: str) -> None:
        if path.exists() and "measure" in what:
            board.break_after, board.error = 6, None

    board.fault = fault
    with pytest.raises(DeviceError, match=r"status 137.*device\.memory_mb=200.*goes on"):
        build(board, path)
    assert LatencyTable.load(path).rows


def test_answers_count_once(
    board: LocalTransport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be removed from the device, so all answers are found there again."""

    def fault(what: str) -> None:
        command, _, folder = what.partition("rm -rf ")
        if command and folder and list(Path(folder).glob("**/samples.jsonl")):
            raise LinkError("a folder: the link broke")

    board.fault = fault
    build(board, tmp_path / "t.json")
    assert list(Path(board.scratch).glob("tfnas-*/jobs/*/samples.jsonl"))
    board.fault = lambda what: None
    caplog.set_level("INFO")
    assert is_covered(build(board, tmp_path / "another.json"))
    assert "were left there" not in caplog.text


class Newer(PythonRunner):
    """Of another version of the runtime."""

    def describe(self, transport: Transport) -> Described:
        return replace(super().describe(transport), versions=(("onnxruntime", "99"),))


def cut_off(board: LocalTransport, path: Path) -> Path:
    """A profile whose link breaks before its table's first answer arrives; the answer there."""

    def fault(what: str) -> None:
        if path.exists() and what.startswith("pull") and what.endswith(SAMPLES):
            raise LinkError("a folder: the link broke")

    board.fault = fault
    with pytest.raises(LinkError):
        build(board, path)
    board.fault = lambda what: None
    (left,) = Path(board.scratch).glob("tfnas-*/jobs/*/samples.jsonl")
    return left


def measured(profiler: RemoteProfiler) -> None:
    """A short session of another kind."""
    with profilers.measure.bench.Bench(profiler, 0, lambda _: None, anchors=()) as bench:
        workload = bench.workload(extremes(load_space())[0].ops)
        bench.measure([workload], precision=0.5, max_seconds=0.5, own_anchors=(0,))


def test_answers_of_another_context_are_not_used_and_stay(
    board: LocalTransport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.json"
    left = cut_off(board, path)
    caplog.set_level("INFO")
    newer = RemoteProfiler(
        "ssh", board, Newer("onnxruntime", sys.executable), OPTIONS,
        threads=1, batch=1, precision="fp32",
    )  # fmt: skip
    measured(newer)
    measured(opened(board))
    assert "were left there" not in caplog.text
    assert left.exists()
    assert is_covered(build(board, path))
    assert "were left there and are used" in caplog.text
    assert not any(Path(board.scratch).iterdir())


@pytest.mark.parametrize("error", [LinkError("a folder: gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["push", "run ls", "pull"])
def test_a_run_that_ends_before_it_measures_takes_no_answer_away(
    when: str, error: BaseException, board: LocalTransport, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    left = cut_off(board, path)
    profiler = opened(board)

    def fault(what: str) -> None:
        if what.startswith(when):
            raise error

    board.fault = fault
    with pytest.raises(type(error)), profilers.measure.bench.Bench(profiler, 0, lambda _: None):
        pass
    assert left.exists()


def test_an_answer_that_was_not_saved_stays_there(board: LocalTransport, tmp_path: Path) -> None:
    """As where the host is killed between an answer and the next job."""
    profiler = opened(board)
    with profilers.measure.bench.Bench(profiler, 0, lambda _: None, anchors=()) as bench:
        targets = [Target(bench.workload(extremes(load_space())[0].ops), 0.5, [])]
        bench._rounds.take(targets, 6, 0.0)
        assert len(targets[0].out) >= 6
        assert len(list(Path(board.scratch).glob("tfnas-*/jobs/*/samples.jsonl"))) == 1
        bench._rounds.take(targets, 6, 0.0)
        assert len(list(Path(board.scratch).glob("tfnas-*/jobs/*/samples.jsonl"))) == 1
    assert not any(Path(board.scratch).iterdir())


def test_what_others_left_in_the_folder_of_jobs_is_passed_over(
    board: LocalTransport, tmp_path: Path
) -> None:
    profiler = opened(board)
    jobs = Path(profiler.folder.path) / "jobs"
    damaged = json.dumps({**json.loads(JOB.to_json()), "cores": 5})
    for text in ("", "{", "[]", "[" * 100_000, '{"format": "tfnas.job/1"}', damaged):
        folder = jobs / name_of(text)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(text)
    (jobs / "../models").mkdir()
    (jobs / "no job").mkdir()
    last_month = time.time() - 30 * 86_400
    os.utime(folder, (last_month, last_month))
    with profilers.measure.bench.Bench(profiler, 0, lambda _: None) as bench:
        bench.workload(extremes(load_space())[0].ops)
    assert not folder.exists()  # nobody came for it
    assert len(list(jobs.iterdir())) == 6
    assert [path.name for path in Path(profiler.folder.path).iterdir()] == ["jobs"]


def test_a_busy_device_is_waited_for(
    board: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(profilers.remote.rounds, "LOCK_S", 0.2)
    caplog.set_level("INFO")
    profiler = opened(board)
    held = machine_lock(print)
    held.__enter__()
    asked = 0

    def fault(what: str) -> None:
        nonlocal asked
        asked += "measure" in what
        if asked == 2:
            held.__exit__(None, None, None)

    board.fault = fault
    with profilers.measure.bench.Bench(profiler, 0, lambda _: None) as bench:
        workload = bench.workload(extremes(load_space())[0].ops)
        bench.measure([workload], precision=0.5, max_seconds=1)
    assert asked >= 2
    assert "another measuring process" in caplog.text


def test_what_a_device_cannot_do_is_said(board: LocalTransport, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threads=64"):
        opened(board, threads=64)
    with pytest.raises(ValueError, match=r"precision of device=ssh.*expected one of fp32"):
        RemoteProfiler(
            "ssh", board, PythonRunner("onnxruntime", sys.executable), OPTIONS,
            threads=1, batch=1, precision="fp16",
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"cores=4000.*has the cores"):
        opened(board, replace(OPTIONS, cores="4000"))
    with pytest.raises(LookupError, match=r"lacks other.*pip install other"):
        RemoteProfiler(
            "ssh", board, PythonRunner("other", sys.executable), OPTIONS,
            threads=1, batch=1, precision="fp32",
        )  # fmt: skip
    with pytest.raises((LookupError, OSError), match=r"false can't run there"):
        RemoteProfiler(
            "ssh", board, PythonRunner("onnxruntime", "false"), OPTIONS,
            threads=1, batch=1, precision="fp32",
        )  # fmt: skip
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    with pytest.raises(ValueError, match="junk"):
        opened(board).model_workload(junk)


def test_a_failing_job_says_what_the_device_said(board: LocalTransport, tmp_path: Path) -> None:
    def fault(what: str) -> None:
        if "measure" in what:
            for model in Path(board.scratch).glob("*/models/*"):
                model.write_bytes(b"damaged")

    board.fault = fault
    with pytest.raises(DeviceError, match="ONNX Runtime can't run"):
        build(board, tmp_path / "t.json")


def test_rounds_are_read_as_written() -> None:
    line = ONE.to_json() + "\n"
    assert list(read_rounds((line + line).encode(), 1)) == [ONE, ONE]
    assert list(read_rounds((line + line[:-9]).encode(), 1)) == [ONE]  # cut off
    assert Job.from_json(JOB.to_json()) == JOB


@pytest.mark.parametrize(
    "line",
    [
        b"\xff", b"{", b"[]", b"{}", b"7", b"null",
        ONE.to_json().replace("[[0,", "[[1,").encode(),
        ONE.to_json().replace("[[0,", "[[-1,").encode(),
        ONE.to_json().replace("[[0,", "[[true,").encode(),
        ONE.to_json().replace("0.61", "NaN").encode(),
        ONE.to_json().replace("0.61", "-1").encode(),
        ONE.to_json().replace("0.61", '"1"').encode(),
        ONE.to_json().replace("0.3,", "0,").encode(),
        ONE.to_json().replace("cpu_clock", "\\u001b[2J").encode(),
        ONE.to_json().replace("1000.0", "Infinity").encode(),
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_answers_that_make_no_sense_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="makes no sense"):
        list(read_rounds(line + b"\n", 1))


@given(st.binary(max_size=200))
def test_any_answer_is_read_or_refused(content: bytes) -> None:
    try:
        found = list(read_rounds(content + b"\n", 3))
    except ValueError:
        return
    assert all(math.isfinite(ms) for r in found for ms in r.reference_ms)


def test_jobs_of_another_version_are_refused() -> None:
    with pytest.raises(ValueError, match="version"):
        Job.from_json(json.dumps({"format": "tfnas.job/0"}))


def test_the_runner_is_the_folder_onboard_and_imports_nothing_else(tmp_path: Path) -> None:
    assert runner_zip() == runner_zip()
    path = tmp_path / "runner.pyz"
    path.write_bytes(runner_zip())
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for name in names:
            if name.endswith(".py"):  # what the oldest Python reads that we say it needs
                ast.parse(archive.read(name), feature_version=(3, 10))
    folder = REPOSITORY / "profilers" / "onboard"
    own = {f"profilers/onboard/{path.name}" for path in folder.iterdir() if path.is_file()}
    assert set(names) == {"__main__.py", "profilers/__init__.py", *own}
    modules = [name[: -len(".py")].replace("/", ".") for name in names if name.endswith(".py")]
    script = "\n".join(
        ["import importlib, sys", f"sys.path.insert(0, {str(path)!r})"]
        + [f"importlib.import_module({name!r})" for name in modules if name != "__main__"]
        + ["tops = {n: m for n, m in sys.modules.items() if n.split('.')[0] == 'profilers'}"]
        + ["assert all('runner.pyz' in module.__file__ for module in tops.values()), tops"]
        + ["assert 'tfnas' not in sys.modules"]
    )
    subprocess.run([sys.executable, "-I", "-c", script], check=True, cwd=tmp_path)


@pytest.mark.parametrize("python", ["true", "echo"])
def test_an_interpreter_that_is_none_is_refused(python: str, board: LocalTransport) -> None:
    with pytest.raises(ValueError, match=rf"what {python} says there makes no sense"):
        RemoteProfiler(
            "ssh", board, PythonRunner("onnxruntime", python), OPTIONS,
            threads=1, batch=1, precision="fp32",
        )  # fmt: skip

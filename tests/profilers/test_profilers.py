"""What every backend must do, whatever the device: the same tests for all of them."""

from __future__ import annotations

import importlib.util
import math
import random
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from omegaconf.errors import OmegaConfBaseException

import profilers.devices
from profilers.contract import Profiler
from profilers.devices import BACKENDS, open_profiler, usual_options
from profilers.gpu.cuda import CudaProfiler
from profilers.measure.activations import choose_activations
from profilers.onboard.conditions import Conditions
from profilers.onboard.rounds import Sample, Target
from profilers.remote.device import RemoteOptions, RemoteProfiler
from profilers.remote.programs import PROGRAMS, ProgramRunner
from profilers.remote.runner import Runner
from profilers.remote.runners import PythonRunner
from profilers.tables.own import table_name
from profilers.tables.plan import extremes, plan
from tests.support import pages
from tests.support.entry import REPOSITORY
from tests.support.host_session import HostSession, Quiet
from tests.support.local_transport import LocalTransport
from tests.support.simulated_device import DEVICE, Machine, SimulatedProfiler
from tests.support.spaces import load_space
from tfnas.app.values import conf_path
from tfnas.deploy.onnx_graph import build_model, random_weights

pytestmark = pytest.mark.slow

NAMES = (
    "simulated",
    "cpu",
    "cpu two threads",
    "cpu batch 3",
    "cpu int8",
    "remote",
    "remote int8",
    "remote batch 3",
    "ncnn",
    "program",
    "torch as on a GPU",
    "example",
)


def add_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend that docs/devices.md shows, as somebody who follows it would add it."""
    shown = pages.files(REPOSITORY / "docs" / "devices.md")
    (folder / "device").mkdir()
    (folder / "device" / "eager.yaml").write_text(shown["conf/device/eager.yaml"])
    (folder / "eager.py").write_text(shown["profilers/eager.py"])
    spec = importlib.util.spec_from_file_location("profilers.eager", folder / "eager.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "profilers.eager", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(BACKENDS, "eager", "profilers.eager")
    monkeypatch.setattr(profilers.devices, "conf_path", lambda: folder)


@pytest.fixture(params=NAMES)
def profiler(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Profiler:
    name = str(request.param)
    if name == "example":
        add_example(tmp_path, monkeypatch)
        return open_profiler("eager")
    batch = 3 if "batch 3" in name else 1
    precision = "int8" if "int8" in name else "fp32"
    if name == "simulated":
        return SimulatedProfiler(Machine(jitter=0.01))
    if name.startswith("cpu"):
        return open_profiler(
            "cpu", threads=2 if "two" in name else 1, batch=batch, precision=precision
        )
    if name.startswith("torch"):
        device = replace(DEVICE, kind="gpu", backend="cuda")
        return CudaProfiler(device, HostSession(), Quiet(), graph=False, compile=False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    runner: Runner = PythonRunner("onnxruntime", sys.executable)
    if name == "ncnn":
        pytest.importorskip("ncnn", reason="needs ncnn")
        pytest.importorskip("pnnx", reason="needs pnnx")
        runner = PythonRunner("ncnn", sys.executable)
    if name == "program":
        program = tmp_path / "onnxruntime_perf_test"
        stand_in = REPOSITORY / "tests" / "support" / "perf_test.py"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
        runner = ProgramRunner(PROGRAMS["onnxruntime_perf_test"], program, [], batch)
    remote = RemoteProfiler(
        "ssh", LocalTransport(str(scratch)), runner,
        RemoteOptions(cores=None, rest_s=0.0, job_s=1.0, memory_mb=400, activations="auto"),
        threads=1, batch=batch, precision=precision,
    )  # fmt: skip
    if precision == "int8":
        choose_activations(remote, "auto")
    return remote


def sampled(profiler: Profiler, *models: list, count: int = 8) -> list[list[Sample]]:
    """So many rounds of rows of ops beside the first of them."""
    with profiler.exclusive(lambda _: None):
        rounds = profiler.rounds(profiler.workload(models[0]), random.Random(0), time.monotonic)
        workloads = [profiler.workload(ops) for ops in models]
        targets = [Target(w, 0.5, []) for w in workloads]
        done = 0
        while done < count:
            more = rounds.take(targets, count - done, 0.5)
            assert more >= 1
            done += more
        assert 0 < rounds.references.floor_ms < math.inf
        assert 0 < rounds.references.quiet_share <= 1
        assert isinstance(rounds.watch.to_json(), dict)
        for workload in workloads:
            workload.close()
            workload.close()  # as where a bench is left that it was closed in before
        rounds.close()
    assert all(len(t.out) == done for t in targets)
    return [t.out for t in targets]


def test_its_device_is_described(profiler: Profiler) -> None:
    device = profiler.device
    assert device.name.strip()
    assert re.fullmatch(r"[0-9a-f]{6}-[0-9a-f]{6}", device.fingerprint)
    assert re.fullmatch(r"[a-z0-9-]+\.json", table_name(device))
    assert device.versions
    assert device.quantum == 1


def test_samples_tell_large_from_small(profiler: Profiler) -> None:
    """A ratio of 1 for the reference itself; a net takes longer than one of its blocks."""
    small, large = extremes(load_space())
    same, more = sampled(profiler, list(small.blocks[:1]), list(large.ops))
    d = profiler.device
    if d.threads == 1 and d.backend in ("none", "onnxruntime", "ncnn"):
        # The others are on the wall clock, which other work disturbs.
        assert np.median([s.ratio for s in same]) == pytest.approx(1, rel=0.35)
    # The least of each: where other work disturbs, a block's median may be that of a net at rest.
    assert min(s.ms for s in more) > min(s.ms for s in same)
    for sample in (*same, *more):
        assert all(0 < value < math.inf for value in sample)


def test_every_kind_of_op_runs(profiler: Profiler) -> None:
    ops = {(op.kind, op.act, op.c_se > 0, op.stride): op for op in plan(load_space()).ops}
    for samples in sampled(profiler, *([op] for op in ops.values()), count=2):
        assert len(samples) >= 2


def test_models_are_loaded_or_refused(profiler: Profiler, tmp_path: Path) -> None:
    ops = extremes(load_space())[0].ops
    path = tmp_path / "m.onnx"
    model = build_model(ops, random_weights(ops, np.random.default_rng(0)), None)
    onnx.save(model, path)
    if not isinstance(profiler, SimulatedProfiler):
        profiler.model_workload(path).close()
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        profiler.model_workload(path)


def test_conditions_are_told(profiler: Profiler) -> None:
    seen = profiler.conditions()
    assert isinstance(seen, Conditions)
    for name, value in seen.readings:
        assert re.fullmatch(r"[a-z0-9_]+", name)
        assert isinstance(value, str) or math.isfinite(value)


@pytest.mark.parametrize("kind", sorted(BACKENDS))
def test_every_backend_has_its_options_file(kind: str) -> None:
    assert usual_options(kind)["kind"] == kind
    assert {path.stem for path in (conf_path() / "device").glob("*.yaml")} == set(BACKENDS)


@pytest.mark.parametrize("kind", sorted(BACKENDS))
def test_unknown_options_and_contexts_are_refused(kind: str) -> None:
    there = {"host": "nowhere.invalid"} if kind == "ssh" else {}
    for wrong, told in (
        ({"backend": "magic"}, "backend"),
        ({"colour": "red"}, "colour"),
        ({"threads": 0}, "threads=0"),
        ({"batch": 5000}, "batch=5000"),
    ):
        with pytest.raises((ValueError, LookupError, OmegaConfBaseException), match=told):
            open_profiler(kind, **there, **wrong)  # type: ignore[arg-type]

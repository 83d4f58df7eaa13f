"""The whole path on a tiny space, as a user runs it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest

import tfnas
from tests.support.browser import check_self_contained, render
from tests.support.entry import Entry, run_entry
from tests.support.nets import few_root, image_folder
from tests.support.simulated_device import Machine, SimulatedProfiler
from tests.support.spaces import load_space, macs_table
from tfnas.app.command_line import override
from tfnas.app.values import load
from tfnas.derive.architecture import Constraint
from tfnas.derive.menu import feasible
from tfnas.latency.stages import load_stages
from tfnas.latency.table import LatencyTable
from tfnas.pipeline.device import check_extremes, reachable
from tfnas.process.exits import DONE, INTERRUPTED, OUTSIDE_TOLERANCE, UNUSABLE_INPUT
from tfnas.runs.result import within_tolerance
from tfnas.runs.run import read_run
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow

FAST = [
    "space=tiny",
    "budget=test",
    "strategy=tfnas",
    "profile=test",
    "verify=test",
    "data.root=shipped",
    "loop_minutes=0.05",
    "stage_minutes=0.01",
    "cores=1",
]
# A busy machine and some seconds of measuring: what is tested is the path, not the figure.
ANY_TOLERANCE = "tolerance=9"


class Elsewhere(NamedTuple):
    file: Path
    low: float  # ms, reachable
    high: float
    middle: float


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, coarse table of this machine for the tiny space."""
    folder = tmp_path_factory.mktemp("tables")
    file = folder / "here.json"
    done = run_entry(
        "profilers", "space=tiny", "profile=test", "data.root=shipped",
        override("table", file), cwd=folder,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    return file


REFUSED = {
    "hydra.run.dir": "holds an unfinished search: go on with `python -m tfnas.search resume=",
    "threads": "threads: 1 there, 2 now",
    "space": "space.name: 'tiny' there, 'tfnas' now",
    "table": "the search began on the device",
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    """A made-up table of a device that is not here."""
    space = load_space("tiny")
    table = macs_table(space)
    file = tmp_path / "elsewhere.json"
    table.save(file)
    low, high = feasible(space, table)
    return Elsewhere(file, low, high, round((low + high) / 2, 4))


def check_report(out: Path, subnet: Subnet) -> None:
    """That the page tells what the run found."""
    html = (out / "report.html").read_text()
    found = check_self_contained(html)
    result = json.loads((out / "result.json").read_text())
    for name in ("target_ms", "table_ms", "measured_ms"):
        (told,) = found.values(f"data-{name.replace('_', '-')}")
        assert float(told) == result[name]
    assert found.values("data-width") == [str(op.c_mid) for op in subnet.blocks]
    assert sum(map(float, found.values("data-ms"))) == pytest.approx(result["table_ms"])
    for told in ("Op probabilities", "Closing on the device", "device, the part alone"):
        assert told in html
    assert 'role="note"' not in html or result["noisy"]


def test_a_net_for_two_devices_is_measured_on_both(table_file: Path, tmp_path: Path) -> None:
    """This CPU with two images at once is another device: it has another table and file."""
    pairs = tmp_path / "pairs.json"
    done = run_entry(
        "profilers", "space=tiny", "profile=test", "batch=2", override("table", pairs),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    table, other = LatencyTable.load(table_file), LatencyTable.load(pairs)
    space = load_space("tiny", quantum=table.device.quantum)
    most_ms, out = 1.5 * feasible(space, other)[1], tmp_path / "run"
    done = run_entry(
        "tfnas.search", *FAST, f"target_ms={sum(feasible(space, table)) / 2}", ANY_TOLERANCE,
        f"also=[{{table: {pairs}, ms: {most_ms}}}]", override("table", table_file),
        override("hydra.run.dir", out), cwd=tmp_path,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == DONE, text
    assert "checking also ms=" in text
    (beside,) = json.loads((out / "result.json").read_text())["beside"]
    assert beside["measured_ms"] > 0
    assert (out / "model-1.onnx").is_file()
    assert (out / "verify-1.json").is_file()


def test_whole_path_from_search_to_verify(table_file: Path, tmp_path: Path) -> None:
    table = LatencyTable.load(table_file)
    space = load_space("tiny", quantum=table.device.quantum)
    low, high = feasible(space, table)
    target_ms = round((low + high) / 2, 4)
    out = tmp_path / "run"
    done = run_entry(
        "tfnas.search", *FAST, f"target_ms={target_ms}", ANY_TOLERANCE,
        override("table", table_file), override("hydra.run.dir", out), cwd=tmp_path,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == DONE, text
    for told in ("reachable", "target", "measured", "next:"):
        assert told in text

    result = json.loads((out / "result.json").read_text())
    subnet = Subnet.load(out / "subnet.json")
    assert subnet in space
    assert result["verified"] is True
    assert result["target_ms"] == target_ms
    assert result["table_ms"] == pytest.approx(table.total(subnet))
    assert result["measured_ci_ms"][0] < result["measured_ms"] < result["measured_ci_ms"][1]
    assert result["measured_raw_ms"]["min"] <= result["measured_raw_ms"]["median"]
    assert result["feasible_ms"] == pytest.approx([low, high])
    assert {"profile", "search", "derive", "loop", "verify"} <= set(result["seconds"])

    stages = load_stages(out / "stages.json")
    assert stages.whole.table_ms == pytest.approx(table.total(subnet))
    assert stages.whole.device_ms == pytest.approx(result["measured_ms"], rel=0.9)
    assert "where the milliseconds go" in text

    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [0, 1]
    assert f"report: {out / 'report.html'}" in text
    check_report(out, subnet)

    train = run_entry(
        "tfnas.train", override("subnet", out / "subnet.json"), f"data.root={few_root()}",
        "recipe=test", "threads=1",
        override("weights", out / "supernet_weights.safetensors"), cwd=tmp_path,
    )  # fmt: skip
    assert train.returncode == DONE, train.stdout + train.stderr
    export = run_entry(
        "tfnas.export", override("subnet", out / "subnet.json"), "batch=null",
        override("weights", out / "weights.safetensors"), cwd=tmp_path,
    )  # fmt: skip
    assert export.returncode == DONE, export.stdout + export.stderr
    model = onnx.load(out / "model.onnx")
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties["target_ms"] == str(target_ms)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": np.zeros((3, 3, 32, 32), np.float32)})[0]
    assert logits.shape == (3, 10)

    verify = run_entry(
        "profilers.verify", override("onnx", out / "model.onnx"), f"target_ms={target_ms}",
        ANY_TOLERANCE, "verify=test", cwd=tmp_path,
    )  # fmt: skip
    assert verify.returncode == DONE, verify.stdout + verify.stderr

    report = run_entry("tfnas.report", str(out), cwd=tmp_path)
    assert report.returncode == DONE, report.stdout + report.stderr
    rendered = render(out / "report.html", tmp_path)  # skips what is left where none is
    assert rendered.console == ()
    found = check_self_contained(rendered.dom)
    assert found.values("data-measured-ms") == [str(result["measured_ms"])]
    assert found.values("data-top1") == [str(json.loads((out / "train.json").read_text())["top1"])]


def test_stopped_while_stages_are_measured(table_file: Path, tmp_path: Path) -> None:
    """The run is done by then: its result stays, and is told again."""
    table = LatencyTable.load(table_file)
    low, high = feasible(load_space("tiny", quantum=table.device.quantum), table)
    out = tmp_path / "out"
    command = [
        *FAST, "stage_minutes=2", "loop_minutes=0", f"target_ms={(low + high) / 2:.4f}",
        ANY_TOLERANCE, override("table", table_file),
        override("hydra.run.dir", out),
    ]  # fmt: skip
    with Entry("tfnas.search", *command, cwd=tmp_path) as search:
        search.until(lambda line: line.startswith("measuring stem, stages and head"))
        search.send_signal(signal.SIGINT)
        status, text = search.finish()
    assert status == INTERRUPTED, text
    assert not (out / "stages.json").exists()
    again = run_entry("tfnas.search", f"resume={out}", cwd=tmp_path)
    assert again.returncode == DONE, again.stdout + again.stderr
    assert f"{out} is finished" in again.stdout


def test_a_table_of_another_device_is_obeyed_and_not_verified(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (out / "report.html").mkdir(parents=True)  # what goes wrong with the page changes nothing
    done = run_entry(
        "tfnas.search", *FAST, f"target_ms={elsewhere.middle}",
        override("table", elsewhere.file), override("hydra.run.dir", out),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    assert "warning: the report is not written (IsADirectoryError" in done.stdout
    assert f"`python -m tfnas.report {out}` does it" in done.stdout
    assert "profilers.verify" not in done.stdout  # it would measure another device
    result = json.loads((out / "result.json").read_text())
    assert result["verified"] is False
    assert result["measured_ms"] is None
    assert result["measured_ci_ms"] is None
    assert not (out / "stages.json").exists()
    assert abs(result["table_ms"] / elsewhere.middle - 1) <= 5e-4


@pytest.mark.parametrize(
    ("target_ms", "at_most", "fine"),
    [(1e3, False, False), (1e3, True, True), (1e-6, True, False)],
)
def test_what_is_clearly_out_of_reach_is_refused_before_profiling(
    target_ms: float, at_most: bool, fine: bool
) -> None:
    profiler = SimulatedProfiler(Machine())
    if fine:
        check_extremes(profiler, load_space("tiny"), [target_ms], at_most)
        with pytest.raises(ValueError, match="out of reach"):
            check_extremes(profiler, load_space("tiny"), [1e-6, target_ms], at_most)
    else:
        with pytest.raises(ValueError, match="out of reach"):
            check_extremes(profiler, load_space("tiny"), [target_ms], at_most)


@pytest.mark.parametrize("strategy", ["random", "spos"])
def test_other_strategies_leave_the_same_files(
    strategy: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    small = {"random": ["strategy.subnets=3"], "spos": ["strategy.population=2"]}[strategy]
    done = run_entry(
        "tfnas.search", *FAST, f"target_ms={elsewhere.middle}", f"strategy={strategy}", *small,
        override("table", elsewhere.file), override("hydra.run.dir", out),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["strategy"] == strategy
    assert result["scores"]["path_passes"] > 0
    for name in ("subnet.json", "model.onnx", "history.jsonl", "supernet_weights.safetensors"):
        assert (out / name).exists()
    told = check_self_contained((out / "report.html").read_text()).text
    assert "Unverified: the device couldn't be reached" in told
    assert "How often each op was trained" in told
    for learned in ("Op probabilities", "Temperature", "most probable"):
        assert learned not in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_a_signal_and_gone_on_with(
    number: signal.Signals, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    images = shutil.copytree(few_root(), tmp_path / "images")
    command = [
        *FAST, "budget.epochs=8", f"target_ms={elsewhere.middle}",
        override("table", elsewhere.file), override("data.root", images),
    ]  # fmt: skip
    out = tmp_path / "out"
    with Entry("tfnas.search", *command, override("hydra.run.dir", out), cwd=tmp_path) as first:
        first.until(lambda line: line.startswith("epoch 2/"))
        first.send_signal(signal.SIGSTOP)  # or it may be done before the other one
        second = run_entry("tfnas.search", f"resume={out}", cwd=tmp_path)
        assert second.returncode == UNUSABLE_INPUT, second.stdout
        assert "another run is writing into" in second.stdout
        first.send_signal(number)
        first.send_signal(signal.SIGCONT)
        status, text = first.finish()
    assert status == INTERRUPTED, text
    assert f"go on with: python -m tfnas.search resume={out}" in text
    told = check_self_contained((out / "report.html").read_text()).text
    assert "Interrupted: this search has no result." in told
    assert "Supernet loss" in told
    if number != signal.SIGTERM:
        return  # what follows doesn't depend on the signal

    saved = (out / "search.ckpt").read_bytes()
    for options in (
        [*command, override("hydra.run.dir", out)],
        [f"resume={out}", "threads=2"],
        [f"resume={out}", "space=tfnas"],
        [f"resume={out}", "table=null"],
    ):
        refused = run_entry("tfnas.search", *options, cwd=tmp_path)
        assert refused.returncode == UNUSABLE_INPUT, refused.stdout
        assert REFUSED[options[-1].partition("=")[0]] in refused.stdout
        assert "measuring" not in refused.stdout
    assert (out / "search.ckpt").read_bytes() == saved
    refused = run_entry("tfnas.search", f"resume={out}", "seed=1", "budget.epochs=9", cwd=tmp_path)
    assert refused.returncode == UNUSABLE_INPUT
    assert "seed: 0 there, 1 now" in refused.stdout
    assert "budget.epochs: 8 there, 9 now" in refused.stdout
    moved = override("data.root", images.rename(tmp_path / "moved"))
    done = run_entry("tfnas.search", f"resume={out}", "tolerance=0.02", moved, cwd=tmp_path)
    assert done.returncode == DONE, done.stdout
    assert "going on after step" in done.stdout
    assert "this search has no result" not in (out / "report.html").read_text()
    before = (out / "result.json").read_bytes()
    for options, status, said in (
        ((), DONE, f"{out} is finished"),
        (("tolerance=1e-9",), OUTSIDE_TOLERANCE, "MISSED"),
        (("seed=5",), UNUSABLE_INPUT, "seed: 0 there, 5 now"),
    ):
        again = run_entry("tfnas.search", f"resume={out}", *options, cwd=tmp_path)
        assert again.returncode == status, again.stdout
        assert said in again.stdout
    again = run_entry("tfnas.search", *command, moved, override("hydra.run.dir", out), cwd=tmp_path)
    assert again.returncode == UNUSABLE_INPUT
    assert f"{out} holds a finished search" in again.stdout
    assert (out / "result.json").read_bytes() == before
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(out / "search_overrides.yaml", begun)  # as killed before its first checkpoint
    again = run_entry("tfnas.search", *command, moved, f"hydra.run.dir={begun}", cwd=tmp_path)
    assert again.returncode == UNUSABLE_INPUT
    assert "unfinished search" in again.stdout
    # Nothing was searched there yet, so its options may change; what it began with counts then.
    done = run_entry(
        "tfnas.search", f"resume={begun}", "budget.epochs=1", "budget.warmup_epochs=1", moved,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout
    told, _ = read_run(out)
    assert told.status == "done"

    whole = tmp_path / "whole"
    done = run_entry("tfnas.search", *command, moved, f"hydra.run.dir={whole}", cwd=tmp_path)
    assert done.returncode == DONE
    for name in ("subnet.json", "history.jsonl", "supernet_weights.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_same_seed_same_result_whatever_reads_the_images(tmp_path: Path) -> None:
    root, table = image_folder(tmp_path / "images"), tmp_path / "table.json"
    space = load_space("tiny", classes=4)
    macs_table(space).save(table)
    low, high = feasible(space, macs_table(space))
    found = []
    for workers in (0, 2):
        out = tmp_path / f"workers_{workers}"
        here = tmp_path / ("a temporary folder with a long name, " * 5)
        here.mkdir(exist_ok=True)  # where tensors could not be passed between processes
        done = run_entry(
            "tfnas.search", "space=tiny", "budget=test", "strategy=tfnas",
            "budget.batch_size=8", "data=folder",
            override("data.root", root), f"data.workers={workers}", "cores=1",
            f"target_ms={(low + high) / 2:.4f}", override("table", table),
            override("hydra.run.dir", out), cwd=here,
        )  # fmt: skip
        assert done.returncode == DONE, done.stdout + done.stderr
        names = ("subnet.json", "history.jsonl", "supernet_weights.safetensors")
        found.append([(out / name).read_bytes() for name in names])
    assert found[0] == found[1]


def gap_in(quantum: int, tolerance: float = 0.01) -> Constraint:
    """The constraint of a target that no net of a coarse tiny space is within 0.01 % of."""
    space = load_space("tiny", quantum=quantum)
    table = macs_table(space, quantum=quantum)
    low, high = feasible(space, table)
    target_ms = low + (high - low) / 5
    derive = load("derive", "constrained", tol=1e-4)
    return reachable(space, table, target_ms, derive=derive, tolerance=tolerance)


def test_a_target_between_nets_takes_one_within_the_tolerance() -> None:
    constraint = gap_in(16)
    assert 1e-4 < constraint.tol <= 0.01


def test_a_target_between_nets_is_refused_beyond_the_tolerance() -> None:
    with pytest.raises(ValueError, match="nearest"):
        gap_in(64, tolerance=2e-4)


def test_gray_images_are_searched_for_with_one_channel(table_file: Path, tmp_path: Path) -> None:
    shutil.copy(table_file, tmp_path / "table.json")
    space = "space=tiny", "space.in_channels=1", "profile=test", "table=table.json"
    done = run_entry("profilers", *space, cwd=tmp_path)
    assert done.returncode == DONE, done.stdout + done.stderr
    out = tmp_path / "run"
    done = run_entry(
        "tfnas.search", *FAST, *space, "target_ms=99", "derive.at_most=true", ANY_TOLERANCE,
        override("hydra.run.dir", out), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    assert Subnet.load(out / "subnet.json").in_channels == 1
    (taken,) = onnxruntime.InferenceSession(out / "model.onnx").get_inputs()
    assert taken.shape == [1, 1, 32, 32]
    assert json.loads((out / "result.json").read_text())["verified"]
    done = run_entry(
        "tfnas.search", *FAST, "space.in_channels=5", "target_ms=99", "table=table.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == UNUSABLE_INPUT
    assert "its images have 1 channel, the net takes 5: expected space.in_channels" in done.stdout


def test_target_out_of_reach_names_the_nearest(elsewhere: Elsewhere, tmp_path: Path) -> None:
    done = run_entry(
        "tfnas.search", *FAST, "target_ms=99", override("table", elsewhere.file),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == UNUSABLE_INPUT
    assert "out of reach" in done.stdout
    nearest = float(done.stdout.rsplit("target_ms=", 1)[1].split()[0])
    assert nearest <= elsewhere.high
    assert nearest == pytest.approx(elsewhere.high, rel=0.01)


@pytest.mark.parametrize("spoil", ["truncated", "uncovered", "negative"])
def test_unusable_tables_are_refused(spoil: str, tmp_path: Path) -> None:
    space = load_space("tiny")
    file = tmp_path / "bad.json"
    table = macs_table(space)
    if spoil == "uncovered":
        table = replace(table, rows=dict(list(table.rows.items())[:5]))
    if spoil == "negative":
        op, row = next(iter(table.rows.items()))
        table = table.with_rows({op: replace(row, median_ms=-1.0)})
    table.save(file)
    if spoil == "truncated":
        file.write_text(file.read_text()[:1000])
    done = run_entry("tfnas.search", *FAST, "target_ms=0.05", override("table", file), cwd=tmp_path)
    assert done.returncode == UNUSABLE_INPUT, done.stdout + done.stderr
    assert str(file) in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_greedy_derivation_that_misses_is_exit_1(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """From an argmax net near one end, widths alone don't reach the other end of the range."""
    out = tmp_path / "run"
    done = run_entry(
        "tfnas.search", *FAST, f"target_ms={elsewhere.high * 0.999}", "derive=greedy",
        override("table", elsewhere.file), override("hydra.run.dir", out),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == OUTSIDE_TOLERANCE, done.stdout + done.stderr
    assert "MISSED" in done.stdout
    assert json.loads((out / "result.json").read_text())["within"] is False


def test_sweep_goes_on_and_ends_with_its_worst_status(elsewhere: Elsewhere, tmp_path: Path) -> None:
    done = run_entry(
        "tfnas.search", "-m", *FAST, f"target_ms=99,{elsewhere.middle}",
        override("table", elsewhere.file),
        override("hydra.sweep.dir", tmp_path / "sweep"), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == UNUSABLE_INPUT
    assert not (tmp_path / "sweep" / "0" / "result.json").exists()
    assert (tmp_path / "sweep" / "1" / "result.json").exists()


@pytest.mark.parametrize(
    ("gap", "at_most", "within"),
    [(0.005, False, True), (0.02, False, False), (-0.02, False, False), (-0.2, True, True)],
)
def test_tolerance(gap: float, at_most: bool, within: bool) -> None:
    assert within_tolerance(10 * (1 + gap), 10, 0.01, at_most) is within


def test_a_killed_search_ends_its_verification(tmp_path: Path) -> None:
    table = override("table", tmp_path / "table.json")
    assert run_entry("profilers", "space=tiny", "profile=test", table, cwd=tmp_path).returncode == 0
    with Entry(
        "tfnas.search", "space=tiny", "budget=test", "strategy=tfnas", table, "target_ms=5",
        "derive.at_most=true", "loop_minutes=0", "verify.max_minutes=5", cwd=tmp_path,
    ) as search:  # fmt: skip
        search.until(lambda line: line.startswith("measuring model.onnx"))
        (verifier,) = Path(f"/proc/{search.pid}/task/{search.pid}/children").read_text().split()
        assert b"profilers.verify" in Path(f"/proc/{verifier}/cmdline").read_bytes()
        search.send_signal(signal.SIGKILL)
        ends = time.monotonic() + 60
        while Path(f"/proc/{verifier}").exists() and time.monotonic() < ends:
            time.sleep(0.1)
        assert not Path(f"/proc/{verifier}").exists()


def test_installed_package_finds_its_data(tmp_path: Path) -> None:
    """`pip install .` and the command from another folder: conf/ is inside the package then."""
    root = Path(tfnas.__file__).resolve().parents[1]
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=False
    ).stdout
    if not tracked:
        pytest.skip("needs a checkout to build from")
    for name in filter(None, tracked.split("\0")):
        if not name.startswith(("tests/", "benchmarks/", "docs/")) and (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    target = tmp_path / "site"
    done = subprocess.run(
        [*pip, "--target", str(target), str(source)], capture_output=True, text=True, check=False
    )
    if "No module named 'setuptools'" in done.stderr or "BackendUnavailable" in done.stderr:
        pytest.skip("needs setuptools in this environment")
    assert done.returncode == 0, done.stderr
    code = (
        "from tfnas.app.values import conf_path, user_tables_path;"
        "from tfnas.data.sets import load_images;"
        "print(conf_path()); print(user_tables_path());"
        "print(len(load_images('fashion_mnist', root='shipped').train.labels))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(target), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    conf, tables, images = shown.stdout.split("\n")[:3]
    assert Path(conf) == target / "tfnas" / "conf"
    assert (Path(conf) / "space" / "tfnas.yaml").exists()
    assert not Path(tables).is_relative_to(target)
    assert images == "12000"
    (tmp_path / "no_home").touch()
    command = [sys.executable, "-m", "profilers", "space=tiny", "profile=test"]
    homeless = {
        "PYTHONPATH": str(target),
        "HOME": str(tmp_path / "no_home"),
        "PATH": "/usr/bin:/bin",
    }
    for more, status in (([], UNUSABLE_INPUT), (["table=t.json"], DONE)):
        done = subprocess.run(
            [*command, *more],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=homeless,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert ("table=FILE, or XDG_DATA_HOME" in done.stdout) == (status == UNUSABLE_INPUT)

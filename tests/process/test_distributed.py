"""Two real processes over gloo, against one that runs both halves of every batch."""

from __future__ import annotations

import json
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support import ranks as both
from tests.support.entry import environment, fork_entry, run_entry
from tests.support.nets import few_images, few_root, image_folder, tiny_subnet
from tests.support.spaces import load_space, macs_table
from tfnas.app.command_line import override
from tfnas.data.augment import normalized
from tfnas.data.batches import Batches
from tfnas.data.sets import load_images
from tfnas.derive.menu import feasible
from tfnas.latency.table import LatencyTable
from tfnas.nets.steps import LAG, Guard
from tfnas.process.errors import DivergedError
from tfnas.process.exits import FAILED, UNUSABLE_INPUT
from tfnas.process.ranks import ALONE, Ranks, check_batch, from_environment
from tfnas.strategies.parts.losses import LATENCY_LOSSES
from tfnas.strategies.parts.sampling import gumbel_softmax
from tfnas.strategies.parts.training import count
from tfnas.strategies.tfnas import Search
from tfnas.training.loop import _average, step_seed
from tfnas.training.recipe import learning_rate

pytestmark = pytest.mark.slow

TWO = (Ranks(0, 2, 0, 2), Ranks(1, 2, 1, 2))
# Of weights, momentum, alphas and betas, relative to the largest of each tensor. Several steps in
# float32 make more of what the order of a sum leaves, Adam above all, so there momentum, whose
# gradients may cancel, isn't compared. How much depends on the processor: 0.4 % has been seen.
TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-10}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def fork_ranks(*arguments: str, cwd: Path) -> tuple[list[int], str]:
    """Exit statuses of both processes of a module and what they said, started without torchrun,
    which would take most of the time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = [cwd / f"rank_{rank}.txt" for rank in range(2)]
    processes = [
        fork_entry(
            *arguments, cwd=cwd, files=(file, file), RANK=str(rank), LOCAL_RANK=str(rank),
            WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            GLOO_SOCKET_IFNAME="lo",
        )
        for rank, file in enumerate(files)
    ]  # fmt: skip
    # As torchrun does: an error of one ends the other.
    multiprocessing.connection.wait([process.sentinel for process in processes], 120)
    if any(process.exitcode for process in processes):
        for process in processes:
            process.terminate()
    for process in processes:
        process.join(120)
        process.kill()
    statuses = [process.exitcode for process in processes]
    text = "".join(file.read_text() for file in files)
    for file in files:
        file.unlink()
    assert None not in statuses, text
    return [status for status in statuses if status is not None], text


def launch(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, *arguments], cwd=cwd,
        env={**environment(), "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    """All that it and its children said."""
    try:
        return process.communicate(timeout=120)[0]
    finally:
        process.kill()


def ranks_of(torchrun: subprocess.Popen[str]) -> list[int]:
    """The ids of the processes that it started."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes came to in each of the cases of `tests.support.ranks`."""
    out = tmp_path_factory.mktemp("ranks")
    statuses, told = fork_ranks("tests.support.ranks", str(out), cwd=out)
    assert statuses == [0, 0], told
    return out


def results(folder: Path, case: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{case}_{r}.pt", weights_only=False) for r in range(2)]


def flat(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from flat(value)
    elif isinstance(content, list):
        for value in content:
            yield from flat(value)


def distance(one: Any, other: Any) -> float:
    """The largest difference, relative to the largest value of its tensor."""
    pairs = list(zip(flat(one), flat(other), strict=True))
    assert pairs
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for a, b in pairs
        if len(a.shape)
    )


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


class OneProcess:
    """The steps of a search on both halves of a batch, each with batch statistics of its own."""

    def __init__(self, search: Search):
        self.search = search

    def weight_step(self, x: Tensor, y: Tensor, paths: Sequence[Sequence[int]]) -> None:
        s = self.search
        parameters = list(s.net.parameters())
        depths = [beta.detach().softmax(0) for beta in s.betas]
        gradients, losses, hits = [], [], 0.0
        for images, labels in zip(x.chunk(2), y.chunk(2), strict=True):
            logits = [s.net(images, path, depths, s.widths) for path in paths]
            loss = sum(F.cross_entropy(out, labels) for out in logits)
            assert isinstance(loss, Tensor)
            gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))
            losses.append(loss.detach())
            hits += float((logits[0].argmax(1) == labels).sum())
        for parameter, one, other in zip(parameters, *gradients, strict=True):
            parameter.grad = None if one is None else (one + other) / 2
        nn.utils.clip_grad_norm_(parameters, s.knobs.clip)
        s.weights.sgd.step()
        count(s.weights.sampled, paths)
        s.weights.passes += len(y) * len(paths)
        s.weights.meter.add(sum(losses) / 2 / len(paths), torch.tensor(hits / 2), len(y) // 2)

    def arch_step(self, x: Tensor, y: Tensor) -> None:
        s = self.search
        vectors, noise = [*s.alphas, *s.betas], s.generator.get_state()
        gradients, losses, hits = [], [], 0.0
        for images, labels in zip(x.chunk(2), y.chunk(2), strict=True):
            s.generator.set_state(noise)
            mix = [gumbel_softmax(a, s.temperature, s.generator) for a in s.alphas]
            sinks = [beta.softmax(0) for beta in s.betas]
            logits = s.net(images, mix, sinks, s.widths)
            ce = F.cross_entropy(logits, labels)
            ms = s.expected_ms(mix, sinks)
            loss = LATENCY_LOSSES["relative"](ce, ms, s.target_ms, s.knobs.latency_weight)
            gradients.append(torch.autograd.grad(loss, vectors))
            losses.append(ce.detach())
            hits += float((logits.argmax(1) == labels).sum())
        for vector, one, other in zip(vectors, *gradients, strict=True):
            vector.grad = (one + other) / 2
        nn.utils.clip_grad_norm_(vectors, s.knobs.clip)
        s.arch_adam.step()
        with torch.no_grad():
            for vector in vectors:
                vector.copy_(vector.log_softmax(0))
        s.arch_passes += len(y)
        s.arch_meter.add(sum(losses) / 2, torch.tensor(hits / 2), len(y) // 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_search_steps_equal_those_of_one_process(folder: Path, dtype: torch.dtype) -> None:
    first, second = results(folder, "search" if dtype == torch.float32 else "search64")
    assert equal(first, second)
    assert first["records"] == second["records"]
    with both.default(dtype):
        search = both.new_search(both.new_task())
        search.held_out_top1 = lambda: 0.0  # type: ignore[method-assign]
        one = OneProcess(search)
        wanted = both.steps(search, one.weight_step, one.arch_step)
    for name in ("net", "vectors", *(["momentum"] if dtype == torch.float64 else [])):
        assert distance(first[name], wanted[name]) <= TOLERANCE[dtype], name
    for name in ("widths", "architecture", "passes"):
        assert first[name] == wanted[name]
    initial = [[c.op.c_mid for c in block] for block in search.space.blocks]
    assert wanted["widths"] != initial
    for record, other in zip(first["records"], wanted["records"], strict=True):
        assert record.sampled == other.sampled
        assert record.depths == other.depths
        assert record.scaled_ms == other.scaled_ms
        assert record.train_loss == pytest.approx(other.train_loss, rel=TOLERANCE[dtype])
        assert record.train_top1 == pytest.approx(other.train_top1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_equals_that_of_one_process(
    folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Running statistics are the means over ranks, and each rank draws its own dropout."""
    first, second = results(folder, "training" if dtype == torch.float32 else "training64")
    assert equal(first, second)
    assert first["history"] == second["history"]
    with both.default(dtype):
        training = both.new_training(tmp_path)
        recipe, net, ema = training.recipe, training.network, training.ema
        assert ema is not None
        parameters, buffers = list(net.parameters()), list(net.buffers())
        losses, per_epoch = [], len(training.train_batches)
        for step in range(recipe.epochs * per_epoch):
            if step % per_epoch == 0:
                batches = training.train_batches.epoch(step // per_epoch)
            x, y = next(batches)
            before, gradients, statistics = [b.clone() for b in buffers], [], []
            net.train()
            for rank, (images, labels) in enumerate(zip(x.chunk(2), y.chunk(2), strict=True)):
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(step_seed(0, step, rank))
                    loss = F.cross_entropy(net(images), labels, label_smoothing=0.1)
                gradients.append(torch.autograd.grad(loss, parameters))
                statistics.append([b.clone() for b in buffers])
                losses.append(float(loss.detach()))
            for buffer, one, other in zip(buffers, *statistics, strict=True):
                buffer.copy_((one + other) / 2 if one.is_floating_point() else one)
            for parameter, one, other in zip(parameters, *gradients, strict=True):
                parameter.grad = (one + other) / 2
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
            training.optimizer.param_groups[0]["lr"] = learning_rate(step, per_epoch, recipe)
            training.optimizer.step()
            _average(ema, net, recipe.ema, step)
        ema.eval()
        tested = [(ema(x).argmax(1) == y).sum() for x, y in training.test_batches.epoch(0)]
    assert distance(first["net"], net.state_dict()) <= TOLERANCE[dtype]
    assert distance(first["ema"], ema.state_dict()) <= TOLERANCE[dtype]
    last = first["history"][-1]
    assert last.train_loss == pytest.approx(np.mean(losses[-2 * per_epoch :]), rel=1e-5)
    assert last.top1 == pytest.approx(int(sum(tested)) / 70)  # type: ignore[arg-type]


def test_a_training_stopped_on_one_rank_stops_on_all_and_goes_on(folder: Path) -> None:
    whole, resumed = results(folder, "training"), results(folder, "resumed")
    assert equal(whole, resumed)
    assert whole[0]["history"] == resumed[0]["history"] == resumed[1]["history"]


def test_other_strategies_find_the_same_on_all_ranks(folder: Path) -> None:
    first, second = results(folder, "random")
    assert first == second
    assert first["scores"]["weight_passes"] == 2 * 6 * 32


def test_no_thread_of_gloo_outlives_the_group(folder: Path) -> None:
    """One may abort the exit, and with it what torchrun says of the whole run."""
    for names in results(folder, "threads"):
        assert names
        assert not [name for name in names if "gloo" in name]


def test_ranks_that_differ_are_told_so_on_all_of_them(folder: Path) -> None:
    first, second = (result["message"] for result in results(folder, "disagreement"))
    assert first == second
    assert "the 2 processes no longer do the same" in first
    assert "alphas: 1 " in first
    assert "widths" not in first
    assert "betas" not in first


def test_a_bad_step_of_one_rank_is_left_out_by_all(folder: Path) -> None:
    first, second = results(folder, "nonfinite")
    assert first["skipped"] == second["skipped"] == 1
    assert equal(first["net"], second["net"])
    assert first["loss"] == second["loss"]


def test_a_step_of_one_rank_that_diverges_ends_all(folder: Path) -> None:
    first, second = (result["message"] for result in results(folder, "diverged"))
    assert first == second
    assert "weight step at batch 2 of epoch 1" in first


def test_weights_that_differ_are_found_where_paths_are_uniform(folder: Path) -> None:
    for result in results(folder, "unequal"):
        assert "they differ from rank 0 in weights: 1 " in result["message"]
        assert result["epoch"] == 0


def test_what_no_step_waited_for_is_told_later() -> None:
    """As on a GPU: when the run is saved, or after some more steps."""

    def spoilt() -> Guard:
        guard = Guard("stop", torch.device("cpu"), at_once=False)
        for index in range(4):
            loss = torch.tensor(torch.nan if index == 3 else 1.0)
            assert guard.passes(loss, torch.tensor(1.0), f"step {index}")
        return guard

    with pytest.raises(DivergedError, match="step 3"):
        spoilt().settle()
    guard, one = spoilt(), torch.tensor(1.0)
    for index in range(4, 3 + LAG):
        assert guard.passes(one, one, f"step {index}")
    with pytest.raises(DivergedError, match="step 3"):
        guard.passes(one, one, f"step {3 + LAG}")


def test_a_search_that_diverged_unnoticed_is_not_saved() -> None:
    search = both.new_search(both.new_task())
    search.weights.guard = Guard("stop", torch.device("cpu"), at_once=False)
    x, y = next(search.task.train.epoch(0))
    search.weight_step(x.fill_(torch.nan), y, search.paths(single=True))
    with pytest.raises(DivergedError):
        search.state()


FAST = [
    "space=tiny",
    "budget=test",
    "strategy=tfnas",
    "data.root=shipped",
    "loop_minutes=0",
    "cores=1",
]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A search against a made-up table of a device that is not here."""
    space = load_space("tiny")
    file = tmp_path_factory.mktemp("table") / "elsewhere.json"
    macs_table(space).save(file)
    low, high = feasible(space, macs_table(space))
    return [*FAST, f"target_ms={(low + high) / 2:.4f}", override("table", file)]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole search of four epochs."""
    here = tmp_path_factory.mktemp("whole")
    statuses, told = fork_ranks("tfnas.search", *command, "budget.epochs=4", cwd=here)
    assert statuses == [0, 0], told
    assert told.count("epoch 1/4 · loss") == told.count("met: ") == 1
    assert "rank 1" not in told
    assert names(here) == ["runs"]
    (run,) = (here / "runs").iterdir()  # named by the time, which two processes would have two of
    return run


def test_a_search_leaves_one_set_of_files(whole: Path) -> None:
    assert names(whole) == [
        ".hydra", "history.jsonl", "log.txt", "model.onnx", "report.html", "result.json",
        "search_overrides.yaml", "status.json", "subnet.json", "supernet_weights.safetensors",
        "tensorboard",
    ]  # fmt: skip
    assert (whole / "log.txt").read_text().count("epoch 1/4 · loss") == 1
    rows = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]


def test_stopped_by_a_signal_and_gone_on_with(
    command: list[str], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    stopped = launch(
        "-m", "tfnas.search", *command, "budget.epochs=4", f"hydra.run.dir={out}", cwd=tmp_path
    )
    assert stopped.stdout is not None
    for line in stopped.stdout:
        if line.startswith("epoch 1/"):
            # As a cluster's manager: to all processes, each of which torchrun tells once more.
            for pid in [*ranks_of(stopped), stopped.pid]:
                os.kill(pid, signal.SIGTERM)
            break
    told = ended(stopped)
    assert "interrupted" not in told, told
    assert "stopped and saved" in told, told
    assert told.count("go on with") == 1
    again = "torchrun --standalone --nproc_per_node=2 -m tfnas.search"
    assert f"go on with: {again} resume={out}" in told
    alone = run_entry("tfnas.search", f"resume={out}", cwd=tmp_path)
    assert alone.returncode == UNUSABLE_INPUT
    assert "processes: 2 there, 1 now" in alone.stdout
    resumed = launch("-m", "tfnas.search", f"resume={out}", cwd=tmp_path)
    told = ended(resumed)
    assert resumed.returncode == 0, told
    assert told.count("going on after step") == 1
    assert names(out) == names(whole)
    for name in ("subnet.json", "history.jsonl", "supernet_weights.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_unusable_input_is_told_once(command: list[str], tmp_path: Path) -> None:
    for arguments, said in (
        (
            ["budget.batch_size=31", f"hydra.run.dir={tmp_path / 'out'}"],
            "budget.batch_size=31 on 2 processes: expected a multiple of 2",
        ),
        (["no_such=1"], "no_such"),
        (["-m", "seed=0,1"], "no sweep runs under torchrun"),
        (["--multi", "seed=0,1"], "no sweep runs under torchrun"),
        (["hydra.mode=MULTIRUN", "seed=0,1"], "no sweep runs under torchrun"),
    ):
        # Not forked: rank 0 has the word, and torchrun ends the others at once.
        process = launch("-m", "tfnas.search", *arguments, *command, cwd=tmp_path)
        told = ended(process)
        assert process.returncode != 0
        errors = [line for line in told.splitlines() if "error: " in line]
        assert len(errors) == 1, told
        assert errors[0].startswith("error: ")
        assert said in errors[0]
    assert not (tmp_path / "out").exists()  # refused: nothing was begun


ANOTHER = """
import os, runpy, sys
if os.environ["RANK"] == "1":
    {}
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def test_what_one_process_has_not_is_refused_before_anything_is_measured(
    command: list[str], tmp_path: Path
) -> None:
    out, subnet = tmp_path / "out", tmp_path / "subnet.json"
    tiny_subnet().save(subnet)
    script = tmp_path / "only_one.py"
    script.write_text(ANOTHER.format("sys.argv.append('data.root=/nowhere')"))
    here = [f"data.root={few_root()}", "data=fashion_mnist", "accelerator=cpu"]
    for arguments in (
        ["tfnas.search", *command, f"hydra.run.dir={out}"],
        ["tfnas.train", f"subnet={subnet}", f"out={tmp_path}", f"hydra.run.dir={out}", *here],
    ):
        _, told = fork_ranks(str(script), *arguments, cwd=tmp_path)
        errors = [line for line in told.splitlines() if "error: " in line]
        assert len(errors) == 1, told
        assert errors[0].startswith("error: process 1: ")
        assert "/nowhere" in errors[0]
        assert not list(out.rglob("*"))  # refused: nothing was begun


def test_processes_on_different_devices_are_refused(command: list[str], tmp_path: Path) -> None:
    script, out = tmp_path / "only_one.py", tmp_path / "out"
    script.write_text(
        ANOTHER.format(
            "import torch, tfnas.process.accelerator as a; "
            "a.pick_accelerator = lambda *_: torch.device('meta')"
        )
    )
    # Not forked: what is changed must not have been imported yet.
    told = ended(
        launch(str(script), "tfnas.search", *command, f"hydra.run.dir={out}", cwd=tmp_path)
    )
    assert "they differ from rank 0 in accelerator: 1 (ranks)" in told
    assert told.count("error: ") == 1
    assert not out.exists()  # refused: nothing was begun


def test_a_process_that_dies_ends_the_others(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = launch(
        "-m", "tfnas.search", *command, "budget.epochs=500", f"hydra.run.dir={out}", cwd=tmp_path
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    first = json.loads((out / "status.json").read_text())["pid"]
    (second,) = (pid for pid in ranks_of(process) if pid != first)
    os.kill(second, signal.SIGKILL)
    told = ended(process)
    assert told.count("error: another process of this run ended") == 1, told
    assert f"go on with: {TWO[0].launcher} -m tfnas.search resume=" in told
    assert json.loads((out / "status.json").read_text())["status"] == FAILED


def test_an_image_that_one_of_them_cannot_read_is_named(tmp_path: Path) -> None:
    root, file = image_folder(tmp_path / "images"), tmp_path / "table.json"
    space = load_space("tiny", classes=4)
    macs_table(space).save(file)
    low, high = feasible(space, macs_table(space))
    # Not the first of its class, whose header is checked before the work begins.
    broken = sorted((root / "train" / "class_1").iterdir())[5]
    broken.write_bytes(broken.read_bytes()[:100])
    statuses, told = fork_ranks(
        "tfnas.search", "space=tiny", "budget=test", "strategy=tfnas",
        "budget.batch_size=8", "data=folder",
        override("data.root", root), f"target_ms={(low + high) / 2:.4f}", "cores=1",
        override("table", file), f"hydra.run.dir={tmp_path / 'out'}", "data.check=false",
        cwd=tmp_path,
    )  # fmt: skip
    assert UNUSABLE_INPUT in statuses or FAILED in statuses, told
    assert f"{broken}: not readable as an image" in told
    assert "failed\nTraceback" not in told


def test_alone_nothing_happens() -> None:
    values = [torch.ones(2)]
    ALONE.average(values)
    ALONE.check_same({"x": values})
    ALONE.leave()
    assert values[0].tolist() == [1, 1]
    assert ALONE.sum(1.5, 2) == (1.5, 2)
    assert ALONE.any(False, True) == (False, True)
    assert ALONE.broadcast(values) is values
    assert ALONE.part(7) == slice(0, 7)
    assert not torch.distributed.is_initialized()


def test_parts_are_all_of_it() -> None:
    for size in (1, 2, 3, 7):
        for n in (0, 1, 5, 32):
            parts = [range(n)[Ranks(r, size).part(n)] for r in range(size)]
            assert [i for part in parts for i in part] == list(range(n))
            if n % size == 0:
                assert {len(part) for part in parts} == {n // size}


def test_who_a_process_is() -> None:
    assert from_environment({}) == ALONE
    told = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert from_environment(told) == Ranks(3, 4, 1, 2)
    for wrong in ({"RANK": "4"}, {"RANK": "x"}, {"LOCAL_RANK": "2"}):
        with pytest.raises(ValueError, match="RANK"):
            from_environment({**told, **wrong})


def test_a_batch_must_be_shared_evenly() -> None:
    check_batch("b", 31, ALONE)
    check_batch("b", 32, TWO[0])
    for batch in (31, 2):
        with pytest.raises(ValueError, match="expected a multiple of 2"):
            check_batch("b", batch, TWO[0])


def test_a_table_can_be_sent() -> None:
    table = macs_table(load_space("tiny"))
    sent = LatencyTable.from_json(table.to_json(), table.source)
    assert {op: row.median_ms for op, row in sent.rows.items()} == {
        op: row.median_ms for op, row in table.rows.items()
    }
    assert sent.to_json() == table.to_json()


@pytest.mark.parametrize(("augment", "strong"), [(True, 0.0), (True, 0.5), (False, 0.0)])
@pytest.mark.parametrize("source", ["memory", "files"])
def test_parts_of_a_batch_are_what_one_process_has(
    source: str, augment: bool, strong: float, tmp_path: Path
) -> None:
    if source == "memory":
        dataset = few_images(train=40, test=10)
    else:
        dataset = load_images("folder", root=str(image_folder(tmp_path / "images", 40)))

    def epoch(ranks: Ranks) -> list[tuple[Tensor, Tensor]]:
        batches = Batches(
            dataset.train, np.arange(33), batch=16, size=16, mean=dataset.mean, std=dataset.std,
            seed=0, augment=augment, drop_last=False, ranks=ranks, rand_augment=10 * strong,
            erasing=strong,
        )  # fmt: skip
        return list(batches.epoch(1))

    for whole, one, other in zip(epoch(ALONE), *map(epoch, TWO), strict=True):
        for i in range(2):
            assert torch.equal(whole[i], torch.cat([one[i], other[i]]))
        assert one[0].shape[1:] == other[0].shape[1:]
    assert len(one[0]) == 0  # of the last image


def test_an_empty_part_is_normalized() -> None:
    assert normalized(torch.empty(0, 3, 4, 4), (0, 0, 0), (1, 1, 1)).shape == (0, 3, 4, 4)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
WAITED = "called a synchronizing"  # in what torch says of an operation that made the CPU wait
# Torch says of the mode itself that it is a prototype.
in_debug_mode = pytest.mark.filterwarnings("ignore:Synchronization debug mode")


@pytest.mark.gpu
@needs_gpu
@in_debug_mode
@pytest.mark.parametrize("amp", [False, True])
def test_a_weight_step_on_a_gpu_waits_for_nothing(amp: bool) -> None:
    search = gpu_search(amp)
    batches = search.task.train.epoch(0)
    for index, (x, y) in enumerate(batches):
        # The first steps choose algorithms and reserve memory.
        torch.cuda.set_sync_debug_mode("error" if index >= 2 else "default")
        try:
            search.weight_step(x, y, search.paths(single=False))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    search.weights.guard.settle()
    assert np.isfinite(search.weights.meter.loss)


@pytest.mark.gpu
@needs_gpu
@in_debug_mode
@pytest.mark.parametrize("amp", [False, True])
def test_an_architecture_step_on_a_gpu_waits_once(amp: bool) -> None:
    search = gpu_search(amp)
    x, y = next(search.held_out)
    search.arch_step(x, y)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match=WAITED) as told:
            search.arch_step(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([1 for one in told if WAITED in str(one.message)]) == 1
    assert all(bool(torch.isfinite(a).all()) for a in search.alphas)


@pytest.mark.gpu
@needs_gpu
def test_steps_on_a_gpu_are_those_of_a_cpu() -> None:
    there, here = gpu_search(False), both.new_search(both.new_task())
    for search in (there, here):
        x, y = next(search.task.train.epoch(0))
        search.weight_step(x, y, [[0, 1, 2, 3], [1, 2, 3, 0]])
        search.arch_step(*next(search.held_out))
    weights = [p.detach().cpu() for p in there.net.parameters()]
    assert distance(weights, list(here.net.parameters())) < 1e-2
    assert distance([*there.alphas, *there.betas], [*here.alphas, *here.betas]) < 1e-2


def gpu_search(amp: bool) -> Search:
    task = both.replace(both.new_task(), device=torch.device("cuda"), amp=amp)
    return both.new_search(task)

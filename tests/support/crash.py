"""python -m tests.support.crash search|train|profile [--kills 30] [--seed 0]

Kills a real run with SIGKILL, its helpers included, at moments spread over its whole time, goes on
with it, and compares what it leaves with what an uninterrupted run leaves: bit for bit, times left
out. A profile measures, so there what is compared is that nothing measured was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from profilers.tables.build import is_enough
from tests.support.entry import fork_entry
from tests.support.nets import few_root, tiny_subnet
from tests.support.spaces import load_space, load_spec, macs_table
from tfnas.app.command_line import override
from tfnas.derive.menu import feasible
from tfnas.files.checkpoint import exists
from tfnas.latency.table import LatencyTable
from tfnas.process.exits import DONE
from tfnas.runs.folder import RunFolder
from tfnas.training.loop import CHECKPOINT

LIMIT_S = 300
STARTING_S = 0.2  # the process itself: nothing of ours can be lost yet
SEARCH_FILES = ("subnet.json", "history.jsonl", "supernet_weights.safetensors")


def run(command: list[str], folder: Path, kill_after_s: float | None = None) -> tuple[int, float]:
    """(exit status, seconds) of a command, killed after some seconds if it takes so long."""
    started = time.monotonic()
    log = folder / "log.txt"
    process = fork_entry(*command, cwd=folder, files=(log, log), own_group=True)
    process.join(LIMIT_S if kill_after_s is None else kill_after_s)
    if process.exitcode is None:
        assert process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert kill_after_s is not None, f"not done after {LIMIT_S} s: {log.read_text()}"
    assert process.exitcode is not None
    return process.exitcode, time.monotonic() - started


def moments(kills: int, seconds: float, seed: int) -> list[float]:
    """Random moments, one in each of so many equal parts of a run's time."""
    rng = random.Random(seed)
    part = (seconds - STARTING_S) / kills
    return [STARTING_S + (index + rng.random()) * part for index in range(kills)]


def crash_search(folder: Path, kills: int, seed: int) -> int:
    """How many of the runs were killed in time."""
    space = load_space("tiny")
    table = folder / "table.json"
    macs_table(space).save(table)
    low, high = feasible(space, macs_table(space))
    command = [
        "tfnas.search", "space=tiny", "budget=test", "budget.epochs=4", "data.root=shipped",
        f"target_ms={(low + high) / 2:.4f}", "checkpoint_minutes=1e-4", "cores=1",
        "strategy.evaluations=30", "strategy.optima=5", "strategy.score_images=64",
        override("table", table),
    ]  # fmt: skip

    def start(out: Path) -> list[str]:
        return [*command, override("hydra.run.dir", out)]

    def go_on(out: Path) -> list[str]:
        if not RunFolder(out).overrides.is_file():
            return start(out)  # so early that there is nothing to go on with
        return ["tfnas.search", override("resume", out)]

    return crash(folder, kills, seed, start, go_on, compare_searches)


def crash_train(folder: Path, kills: int, seed: int) -> int:
    """How many of the runs were killed in time."""
    subnet = folder / "subnet.json"
    tiny_subnet().save(subnet)

    def start(out: Path) -> list[str]:
        return [
            "tfnas.train", override("subnet", subnet), "recipe=test", "recipe.epochs=3",
            f"data.root={few_root()}", "checkpoint_minutes=1e-4", "threads=1",
            override("out", out),
        ]  # fmt: skip

    def go_on(out: Path) -> list[str]:
        if not exists(out / CHECKPOINT) and not (out / "train.json").exists():
            return start(out)
        return ["tfnas.train", override("resume", out)]

    return crash(folder, kills, seed, start, go_on, compare_trainings)


def crash(
    folder: Path,
    kills: int,
    seed: int,
    start: Callable[[Path], list[str]],
    go_on: Callable[[Path], list[str]],
    compare: Callable[[Path, Path], None],
) -> int:
    whole = folder / "whole"
    status, seconds = run(start(whole), folder)
    assert status == DONE, (folder / "log.txt").read_text()[-2000:]
    killed = 0
    for index, moment in enumerate(moments(kills, seconds, seed)):
        out = folder / f"killed_{index}"
        status, _ = run(start(out), folder, moment)
        if status == -signal.SIGKILL:
            killed += 1
            status, _ = run(go_on(out), folder, moment)  # and once more, elsewhere in its work
            while status == -signal.SIGKILL:
                status, _ = run(go_on(out), folder)
        assert status == DONE, f"{moment} s: " + (folder / "log.txt").read_text()[-2000:]
        compare(whole, out)
        print(f"killed after {moment:.2f} of {seconds:.2f} s: equal", flush=True)
    return killed


def compare_searches(whole: Path, other: Path) -> None:
    for name in SEARCH_FILES:
        assert (whole / name).read_bytes() == (other / name).read_bytes(), name
    a, b = (json.loads((out / "result.json").read_text()) for out in (whole, other))
    assert {**a, "seconds": 0} == {**b, "seconds": 0}


def compare_trainings(whole: Path, other: Path) -> None:
    name = "weights.safetensors"
    assert (whole / name).read_bytes() == (other / name).read_bytes()
    records = [json.loads((out / "train.json").read_text()) for out in (whole, other)]
    for record in records:
        del record["seconds"]
        for epoch in record["epochs"]:
            del epoch["seconds"]
    assert records[0] == records[1]


def crash_profile(folder: Path, kills: int, seed: int) -> int:
    """How many of the runs were killed in time."""

    def command(table: Path) -> list[str]:
        return [
            "profilers", "space=tiny", "profile=test", "data.root=shipped",
            override("table", table),
        ]  # fmt: skip

    status, seconds = run(command(folder / "whole.json"), folder)
    assert status == DONE, (folder / "log.txt").read_text()[-2000:]
    spec, killed = load_spec(), 0
    for index, moment in enumerate(moments(kills, seconds, seed)):
        path = folder / f"killed_{index}.json"
        status, _ = run(command(path), folder, moment)
        killed += status == -signal.SIGKILL
        left = LatencyTable.load(path) if path.exists() else None
        status, _ = run(command(path), folder)
        assert status == DONE, (folder / "log.txt").read_text()[-2000:]
        table = LatencyTable.load(path)
        table = table.for_space(spec.build(table.device.quantum))
        assert table.calibration is not None
        if left is not None:
            assert all(table.rows[op].runs >= row.runs for op, row in left.rows.items())
            assert all(table.nets[key].runs >= row.runs for key, row in left.nets.items())
            # What had been measured well enough was not measured again.
            enough = {op: row for op, row in left.rows.items() if is_enough(row)}
            assert all(table.rows[op] == row for op, row in enough.items())
        rows = 0 if left is None else len(left.rows)
        print(f"killed after {moment:.2f} of {seconds:.2f} s: {rows} rows kept", flush=True)
    return killed


CRASHES = {"search": crash_search, "train": crash_train, "profile": crash_profile}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=CRASHES)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        killed = CRASHES[args.what](Path(folder), args.kills, args.seed)
    print(f"{args.what}: {killed} of {args.kills} runs killed, all as if nothing had happened")


if __name__ == "__main__":
    main()

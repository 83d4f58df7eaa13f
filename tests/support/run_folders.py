"""Folders of runs as `tfnas.search` leaves them, made up: for tests of what reads them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from tests.support.spaces import load_space, load_spec, macs_table
from tfnas.nets.weights import fingerprint
from tfnas.runs.folder import RunFolder
from tfnas.runs.int8 import Int8Accuracy
from tfnas.runs.result import RawSamples, Result
from tfnas.runs.status import write_status
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import EpochRecord
from tfnas.strategies.parts.skips import DEPTHS

RESULT = Result(
    target_ms=8.0, table_ms=7.92, measured_ms=7.98, measured_ci_ms=(7.92, 8.06),
    measured_raw_ms=RawSamples(7.8, 8.1), feasible_ms=(1.76, 15.4), device="Xeon, 1 thread",
    table="/tables/here.json", space="tiny", strategy="tfnas", seed=3, verified=True,
    tolerance=0.01, at_most=False, within=True, reached=True, log_prob=-9.0, argmax_log_prob=-8.0,
    resolution=32, classes=10, macs=10**8, batch=1, threads=1, precision="fp32", data="shipped",
    options={"budget.epochs": 2}, overhead_from_table=False, noisy=None,
    loop=[{"table_ms": 7.92, "measured_ms": 7.97, "measured_ci_ms": [7.9, 8.05], "samples": 20,
           "moved": 1, "seconds": 3.5}],
    scores={"path_passes": 4480.0}, versions={"python": "3.11"}, seconds={"search": 2.0},
)  # fmt: skip


def history(space: SearchSpace, epochs: int = 3, learns: bool = True) -> list[EpochRecord]:
    """As a strategy tells it that learns probabilities, or one that doesn't."""
    records = []
    for epoch in range(epochs):
        ops = [len(block) for block in space.blocks]
        sampled = tuple(tuple(range(epoch, epoch + n)) for n in ops)
        plain = EpochRecord(
            epoch=epoch, train_loss=2.3 - 0.1 * epoch, train_top1=10.0 + epoch,
            held_out_top1=11.0 + epoch, temperature=None, learning_rate=0.025, derived_ms=None,
            scaled_ms=None, sampled=sampled,
        )  # fmt: skip
        learned = replace(
            plain,
            temperature=5.0 * 0.96**epoch if epoch else None,
            derived_ms=6.0 + epoch,
            scaled_ms=7.5,
            expected_ms=7.0 + epoch / 4,
            depths=tuple(stage.depths[-1] for stage in space.stages),
            entropy=tuple(math.log(n) for n in ops),
            op_probs=tuple((1 / n,) * n for n in ops),
            depth_probs=tuple((1 / len(s.depths),) * len(s.depths) for s in space.stages),
            widths=tuple(tuple(c.op.c_mid for c in block) for block in space.blocks),
        )
        records.append(learned if learns else plain)
    return records


def depth_history(space: SearchSpace, depth: str) -> list[EpochRecord]:
    """As `strategy=tfnas` tells it with that `strategy.depth`, all choices equally probable."""
    mode = DEPTHS[depth](space)
    ops = mode.ops()
    return [
        replace(
            record,
            entropy=tuple(math.log(n) for n in ops),
            op_probs=tuple((1 / n,) * n for n in ops),
            sampled=tuple(tuple(range(n)) for n in ops),
            depth_probs=tuple((1 / len(beta),) * len(beta) for beta in mode.betas()),
        )
        for record in history(space)
    ]


def save_history(folder: Path, records: list[EpochRecord]) -> Path:
    file = RunFolder(folder).history
    file.write_text("".join(json.dumps(asdict(r)) + "\n" for r in records))
    return file


def space_options() -> dict[str, Any]:
    """Of the tiny space, as result.json holds them."""
    plain = json.loads(json.dumps(asdict(load_spec("tiny"))))
    return {f"space.{key}": value for key, value in {**plain, "classes": None}.items()}


def saved_run(folder: Path, **changes: Any) -> tuple[Path, Subnet]:
    """A finished run in the tiny space, its table beside it, and the net that it found."""
    folder.mkdir(parents=True)
    space = load_space("tiny")
    table = macs_table(space)
    file = folder.parent / "table.json"
    table.save(file)
    subnet = space.sample(random.Random(1))
    subnet.save(folder / "subnet.json")
    table_ms = table.total(subnet)
    result = replace(
        RESULT, table=str(file), target_ms=table_ms, table_ms=table_ms, measured_ms=table_ms,
        measured_ci_ms=(0.99 * table_ms, 1.02 * table_ms), macs=subnet.macs,
        options={**RESULT.options, **space_options()},
    )  # fmt: skip
    replace(result, **changes).save(folder / "result.json")
    save_history(folder, history(space))
    RunFolder(folder).overrides.write_text("- space=tiny\n- target_ms=8\n")
    write_status(folder, 0, "launch")
    return folder, subnet


def trained_run(
    folder: Path,
    *,
    precision: str = "fp32",
    qat: bool = False,
    in_int8: float | None = None,
    **changes: Any,
) -> Path:
    """A finished run whose net is trained to a top-1 of 0.85, and maybe checked in int8."""
    folder, subnet = saved_run(folder, precision=precision, **changes)
    record = {
        "format": "tfnas.train/1", "top1": 0.85, "resolution": 32, "subnet": fingerprint(subnet),
        "recipe": {"name": "qat" if qat else "quick", **({"qat": True} if qat else {})},
    }  # fmt: skip
    RunFolder(folder).trained.write_text(json.dumps(record))
    if in_int8 is not None:
        checked_int8(subnet, in_int8).save(RunFolder(folder).int8)
    return folder


def checked_int8(subnet: Subnet, int8_top1: float, trained_top1: float = 0.85) -> Int8Accuracy:
    """What an export of such a net leaves."""
    return Int8Accuracy(
        subnet=fingerprint(subnet), trained_top1=trained_top1, model="model.onnx",
        activations="uint8", calibration="minmax", reduce_range=False, float_ops=(), images=9000,
        resolution=32, float_top1=0.86, int8_top1=int8_top1, worst_class="bag",
        worst_class_lost=0.02,
    )  # fmt: skip


def unfinished_run(folder: Path) -> Path:
    """One that was interrupted after some epochs."""
    (folder / ".hydra").mkdir(parents=True)
    values = {
        "target_ms": 8.0, "seed": 3, "strategy": {"name": "tfnas"},
        "space": {**asdict(load_spec("tiny")), "classes": "${data.classes}"},
    }  # fmt: skip
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(values))
    RunFolder(folder).overrides.write_text("- target_ms=8\n")
    save_history(folder, history(load_space("tiny", quantum=1)))
    write_status(folder, 130, "launch")
    return folder

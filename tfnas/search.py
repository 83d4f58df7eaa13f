"""python -m tfnas.search target_ms=8

Finds the network that takes the milliseconds asked for: profiles this machine if it has no table
yet, searches, derives, exports, and measures the exported net in a fresh process.
"""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profilers.build import build_table
from profilers.closed_loop import LoopResult, close_loop
from profilers.verify import Verification
from tfnas import config, data
from tfnas.config import SearchConfig
from tfnas.derive import Constraint, feasible_ms
from tfnas.prepare import Prepared, check_reachable, prepared
from tfnas.progress import Ticker, duration
from tfnas.result import RawSamples, Result, versions, within_tolerance
from tfnas.space import SearchSpace, Subnet
from tfnas.strategies.contract import EpochRecord, Found, Progress, Task
from tfnas.table import LatencyTable

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class Seconds(dict[str, float]):
    """Wall seconds by stage."""

    def __init__(self) -> None:
        super().__init__(profile=0.0, search=0.0, derive=0.0, export=0.0, verify=0.0)
        self._last = time.monotonic()

    def done(self, stage: str) -> None:
        """All since the last call (or since the start) was this stage's."""
        now = time.monotonic()
        self[stage] += now - self._last
        self._last = now


def prepare(cfg: SearchConfig) -> config.Work:
    p = prepared(cfg)
    return lambda: run(p)


def run(p: Prepared) -> int:
    """The whole path; the exit status."""
    cfg, out, seconds = p.cfg, config.output_dir(), Seconds()
    log.info("run folder: %s", out)
    log.info("data: %s", p.dataset.origin)
    if p.table is not None and p.table.overhead_ms is not None:
        log.warning(
            "warning: the table has one figure for stem, head and classifier (%.4g ms), whatever "
            "their shapes; this space has %d classes at %d px",
            p.table.overhead_ms,
            p.spec.classes,
            p.spec.resolution,
        )
    table = p.table
    if table is None:
        assert p.profiler is not None
        log.info("profiling %s into %s", p.profiler.device.name, p.table_file)
        table = build_table(
            p.profiler,
            p.spec,
            p.table_file,
            max_minutes=cfg.profile.max_minutes,
            precision=cfg.profile.precision,
            anchor_nets=cfg.profile.anchor_nets,
            seed=cfg.seed,
        )
        seconds.done("profile")
    space = p.spec.build(table.device.quantum)
    if p.table is None:
        try:
            table.check(space)
            check_reachable(cfg.target_ms, table, space)
        except (ValueError, LookupError) as error:
            return config.refuse(error)
    feasible = feasible_ms(space, table)

    found = search(p, space, table, out)
    seconds.done("search")
    subnet, table_ms = found.derived.subnet, found.derived.table_ms[0]
    subnet.save(out / "subnet.json")
    for line in found.derived.given_up(space):
        log.info("given up for the target: %s", line)

    loop = None
    if p.profiler is not None and cfg.loop_minutes and found.derived.reached:
        loop = close_on_device(p, space, table, subnet)
        subnet, table_ms = loop.subnet, loop.table_ms
        subnet.save(out / "subnet.json")
    seconds.done("derive")
    save_weights(found, subnet, out)
    export_untrained(p, subnet, table, table_ms, out)
    seconds.done("export")
    measured = verify(p, table, out) if p.profiler is not None else None
    seconds.done("verify")

    last_ms = table_ms if measured is None else measured.measured_ms
    result = Result(
        target_ms=cfg.target_ms,
        table_ms=table_ms,
        measured_ms=measured.measured_ms if measured else None,
        measured_ci_ms=measured.ci_ms if measured else None,
        measured_raw_ms=(
            RawSamples(measured.raw_min_ms, measured.raw_median_ms) if measured else None
        ),
        feasible_ms=feasible,
        device=table.device.name,
        table=str(p.table_file.resolve()),
        space=space.name,
        strategy=cfg.strategy["name"],
        seed=cfg.seed,
        verified=measured is not None,
        tolerance=cfg.tolerance,
        at_most=cfg.derive.at_most,
        within=within_tolerance(last_ms, cfg.target_ms, cfg.tolerance, cfg.derive.at_most),
        reached=found.derived.reached,
        log_prob=found.derived.log_prob,
        argmax_log_prob=found.derived.argmax_log_prob,
        resolution=space.resolution,
        classes=space.classes,
        macs=subnet.macs,
        batch=table.device.batch,
        threads=table.device.threads,
        precision=table.device.precision,
        data=p.dataset.origin,
        budget=asdict(cfg.budget),
        overhead_from_table=table.overhead_ms is not None,
        noisy=measured.noisy if measured else None,
        loop=loop.trail_json() if loop else None,
        scores=dict(found.scores),
        versions=versions(),
        seconds={stage: round(s, 1) for stage, s in seconds.items()},
    )
    result.save(out / "result.json")
    conclude(result, out)
    return config.DONE if result.within else config.OUTSIDE_TOLERANCE


def search(p: Prepared, space: SearchSpace, table: LatencyTable, out: Path) -> Found:
    """Run the strategy, log it, write its history as it goes."""
    import torch

    cfg = p.cfg
    device = pick_accelerator(cfg.accelerator)
    torch.set_num_threads(cfg.cores or torch.get_num_threads())
    task = make_task(p, space, table, device)
    log.info(
        "searching with %s: %d epochs of %d steps on %s, %d px, target %g ms",
        cfg.strategy["name"],
        cfg.budget.epochs,
        len(task.train),
        device,
        task.train.size,
        cfg.target_ms,
    )
    ticker: Ticker | None = None
    history = out / "history.jsonl"
    for event in p.strategy.run(task):
        if isinstance(event, Found):
            return event
        assert isinstance(event, Progress)
        if ticker is None:
            ticker = Ticker(log, "search", event.steps)
        if event.record is not None:
            with history.open("a") as file:
                file.write(json.dumps(asdict(event.record)) + "\n")
            log.info("%s", describe(event.record, cfg.budget.epochs))
        else:
            ticker.tick(event.step, f"epoch {event.epoch + 1}/{cfg.budget.epochs}")
    raise AssertionError("a strategy must end with what it found")


def describe(r: EpochRecord, epochs: int) -> str:
    """One line an epoch."""
    parts = [f"epoch {r.epoch + 1}/{epochs}", f"loss {r.train_loss:.3f}"]
    parts.append(f"supernet top-1 {r.train_top1:.1f} %")
    if r.held_out_top1 is not None:
        parts.append(f"held out {r.held_out_top1:.1f} %")
    if r.derived_ms is not None and r.scaled_ms is not None:
        parts.append(f"derived {r.derived_ms:.2f} → {r.scaled_ms:.2f} ms")
    if r.depths:
        parts.append("depths " + " ".join(map(str, r.depths)))
    return " · ".join(parts)


def pick_accelerator(name: str) -> torch.device:
    """Raises ValueError for `cuda` where there is none."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator=cuda: torch finds no CUDA device; use accelerator=cpu")
    use_cuda = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def make_task(p: Prepared, space: SearchSpace, table: LatencyTable, device: torch.device) -> Task:
    cfg, budget = p.cfg, p.cfg.budget
    labels = p.dataset.train.labels
    weights_split, arch_split = data.stratified_split(labels, 1 - budget.arch_fraction, cfg.seed)

    def batches(indices: Any, augment: bool) -> data.Batches:
        return data.Batches(
            p.dataset.train,
            indices,
            batch=budget.batch_size,
            size=budget.resolution or space.resolution,
            mean=p.dataset.mean,
            std=p.dataset.std,
            seed=cfg.seed,
            augment=augment,
            shuffle=True,
            workers=cfg.data.workers,
            drop_last=True,
        )

    constraint = Constraint(table, cfg.target_ms, cfg.derive.at_most, cfg.derive.tol)
    return Task(
        space=space,
        constraints=(constraint,),
        train=batches(weights_split, augment=True),
        held_out=batches(arch_split, augment=False),
        budget=budget,
        seed=cfg.seed,
        derive=cfg.derive.method,
        device=device,
    )


def close_on_device(
    p: Prepared, space: SearchSpace, table: LatencyTable, subnet: Subnet
) -> LoopResult:
    """Move few widths until the net, measured whole, meets the target."""
    assert p.profiler is not None
    return close_loop(
        p.profiler,
        space,
        table,
        subnet,
        p.cfg.target_ms,
        tolerance=p.cfg.tolerance,
        max_minutes=p.cfg.loop_minutes,
        seed=p.cfg.seed,
    )


def save_weights(found: Found, subnet: Subnet, out: Path) -> None:
    """The supernet's weights of the subnet, for `train weights=`."""
    if found.weights is None:
        return
    from tfnas.weights import save_weights as save

    save(found.weights(subnet), subnet, out / "supernet_weights.safetensors")


def export_untrained(
    p: Prepared, subnet: Subnet, table: LatencyTable, table_ms: float, out: Path
) -> None:
    """The ONNX file to be measured; latency doesn't depend on what weights hold."""
    from tfnas.export import export

    exported = export(
        subnet,
        None,
        out / "model.onnx",
        batch=table.device.batch,
        seed=p.cfg.seed,
        target_ms=p.cfg.target_ms,
        table_ms=table_ms,
    )
    log.info("exported %s, largest difference to torch %.2g", exported.path, exported.max_abs_diff)


def verify(p: Prepared, table: LatencyTable, out: Path) -> Verification:
    """Measure the exported net in a fresh process that reads no table."""
    cfg, file = p.cfg, out / "verify.json"
    device = table.device
    arguments = {
        "onnx": out / "model.onnx",
        "target_ms": cfg.target_ms,
        "tolerance": cfg.tolerance,
        "json": file,
        "threads": device.threads,
        "batch": device.batch,
        "precision": device.precision,
        "seed": random.Random(cfg.seed).randrange(1_000_000),
        "verify.max_minutes": cfg.verify.max_minutes,
        "verify.precision": cfg.verify.precision,
    }
    log.info("verifying in a fresh process, up to %s", duration(60 * cfg.verify.max_minutes))
    command = [sys.executable, "-m", "profilers.verify", f"device={device.kind}"]
    command += [config.override(key, value) for key, value in arguments.items()]
    process = subprocess.run(command, check=False)
    if process.returncode not in (config.DONE, config.OUTSIDE_TOLERANCE):
        raise RuntimeError(f"verify ended with status {process.returncode}; see above")
    return Verification.from_json(json.loads(file.read_text()))


def conclude(r: Result, out: Path) -> None:
    """Print the closing table and the next commands."""
    if r.measured_ms is None or r.measured_ci_ms is None:
        told = "not measured: the device can't be reached from here"
    else:
        low, high = r.measured_ci_ms
        told = f"{r.measured_ms:.4g} ± {(high - low) / 2:.2g} ms (95 % interval)"
    for label, text in (
        ("target", f"{r.target_ms:.4g} ms"),
        ("table", f"{r.table_ms:.4g} ms"),
        ("measured", told),
    ):
        log.info("  %-9s %s", label, text)
    log.info(
        "%s: the %s latency is %+.2f %% off the target, tolerance %g %%%s",
        "met" if r.within else "MISSED",
        "table's" if r.measured_ms is None else "measured",
        100 * r.gap,
        100 * r.tolerance,
        f" (doubtful: {r.noisy})" if r.noisy else "",
    )
    log.info("next:")
    log.info("  python -m tfnas.train subnet=%s", out / "subnet.json")
    weights = out / "weights.safetensors"
    log.info("  python -m tfnas.export subnet=%s weights=%s", out / "subnet.json", weights)
    log.info("  python -m profilers.verify onnx=%s target_ms=%g", out / "model.onnx", r.target_ms)


if __name__ == "__main__":
    config.main(SearchConfig, "search", prepare)

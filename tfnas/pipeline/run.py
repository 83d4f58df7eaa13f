"""What `tfnas.search` does, once its input is known to be usable.

Profile if there is no table, search, derive, close on the device, export, verify, tell. A part of
that entry script: it joins the library and the profilers.
"""

from __future__ import annotations

import logging
import os
import random
import shlex
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from profilers.contract import Profiler
from profilers.devices import usual_options
from profilers.measure.stages import measure_stages
from profilers.measure.verification import Verification
from profilers.tables.build import build_table
from profilers.tables.closed_loop import LoopResult, close_loop
from tfnas.app.command_line import override, overrides, refuse
from tfnas.app.resume import save_overrides
from tfnas.app.schemas import SearchConfig
from tfnas.app.sweep import is_launched
from tfnas.deploy.onnx_file import export
from tfnas.derive.menu import feasible_ms
from tfnas.files import checkpoint
from tfnas.files.decode import load
from tfnas.intervals import plus_minus
from tfnas.latency.stages import STAGES
from tfnas.latency.table import LatencyTable
from tfnas.nets.weights import save_weights as write_weights
from tfnas.pipeline.device import reachable
from tfnas.pipeline.drive import Seconds, digest, search
from tfnas.pipeline.folder import CHECKPOINT, RESULT, check_unused, command, options_of
from tfnas.pipeline.inputs import Prepared
from tfnas.process.errors import DisagreementError, DivergedError, LostError, StoppedError
from tfnas.process.exits import (
    DONE,
    FAILED,
    INTERRUPTED,
    OUTSIDE_TOLERANCE,
    STATUS_NAMES,
    UNUSABLE_INPUT,
)
from tfnas.process.progress import duration
from tfnas.process.stopping import locked, stop_on_signals
from tfnas.process.versions import versions
from tfnas.runs.folder import SEARCH_OVERRIDES as OVERRIDES
from tfnas.runs.result import MAX_BYTES, Result, within_tolerance
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Found

log = logging.getLogger(__name__)


def tell(result: Result, out: Path, cfg: SearchConfig) -> int:
    """Of a finished search, by the tolerance that is asked for now; the exit status."""
    within = within_tolerance(result.last_ms, result.target_ms, cfg.tolerance, result.at_most)
    log.info("%s is finished", out)
    conclude(replace(result, tolerance=cfg.tolerance, within=within))
    return DONE if within else OUTSIDE_TOLERANCE


def run(p: Prepared) -> int:
    """The whole path; the exit status."""
    out = p.out
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out))
            check_unused(out, p.cfg.resume, p.ranks)  # again, now that nobody else can write there
            save_overrides(out / OVERRIDES, p.saved is not None)
        except (ValueError, OSError) as error:
            return refuse(error)
        try:
            status = run_in(p, out)
        except KeyboardInterrupt:
            log.info("interrupted; %s", how_to_go_on(p))
            status = INTERRUPTED
        except OSError as error:
            log.error("error: %s; %s", error, how_to_go_on(p))
            log.debug("", exc_info=error)
            status = FAILED
        if status != UNUSABLE_INPUT:
            draw_page(out, status)
        return status


def run_in(p: Prepared, out: Path) -> int:
    """As `run`, in a folder of its own."""
    cfg, seconds = p.cfg, Seconds()
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
    if table is not None and table.calibration is None and table.device.kind != "imported":
        log.warning(
            "warning: the table has no calibration, and sums of blocks may be several percent off "
            "whole nets; complete it with `python -m profilers device=%s space=%s table=%s`",
            table.device.kind,
            p.spec.name,
            shlex.quote(table.source),
        )
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
    try:
        constraint = reachable(
            space, table, cfg.target_ms, derive=cfg.derive, tolerance=cfg.tolerance
        )
        latencies = digest(space, table)
        if p.saved is not None and p.saved.get("latencies") != latencies:
            raise ValueError(
                f"the latencies in {p.table_file} aren't those that the search in {out} began "
                "with: give that table with table=FILE, or start without resume="
            )
    except (ValueError, LookupError) as error:
        return refuse(error)
    feasible = feasible_ms(space, table)

    try:
        with stop_on_signals(p.ranks) as stop:
            found = search(p, space, constraint, seconds, latencies, stop)
    except StoppedError:
        log.info("stopped and saved; %s", how_to_go_on(p))
        return INTERRUPTED
    except (DivergedError, ValueError, DisagreementError, LostError) as error:
        # ValueError: an unreadable image
        tail = f"; {how_to_go_on(p)}" if checkpoint.exists(out / CHECKPOINT) else ""
        log.error("error: %s%s", error, tail)
        log.debug("", exc_info=error)
        return FAILED
    seconds.done("search")
    subnet, table_ms = found.derived.subnet, found.derived.table_ms[0]
    subnet.save(out / "subnet.json")
    for line in found.derived.given_up(space):
        log.info("given up for the target: %s", line)

    seconds.done("derive")
    loop = None
    if p.profiler is not None and cfg.loop_minutes and found.derived.reached:
        loop = close_on_device(p, space, table, subnet)
        subnet, table_ms = loop.subnet, loop.table_ms
        subnet.save(out / "subnet.json")
        seconds.done("loop")
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
        measured_ci_ms=measured.measured_ci_ms if measured else None,
        measured_raw_ms=measured.measured_raw_ms if measured else None,
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
        options=options_of(cfg),
        overhead_from_table=table.overhead_ms is not None,
        noisy=measured.noisy if measured else None,
        loop=loop.trail_json() if loop else None,
        scores=dict(found.scores),
        versions=versions(),
        seconds={stage: round(s, 1) for stage, s in seconds.items()},
    )
    result.save(out / RESULT)
    checkpoint.remove(out / CHECKPOINT)
    conclude(result)
    if p.profiler is not None and cfg.stage_minutes:
        measure_parts(cfg, p.profiler, table, subnet, out)
    say_next(p, table, out)
    return DONE if result.within else OUTSIDE_TOLERANCE


def how_to_go_on(p: Prepared) -> str:
    return f"go on with: {command(p.out, p.ranks)}"


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
        at_most=p.cfg.derive.at_most,
        max_minutes=p.cfg.loop_minutes,
        seed=p.cfg.seed,
    )


def save_weights(found: Found, subnet: Subnet, out: Path) -> None:
    """The supernet's weights of the subnet, for `train weights=`."""
    if found.weights is None:
        return
    write_weights(found.weights(subnet), subnet, out / "supernet_weights.safetensors")


def export_untrained(
    p: Prepared, subnet: Subnet, table: LatencyTable, table_ms: float, out: Path
) -> None:
    """The ONNX file to be measured; latency doesn't depend on what weights hold."""
    exported = export(
        subnet,
        None,
        out / "model.onnx",
        batch=table.device.batch,
        seed=p.cfg.seed,
        target_ms=p.cfg.target_ms,
        table_ms=table_ms,
        table=p.table_file.name,
    )
    log.info(
        "exported %s: largest difference to torch %.2g on outputs up to %.2g",
        exported.path,
        exported.max_abs_diff,
        exported.output_scale,
    )


def verify(p: Prepared, table: LatencyTable, out: Path) -> Verification:
    """Measure the exported net in a fresh process that reads no table."""
    file = out / "verify.json"
    arguments = {
        "json": file,
        "seed": random.Random(p.cfg.seed).randrange(1_000_000),
        "verify.max_minutes": p.cfg.verify.max_minutes,
        "verify.precision": p.cfg.verify.precision,
    }
    log.info("verifying in a fresh process, up to %s", duration(60 * p.cfg.verify.max_minutes))
    command = [sys.executable, "-m", "profilers.verify", *verify_arguments(p, table, out)]
    command += [override(key, value) for key, value in arguments.items()]
    plain = {**os.environ, "TERM": "dumb"} if is_launched() else None  # it can't tell by itself
    process = subprocess.run(command, check=False, env=plain)
    if process.returncode not in (DONE, OUTSIDE_TOLERANCE):
        raise OSError(f"verifying ended with status {process.returncode}, see above")
    return load(file, Verification, "answer of profilers.verify", MAX_BYTES)


def measure_parts(
    cfg: SearchConfig, profiler: Profiler, table: LatencyTable, subnet: Subnet, out: Path
) -> None:
    """Where the net's milliseconds go, into stages.json. The run is done, whatever comes of it."""
    try:
        times = measure_stages(
            profiler, table, subnet, max_minutes=cfg.stage_minutes or 0.0, seed=cfg.seed
        )
        times.save(out / STAGES)
    except Exception as error:  # a runtime's own, too: they have no common class
        log.warning("warning: what stem, stages and head take is not known: %s", error)
        log.debug("", exc_info=error)
        return
    log.info("where the milliseconds go; parts measured alone don't add up to the whole net:")
    for line in str(times).splitlines():
        log.info("%s", line)


def draw_page(out: Path, status: int) -> None:
    """The run's page. The run is over, whatever comes of it: a second Ctrl-C ends but the page."""
    try:
        from tfnas.pages.run_page import write_report

        log.info("report: %s", write_report(out, STATUS_NAMES[status]))
    except (Exception, KeyboardInterrupt) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        again = f"python -m tfnas.report {shlex.quote(str(out))}"
        log.warning("warning: the report is not written (%s); `%s` does it", reason, again)
        log.debug("", exc_info=error)


def verify_arguments(p: Prepared, table: LatencyTable, out: Path) -> list[str]:
    """Of the command line that verifies this run's net; what is default is left out."""
    cfg, device = p.cfg, table.device
    given = {
        "threads": (device.threads, 1),
        "batch": (device.batch, 1),
        "precision": (device.precision, "fp32"),
        "tolerance": (cfg.tolerance, 0.01),
        "at_most": (cfg.derive.at_most, False),
    }
    assert p.profiler is not None
    usual = usual_options(device.kind)
    arguments = [f"device={device.kind}"] if device.kind != "cpu" else []
    arguments += [
        override(f"device.{key}", value)
        for key, value in p.profiler.options.items()
        if value != usual.get(key)
    ]
    arguments += [override("onnx", out / "model.onnx"), f"target_ms={cfg.target_ms}"]
    return arguments + [
        override(key, value) for key, (value, default) in given.items() if value != default
    ]


def conclude(r: Result) -> None:
    """Print the closing table."""
    if r.measured_ms is None or r.measured_ci_ms is None:
        told = "not measured: the device can't be reached from here"
    else:
        told = f"{r.measured_ms:.4g} {plus_minus(*r.measured_ci_ms)} ms (95 % interval)"
    for label, text in (
        ("target", f"{r.target_ms:.4g} ms"),
        ("table", f"{r.table_ms:.4g} ms"),
        ("measured", told),
    ):
        log.info("  %-9s %s", label, text)
    log.info(
        "%s: the %s latency is %+.2f %% off the target, tolerance %g %%%s%s",
        "met" if r.within else "MISSED",
        "table's" if r.measured_ms is None else "measured",
        100 * r.gap,
        100 * r.tolerance,
        ", any lower latency is fine" if r.at_most else "",
        f" (doubtful: {r.noisy})" if r.noisy else "",
    )


def say_next(p: Prepared, table: LatencyTable, out: Path) -> None:
    """The commands that go on from here, as this run's options make them."""
    subnet, weights = out / "subnet.json", out / "weights.safetensors"
    data_overrides = [o for o in overrides() if o.startswith(("data=", "data."))]
    batch = [f"batch={table.device.batch}"] if table.device.batch != 1 else []
    commands = [
        ("tfnas.train", [override("subnet", subnet), *data_overrides]),
        (
            "tfnas.export",
            [override("subnet", subnet), override("weights", weights), *batch],
        ),
    ]
    if p.profiler is not None:
        commands.append(("profilers.verify", verify_arguments(p, table, out)))
    log.info("next:")
    for module, arguments in commands:
        log.info("  python -m %s %s", module, shlex.join(arguments))

"""What `tfnas.search` does once its input is checked.

Profile where there is no table, search, derive, close on the device, export, verify, conclude. A
part of that entry script: it joins the library and the profilers.
"""

from __future__ import annotations

import logging
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from profilers.contract import Profiler
from profilers.devices import usual_options
from profilers.measure.stages import measure_stages
from profilers.measure.verification import Verification
from profilers.tables.build import build_table
from profilers.tables.closed_loop import LoopResult
from profilers.tables.closing import close_all
from tfnas.app import job
from tfnas.app.command_line import override, overrides, refuse
from tfnas.app.resume import save_overrides
from tfnas.app.schemas import SearchConfig
from tfnas.app.sweep import is_launched
from tfnas.deploy.int8 import Quantization
from tfnas.deploy.onnx_file import export
from tfnas.derive.architecture import Constraint
from tfnas.derive.hand_made import RULES, hand_made
from tfnas.derive.menu import feasible
from tfnas.derive.methods import derive_constrained
from tfnas.files import checkpoint
from tfnas.files.decode import load
from tfnas.intervals import plus_minus
from tfnas.latency.table import IMPORTED, LatencyTable
from tfnas.nets.weights import save_supernet, save_weights
from tfnas.pipeline import finals
from tfnas.pipeline.drive import Seconds, digest, new_task, search
from tfnas.pipeline.folder import check_unused, command, options_of
from tfnas.pipeline.inputs import Prepared, all_reachable
from tfnas.pipeline.planning import planned
from tfnas.process.exits import DONE, OUTSIDE_TOLERANCE, PARENT, STATUS_NAMES, UNUSABLE_INPUT
from tfnas.process.progress import duration
from tfnas.process.stopping import stop_on_signals
from tfnas.process.versions import versions
from tfnas.runs.finals import HAND_MADE, RANDOM, SEARCHED
from tfnas.runs.folder import RunFolder
from tfnas.runs.plan import Plan
from tfnas.runs.result import MAX_BYTES, Beside, Result, within_tolerance
from tfnas.runs.scores import Judged, ScoreFile
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Found
from tfnas.strategies.parts.items import Items
from tfnas.strategies.surrogate import refitted

log = logging.getLogger(__name__)

MOST_JUDGED = 50  # of the search's nets that scores.json keeps
RANDOM_JUDGED = 10  # random nets at the target beside them


def conclude_again(result: Result, out: Path, tolerance: float) -> int:
    """Print a finished search's table by the tolerance that is asked for now; the exit status."""
    within = within_tolerance(result.last_ms, result.target_ms, tolerance, result.at_most)
    log.info("%s is finished", out)
    conclude(replace(result, tolerance=tolerance, within=within))
    return DONE if within else OUTSIDE_TOLERANCE


def run(p: Prepared) -> int:
    """The whole path; the exit status."""

    def begin() -> Prepared:
        ranks = p.inputs.ranks
        check_unused(p.folder, p.inputs.cfg.resume, ranks)  # again, now that nobody else writes
        begun = p if p.constraint is None else planned(p, p.constraint)
        save_overrides(p.folder.overrides, p.saved is not None)
        return begun

    return job.run_alone(
        p.folder.path,
        begin,
        run_in_folder,
        go_on=lambda: command(p.folder, p.inputs.ranks),
        end=lambda status: draw_page(p.folder.path, status),
    )


def run_in_folder(p: Prepared) -> int:
    """The whole path, in a folder that is this run's alone."""
    seconds = Seconds()
    announce(p)
    if p.table is None:
        table = profile(p)
        seconds.done("profile")
    else:
        table = p.table
    cfg, out = p.inputs.cfg, p.folder
    space = p.inputs.spec.build(table.device.quantum)
    try:
        constraint = all_reachable(p.inputs, table, p.targets)
        latencies = check_latencies(p, space, table)
        p = planned(p, constraint)
    except (ValueError, LookupError) as error:
        return refuse(error)
    cfg, mine = p.inputs.cfg, p.inputs
    if p.plan is not None:
        p.plan.save(out.plan)
        seconds.done("plan")
        seconds["plan"] = p.planning_s

    with stop_on_signals(mine.ranks) as stop:
        found = search(p, space, constraint, latencies, seconds, stop)
    seconds.done("search")
    subnet, table_ms = found.derived.subnet, found.derived.costs[0]
    subnet.save(out.subnet)
    if found.evaluations:
        images, nets = mine.dataset.test_identity, judged(found, space, [constraint, *mine.beside])
        known = ScoreFile(
            space.skeleton, images, cfg.target_ms, found.evaluations, tuple(nets),
            mine.spec.build(1).key,
        )  # fmt: skip
        known.save(out.scores)
    if found.supernet is not None:
        save_supernet(found.supernet(), out.supernet)
    for line in found.derived.given_up(space):
        log.info("given up for the target: %s", line)
    seconds.done("derive")

    loop, trail, measured, held = None, None, None, None
    try:
        plan = finals.begun(p) if cfg.finals.name != "none" else None
    except ValueError as error:
        return refuse(error)
    if p.profiler is not None and cfg.loop_minutes and found.derived.reached and plan is None:
        loop = close_on_device(p, p.profiler, space, table, subnet, found)
        subnet, table_ms, trail = loop.subnet, loop.table_ms, loop.trail_json()
        subnet.save(out.subnet)
        seconds.done("loop")
    if cfg.finals.name != "none":
        try:
            with stop_on_signals(mine.ranks) as stop:
                held = finals.hold(p, space, constraint, found, subnet, loop, plan, stop)
        except ValueError as error:  # such as images that make no batch of the recipe's size
            return refuse(error)
        subnet, table_ms, trail = held.subnet, table.total(held.subnet), held.plan.loop
        subnet.save(out.subnet)
        seconds.done("finals")
        seconds["finals"] += held.seconds
    if found.weights is None and cfg.reuse is not None and has_supernet(cfg.reuse):
        log.warning(
            "warning: the net inherits no weights: the supernet of %s isn't one of this space on "
            "this table", cfg.reuse,
        )  # fmt: skip
    if found.weights is not None:  # for `train weights=`
        save_weights(found.weights(subnet), subnet, out.supernet_weights)
    weights = None if held is None else out.weights
    export_net(p, subnet, table, table_ms, weights, out.model)
    seconds.done("export")
    arguments = None
    if p.profiler is not None:
        target = Constraint(table, cfg.target_ms, cfg.derive.at_most)
        arguments = verify_arguments(target, p.profiler, cfg.tolerance, out.model)
        measured = verify(cfg, arguments, out.verified)
    others = tuple(
        met_beside(p, number, subnet, table.device.batch, weights)
        for number in range(len(p.inputs.beside))
    )
    seconds.done("verify")

    result = result_of(p, space, table, found, subnet, table_ms, trail, measured, seconds)
    result = replace(
        result, plan=p.plan, finals=None if held is None else held.result, beside=others or None
    )
    result.save(out.result)
    checkpoint.remove(out.checkpoint)
    if held is not None:
        finals.forget_all(p, held.plan.entrants)
    conclude(result)
    if result.plan is not None:
        log.info("it took %s", planned_and_taken(result.plan, result.seconds))
    if held is not None and not result.within:
        log.info("its widths stay, since they are trained: a loss on the target, not on accuracy")
    if p.profiler is not None and cfg.stage_minutes:
        measure_parts(p.profiler, table, subnet, out.stages, cfg.stage_minutes, cfg.seed)
    say_next(out, table, arguments, trained=held is not None)
    return DONE if result.within else OUTSIDE_TOLERANCE


def announce(p: Prepared) -> None:
    """Say where and on what is searched, and what the table lacks."""
    log.info("run folder: %s", p.folder.path)
    log.info("data: %s", p.inputs.dataset.origin)
    table, spec = p.table, p.inputs.spec
    if table is not None and table.overhead_ms is not None:
        log.warning(
            "warning: the table has one figure for stem, head and classifier (%.4g ms), whatever "
            "their shapes; this space has %d classes at %s px",
            table.overhead_ms,
            spec.classes,
            spec.size,
        )
    if table is not None and table.calibration is None and table.device.kind != IMPORTED:
        log.warning(
            "warning: the table has no calibration, and sums of blocks may be several percent off "
            "whole nets; complete it with `python -m profilers device=%s space=%s table=%s`",
            table.device.kind,
            spec.name,
            shlex.quote(table.source),
        )


def profile(p: Prepared) -> LatencyTable:
    """Measure the device's table, or complete it."""
    assert p.profiler is not None
    cfg = p.inputs.cfg
    log.info("profiling %s into %s", p.profiler.device.name, p.table_file)
    return build_table(
        p.profiler,
        p.inputs.spec,
        p.table_file,
        max_minutes=cfg.profile.max_minutes,
        precision=cfg.profile.precision,
        anchor_nets=cfg.profile.anchor_nets,
        seed=cfg.seed,
    )


def check_latencies(p: Prepared, space: SearchSpace, table: LatencyTable) -> str:
    """The digest of the table's latencies; raises ValueError if the search began with others."""
    latencies = digest(space, [table, *(c.cost for c in p.inputs.beside)])
    if p.saved is not None and p.saved.get("latencies") != latencies:
        raise ValueError(
            f"the latencies in {p.table_file} aren't those that the search in {p.folder.path} "
            "began with: give that table with table=FILE, or start without resume="
        )
    return latencies


def judged(found: Found, space: SearchSpace, constraints: Sequence[Constraint]) -> Iterator[Judged]:
    """The search's nets, best first, random and hand-made ones, and what they are held to be worth.

    Random and hand-made nets are what one has without a search: limits bind them, too.
    """
    for candidate in found.candidates[:MOST_JUDGED]:
        yield Judged(SEARCHED, candidate.derived.subnet, candidate.score)
    if (estimate := found.estimate) is None:
        return
    items, rng = Items(space, constraints), np.random.default_rng(RANDOM_JUDGED)
    for line in items.random(RANDOM_JUDGED, rng):
        net = items.derived(line).subnet
        yield Judged(RANDOM, net, estimate(net))
    for name in RULES:
        with suppress(ValueError):  # the rule has no net at the target
            net = hand_made(space, constraints[0], name, constraints[1:])
            yield Judged(HAND_MADE, net, estimate(net))


def close_on_device(
    p: Prepared,
    profiler: Profiler,
    space: SearchSpace,
    table: LatencyTable,
    subnet: Subnet,
    found: Found,
) -> LoopResult:
    """Move few widths until the net, measured whole, meets the target, on other devices too."""
    cfg = p.inputs.cfg

    def anew(constraints: Sequence[Constraint]) -> Subnet | None:
        """What the search found, under other constraints: where few widths don't do."""
        try:
            if found.evaluations:
                task = new_task(p.inputs, space, constraints[0])
                asked = replace(task, constraints=tuple(constraints))
                fitted = refitted(asked, found.evaluations)
                return fitted.items.derived(fitted.best()).subnet
            if found.architecture is not None:
                return derive_constrained(space, found.architecture, constraints).subnet
        except ValueError as error:
            log.info("%s", error)
        return None

    return close_all(
        profiler,
        space,
        table,
        subnet,
        cfg.target_ms,
        tolerance=cfg.tolerance,
        at_most=cfg.derive.at_most,
        off=known_off(cfg.reuse, p.table_file),
        max_minutes=cfg.loop_minutes,
        seed=cfg.seed,
        beside=p.inputs.beside,
        at_hand=p.at_hand,
        anew=anew,
    )


def has_supernet(reused: str) -> bool:
    return RunFolder.reused(reused).supernet.is_file()


def known_off(reused: str | None, table: Path) -> float:
    """What the run that is reused measured, as a multiple of what the same table says; else 1."""
    if reused is None or not (file := RunFolder.reused(reused).result).is_file():
        return 1.0
    result = Result.load(file)
    if result.table != str(table.resolve()) or not result.loop:
        return 1.0
    last = result.loop[-1]
    return float(last["measured_ms"]) / float(last["table_ms"])


def export_net(
    p: Prepared,
    subnet: Subnet,
    table: LatencyTable,
    table_ms: float,
    weights: Path | None,
    model: Path,
) -> None:
    """Write the ONNX file to be measured; latency doesn't depend on what weights hold."""
    kind = table.device.activations
    exported = export(
        subnet,
        weights,
        model,
        batch=table.device.batch,
        seed=p.inputs.cfg.seed,
        target_ms=p.inputs.cfg.target_ms,
        table_ms=table_ms,
        table=Path(table.source).name,
        quantization=None if kind is None else Quantization(kind),
    )
    log.info(
        "exported %s: largest difference to torch %.2g on outputs up to %.2g",
        exported.path,
        exported.max_abs_diff,
        exported.output_scale,
    )


def met_beside(
    p: Prepared, number: int, subnet: Subnet, batch: int, weights: Path | None
) -> Beside:
    """What the net has of what was asked beside the target, measured where the device is here.

    Args:
        batch: that the run's model is exported for; one for another is made where it is needed.
    """
    cfg, constraint, measured_ms = p.inputs.cfg, p.inputs.beside[number], None
    model = p.folder.model
    if (profiler := p.at_hand.get(number)) is not None:
        file = p.folder.verified.with_stem(f"{p.folder.verified.stem}-{number + 1}")
        if constraint.table.device.batch != batch:
            model = model.with_stem(f"{model.stem}-{number + 1}")
            export_net(p, subnet, constraint.table, constraint.cost.total(subnet), weights, model)
        arguments = verify_arguments(constraint, profiler, cfg.tolerance, model)
        measured_ms = verify(cfg, arguments, file).measured_ms
    return Beside(
        str(constraint), constraint.target, constraint.at_most, constraint.cost.total(subnet),
        constraint.cost.unit, measured_ms,
    )  # fmt: skip


def verify_arguments(
    target: Constraint, profiler: Profiler, tolerance: float, model: Path
) -> list[str]:
    """The command line that verifies a net on its table's device; what is default is left out."""
    device = target.table.device
    given = {
        "threads": (device.threads, 1),
        "batch": (device.batch, 1),
        "precision": (device.precision, "fp32"),
        "tolerance": (tolerance, 0.01),
        "at_most": (target.at_most, False),
    }
    usual = usual_options(device.kind)
    arguments = [f"device={device.kind}"] if device.kind != "cpu" else []
    arguments += [
        override(f"device.{key}", value)
        for key, value in profiler.options.items()
        if value != usual.get(key)
    ]
    arguments += [override("onnx", model), f"target_ms={target.target}"]
    return arguments + [
        override(key, value) for key, (value, default) in given.items() if value != default
    ]


def verify(cfg: SearchConfig, arguments: list[str], file: Path) -> Verification:
    """Measure the exported net in a fresh process that reads no table.

    Args:
        file: that it leaves its figures in.
    """
    options = {
        "json": file,
        "seed": random.Random(cfg.seed).randrange(1_000_000),
        "verify.max_minutes": cfg.verify.max_minutes,
        "verify.precision": cfg.verify.precision,
    }
    log.info("verifying in a fresh process, up to %s", duration(60 * cfg.verify.max_minutes))
    line = [sys.executable, "-m", "profilers.verify", *arguments]
    line += [override(key, value) for key, value in options.items()]
    more = {"TERM": "dumb"} if is_launched() else {}  # it can't tell by itself
    own = {**os.environ, PARENT: str(os.getpid()), **more}
    process = subprocess.run(line, check=False, env=own)
    if process.returncode not in (DONE, OUTSIDE_TOLERANCE):
        raise OSError(f"verifying ended with status {process.returncode}, see above")
    return load(file, Verification, "answer of profilers.verify", MAX_BYTES)


def result_of(
    p: Prepared,
    space: SearchSpace,
    table: LatencyTable,
    found: Found,
    subnet: Subnet,
    table_ms: float,
    trail: list[dict[str, Any]] | None,
    measured: Verification | None,
    seconds: Seconds,
) -> Result:
    """What the run came to."""
    cfg, device = p.inputs.cfg, table.device
    last_ms = table_ms if measured is None else measured.measured_ms
    return Result(
        target_ms=cfg.target_ms,
        table_ms=table_ms,
        measured_ms=None if measured is None else measured.measured_ms,
        measured_ci_ms=None if measured is None else measured.measured_ci_ms,
        measured_raw_ms=None if measured is None else measured.measured_raw_ms,
        feasible_ms=feasible(space, table),
        device=device.name,
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
        batch=device.batch,
        threads=device.threads,
        precision=device.precision,
        data=p.inputs.dataset.origin,
        options=options_of(cfg),
        overhead_from_table=table.overhead_ms is not None,
        noisy=None if measured is None else measured.noisy,
        loop=trail,
        scores=dict(found.scores),
        versions=versions(),
        seconds={stage: round(s, 1) for stage, s in seconds.items()},
        activations=device.activations,
    )


def conclude(r: Result) -> None:
    """Print the closing table."""
    measured = "not measured: the device can't be reached from here"
    if r.measured_ms is not None and r.measured_ci_ms is not None:
        measured = f"{r.measured_ms:.4g} {plus_minus(*r.measured_ci_ms)} ms (95 % interval)"
    log.info("  target    %.4g ms", r.target_ms)
    log.info("  table     %.4g ms", r.table_ms)
    log.info("  measured  %s", measured)
    for other in r.beside or ():
        log.info("  beside    %s", other)
    log.info(
        "%s: the %s latency is %+.2f %% off the target, tolerance %g %%%s%s",
        "met" if r.within else "MISSED",
        "table's" if r.measured_ms is None else "measured",
        100 * r.gap,
        100 * r.tolerance,
        ", any lower latency is fine" if r.at_most else "",
        f" (doubtful: {r.noisy})" if r.noisy else "",
    )


def planned_and_taken(plan: Plan, seconds: Mapping[str, float]) -> str:
    """What a run took against its plan; parts of the net are measured after it."""
    wanted = sum(s for stage, s in plan.seconds.items() if stage != "stages")
    taken = sum(s for stage, s in seconds.items() if stage != "profile")
    return f"{duration(taken)}, planned were {duration(wanted)}"


def measure_parts(
    profiler: Profiler,
    table: LatencyTable,
    subnet: Subnet,
    file: Path,
    max_minutes: float,
    seed: int,
) -> None:
    """Measure where the net's milliseconds go. The run is done, whatever comes of it."""
    try:
        times = measure_stages(profiler, table, subnet, max_minutes=max_minutes, seed=seed)
        times.save(file)
    except Exception as error:  # a runtime's own, too: they have no common class
        log.warning("warning: what stem, stages and head take is not known: %s", error)
        log.debug("", exc_info=error)
        return
    log.info("where the milliseconds go; parts measured alone don't add up to the whole net:")
    for line in str(times).splitlines():
        log.info("%s", line)


def say_next(
    out: RunFolder, table: LatencyTable, verifying: list[str] | None, trained: bool
) -> None:
    """Print the commands that go on from here, as this run's options make them.

    Args:
        verifying: arguments of the command that verifies; None where the device isn't here.
        trained: the net and its exported file are.
    """
    data = [o for o in overrides() if o.startswith(("data=", "data."))]
    batch = [f"batch={table.device.batch}"] if table.device.batch != 1 else []
    subnet, weights = override("subnet", out.subnet), override("weights", out.weights)
    log.info("next:")
    if not trained:
        log.info("  python -m tfnas.train %s", shlex.join([subnet, *data]))
    log.info("  python -m tfnas.export %s", shlex.join([subnet, weights, *batch]))
    if verifying is not None:
        log.info("  python -m profilers.verify %s", shlex.join(verifying))


def draw_page(out: Path, status: int) -> None:
    """Draw the run's page, unless it was refused. A second Ctrl-C ends nothing but the page."""
    if status == UNUSABLE_INPUT:
        return
    try:
        from tfnas.pages.run import write_report

        log.info("report: %s", write_report(out, STATUS_NAMES[status]))
    except (Exception, KeyboardInterrupt) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        again = f"python -m tfnas.report {shlex.quote(str(out))}"
        log.warning("warning: the report is not written (%s); `%s` does it", reason, again)
        log.debug("", exc_info=error)

"""int8 models: which activations a device computes faster, signed or unsigned ones.

On an x86 core without VNNI signed ones cost four times as much as unsigned ones; on others less, or
nothing. So both are measured, a second long, where a device is opened for int8, and fp32 beside
them: there are devices that int8 doesn't pay on.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing

from profilers.contract import Profiler, int8_device
from profilers.models import op_model
from profilers.onboard.rounds import BURST_MS, Target
from tfnas.process.checks import check_choice
from tfnas.space.ops import OpSpec

log = logging.getLogger(__name__)

INT8 = "int8"  # the precision
AUTO, UNSIGNED, SIGNED = "auto", "uint8", "int8"
FLOAT = "fp32"
PROBED = OpSpec("mbconv", 14, 96, 384, 0, 96, 3, 1, "relu")
ROUNDS, SECONDS = 24, 2.0
FASTER = 0.8  # signed ones are taken below this ratio: where both are alike, one kind is kept to


def check_activations(activations: str, precision: str) -> None:
    """Raises ValueError for kinds that don't exist, or are of no use at this precision."""
    check_choice("device.activations", activations, (AUTO, UNSIGNED, SIGNED))
    if precision != INT8 and activations != AUTO:
        raise ValueError(
            f"device.activations={activations} precision={precision}: expected precision=int8"
        )


def choose_activations(profiler: Profiler, activations: str) -> None:
    """Make a profiler one of int8 models, with the activations that are given or faster there."""
    if activations == AUTO:
        ms = probe(profiler, (UNSIGNED, SIGNED))
        activations = SIGNED if ms[SIGNED] < FASTER * ms[UNSIGNED] else UNSIGNED
        log.info("int8 activations: %s (a block with %s)", activations, profiler.evidence)
        _warn_if_slow(ms, activations)
    profiler.device = int8_device(profiler.device, activations)


def compare_with_float(profiler: Profiler) -> None:
    """Before a table of int8 is measured: warn where int8 isn't faster than fp32.

    Does nothing for other precisions, and where activations were chosen by measuring them.
    """
    activations = profiler.device.activations
    if activations is not None and not profiler.evidence:
        _warn_if_slow(probe(profiler, (activations,)), activations)


def _warn_if_slow(ms: Mapping[str, float], activations: str) -> None:
    if ms[activations] >= ms[FLOAT]:
        log.warning(
            "warning: int8 is no faster than fp32 on this device: a block takes %.4g ms with %s "
            "activations, %.4g ms in fp32; precision=fp32 measures that",
            ms[activations], activations, ms[FLOAT],
        )  # fmt: skip


def probe(profiler: Profiler, kinds: Sequence[str]) -> dict[str, float]:
    """Milliseconds of one block with each kind of activations, and in fp32, measured in turn.

    They are the profiler's `evidence` from now on.
    """
    targets = {}
    with ExitStack() as stack, profiler.exclusive(log.info):
        for kind in (*kinds, FLOAT):
            model = op_model([PROBED], profiler.device.batch, None if kind == FLOAT else kind)
            workload = stack.enter_context(closing(profiler.load(str(PROBED), model)))
            targets[kind] = Target(workload, BURST_MS, [])
        reference = profiler.load(str(PROBED), op_model([PROBED], profiler.device.batch))
        rounds = profiler.rounds(reference, random.Random(0), time.monotonic)
        with closing(rounds):
            done = 0
            while done < ROUNDS:
                done += rounds.take(list(targets.values()), ROUNDS - done, SECONDS)
    ms = {kind: min(sample.ms for sample in target.out) for kind, target in targets.items()}
    profiler.evidence = ", ".join(f"{kind} {value:.4g} ms" for kind, value in ms.items())
    return ms

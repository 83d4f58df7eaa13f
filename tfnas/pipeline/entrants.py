"""Who takes part in the finals of a search: its own nets, random and hand-made ones, all at the
target on one table.

Which nets these are is written down once, in plan.json: what a device measures differs from run to
run, and a search that goes on must train the same nets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tfnas.app.schemas import FinalsConfig
from tfnas.derive.hand_made import RULES, hand_made
from tfnas.derive.methods import draw_constrained
from tfnas.files.atomic import write_atomically
from tfnas.files.decode import encode, load
from tfnas.nets.blocks import Network
from tfnas.nets.weights import save_weights
from tfnas.pipeline.rung import START
from tfnas.runs.finals import DRAWN, HAND_MADE, RANDOM, SEARCHED
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import MAX_BYTES
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Found, Task
from tfnas.strategies.parts.evaluate import Genome
from tfnas.strategies.parts.training import some_batches

log = logging.getLogger(__name__)

HEADER = {"format": "tfnas.finals/1"}
TRIES = 10  # draws for each net that is wanted: some come twice
SCORED_IMAGES = 512  # held out, for the supernet's score of each net


@dataclass(frozen=True)
class Entrant:
    """A net that takes part.

    Attributes:
        source: see `tfnas.runs.finals.FinalsRow`.
        scores: what is known of it before it is trained, by name.
    """

    name: str
    source: str
    table_ms: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """What the finals of a run are about.

    Attributes:
        target_ms: on the table.
        loop: what the device said of the search's own net.
    """

    target_ms: float
    entrants: tuple[Entrant, ...]
    loop: list[dict[str, Any]] | None

    def save(self, folder: Path) -> None:
        write_atomically(folder / "plan.json", encode(self, HEADER))


def read_plan(folder: Path) -> Plan | None:
    """The plan in the folder of finals that have begun. Raises ValueError if it is damaged."""
    file = folder / "plan.json"
    if not file.exists():
        return None
    return load(file, Plan, "plan of finals", MAX_BYTES, HEADER)


@dataclass(frozen=True)
class _Net:
    source: str
    subnet: Subnet
    scores: Mapping[str, float] = field(default_factory=dict)


def choose(
    cfg: FinalsConfig, task: Task, found: Found, own: Subnet | None, moved: bool, folder: Path
) -> tuple[Entrant, ...]:
    """Derive the nets, score them on the supernet, and leave each in its folder.

    Args:
        task: whose constraint all but the search's own net meet.
        own: the search's net, as the device left it; None: it is derived as the others are.
        moved: the constraint isn't the one that the search's candidates were derived for.
    """
    if cfg.from_supernet and found.weights is None:
        log.warning(
            "warning: finals.from_supernet=true: the search has no weights for its nets; all "
            "start anew"
        )
    rng = np.random.default_rng((task.seed, 5))  # a stream of its own
    nets: dict[Subnet, _Net] = {}
    _take(nets, _searched(task, found, own, moved, rng), cfg.searched)
    if found.architecture is not None:
        _take(nets, _drawn(task, found, rng), cfg.searched - len(nets), TRIES * cfg.searched)
    _take(nets, _random(task, rng), cfg.random, TRIES * cfg.random)
    if cfg.handmade:
        _take(nets, _hand_made(task), len(RULES))
    counts: dict[str, int] = {}
    entrants = []
    for net in nets.values():
        counts[net.source] = counts.get(net.source, 0) + 1
        name = f"{net.source}-{counts[net.source]}"
        out = folder / name
        out.mkdir(parents=True, exist_ok=True)
        net.subnet.save(RunFolder(out).subnet)
        scores = dict(net.scores)
        if found.weights is not None:
            weights = found.weights(net.subnet)
            scores |= supernet_scores(net.subnet, weights, task)
            if cfg.from_supernet:
                save_weights(weights, net.subnet, out / START)
        table_ms = task.constraints[0].table.total(net.subnet)
        entrants.append(Entrant(name, net.source, table_ms, scores))
    return tuple(entrants)


def _take(
    nets: dict[Subnet, _Net], more: Iterator[_Net], wanted: int, tries: int | None = None
) -> None:
    """Add so many new nets, of at most so many that come."""
    added = seen = 0
    while added < wanted and (tries is None or seen < tries):
        net = next(more, None)
        if net is None:
            return
        seen += 1
        if net.subnet not in nets:
            nets[net.subnet] = net
            added += 1


def _searched(
    task: Task, found: Found, own: Subnet | None, moved: bool, rng: np.random.Generator
) -> Iterator[_Net]:
    """The search's net, then its other candidates, best first."""
    known = {candidate.derived.subnet: candidate.score for candidate in found.candidates}
    best = found.derived.subnet
    if own is None:
        own = Genome.of(found.derived).meet_target(task, rng).subnet
    yield _Net(SEARCHED, own, {"search": known[best]} if best in known else {})
    for candidate in found.candidates:
        if candidate.derived.subnet == best:
            continue
        derived = candidate.derived
        if moved:
            derived = Genome.of(derived).meet_target(task, rng)
        yield _Net(SEARCHED, derived.subnet, {"search": candidate.score})


def _drawn(task: Task, found: Found, rng: np.random.Generator) -> Iterator[_Net]:
    assert found.architecture is not None
    while True:
        drawn = draw_constrained(task.space, found.architecture, task.constraints, rng)
        yield _Net(DRAWN, drawn.subnet)


def _random(task: Task, rng: np.random.Generator) -> Iterator[_Net]:
    while True:
        yield _Net(RANDOM, Genome.random(task, rng).meet_target(task, rng).subnet)


def _hand_made(task: Task) -> Iterator[_Net]:
    constraint, *beside = task.constraints
    for name in RULES:
        try:
            yield _Net(HAND_MADE, hand_made(task.space, constraint, name, beside))
        except ValueError as error:
            log.info("no hand-made net of that kind takes part: %s", error)


@torch.no_grad()
def supernet_scores(subnet: Subnet, weights: Mapping[str, Tensor], task: Task) -> dict[str, float]:
    """Top-1 in percent and minus the loss of a net on held-out images, with the supernet's weights.

    Batch norm takes each batch's statistics, as in the search.
    """
    network = Network(subnet)
    network.load_state_dict({**network.state_dict(), **weights})
    network.to(task.device).train()
    right = images = 0
    loss = 0.0
    for x, y in some_batches(task, SCORED_IMAGES):
        logits = network(x)
        right += int((logits.argmax(1) == y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        images += len(y)
    return {"supernet top-1": 100 * right / images, "minus supernet loss": -loss / images}

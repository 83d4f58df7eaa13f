"""All nets that runs know of, with latency and worth: random ones, found ones, trained ones.

Worths of searches that don't share scores can't be compared: each lot of scores has a number.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tfnas.files.bounded import csv_cell
from tfnas.runs.files import RunFiles
from tfnas.runs.finals import RANDOM
from tfnas.runs.folder import RunFolder
from tfnas.runs.scores import ScoreFile
from tfnas.space.subnet import Subnet

Value = TypeVar("Value")
FOUND = "found"  # the run's own net; others as in finals
# Those of timm's benchmark and result files, then ours.
COLUMNS = (
    "model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size",
    "infer_gmacs", "param_count", "top1", "source", "run", "target_ms", "latency", "score",
    "scores", "held_out_top1", "precision",
)  # fmt: skip


@dataclass(frozen=True)
class Net:
    """A net of a run.

    Attributes:
        source: found | search | draw | random | hand-made.
        run: folder of the run.
        ms: for one batch, measured where it was, else the table's.
        worth: the score of a random net, the estimate of another one.
        scores: which lot of scores it is of.
        precision: that `ms` is of.
        top1: percent of the test images, of the run's net where it is trained, at this precision.
        held_out_top1: percent, at the end of the finals' training.
    """

    subnet: Subnet
    source: str
    run: Path
    target_ms: float
    ms: float
    measured: bool
    batch: int
    precision: str
    worth: float | None = None
    scores: str = ""
    top1: float | None = None
    held_out_top1: float | None = None

    @property
    def name(self) -> str:
        from tfnas.nets.weights import net_name  # needs torch

        return net_name(self.subnet)


def nets_of(files: RunFiles) -> list[Net]:
    """The nets of a finished run whose table can be read, each once, the run's own first."""
    result, table, space = files.result, files.table, files.space
    if result is None or table is None or space is None or files.subnet is None:
        return []
    found: dict[Subnet, Net] = {}
    top1 = files.run.top1_deployed
    at_hand = Net(
        files.subnet, FOUND, files.run.folder, result.target_ms, result.last_ms, result.verified,
        table.device.batch, result.precision, top1=None if top1 is None else 100 * top1,
    )  # fmt: skip
    _add(found, at_hand)

    def add(subnet: Subnet, source: str, **known: Any) -> None:
        ms = table.total(subnet)
        _add(found, replace(at_hand, subnet=subnet, source=source, ms=ms, measured=False,
                            **{"top1": None, **known}))  # fmt: skip

    out = RunFolder(files.run.folder)
    for row in result.finals.rows if result.finals is not None else ():
        subnet = _loaded(RunFolder(out.finals / row.name).subnet, Subnet.load)
        if subnet is not None:
            held_out = 100 * row.curve[-1] if row.curve else None
            add(subnet, row.source, held_out_top1=held_out)
    if (scores := _loaded(out.scores, ScoreFile.load)) is None:
        return list(found.values())
    lot = hashlib.sha256(repr(scores.evaluations).encode()).hexdigest()[:8]
    for number, net in enumerate(scores.nets):
        if number == 0 and result.finals is None:  # few of its widths moved since, on the device
            found[files.subnet] = replace(found[files.subnet], worth=net.value, scores=lot)
        else:
            add(net.subnet, net.source, worth=net.value, scores=lot)
    for scored in scores.evaluations:
        with suppress(LookupError, ValueError):  # on another table's grid, or a damaged file
            subnet = space.subnet(scored.depths, scored.picks, scored.widths)
            add(subnet, RANDOM, worth=scored.value, scores=lot)
    return list(found.values())


def together(runs: Iterable[RunFiles]) -> list[Net]:
    """The nets of several runs; of runs that share scores, the random nets once."""
    nets: dict[tuple[Subnet, object], Net] = {}
    for files in runs:
        for net in nets_of(files):
            shared = net.source == RANDOM and net.scores
            nets.setdefault((net.subnet, net.scores if shared else net.run), net)
    return list(nets.values())


def _add(found: dict[Subnet, Net], net: Net) -> None:
    """Add a net; of one that is there, what isn't known of it yet."""
    known = found.setdefault(net.subnet, net)
    if known.worth is None:
        known = replace(known, worth=net.worth, scores=net.scores)
    if known.held_out_top1 is None:
        known = replace(known, held_out_top1=net.held_out_top1)
    found[net.subnet] = known


def _loaded(file: Path, load: Callable[[Path], Value]) -> Value | None:
    """What a file holds; None where it is missing, or can't be used."""
    with suppress(ValueError):
        return load(file) if file.is_file() else None
    return None


def to_csv(nets: Iterable[Net]) -> str:
    """The nets as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_row, nets))
    return text.getvalue()


def _row(net: Net) -> tuple[object, ...]:
    return (
        net.name, f"{1000 * net.batch / net.ms:.2f}", f"{net.ms:.5g}", net.batch,
        net.subnet.resolution, f"{net.subnet.macs / 1e9:.4f}", f"{net.subnet.params / 1e6:.3f}",
        "" if net.top1 is None else f"{net.top1:.3f}", csv_cell(net.source),
        csv_cell(net.run), f"{net.target_ms:g}", "measured" if net.measured else "table",
        "" if net.worth is None else f"{net.worth:.5g}", net.scores,
        "" if net.held_out_top1 is None else f"{net.held_out_top1:.3f}", net.precision,
    )  # fmt: skip

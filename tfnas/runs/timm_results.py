"""Trained nets of runs in the columns of timm's results files, the best first.

Rows of other data sets aren't comparable: `data` says which one each is of.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tfnas.data.preprocess import Preprocess
from tfnas.files.bounded import csv_cell
from tfnas.nets.weights import Trained, net_name, read_trained
from tfnas.runs.folder import RunFolder
from tfnas.space.subnet import Subnet

# Those of timm, then ours.
COLUMNS = (
    "model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct",
    "interpolation", "data", "run",
)  # fmt: skip


@dataclass(frozen=True)
class TrainedNet:
    """A run's net, with what its weights tell."""

    run: Path
    subnet: Subnet
    trained: Trained


def trained_net(run: Path) -> TrainedNet | None:
    """The trained net of a run; None where it has none.

    Raises:
        ValueError: if its files can't be read or don't belong together.
    """
    files = RunFolder(run)
    if not (files.subnet.is_file() and files.weights.is_file()):
        return None
    subnet = Subnet.load(files.subnet)
    trained = read_trained(subnet, files.weights)
    if trained is None or trained.top1 is None:  # one of another task has no top-1
        return None
    return TrainedNet(run, subnet, trained)


def to_csv(nets: Iterable[TrainedNet]) -> str:
    """The nets as comma-separated values, accuracies and errors in percent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_row, sorted(nets, key=lambda net: -(net.trained.top1 or 0.0))))
    return text.getvalue()


def _row(net: TrainedNet) -> tuple[object, ...]:
    t = net.trained
    assert t.top1 is not None
    assert t.top5 is not None
    int8 = "" if t.quantized is None else "_int8"  # what its accuracy is of
    accuracies = (f"{100 * part:.3f}" for top in (t.top1, t.top5) for part in (top, 1 - top))
    return (
        csv_cell(f"{net_name(net.subnet)}{int8}"), *accuracies, f"{net.subnet.params / 1e6:.2f}",
        t.resolution, f"{t.crop_fraction:g}", Preprocess.interpolation, csv_cell(t.data),
        csv_cell(net.run),
    )  # fmt: skip

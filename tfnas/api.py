"""tfnas from Python: what the commands do, as functions of plain values.

`import tfnas` has all of these; what measures or talks to a device is in `profilers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from tfnas.app import values
from tfnas.app.values import load_space as load_space
from tfnas.data.sets import load_images as load_images
from tfnas.latency.table import LatencyTable
from tfnas.runs.found import FoundNet as FoundNet
from tfnas.space.spec import SpaceSpec
from tfnas.space.subnet import Subnet as Subnet

if TYPE_CHECKING:
    from tfnas.data.images import Dataset
    from tfnas.deploy.onnx_file import Exported
    from tfnas.nets.backbone import Backbone
    from tfnas.runs.model import TrainedNetwork
    from tfnas.runs.trained import TrainResult
    from tfnas.strategies.contract import Budget, Progress, Strategy
    from tfnas.training.recipe import Recipe

load_preset = values.load


def load_table(path: str | Path) -> LatencyTable:
    """Read a latency table. Raises ValueError, naming the file, if it is none."""
    return LatencyTable.load(path)


def load_subnet(path: str | Path) -> Subnet:
    """Read a found network. Raises ValueError, naming the file, if it is none."""
    return Subnet.load(path)


def find_net(
    space: SpaceSpec,
    images: Dataset,
    table: LatencyTable,
    target_ms: float,
    *,
    strategy: str | Strategy = "surrogate",
    minutes: float | None = None,
    budget: str | Budget | None = None,
    at_most: bool = False,
    tolerance: float = 0.01,
    limits: Mapping[str, float] | None = None,
    also: Sequence[tuple[LatencyTable, float]] = (),
    seed: int = 0,
    cores: int | None = None,
    accelerator: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> FoundNet:
    """Search a space for the net that takes `target_ms` on a table.

    The net is the one that `python -m tfnas.search` derives with the same values, before it is
    measured: `profilers.close_loop` does that.

    Args:
        space: with as many classes as the images have.
        images: the budget says which share trains weights and which the architecture.
        strategy: a name of conf/strategy/, or one of `load_preset("strategy", ...)`.
        minutes: how long it may take; None: as conf/search.yaml has it, or as long as it takes
            where a budget is given. Epochs, images, resolution, channels and the number of nets to
            score are planned from steps measured here.
        budget: how much is trained: a name of conf/budget/, or `load_preset("budget", ...)`; None:
            what fits into the minutes. What is given isn't planned, nor are a `Strategy`'s values.
        at_most: any lower latency is as good.
        tolerance: fraction of the target that the net may be off, where none is nearer.
        limits: what the net may cost at most: macs, params, weights_mb, memory_mb, at the
            table's precision.
        also: other tables, each with the milliseconds that the net may take there at most.
        cores: CPU threads of the supernet; None: all.
        on_progress: called after every step.

    Raises:
        ValueError: for a target out of reach (names the nearest), classes that differ, a budget
            that the images don't suffice for, or too few minutes (says how many would do).
        tfnas.process.errors.DivergedError: if a loss or a gradient is no finite number.
    """
    from tfnas.pipeline.beside import constraints
    from tfnas.pipeline.find import find
    from tfnas.pipeline.inputs import with_classes
    from tfnas.pipeline.planned import budget_keys

    given = set() if budget is None else budget_keys()
    if budget is None:
        budget = "quick"  # what isn't planned of it
        minutes = values.default("search", "minutes") if minutes is None else minutes
    if not isinstance(strategy, str):
        given |= {f"strategy.{knob}" for knob in vars(strategy)}
    return find(
        space,
        images,
        table,
        target_ms,
        strategy=load_preset("strategy", strategy) if isinstance(strategy, str) else strategy,
        budget=load_preset("budget", budget) if isinstance(budget, str) else budget,
        derive=load_preset("derive", "constrained", at_most=at_most),
        tolerance=tolerance,
        seed=seed,
        cores=cores,
        accelerator=accelerator,
        minutes=minutes,
        beside=constraints(
            limits or {},
            [(table, ms, False) for table, ms in also],
            with_classes(space, images),
            table.device.precision,
        ),
        given=given,
        on_progress=on_progress or (lambda progress: None),
    )


def train_net(
    net: FoundNet | Subnet,
    images: Dataset,
    *,
    recipe: str | Recipe = "quick",
    out: str | Path,
    seed: int = 0,
    threads: int | None = None,
    accelerator: str = "auto",
    workers: int = 0,
    resume: bool = False,
) -> TrainResult:
    """Train a net into a folder: subnet.json, weights.safetensors and train.json.

    It saves itself every five minutes and after every epoch; `resume` goes on there.

    Args:
        recipe: a name of conf/recipe/, or one of `load_preset("recipe", ...)`.
        threads: CPU threads; None: all cores.
        workers: processes that decode image files.

    Raises:
        ValueError: if net, images and recipe don't fit together, or the folder holds another
            training.
        tfnas.process.errors.DivergedError: if the loss is no finite number.
    """
    import torch

    from tfnas.process.accelerator import cpu_threads, pick_accelerator
    from tfnas.process.stopping import locked
    from tfnas.runs.trained import train

    subnet = net.subnet if isinstance(net, FoundNet) else net
    folder = Path(out)
    torch.set_num_threads(cpu_threads(threads))
    with locked(folder):
        result = train(
            subnet,
            images,
            load_preset("recipe", recipe) if isinstance(recipe, str) else recipe,
            seed=seed,
            out=folder,
            device=str(pick_accelerator(accelerator)),
            workers=workers,
            resume=resume,
        )
        subnet.save(folder / "subnet.json")
    return result


def export_net(
    net: TrainResult | FoundNet | Subnet,
    path: str | Path,
    *,
    batch: int | None = 1,
    seed: int = 0,
    format: str = "onnx",
) -> Exported:
    """Write a net as ONNX; one that isn't trained gets seeded weights, which ONNX files tell.

    Args:
        batch: None leaves it open.
        format: onnx | openvino | tflite | ncnn | coreml; the path ends as its files do.

    Raises:
        ValueError: if the weights don't fit, the batch is no size, or there is no such format.
        LookupError: if a package of the format isn't installed.
        RuntimeError: if the runtime's output differs from torch's.
    """
    from tfnas.deploy.onnx_file import export
    from tfnas.runs.trained import TrainResult

    if isinstance(net, TrainResult):
        return export(net.subnet, net.weights, Path(path), batch=batch, seed=seed, format=format)
    if isinstance(net, FoundNet):
        return export(
            net.subnet, None, Path(path), batch=batch, seed=seed, target_ms=net.target_ms,
            table_ms=net.table_ms, table=Path(net.table.source).name, format=format,
        )  # fmt: skip
    return export(net, None, Path(path), batch=batch, seed=seed, format=format)


@overload
def load(
    folder: str | Path, *, features_only: Literal[False] = False, out_indices: None = None
) -> TrainedNetwork: ...
@overload
def load(
    folder: str | Path, *, features_only: Literal[True], out_indices: Sequence[int] | None = None
) -> Backbone: ...
def load(
    folder: str | Path, *, features_only: bool = False, out_indices: Sequence[int] | None = None
) -> TrainedNetwork | Backbone:
    """Load the trained network of a run folder: an eval-mode `nn.Module`.

    It has `.classes`, `.preprocess` (an image of Pillow, a file or an array to (1, 3, R, R)) and
    `.trained` (data, resolution, accuracy).

    Args:
        features_only: without head and classifier, as in timm: it gives a list of maps, and
            `.feature_info` has their `channels()` and `reduction()`.
        out_indices: which maps, the largest is 0; None: one of every size.

    Raises:
        FileNotFoundError: if the folder holds no subnet or no weights.
        ValueError: if they are damaged or don't fit together, or there is no such map.
    """
    from tfnas.nets.backbone import Backbone
    from tfnas.runs.model import load_model

    network = load_model(Path(folder))
    if features_only:
        return Backbone(network, out_indices, network.trained)
    if out_indices is not None:
        raise ValueError(f"out_indices={list(out_indices)}: they need features_only=True")
    return network

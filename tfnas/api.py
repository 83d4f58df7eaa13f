"""tfnas from Python: what the commands do, as functions of plain values.

`import tfnas` has all of these; what measures or talks to a device is in `profilers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from tfnas.app import values
from tfnas.app.values import load_space as load_space
from tfnas.data.sets import load_images as load_images
from tfnas.latency.table import LatencyTable
from tfnas.nets.gallery import list_models as list_models
from tfnas.runs.found import FoundNet as FoundNet
from tfnas.space.spec import SpaceSpec
from tfnas.space.subnet import Subnet as Subnet

if TYPE_CHECKING:
    from torch import nn

    from tfnas.data.images import Dataset
    from tfnas.deploy.onnx_file import Exported
    from tfnas.nets.backbone import Backbone
    from tfnas.nets.blocks import Network
    from tfnas.nets.weights import Trained
    from tfnas.runs.model import TrainedNetwork
    from tfnas.runs.trained import TrainResult
    from tfnas.strategies.contract import Budget, Progress, Strategy
    from tfnas.tracing.own_net import OwnNet
    from tfnas.training.recipe import Recipe

AnyNetwork = TypeVar("AnyNetwork", bound="Network")
load_preset = values.load
"""`load_preset("recipe", "quick", epochs=1)`: the values of conf/recipe/quick.yaml, some changed.

The type is that of the values; of a strategy it is the strategy. Kinds are budget, derive, profile,
recipe, space, strategy and verify. Raises LookupError for an unknown kind or name, and ValueError
for a change that the type doesn't have or allow.
"""


def load_table(path: str | Path) -> LatencyTable:
    """Read a latency table. Raises ValueError, naming the file, if it is none."""
    return LatencyTable.load(path)


def load_subnet(path: str | Path) -> Subnet:
    """Read a found network. Raises ValueError, naming the file, if it is none."""
    return Subnet.load(path)


def space_from(
    net: str | nn.Module,
    name: str | None = None,
    *,
    resolution: int | Sequence[int] = 224,
    in_channels: int = 3,
    kernels: Sequence[int] | None = None,
    expansions: Sequence[float] | None = None,
    squeeze_excite: Sequence[bool] | None = None,
) -> OwnNet:
    """Make a space of a torch net of one's own, by tracing it.

    `.space` is what `find_net` takes, `.subnet` the net itself, which is in the space, and
    `.network` the net with its weights. `.save(folder)` writes all three.

    Args:
        net: (N, in_channels, H, W) to (N, classes): a module, or `module:factory`, where the
            factory takes nothing and gives one.
        name: of the space; None: that of the factory, or of the module's class.
        resolution: px of the deployed net, or height and width.
        kernels: candidates; None: 3, 5 and the net's own.
        expansions: mid width / input width of candidates; None: around the net's own.
        squeeze_excite: [False], [True] or both; None: both where a block of the net has it.

    Raises:
        tfnas.tracing.own_net.UnfitError: a ValueError; blocks that no space has, with the reasons.
        ValueError: if there is no such module, it can't be traced, or the candidates make no space.
    """
    from tfnas.nets.factory import make_module
    from tfnas.space.around import Candidates
    from tfnas.space.size import size_given
    from tfnas.tracing.own_net import own_net

    own = type(net).__name__ if not isinstance(net, str) else net.rpartition(":")[2]
    return own_net(
        make_module(net) if isinstance(net, str) else net,
        own.rpartition(".")[2] if name is None else name,
        size_given("resolution", resolution),
        in_channels,
        Candidates(kernels, expansions, squeeze_excite),
    )


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
    teacher: str | Path | nn.Module | None = None,
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
        teacher: whose soft labels the supernet learns too, as of `train_net`; how much they count
            has conf/search.yaml.
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
    from tfnas.process.accelerator import pick_accelerator
    from tfnas.runs.teachers import load_teacher
    from tfnas.training.teacher import lesson as asked

    lesson = None
    if teacher is not None:
        device, size = pick_accelerator(accelerator), with_classes(space, images).size
        lesson = asked(
            load_teacher(teacher, device), images.fed_as(space.in_channels), size, device,
            temperature=values.default("search", "teacher_temperature"),
            weight=values.default("search", "teacher_weight"),
        )  # fmt: skip
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
        lesson=lesson,
        on_progress=on_progress or (lambda progress: None),
    )


def train_net(
    net: FoundNet | Subnet,
    images: Dataset,
    *,
    recipe: str | Recipe = "quick",
    out: str | Path,
    task: str = "classification",
    weights: str | Path | None = None,
    teacher: str | Path | nn.Module | None = None,
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
        task: classification, multi_label or regression; the latter two take images with a row of
            numbers for each.
        weights: what to start from; `recipe="qat"` fine-tunes them for int8.
        teacher: whose soft labels are learned too: the folder of a trained run, an ONNX file with
            any batch, `module:factory` or a module. It takes what the net takes, and has the same
            classes.
        threads: CPU threads; None: all cores.
        workers: processes that decode image files.

    Raises:
        ValueError: if net, images, recipe and teacher don't fit together, or the folder holds
            another training or another net.
        tfnas.process.errors.DivergedError: if the loss is no finite number.
    """
    import torch

    from tfnas.process.accelerator import cpu_threads, pick_accelerator
    from tfnas.process.stopping import locked
    from tfnas.runs.folder import RunFolder
    from tfnas.runs.teachers import load_teacher
    from tfnas.runs.trained import train

    subnet = net.subnet if isinstance(net, FoundNet) else net
    folder = Path(out)
    torch.set_num_threads(cpu_threads(threads))
    device = pick_accelerator(accelerator)
    with locked(folder):
        _check_own(RunFolder(folder).subnet, subnet)
        return train(
            subnet,
            images,
            load_preset("recipe", recipe) if isinstance(recipe, str) else recipe,
            task=task,
            seed=seed,
            out=folder,
            weights=None if weights is None else Path(weights),
            teacher=None if teacher is None else load_teacher(teacher, device),
            device=str(device),
            workers=workers,
            resume=resume,
        )


def _check_own(file: Path, subnet: Subnet) -> None:
    """Raises ValueError where a folder says that it is of another net: weights wouldn't fit it."""
    if file.exists() and Subnet.load(file) != subnet:
        raise ValueError(f"{file} is another net: give another out=FOLDER, or move it away")


def export_net(
    net: TrainResult | FoundNet | Subnet,
    path: str | Path,
    *,
    batch: int | None = 1,
    seed: int = 0,
    format: str = "onnx",
    precision: str | None = None,
    images: Dataset | None = None,
    activations: str = "auto",
    method: str | None = None,
    float_ops: Sequence[int] = (),
    reduce_range: bool = False,
) -> Exported:
    """Write a net as ONNX; one that isn't trained gets seeded weights, which ONNX files tell.

    Args:
        batch: None leaves it open.
        format: onnx | openvino | tflite | ncnn | coreml; the path ends as its files do.
        precision: fp32 | int8; None: int8 where the net was searched or trained for it.
        images: those it was trained on, which make a trained net int8: training images calibrate
            it, and `Exported.check` tells what it loses on test images; int8.json beside the file
            keeps that.
        activations: of an int8 net, auto | uint8 | int8; auto: those of the search's table, else
            unsigned.
        method: minmax | entropy | percentile: how a range follows from the images; None: as
            conf/export.yaml has it, which also says how many images are taken.
        float_ops: numbers of ops that stay float, from the stem on.
        reduce_range: weights of 7 bits.

    Raises:
        ValueError: if the weights don't fit, the batch is no size, there is no such format, or
            images are missing or not those of the training.
        LookupError: if a package of the format isn't installed.
        RuntimeError: if the runtime's output differs from torch's.
    """
    from tfnas.deploy.int8_export import Int8Images, Int8Options, export_int8, plan_int8
    from tfnas.deploy.onnx_file import Target, export_network, network_with
    from tfnas.runs.exported import accuracy_of
    from tfnas.runs.folder import RunFolder
    from tfnas.runs.trained import TrainResult

    file, default = Path(path), values.default("export", "int8")
    subnet = net if isinstance(net, Subnet) else net.subnet
    weights, target, device = None, Target(), None
    if isinstance(net, TrainResult):
        weights = net.weights
    elif isinstance(net, FoundNet):
        target = Target(net.target_ms, net.table_ms, Path(net.table.source).name)
        device = net.table.device
    network, trained = network_with(subnet, weights, seed)
    quantization = plan_int8(
        Int8Options(precision, activations, method or default.method, tuple(float_ops),
                    reduce_range),
        trained=trained,
        ops=len(network.layers),
        format=format,
        searched=None if device is None else device.precision,
        activations=None if device is None else device.activations,
    )  # fmt: skip
    if quantization is None or trained is None:
        return export_network(
            network, trained, file, batch=batch, target=target, seed=seed, format=format,
            quantization=quantization,
        )  # fmt: skip
    if images is None:
        raise ValueError(
            "precision=int8 without images: a trained net is calibrated and checked on the data "
            "that it was trained on; give images=tfnas.load_images(...), or precision='fp32'"
        )
    data = images.fed_as(subnet.in_channels)
    done = export_int8(
        network, file, quantization,
        Int8Images(data, trained, default.images, default.check_images), batch=batch,
        target=target, seed=seed, format=format,
    )  # fmt: skip
    if (checked := accuracy_of(done, subnet)) is not None:
        checked.save(RunFolder(file.parent).int8)
    return done


@overload
def load(
    path: str | Path, *, features_only: Literal[False] = False, out_indices: None = None
) -> TrainedNetwork: ...
@overload
def load(
    path: str | Path, *, features_only: Literal[True], out_indices: Sequence[int] | None = None
) -> Backbone: ...
def load(
    path: str | Path, *, features_only: bool = False, out_indices: Sequence[int] | None = None
) -> TrainedNetwork | Backbone:
    """Load a trained network: an eval-mode `nn.Module`.

    It has `.classes`, `.preprocess` (an image of Pillow, a file or an array to (1, C, R, R)) and
    `.trained` (data, resolution, accuracy).

    Args:
        path: the folder of a run, or one that `python -m tfnas.export hub=FOLDER` wrote; or a
            subnet.json or a weights file in it.
        features_only: without head and classifier, as in timm: it gives a list of maps, and
            `.feature_info` has their `channels()` and `reduction()`.
        out_indices: which maps, the largest is 0; None: one of every size.

    Raises:
        FileNotFoundError: if there is no subnet or no weights.
        ValueError: if they are damaged or don't fit together, or there is no such map.
    """
    from tfnas.runs.model import load_model

    network = load_model(Path(path))
    return _as_asked(network, features_only, out_indices, network.trained)


@overload
def create_model(
    name: str,
    classes: int | None = None,
    *,
    in_channels: int | None = None,
    features_only: Literal[False] = False,
    out_indices: None = None,
    dropout: float = 0.0,
    drop_connect: float = 0.0,
) -> Network: ...
@overload
def create_model(
    name: str,
    classes: int | None = None,
    *,
    in_channels: int | None = None,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
    dropout: float = 0.0,
    drop_connect: float = 0.0,
) -> Backbone: ...
def create_model(
    name: str,
    classes: int | None = None,
    *,
    in_channels: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    dropout: float = 0.0,
    drop_connect: float = 0.0,
) -> Network | Backbone:
    """Make a net of the gallery, a `nn.Module` in training mode. Its weights are random.

    `.subnet` is what `train_net` and `export_net` take.

    Args:
        name: one of `list_models()`.
        classes: outputs; None: those of the gallery's file, 1000, or 10 for small images.
        in_channels: of the image; None: 3.
        features_only: as of `load`.
        out_indices: as of `load`.
        dropout: before the classifier.
        drop_connect: how often the last block is left out; fewer times from there to the first.

    Raises:
        LookupError: for an unknown name.
        ValueError: for classes or channels that no net can have, or a map that isn't there.
    """
    from tfnas.nets.blocks import Network
    from tfnas.nets.gallery import gallery_subnet

    network = Network(gallery_subnet(name, classes, in_channels), dropout, drop_connect)
    return _as_asked(network, features_only, out_indices)


def _as_asked(
    network: AnyNetwork,
    features_only: bool,
    out_indices: Sequence[int] | None,
    trained: Trained | None = None,
) -> AnyNetwork | Backbone:
    """The network itself, or as a backbone."""
    from tfnas.nets.backbone import Backbone

    if features_only:
        return Backbone(network, out_indices, trained)
    if out_indices is not None:
        raise ValueError(f"out_indices={list(out_indices)}: they need features_only=True")
    return network

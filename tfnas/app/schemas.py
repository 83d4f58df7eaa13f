"""Types of what conf/ holds, one dataclass an entry point.

Values live in conf/ only, types, units and bounds here only. `tfnas.process.checks` reads the
bounds. Options that several entry points have stand in a class that theirs begin with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tfnas.process.checks import ABOVE_0, AT_LEAST_0, INSIDE_0_1, between, one_of
from tfnas.space.spec import SpaceSpec
from tfnas.strategies.contract import Budget
from tfnas.training.recipe import Recipe

Positive = Annotated[float, ABOVE_0]


@dataclass
class DataConfig:
    """A data set (conf/data/); see `tfnas.data.sets.load_images`."""

    name: str
    root: str | None
    train_list: str | None
    test_list: str | None
    max_train: int | None  # images
    classes: int | None  # null: counted from the data
    workers: int  # processes that decode images
    check: bool | None = None  # decode all files first; null: where it takes less than a minute
    on_unreadable: str = "stop"  # skip: leave out the files that can't be read


@dataclass
class ProfileConfig:
    """How long and how finely a device is measured (conf/profile/)."""

    max_minutes: Positive  # stop then, with the precision reached by then
    precision: Positive  # half-width of the 95 % interval to reach, fraction
    anchor_nets: Annotated[int, ABOVE_0]  # whole nets that fix the table's scale


@dataclass
class VerifyConfig:
    """How the last word on a net is spoken (conf/verify/)."""

    max_minutes: Positive
    precision: Positive  # half-width of the 95 % interval to reach, fraction


@dataclass
class FinalsConfig:
    """Which nets are really trained after a search, and how (conf/finals/)."""

    name: str  # none: no net is trained
    searched: Annotated[int, ABOVE_0]  # of the search: its best net, and next ones or draws
    random: Annotated[int, AT_LEAST_0]  # random nets at the target
    handmade: bool  # MobileNetV2- and V3-like nets at the target
    keep: Annotated[float, between(0.1, 0.9)]  # share of the nets that goes on after a cut
    first_cut: Annotated[float, INSIDE_0_1]  # share of the epochs before the first cut, at least
    from_supernet: bool  # trainings start from the supernet's weights
    jobs: Annotated[int, ABOVE_0]  # trainings side by side, that share the cores
    backend: str  # of joblib, where they are several: loky, or another one that is registered
    recipe: Recipe


@dataclass
class DeriveConfig:
    """How the subnet is derived from what the search learned (conf/derive/)."""

    method: Annotated[str, one_of(("constrained", "greedy"))]
    tol: Annotated[float, INSIDE_0_1]  # fraction of the target, on the table
    at_most: bool  # the target is an upper bound


@dataclass
class LimitsConfig:
    """What the whole net may cost at most, beside its latency; null: anything."""

    macs: Annotated[float | None, ABOVE_0]  # multiply-accumulates for one image
    params: Annotated[float | None, ABOVE_0]  # parameters as torch counts them
    weights_mb: Annotated[float | None, ABOVE_0]  # of the exported net at its precision, 1e6 bytes
    memory_mb: Annotated[float | None, ABOVE_0]  # activations of one image at once, 1e6 bytes


@dataclass
class DeviceContext:
    """What tells of a device in every entry point that measures."""

    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str  # fp32 | tf32 | fp16 | int8
    seed: Annotated[int, between(0, 2**32 - 1)]


@dataclass
class TableContext(DeviceContext):
    """What an entry point has that reads or writes the table of a space."""

    space: SpaceSpec
    data: DataConfig
    table: str | None  # file; null: this machine's own, named after the device


@dataclass
class SteppingContext:
    """What trains step by step, and can be stopped."""

    accelerator: str  # auto | cpu | cuda: what is trained on
    checkpoint_minutes: Positive  # a crash loses no more; epochs are saved besides
    # What becomes of a step with an infinite loss or gradient.
    on_nonfinite: Annotated[str, one_of(("stop", "skip"))]


@dataclass
class TrainingContext(SteppingContext):
    """What trains subnets by a recipe."""

    data: DataConfig
    recipe: Recipe
    threads: Annotated[int | None, ABOVE_0]  # CPU threads; null: all cores
    out: str | None  # folder; null: see the entry point


@dataclass
class ProfilersConfig(TableContext):
    """python -m profilers"""

    profile: ProfileConfig


@dataclass
class VerifierConfig(DeviceContext):
    """python -m profilers.verify"""

    onnx: str
    against: list[str]  # other ONNX files, measured beside it
    target_ms: Annotated[float | None, ABOVE_0]  # null: it is just measured
    tolerance: Positive  # fraction of the target
    at_most: bool  # any lower latency is as good
    verify: VerifyConfig
    json: str | None  # file to write the result to; -: standard output, which has nothing else


@dataclass
class CardConfig(TableContext):
    """python -m profilers.card"""

    nets: Annotated[int, between(2, 1_000_000)]  # whole random nets to measure
    max_minutes: Positive
    net_precision: Positive  # half-width of each net's 95 % interval, fraction


@dataclass
class SearchConfig(SteppingContext, TableContext):
    """python -m tfnas.search"""

    target_ms: Positive
    tolerance: Positive  # fraction of the target, on the device
    limits: LimitsConfig
    also: list[Any]  # latencies on other tables; see `tfnas.pipeline.beside.Also`
    # How long all but profiling may take; null, or with a budget alone: as long as it takes.
    minutes: Annotated[float | None, ABOVE_0]
    strategy: Any  # checked against the strategy's own dataclass
    budget: Budget
    finals: FinalsConfig
    derive: DeriveConfig
    profile: ProfileConfig
    loop_minutes: Annotated[float, AT_LEAST_0]  # for moving widths on the device at most, 0: none
    # For measuring stem, stages and head of the net; 0 or null: they aren't.
    stage_minutes: Annotated[float | None, AT_LEAST_0]
    verify: VerifyConfig
    amp: bool  # bfloat16 autocast where a GPU searches
    teacher: str | None  # of the supernet's weights; as of a training
    teacher_temperature: Annotated[float, between(0.01, 1000)]
    teacher_weight: Annotated[float, between(0, 1)]  # of the teacher in the loss of a weight step
    cores: Annotated[int | None, ABOVE_0]  # CPU threads of the supernet; null: all
    tensorboard: bool | None  # write scalars; null: if the package tensorboard is installed
    trackers: list[str]  # that get scalars too: mlflow, wandb; see `tfnas.runs.trackers`
    resume: str | None  # folder of a run, or of a sweep, to go on with
    reuse: str | None  # folder of a run whose scores decide, without any training


@dataclass
class TrainConfig(TrainingContext):
    """python -m tfnas.train; `out` is the folder of the subnet where it is null."""

    subnet: str
    reset_classifier: bool  # as many outputs as the data has classes, learned anew; `out` is given
    task: str  # one of `tfnas.training.task.TASKS`
    weights: str | None  # safetensors to start from, such as a run's supernet_weights.safetensors
    teacher: str | None  # a run, an ONNX file or module:factory; see `tfnas.runs.teachers`
    seed: int
    tensorboard: bool | None  # write scalars; null: if the package tensorboard is installed
    trackers: list[str]  # that get scalars too: mlflow, wandb; see `tfnas.runs.trackers`
    resume: bool


@dataclass
class CompareConfig(TrainingContext):
    """python -m tfnas.compare; without `out` runs/compare_ and a digest of nets, recipe, data."""

    nets: Any  # runs, or {name: run or runs}; see `tfnas.comparison.contenders.load_contenders`
    table: str | None  # file; null: the one that all runs name
    latency_tolerance: Annotated[float, AT_LEAST_0]  # largest difference on the table, fraction
    seeds: list[int]
    json: str | None  # file to write the result to; -: standard output, which has nothing else


@dataclass
class Int8Config:
    """How `tfnas.export` makes an int8 net; see `tfnas.deploy.int8.Quantization`."""

    activations: str  # auto | uint8 | int8; auto: those of the search
    method: str  # minmax | entropy | percentile
    images: Annotated[int, between(1, 1_000_000)]  # of the training set, which calibrate
    check_images: Annotated[int, between(1, 10_000_000)]  # of the test set, at most
    float_ops: list[int]  # numbers of ops that stay float, the stem is 0
    reduce_range: bool  # 7-bit weights, for x86 processors without VNNI


@dataclass
class ExportConfig:
    """python -m tfnas.export"""

    subnet: str
    weights: str | None  # null: weights.safetensors beside the subnet, if there; else untrained
    out: str | None  # file; null: model.onnx beside the subnet, features.onnx of a backbone
    format: str  # onnx, or another one of `tfnas.deploy.formats.FORMATS`
    opset: int | None  # of ONNX; null: that of what is measured
    ir_version: int | None  # of ONNX; null: as old as the opset can have it
    features_only: bool  # the maps of a backbone instead of classes
    out_indices: list[int] | None  # of these maps, the largest is 0; null: all
    hub: str | None  # folder to fill for a model hub, ONNX file included; null: the ONNX file alone
    batch: Annotated[int | None, ABOVE_0]  # null: dynamic
    precision: str | None  # fp32 | int8; null: the search's, as far as files have one
    data: DataConfig  # whose images calibrate and check an int8 net
    int8: Int8Config
    target_ms: Annotated[float | None, ABOVE_0]
    seed: int

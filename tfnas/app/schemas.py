"""Types of what conf/ holds, one dataclass an entry point.

Values live in conf/ only, types and units here only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tfnas.space.spec import SpaceSpec
from tfnas.strategies.contract import Budget
from tfnas.training.recipe import Recipe


class DeviceContext(Protocol):
    """What tells of a device in every entry point that measures."""

    device: dict[str, Any]
    threads: int
    batch: int
    precision: str


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


@dataclass
class ProfileConfig:
    """How long and how finely a device is measured (conf/profile/)."""

    max_minutes: float  # stop then, with the precision reached by then
    precision: float  # half-width of the 95 % interval to reach, fraction of the latency
    anchor_nets: int  # whole nets that fix the table's scale


@dataclass
class VerifyConfig:
    """How the last word on a net is spoken (conf/verify/)."""

    max_minutes: float
    precision: float  # half-width of the 95 % interval to reach, fraction of the latency


@dataclass
class ProfilersConfig:
    """python -m profilers"""

    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str  # fp32 | tf32 | fp16
    space: SpaceSpec
    data: DataConfig
    seed: int
    table: str | None  # file to write; null: named after the device
    profile: ProfileConfig


@dataclass
class VerifierConfig:
    """python -m profilers.verify"""

    onnx: str
    target_ms: float
    tolerance: float  # fraction of the target
    at_most: bool  # any lower latency is as good
    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str
    seed: int
    verify: VerifyConfig
    json: str | None  # file to write the result to


@dataclass
class CardConfig:
    """python -m profilers.card"""

    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str
    space: SpaceSpec
    data: DataConfig
    seed: int
    table: str | None  # file; null: this machine's own
    nets: int  # whole random nets to measure
    max_minutes: float
    net_precision: float  # half-width of each net's 95 % interval to reach, fraction


@dataclass
class DeriveConfig:
    """How the subnet is derived from what the search learned (conf/derive/)."""

    method: str  # constrained | greedy
    tol: float  # fraction of the target, on the table
    at_most: bool  # the target is an upper bound


@dataclass
class SearchConfig:
    """python -m tfnas.search"""

    target_ms: float
    tolerance: float  # fraction of the target, on the device
    device: dict[str, Any]  # conf/device/; checked against its module's own `Options`
    threads: int
    batch: int
    precision: str  # fp32 | tf32 | fp16
    space: SpaceSpec
    data: DataConfig
    table: str | None  # file; null: this machine's own
    strategy: Any  # checked against the strategy's own dataclass
    budget: Budget
    derive: DeriveConfig
    profile: ProfileConfig
    loop_minutes: float  # longest time for moving widths on the device, 0 for none
    stage_minutes: float | None  # for measuring stem, stages and head of the net; 0 or null: not
    verify: VerifyConfig
    accelerator: str  # auto | cpu | cuda: what the supernet trains on
    amp: bool  # bfloat16 autocast where a GPU searches
    cores: int | None  # CPU threads of the supernet; null: all
    checkpoint_minutes: float  # the most that a crash can lose; every epoch is saved besides
    on_nonfinite: str  # stop | skip: what becomes of a step with an infinite loss or gradient
    tensorboard: bool | None  # write scalars; null: if the package tensorboard is installed
    resume: str | None  # folder of a run, or of a sweep, to go on with
    seed: int


@dataclass
class TrainConfig:
    """python -m tfnas.train"""

    subnet: str
    weights: str | None  # safetensors to start from, such as a run's supernet_weights.safetensors
    out: str | None  # folder; null: that of the subnet
    data: DataConfig
    recipe: Recipe
    seed: int
    threads: int | None  # CPU threads for training; null: all cores
    accelerator: str  # auto | cpu | cuda
    checkpoint_minutes: float  # the most that a crash can lose; every epoch is saved besides
    on_nonfinite: str  # stop | skip: what becomes of a step with an infinite loss or gradient
    tensorboard: bool | None  # write scalars; null: if the package tensorboard is installed
    resume: bool


@dataclass
class CompareConfig:
    """python -m tfnas.compare"""

    nets: Any  # runs, or {name: run or runs}; see `tfnas.comparison.contenders.load_contenders`
    table: str | None  # file; null: the one that all runs name
    latency_tolerance: float  # fraction that the nets may differ by on the table
    seeds: list[int]
    out: str | None  # folder; null: runs/compare_ and a digest of nets, recipe and data
    data: DataConfig
    recipe: Recipe
    threads: int | None  # CPU threads for training; null: all cores
    accelerator: str  # auto | cpu | cuda
    checkpoint_minutes: float  # the most that a crash can lose; every epoch is saved besides
    on_nonfinite: str  # stop | skip: what becomes of a step with an infinite loss or gradient


@dataclass
class ExportConfig:
    """python -m tfnas.export"""

    subnet: str
    weights: str | None  # null: weights.safetensors beside the subnet, if there; else untrained
    out: str | None  # file; null: model.onnx beside the subnet
    batch: int | None  # null: dynamic
    target_ms: float | None
    seed: int

"""What a strategy gets, what it yields: the contract between strategies and their driver.

A strategy is a frozen dataclass whose fields are its knobs. It never logs, saves or measures time;
it yields, and the driver does these. Nothing here imports torch at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from msgspec import Meta

from tfnas.derive.architecture import Architecture, Constraint, Derived
from tfnas.files.decode import Count
from tfnas.process.checks import ABOVE_0, AT_LEAST_0, INSIDE_0_1, between
from tfnas.process.ranks import ALONE, Ranks
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

if TYPE_CHECKING:
    import torch

    from tfnas.data.batches import Batches
    from tfnas.nets.distillation import Lesson

State = dict[str, Any]
Percent = Annotated[float, Meta(ge=0, le=100)]
MOST_BLOCKS = Meta(max_length=1_000)  # blocks or stages
CHOICES = Meta(min_length=1, max_length=100)  # ops of a block, or depths of a stage
Floats = Annotated[tuple[float, ...], CHOICES]
Counts = Annotated[tuple[Count, ...], CHOICES]


@dataclass
class Budget:
    """How much a search may train (conf/budget/), whatever the strategy."""

    name: str
    epochs: Annotated[int, ABOVE_0]
    warmup_epochs: Annotated[int, AT_LEAST_0]  # epochs at the start that train weights only
    batch_size: Annotated[int, between(2, 1_000_000)]  # batch norm needs 2
    max_train: int | None  # class-balanced upper limit on the training images; null: all
    resolution: Annotated[int | None, ABOVE_0]  # pixels of the shorter side; null: the space's
    channel_factor: Annotated[float, ABOVE_0, between(0, 1)]  # proxy: all channels scaled by it
    start_alike: bool  # the ops of a block begin with the same weights, see `Supernet.start_alike`
    arch_fraction: Annotated[float, INSIDE_0_1]  # of the images, held out for the architecture


@dataclass(frozen=True)
class Task:
    """One search to be run.

    Attributes:
        constraints: tables with their targets; the first is the one that is searched for.
        train: batches that weights train on.
        held_out: batches that the architecture is chosen on.
        derive: greedy | constrained.
        on_nonfinite: stop | skip: what becomes of a step whose loss or gradients are no finite
            numbers, or explode.
        device: that the supernet runs on.
        amp: bfloat16 autocast on a GPU; a CPU computes in float32 whatever it says.
        ranks: the processes that search together; `train` and `held_out` give this one's parts.
        lesson: of a teacher, for the weights; the architecture is chosen by the labels.
    """

    space: SearchSpace
    constraints: tuple[Constraint, ...]
    train: Batches
    held_out: Batches
    budget: Budget
    seed: int
    derive: str
    device: torch.device
    on_nonfinite: str = "stop"
    amp: bool = False
    ranks: Ranks = ALONE
    lesson: Lesson | None = None


@dataclass(frozen=True)
class EpochRecord:
    """One epoch as the paper's figures show it.

    Lists are per block or stage of the space, in order; per op, skip last where it is one, which
    has no width. `depth_probs` holds those of each stage's depths, or of running and skipping each
    block that may be skipped apart from its ops. `depths` are those of the most probable net.
    """

    epoch: Count
    train_loss: float
    train_top1: Percent  # on augmented training batches, first path
    held_out_top1: Percent  # on batches of the architecture's split
    temperature: float | None
    learning_rate: float
    derived_ms: float | None  # argmax net, before widths are scaled
    scaled_ms: float | None  # and after
    expected_ms: float | None = None  # by all probabilities, what the latency loss is given
    depths: Annotated[tuple[Annotated[int, Meta(ge=0, le=1_000)], ...], MOST_BLOCKS] = ()
    entropy: Annotated[tuple[float, ...], MOST_BLOCKS] = ()  # nats, of each block's probabilities
    op_probs: Annotated[tuple[Floats, ...], MOST_BLOCKS] = ()
    depth_probs: Annotated[tuple[Floats, ...], MOST_BLOCKS] = ()
    expected_depths: Annotated[tuple[float, ...], MOST_BLOCKS] = ()  # mean blocks of each stage
    sampled: Annotated[tuple[Counts, ...], MOST_BLOCKS] = ()  # how often each op was trained
    widths: Annotated[tuple[Counts, ...], MOST_BLOCKS] = ()


@dataclass(frozen=True)
class Progress:
    """A step is done.

    Attributes:
        state: what `run` goes on from, as it is while the strategy waits here: tensors, numbers,
            texts, None, and lists and dicts of these.
        record: at the end of an epoch.
    """

    step: int
    steps: int
    epoch: int
    state: Callable[[], State]
    record: EpochRecord | None = None


@dataclass(frozen=True)
class Candidate:
    """A net that a search scored; of one search the higher score is the better one."""

    derived: Derived
    score: float


@dataclass(frozen=True)
class Evaluation:
    """What a net of the space came to, whatever is asked of it.

    Attributes:
        depths: of each stage.
        picks, widths: of each block, those that are cut off too.
        value: higher is better.
        error: its standard error.
    """

    depths: Counts
    picks: Counts
    widths: Counts
    value: float
    error: Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Found:
    """What a search ends with: the last thing that a strategy yields.

    Attributes:
        architecture: what was learned, if the strategy learns one.
        weights: gives the weights of a subnet of the space, named as in
            `tfnas.nets.blocks.Network`, batch norm left out; None where the supernet is a proxy
            with fewer channels.
        scores: what else is worth keeping in result.json, by name; of every strategy what it cost:
            `path_passes`, images through one path of the supernet, a pass through all ops of a
            block counting as so many paths.
        candidates: distinct nets at the target that were scored, best first.
        evaluations: what a search of another target may start from: nets that chance alone chose,
            with scores as they were.
        estimate: what the search holds any net of the space to be worth, in the unit of the scores.
        supernet: gives all its weights, for a search of another target; None as for `weights`.
    """

    derived: Derived
    architecture: Architecture | None
    weights: Callable[[Subnet], Mapping[str, torch.Tensor]] | None
    scores: Mapping[str, float] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    estimate: Callable[[Subnet], float] | None = None
    supernet: Callable[[], Mapping[str, torch.Tensor]] | None = None


class Strategy(Protocol):
    """A way to search: `Strategy(**knobs).run(task)`.

    A strategy whose class has `SCORED: ClassVar[tuple[str, ...]]`, the knobs whose product is the
    number of subnets that are scored, has the first of them planned where `minutes` are given.
    """

    def __init__(self, **knobs: Any) -> None: ...

    def check(self, derive: str) -> None:
        """Raises ValueError for a knob out of its range, or a way to derive that it hasn't."""

    def run(self, task: Task, state: State | None = None) -> Iterator[Progress | Found]:
        """Search; the same task and seed give the same result.

        Args:
            state: of a `Progress` of the same task: it goes on there, and ends with what the
                uninterrupted run ends with, bit for bit where the device computes so.

        Raises:
            DivergedError: see `Task.on_nonfinite`.
            DisagreementError, LostError: see `tfnas.process.ranks`.
            ValueError: if `state` isn't one of this task.
        """

"""What a torch module computes, as a row of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from tfnas.space.size import Size, size_of

INPUT = 0  # the number of the first step: the images


@dataclass(frozen=True)
class Conv:
    """A convolution, or a linear layer on (N, C): one of 1x1 on a map of one pixel.

    Attributes:
        weight, bias: names of the module's tensors.
        shape: of the weight: (c_out, c_in / groups, height, width).
    """

    weight: str
    bias: str | None
    shape: tuple[int, int, int, int]
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        sizes = "×".join(map(str, self.shape[2:]))
        if self.is_depthwise:
            return f"depthwise conv {sizes}"
        return f"conv {sizes}" + (f" in {self.groups} groups" if self.groups > 1 else "")

    @property
    def is_depthwise(self) -> bool:
        return self.groups > 1 and self.groups == self.shape[0] and self.shape[1] == 1

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a matrix product over pixels."""
        plain = self.stride == (1, 1) and self.padding == (0, 0)
        return plain and self.groups == 1 and self.shape[2:] == (1, 1)


@dataclass(frozen=True)
class Norm:
    """Batch norm by running statistics; names of the module's tensors."""

    weight: str
    bias: str
    mean: str
    var: str
    eps: float

    def __str__(self) -> str:
        return "batch norm"


@dataclass(frozen=True)
class Act:
    """An activation by our name, or by that of torch where we have none."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Scalar:
    """Arithmetics with one number: add | sub | mul | div."""

    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:g}"


@dataclass(frozen=True)
class Plain:
    """A step that has nothing but its name: input, pool (global, average), add, mul."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Other:
    """A step that no layer of a space has."""

    name: str

    def __str__(self) -> str:
        return self.name


Does = Conv | Norm | Act | Scalar | Plain | Other
ADD, MUL, POOL, IMAGES = Plain("add"), Plain("mul"), Plain("global pooling"), Plain("input")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        inputs: numbers of the steps whose values it takes.
        shape: of its value.
        path: of the module whose code does it.
    """

    does: Does
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    path: str

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def size(self) -> Size:
        """Of its map; a vector is a map of one pixel."""
        return size_of(*self.shape[2:]) if len(self.shape) == 4 else 1


@dataclass(frozen=True)
class Traced:
    """What a module computes.

    Attributes:
        steps: each takes values of those before it alone; the first one is the images.
        output: number of the step that gives the module's result.
        tensors: parameters and buffers by name.
    """

    steps: tuple[Step, ...]
    output: int
    tensors: Mapping[str, Tensor]

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        """For each step the numbers of those that take its value, each once."""
        found: list[list[int]] = [[] for _ in self.steps]
        for number, step in enumerate(self.steps):
            for source in dict.fromkeys(step.inputs):
                found[source].append(number)
        return tuple(map(tuple, found))

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """The steps, in order, that all that follows takes nothing but their value of."""
        found, needed = [], 0
        for number in range(len(self.steps)):
            if needed <= number:
                found.append(number)
            needed = max((needed, *self.users[number]))
        return tuple(found)

    # -- ways through it --------------------------------------------------------------------------

    def does(self, number: int) -> Does:
        return self.steps[number].does

    def conv(self, number: int) -> Conv:
        """What a step does that is known to be a convolution."""
        does = self.does(number)
        assert isinstance(does, Conv)
        return does

    def only(self, number: int) -> int | None:
        """The one step that takes this value; None if several do, or it is the output."""
        users = self.users[number]
        return users[0] if len(users) == 1 and number != self.output else None

    def following(self, number: int, kind: type) -> int | None:
        """The one step that takes this value, if it is of the kind."""
        user = self.only(number)
        return user if user is not None and isinstance(self.does(user), kind) else None

    def end_of(self, number: int) -> int:
        """The first cut from there on, behind the norm and the activation that follow it."""
        end = next(cut for cut in self.cuts if cut >= number)
        while end != self.output and isinstance(self.does(end + 1), Norm | Act):
            end = next(cut for cut in self.cuts if cut > end)
        return end

    def described(self, first: int, last: int) -> str:
        """The layers of a region, for a message; "" if there are none."""
        does = (step.does for step in self.steps[first : last + 1])
        told = [str(what) for what in does if isinstance(what, Conv | Other)]
        more = f" and {len(told) - 6} more" if len(told) > 6 else ""
        return ", ".join(told[:6]) + more


def reachable(traced: Traced) -> Traced:
    """Without the steps that the output doesn't need."""
    needed = {INPUT, traced.output}
    for number in range(traced.output, 0, -1):
        if number in needed:
            needed |= set(traced.steps[number].inputs)
    new = {old: number for number, old in enumerate(sorted(needed))}
    steps = tuple(
        replace(traced.steps[old], inputs=tuple(new[source] for source in traced.steps[old].inputs))
        for old in new
    )
    return replace(traced, steps=steps, output=new[traced.output])

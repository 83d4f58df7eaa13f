"""Activations that are written out by their formulas, as the ones that they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tfnas.tracing.steps import MUL, Act, Scalar, Step, Traced, reachable


def known(traced: Traced) -> Traced:
    """With one step for each activation.

    A hard sigmoid may be `relu6(x + 3) / 6`, a swish `x * sigmoid(x)`, a hard swish
    `x * hard_sigmoid(x)` or `x * relu6(x + 3) / 6`.
    """
    steps = list(traced.steps)
    for number, step in enumerate(steps):
        for name, source_of in IDIOMS.items():
            source = source_of(steps, step)
            if source is not None:
                steps[number] = replace(step, does=Act(name), inputs=(source,))
    return reachable(replace(traced, steps=tuple(steps)))


def _shifted(steps: list[Step], number: int) -> int | None:
    """The x of `relu6(x + 3)`."""
    step = steps[number]
    if step.does != Act("relu6"):
        return None
    inner = steps[step.inputs[0]]
    return inner.inputs[0] if inner.does == Scalar("add", 3) else None


def _is_sixth(step: Step) -> bool:
    does = step.does
    if not isinstance(does, Scalar):
        return False
    return does == Scalar("div", 6) or (does.name == "mul" and abs(6 * does.value - 1) < 1e-6)


def _hard_sigmoid(steps: list[Step], step: Step) -> int | None:
    return _shifted(steps, step.inputs[0]) if _is_sixth(step) else None


def _gated(steps: list[Step], step: Step, gate: Callable[[int], int | None]) -> int | None:
    """The x of `x * gate(x)`, in either order."""
    if step.does != MUL or len(step.inputs) != 2:
        return None
    for x, other in (step.inputs, step.inputs[::-1]):
        if gate(other) == x:
            return x
    return None


def _by(steps: list[Step], step: Step, gate: str) -> int | None:
    def source(number: int) -> int | None:
        return steps[number].inputs[0] if steps[number].does == Act(gate) else None

    return _gated(steps, step, source)


def _hard_swish(steps: list[Step], step: Step) -> int | None:
    if _is_sixth(step):
        return _gated(steps, steps[step.inputs[0]], lambda number: _shifted(steps, number))
    return _by(steps, step, "hard_sigmoid")


IDIOMS: dict[str, Callable[[list[Step], Step], int | None]] = {
    "hard_sigmoid": _hard_sigmoid,
    "swish": lambda steps, step: _by(steps, step, "sigmoid"),
    "hard_swish": _hard_swish,
}

"""From a torch module to its steps: what it computes, whatever code computes it.

`torch.export` runs the module once without numbers and leaves ATen operators, in which a layer and
the function of the same name are alike. What changes no number in eval mode is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram, export
from torch.export.graph_signature import InputKind

from tfnas.space.size import Size, sides
from tfnas.tracing.steps import (
    ADD,
    IMAGES,
    MUL,
    POOL,
    Act,
    Conv,
    Does,
    Norm,
    Other,
    Scalar,
    Step,
    Traced,
    reachable,
)  # fmt: skip

BATCH = 2  # images that are traced, so that an image and a batch differ


def trace(module: nn.Module, in_channels: int, resolution: Size) -> Traced:
    """Trace a module in eval mode, which it is put into.

    Args:
        module: float32, on the CPU; (N, in_channels, H, W) to one tensor.

    Raises:
        ValueError: if it can't be run on such images, goes other ways for other numbers, or gives
            anything but one tensor.
    """
    images = torch.zeros(BATCH, in_channels, *sides(resolution))
    with torch.random.fork_rng(devices=[]):
        try:
            program = export(module.eval(), (images,), strict=False)
        except Exception as error:  # whatever the module's code raises
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"it can't be traced on images of {in_channels} channels and {resolution} px: "
                f"{type(error).__name__}: {reason}"
            ) from error
    return reachable(_Tracer(program).traced())


class _Tracer:
    """Makes steps of the nodes of an exported program."""

    def __init__(self, program: ExportedProgram):
        self.program = program
        self.names: dict[fx.Node, str] = {}  # of tensors of the module
        self.numbers: dict[fx.Node, int] = {}  # of the steps that give the values of nodes
        self.steps: list[Step] = []

    def traced(self) -> Traced:
        graph, signature = self.program.graph, self.program.graph_signature
        inputs = {spec.arg.name: spec for spec in signature.input_specs}
        for node in graph.nodes:
            if node.op == "placeholder":
                spec = inputs[node.name]
                if spec.kind == InputKind.USER_INPUT:
                    self._add(node, IMAGES, ())
                elif spec.target is not None:
                    self.names[node] = spec.target
            elif node.op == "call_function":
                self._read(node)
        (results,) = (node.args[0] for node in graph.nodes if node.op == "output")
        if len(results) != 1 or results[0] not in self.numbers:
            raise ValueError(f"it gives {len(results)} tensors, expected one, (N, classes)")
        tensors = {**self.program.state_dict, **self.program.constants}
        tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
        return Traced(tuple(self.steps), self.numbers[results[0]], tensors)

    def _add(self, node: fx.Node, does: Does, sources: Iterable[fx.Node]) -> None:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        value = node.meta.get("val")
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        inputs = tuple(self.numbers[source] for source in sources if source in self.numbers)
        self.numbers[node] = len(self.steps)
        self.steps.append(Step(does, inputs, shape, stack[-1][0] if stack else ""))

    def _read(self, node: fx.Node) -> None:
        values = [source for source in node.all_input_nodes if source in self.numbers]
        name, given = _called(node)
        if values and _changes_nothing(name, given, values[0], node):
            self.numbers[node] = self.numbers[values[0]]
            return
        does = READERS[name](self, node, given) if name in READERS else None
        self._add(node, Other(name) if does is None else does, values)

    def _conv(self, node: fx.Node, given: Mapping[str, Any]) -> Does | None:
        weight, bias = given["weight"], given["bias"]
        if weight not in self.names or (bias is not None and bias not in self.names):
            return Other("convolution by weights that are computed")
        shape = tuple(weight.meta["val"].shape)
        padding = given["padding"]
        if isinstance(padding, str):
            padding = [k // 2 if padding == "same" else 0 for k in shape[2:]]
        return Conv(
            self.names[weight], self.names.get(bias), shape, _pair(given["stride"]),
            _pair(padding), _pair(given["dilation"]), given["groups"],
        )  # fmt: skip

    def _linear(self, node: fx.Node, given: Mapping[str, Any]) -> Does | None:
        weight, bias = given["weight"], given["bias"]
        if weight not in self.names or (bias is not None and bias not in self.names):
            return Other("linear layer by weights that are computed")
        if len(node.meta["val"].shape) != 2:
            return Other("linear layer on more than one vector an image")
        c_out, c_in = weight.meta["val"].shape
        return Conv(self.names[weight], self.names.get(bias), (c_out, c_in, 1, 1))

    def _norm(self, node: fx.Node, given: Mapping[str, Any]) -> Does | None:
        parts = [given[n] for n in ("weight", "bias", "running_mean", "running_var")]
        if given["training"]:
            return Other("batch norm without running statistics")
        if not all(part in self.names for part in parts):
            return Other("batch norm without scale and shift")
        weight, bias, mean, var = (self.names[part] for part in parts)
        return Norm(weight, bias, mean, var, given["eps"])

    def _arithmetics(self, node: fx.Node, given: Mapping[str, Any]) -> Does | None:
        name, other = _called(node)[0], given["other"]
        if isinstance(other, int | float) and given.get("alpha", 1) == 1:
            return Scalar(name, float(other))
        both = given["self"] in self.numbers and other in self.numbers
        if not both or given.get("alpha", 1) != 1 or name not in ("add", "mul"):
            return Other(f"{name} of what isn't two maps")
        return ADD if name == "add" else MUL

    def _pool(self, node: fx.Node, given: Mapping[str, Any]) -> Does | None:
        """Global average pooling, by whatever operator."""
        name, x = _called(node)[0], given["self"]
        before, after = x.meta["val"].shape, node.meta["val"].shape
        if name == "mean":
            axes = given["dim"] if given.get("dim") is not None else range(len(before))
            whole = sorted(axis % len(before) for axis in axes) == [2, 3]
        elif name == "avg_pool2d":
            whole = tuple(_pair(given["kernel_size"])) == tuple(before[2:])
            whole = whole and not any(_pair(given["padding"]))
        else:
            whole = tuple(after[2:]) == (1, 1)
        return POOL if whole and len(before) == 4 else Other(f"{name} that isn't global")

    def _clamp(self, node: fx.Node, given: Mapping[str, Any]) -> Does | None:
        name = _called(node)[0]
        low, high = (given.get(bound) for bound in BOUNDS[name])
        if low != 0 or high not in (None, 6):
            return Act(name)
        return Act("relu" if high is None else "relu6")

    def _act(self, node: fx.Node, given: Mapping[str, Any]) -> Does | None:
        return Act(ACTS[_called(node)[0]])


Reader = Callable[[_Tracer, fx.Node, Mapping[str, Any]], Does | None]
BOUNDS = {
    "hardtanh": ("min_val", "max_val"), "clamp": ("min", "max"), "clamp_min": ("min", "max"),
}  # fmt: skip
ACTS = {  # of torch, and their names here
    "relu": "relu", "relu6": "relu6", "silu": "swish", "hardswish": "hard_swish",
    "sigmoid": "sigmoid", "hardsigmoid": "hard_sigmoid",
    **{name: name for name in ("gelu", "elu", "leaky_relu", "mish", "prelu", "selu", "tanh")},
}  # fmt: skip
READERS: Mapping[str, Reader] = {
    "conv2d": _Tracer._conv,
    "linear": _Tracer._linear,
    "batch_norm": _Tracer._norm,
    **dict.fromkeys(("add", "sub", "mul", "div"), _Tracer._arithmetics),
    **dict.fromkeys(("mean", "avg_pool2d", "adaptive_avg_pool2d"), _Tracer._pool),
    **dict.fromkeys(BOUNDS, _Tracer._clamp),
    **dict.fromkeys(ACTS, _Tracer._act),
}
SAME = (
    "alias", "clone", "contiguous", "detach", "dropout", "expand", "expand_as", "feature_dropout",
    "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view", "_unsafe_view",
)  # fmt: skip


def _called(node: fx.Node) -> tuple[str, dict[str, Any]]:
    """The operator's name, without the mark of one that works in place, and its arguments."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return getattr(node.target, "__name__", str(node.target)), {}
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given |= dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    return schema.name.partition("::")[2].removesuffix("_"), {**given, **node.kwargs}


def _changes_nothing(name: str, given: Mapping[str, Any], source: fx.Node, node: fx.Node) -> bool:
    """Whether an operator's result is its first argument, or only written otherwise."""
    if name not in SAME or given.get("train"):
        return False
    before, after = (tuple(n.meta["val"].shape) for n in (source, node))
    if before == after:
        return True
    one_pixel = prod(before) == prod(before[:2])
    return (
        one_pixel
        and before[:2] == after[:2]
        and (prod(after) == prod(before) or name in ("expand", "expand_as"))
    )


def _pair(value: Sequence[int] | int) -> tuple[int, ...]:
    """ATen leaves out the second of two equal numbers."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * 2 if len(values) == 1 else values)

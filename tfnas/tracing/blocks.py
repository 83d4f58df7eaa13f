"""A traced module read block by block: each is an op of a space, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from tfnas.nets.activations import EXCITES, HARD_SIGMOID, SIGMOID
from tfnas.space.ops import ACTIVATIONS, OpSpec
from tfnas.tracing.steps import ADD, INPUT, MUL, POOL, Act, Conv, Norm, Traced

GATES = {"sigmoid": SIGMOID, "hard_sigmoid": HARD_SIGMOID}
WANTED = "expected conv 1×1, depthwise conv, conv 1×1"


@dataclass(frozen=True)
class Unit:
    """A convolution, the batch norm behind it and the activation behind that.

    Attributes:
        norm: None: it has none.
        value: number of the step that gives its result.
    """

    conv: Conv
    norm: Norm | None
    act: str
    value: int


@dataclass(frozen=True)
class Block:
    """A part of a module.

    Attributes:
        path: of the module that it is, or of its first layer with weights.
        op: what it is in a space; None: refused.
        reason: why it is refused.
        units: its layers, by their names in our module; "" is the module itself.
    """

    path: str
    op: OpSpec | None
    reason: str = ""
    units: Mapping[str, Unit] = field(default_factory=dict)


class _UnfitError(Exception):
    """A block doesn't fit; the message is the reason.

    Attributes:
        at: number of the last step that was looked at.
    """

    def __init__(self, at: int, reason: str):
        super().__init__(reason)
        self.at = at


def read_blocks(traced: Traced) -> tuple[Block, ...]:
    """The blocks of a module, in order.

    What is refused ends where all that follows takes one value alone; reading goes on there.
    """
    found: list[Block] = []
    users: dict[str, str] = {}  # of weights
    for block in _Reader(traced).blocks():
        for unit in block.units.values():
            if unit.conv.weight in users:
                reason = f"it uses the weights of {users[unit.conv.weight]} again"
                block = replace(block, op=None, reason=reason)
            users[unit.conv.weight] = block.path
        found.append(block)
    return tuple(found)


class _Reader:
    def __init__(self, traced: Traced):
        self.traced, self.steps = traced, traced.steps
        self.at = INPUT  # the step whose value the next block takes
        self.pooled = False

    def blocks(self) -> Iterator[Block]:
        while self.at != self.traced.output:
            start = self.at
            try:
                op, units, end = self._block()
                block = Block("", op, "", units)
            except _UnfitError as unfit:
                end = self.traced.end_of(max(unfit.at, start + 1))
                block = Block("", None, str(unfit))
            except ValueError as error:  # an op with a field out of range
                end = self.traced.end_of(start + 1)
                block = Block("", None, str(error))
            if end == self.traced.output and block.op is not None and not block.op.classifies:
                reason = "the module ends with it, expected global pooling and a linear layer"
                block = replace(block, op=None, reason=reason)
            self.at = end
            yield replace(block, path=self._path(start + 1, end))

    def _path(self, first: int, last: int) -> str:
        """The outermost module that does all of these steps and no other one.

        Where there is none it is that of the first layer with weights.
        """
        within = self.steps[first : last + 1]
        others = [step.path for step in chain(self.steps[1:first], self.steps[last + 1 :])]

        def is_own(path: str) -> bool:
            return bool(path) and not any(f"{p}.".startswith(f"{path}.") for p in others)

        path = _common([step.path for step in within])
        if not is_own(path):
            weighted = (step.path for step in within if isinstance(step.does, Conv))
            path = next(weighted, within[0].path)
        while is_own(parent := path.rpartition(".")[0]):
            path = parent
        return path or "(forward)"

    # -- layers -----------------------------------------------------------------------------------

    def _unit(self, number: int) -> Unit:
        """A convolution with "same" padding, batch norm and perhaps an activation."""
        conv = self.traced.conv(number)
        kernel, stride = conv.shape[2], conv.stride[0]
        if conv.shape[2:] != (kernel, kernel) or conv.stride != (stride, stride):
            raise _UnfitError(number, f"{conv} with stride {conv.stride}, expected square ones")
        if conv.dilation != (1, 1):
            raise _UnfitError(number, f"{conv} with dilation {conv.dilation[0]}, expected none")
        if kernel % 2 == 0:
            raise _UnfitError(number, f"{conv}, expected an odd kernel")
        if conv.padding != (kernel // 2, kernel // 2):
            raise _UnfitError(
                number, f"{conv} with padding {conv.padding[0]}, expected {kernel // 2}"
            )
        if conv.groups > 1 and not conv.is_depthwise:
            raise _UnfitError(
                number, f"{conv} of {conv.shape[0]} outputs, expected one group or depthwise"
            )
        norm = self.traced.following(number, Norm)
        if norm is None:
            after = self.traced.only(number)
            found = "" if after is None else f" but {self.traced.does(after)}"
            raise _UnfitError(number, f"no batch norm behind {conv}{found}")
        return self._with_act(conv, norm)

    def _with_act(self, conv: Conv, value: int) -> Unit:
        """With the activation behind a step, if there is one."""
        norm = self.traced.does(value)
        own = norm if isinstance(norm, Norm) else None
        act = self.traced.following(value, Act)
        if act is None:
            return Unit(conv, own, "none", value)
        name = str(self.traced.does(act))
        if name not in ACTIVATIONS:
            raise _UnfitError(act, f"activation {name}, expected {', '.join(ACTIVATIONS[:-1])}")
        return Unit(conv, own, name, act)

    # -- blocks -----------------------------------------------------------------------------------

    def _block(self) -> tuple[OpSpec, dict[str, Unit], int]:
        users = self.traced.users[self.at]
        if self.pooled or any(self.traced.does(user) == POOL for user in users):
            return self._head(users)
        added = [user for user in users if self.traced.does(user) == ADD]
        others = [user for user in users if user not in added]
        region = self.traced.end_of(self.at + 1)
        if len(others) != 1 or len(added) > 1:
            branches = self.traced.described(self.at + 1, region) or "its input and itself"
            raise _UnfitError(region, f"branches of {branches}; {WANTED}")
        if not isinstance(self.traced.does(others[0]), Conv):
            found = self.traced.described(self.at + 1, region) or self.traced.does(others[0])
            raise _UnfitError(region, f"{found}: no layer of a space does this")
        shortcut = added[0] if added else None
        inner = others[0]
        first = self._depthwise(inner) if self._is_grouped(inner) else self._unit(inner)
        if first.conv.is_depthwise:
            return self._inverted(None, first, shortcut)
        after = self.traced.following(first.value, Conv)
        if after is not None and first.conv.is_pointwise and self._is_grouped(after):
            depthwise = self._depthwise(after)
            widens = depthwise.conv.shape[0] != self.steps[self.at].channels
            if (depthwise.act == first.act and widens) or shortcut is not None:
                return self._inverted(first, depthwise, shortcut)
        if shortcut is not None:
            raise _UnfitError(
                region,
                f"its input is added to {self.traced.described(self.at + 1, region)}; {WANTED}",
            )
        op = self._op("conv", 0, 0, first, first.conv)
        return op, {"": first}, first.value

    def _depthwise(self, number: int) -> Unit:
        """A depthwise unit; refused with the layer behind it, which belongs to the same block."""
        try:
            return self._unit(number)
        except _UnfitError as unfit:
            raise self._with_project(unfit) from None

    def _with_project(self, unfit: _UnfitError) -> _UnfitError:
        end = self.traced.end_of(unfit.at)
        if self.traced.only(self.at) is None:  # it ends with its addition
            return _UnfitError(end, str(unfit))
        if any(self.traced.does(user) == MUL for user in self.traced.users[end]):
            end = self.traced.end_of(end + 1)  # a squeeze-excite
        project = self.traced.following(end, Conv)
        if project is not None and self.traced.conv(project).is_pointwise:
            end = self.traced.end_of(project)
        return _UnfitError(end, str(unfit))

    def _is_grouped(self, number: int) -> bool:
        return self.traced.conv(number).groups > 1

    def _op(self, kind: str, mid: int, squeezed: int, last: Unit, spatial: Conv) -> OpSpec:
        given = self.steps[self.at]
        return OpSpec(
            kind, given.size, given.channels, mid, squeezed, last.conv.shape[0],
            spatial.shape[2], spatial.stride[0], last.act,
        )  # fmt: skip

    def _inverted(
        self, expand: Unit | None, depthwise: Unit, shortcut: int | None
    ) -> tuple[OpSpec, dict[str, Unit], int]:
        """An inverted residual block from its depthwise convolution on."""
        region, act = self.traced.end_of(depthwise.value), depthwise.act
        mid = depthwise.conv.shape[0]
        if expand is not None and expand.act != act:
            raise _UnfitError(
                region, f"{expand.act} behind its first convolution, {act} behind the second"
            )
        if expand is not None and mid == self.steps[self.at].channels:
            raise _UnfitError(
                region, f"its first convolution keeps {mid} channels, expected more or none such"
            )
        kind, value = "mbconv", depthwise.value
        units: dict[str, Unit] = {}
        if any(self.traced.does(user) == POOL for user in self.traced.users[value]):
            try:
                kind, units, value = self._squeeze(depthwise)
            except _UnfitError as unfit:
                raise self._with_project(unfit) from None
        number = self.traced.following(value, Conv)
        if number is None:
            raise _UnfitError(region, f"no convolution behind its depthwise one; {WANTED}")
        project = self._unit(number)
        if not project.conv.is_pointwise:
            raise _UnfitError(project.value, f"{project.conv} behind its depthwise one; {WANTED}")
        if project.act != "none":
            raise _UnfitError(project.value, f"{project.act} behind its last convolution")
        c_se = units["se_reduce"].conv.shape[0] if units else 0
        op = self._op(kind, mid, c_se, replace(project, act=act), depthwise.conv)
        end = project.value
        if shortcut is not None:
            if self.traced.only(end) != shortcut:
                raise _UnfitError(region, f"more than one block before its addition; {WANTED}")
            end = shortcut
        if op.residual != (shortcut is not None):
            lacks = "doesn't add its input" if op.residual else "adds its input"
            raise _UnfitError(
                end, f"{lacks}, where blocks of stride {op.stride} with {op.c_in} channels in and "
                f"{op.c_out} out {'do' if op.residual else 'do not'}",
            )  # fmt: skip
        after = self.traced.following(end, Act)
        if after is not None:
            raise _UnfitError(after, f"{self.traced.does(after)} behind its addition")
        units |= {"depthwise": depthwise, "project": project}
        return op, units if expand is None else {"expand": expand, **units}, end

    def _squeeze(self, depthwise: Unit) -> tuple[str, dict[str, Unit], int]:
        """The kind of block that a squeeze-excite belongs to, its layers, and where it ends."""
        value = depthwise.value
        users = self.traced.users[value]
        (pool,) = (user for user in users if self.traced.does(user) == POOL)
        region = self.traced.end_of(pool)
        first = self.traced.following(pool, Conv)
        reduce = None if first is None else self._with_act(self.traced.conv(first), first)
        second = None if reduce is None else self.traced.following(reduce.value, Conv)
        gate = None if second is None else self.traced.following(second, Act)
        end = None if gate is None else self.traced.only(gate)
        if reduce is None or second is None or gate is None or end is None:
            raise _UnfitError(
                region, "a squeeze-excite that isn't pooling, layer, activation, layer, gate"
            )
        expand = Unit(self.traced.conv(second), None, "none", second)
        if self.traced.does(end) != MUL or set(self.steps[end].inputs) != {value, gate}:
            raise _UnfitError(region, "a gate that isn't multiplied with the depthwise convolution")
        for unit in (reduce, expand):
            if not unit.conv.is_pointwise or unit.conv.bias is None:
                raise _UnfitError(
                    end, f"{unit.conv} without bias in its squeeze-excite, expected 1×1 with bias"
                )
        after = self.traced.following(end, Act)
        if after is not None:
            raise _UnfitError(after, "squeeze-excite before the activation, expected behind it")
        name = str(self.traced.does(gate))
        for kind, excite in EXCITES.items():
            if (excite.act or depthwise.act) == reduce.act and excite.gate is GATES.get(name):
                return kind, {"se_reduce": reduce, "se_expand": expand}, end
        raise _UnfitError(
            end, f"squeeze-excite with {reduce.act} and {name} in a block of {depthwise.act}; "
            "expected the block's activation and sigmoid, or relu and hard_sigmoid",
        )  # fmt: skip

    def _head(self, users: Iterable[int]) -> tuple[OpSpec, dict[str, Unit], int]:
        """Pooling and a linear layer: the classifier, or one before it."""
        given, region = self.steps[self.at], self.traced.end_of(self.at + 1)
        number = self.traced.only(self.at)
        if number is not None and self.traced.does(number) == POOL:
            number = self.traced.only(number)
        elif not self.pooled:
            raise _UnfitError(region, f"branches of {self.traced.described(self.at + 1, region)}")
        if number is None or not isinstance(self.traced.does(number), Conv):
            raise _UnfitError(region, "no linear layer behind global pooling")
        self.pooled = True
        conv = self.traced.conv(number)
        if not conv.is_pointwise:
            raise _UnfitError(number, f"{conv} behind global pooling, expected a linear layer")
        if number == self.traced.output:
            if conv.bias is None:
                raise _UnfitError(number, "the last linear layer has no bias")
            op = OpSpec("classifier", given.size, given.channels, 0, 0, conv.shape[0], 1, 1, "none")
            return op, {"linear": Unit(conv, None, "none", number)}, number
        if self.traced.following(number, Norm) is not None:
            raise _UnfitError(number, "batch norm behind global pooling")
        unit = self._with_act(conv, number)
        kind = "pooled_conv" if conv.bias is None else "pooled_linear"
        op = OpSpec(kind, given.size, given.channels, 0, 0, conv.shape[0], 1, 1, unit.act)
        return op, {"conv" if conv.bias is None else "dense": unit}, unit.value


def _common(paths: list[str]) -> str:
    """The module that all of these are in."""
    parts = [path.split(".") if path else [] for path in paths]
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)

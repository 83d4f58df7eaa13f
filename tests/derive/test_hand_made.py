"""Nets by a rule, at the target."""

from __future__ import annotations

import pytest

from tests.support.spaces import load_space, macs_table
from tfnas.derive.architecture import Constraint
from tfnas.derive.hand_made import RULES, hand_made
from tfnas.derive.menu import feasible


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("space_name", ["small", "tfnas"])
def test_hand_made_nets_meet_the_target(space_name: str, rule: str) -> None:
    space = load_space(space_name)
    table = macs_table(space)
    low, high = feasible(space, table)
    constraint = Constraint(table, (low + high) / 2)
    net = hand_made(space, constraint, rule)
    assert net in space
    assert constraint.met_by(table.total(net))


def test_a_space_without_the_rules_op_gives_the_nearest() -> None:
    space = load_space("tiny")  # no expansion 6
    table = macs_table(space)
    low, high = feasible(space, table)
    net = hand_made(space, Constraint(table, (low + high) / 2), "mobilenetv2")
    assert {(op.kernel, op.c_se) for op in net.blocks} == {(3, 0)}


def test_what_the_widths_do_not_reach_is_said() -> None:
    space = load_space("tiny")
    table = macs_table(space)
    with pytest.raises(ValueError, match="its widths don't reach it"):
        hand_made(space, Constraint(table, feasible(space, table)[1]), "mobilenetv2")

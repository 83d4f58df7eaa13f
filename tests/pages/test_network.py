"""The found network, block by block."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from markupsafe import Markup

from tests.support.browser import Elements, check_self_contained
from tests.support.spaces import load_space, macs_table
from tfnas.latency.table import LatencyTable
from tfnas.pages import page
from tfnas.pages.network import gather_network, network
from tfnas.space.ops import OpSpec
from tfnas.space.search_space import SearchSpace
from tfnas.space.subnet import Subnet

SPACE = load_space("tfnas")
NET = SPACE.sample(random.Random(0))


def drawn(
    subnet: Subnet, space: SearchSpace | None = None, table: LatencyTable | None = None
) -> Elements:
    return check_self_contained(page.document("x", markup(subnet, space, table)))


def markup(subnet: Subnet, space: SearchSpace | None, table: LatencyTable | None) -> Markup:
    total_ms = None if table is None else table.total(subnet)
    return network(gather_network(subnet, space, table), total_ms)


def test_every_block_tells_its_width_between_its_bounds() -> None:
    found = drawn(NET, SPACE)
    assert found.values("data-width") == [str(op.c_mid) for op in NET.blocks]
    told = [title for title in found.values("title") if " of " in title]
    picks = [pick for row in SPACE.choices_of(NET) for pick in row]
    kept = [b for stage, ops in zip(SPACE.stages, NET.stages, strict=True)
            for b in stage.blocks[: len(ops)]]  # fmt: skip
    assert told == [
        f"{op.c_mid} of {block[pick].widths[0]} to {block[pick].widths[-1]} channels"
        for op, block, pick in zip(NET.blocks, kept, picks, strict=True)
    ]


def test_blocks_that_are_left_out_are_counted() -> None:
    found = drawn(NET, SPACE)
    text = found.text
    columns = sum(tag == "th" for tag, _ in found.found)
    assert set(found.values("colspan")) == {str(columns - 1)}
    left = [
        (len(stage.blocks) - len(ops), len(stage.blocks))
        for stage, ops in zip(SPACE.stages, NET.stages, strict=True)
    ]
    assert any(n for n, _ in left)
    for n, all_blocks in left:
        if n:
            assert f"{n} of {all_blocks} blocks left out" in text


def test_shares_add_up_to_the_whole_net() -> None:
    table = macs_table(SPACE)
    found = drawn(NET, SPACE, table)
    shares = [float(share) for share in re.findall(r"ms · +([\d.]+) %", found.text)]
    assert len(shares) == len(NET.ops)
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    times = [float(ms) for ms in found.values("data-ms")]
    assert times == [table.ms(op) for op in NET.ops]
    assert "width: 100.0%" in markup(NET, SPACE, table)


def test_a_table_with_one_figure_for_stem_and_head_tells_blocks_only() -> None:
    table = replace(macs_table(SPACE), overhead_ms=1.0)
    found = drawn(NET, SPACE, table)
    assert [float(ms) for ms in found.values("data-ms")] == [table.ms(op) for op in NET.blocks]


def test_the_bare_net_needs_no_space_and_no_table() -> None:
    found = drawn(NET)
    assert len(found.values("data-block")) == len(NET.blocks)
    assert "latency" not in found.text
    assert "left out" not in found.text


def test_a_net_of_another_space_has_no_bounds() -> None:
    assert " of " not in "".join(drawn(NET, load_space("tiny")).values("title"))


def test_huge_kernels_are_not_drawn_cell_by_cell() -> None:
    stem = OpSpec("conv", 32, 3, 0, 0, 16, 31, 2, "relu")
    head = OpSpec("classifier", 16, 16, 0, 0, 10, 1, 1, "none")
    html = markup(Subnet("x", (stem,), (), (head,)), None, None)
    assert "31×31" in html
    assert "<rect" not in html

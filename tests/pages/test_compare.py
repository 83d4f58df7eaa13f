"""The page of a comparison: what it tells, and that it is text whatever it tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.comparison.test_record import A, B, C, made_up
from tests.support.browser import Elements, check_self_contained, render
from tests.support.nets import tiny_subnet
from tfnas.comparison.record import Comparison
from tfnas.pages.compare import compare_page
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow


def subnets(comparison: Comparison) -> dict[str, Subnet]:
    nets = [net for method in comparison.methods for net in method.nets]
    return {net.subnet: tiny_subnet(seed) for seed, net in enumerate(nets)}


def page_of(comparison: Comparison) -> str:
    return compare_page(comparison, subnets(comparison))


def test_it_tells_all() -> None:
    c = made_up([A], [C])
    text = page_of(c)
    for told in (
        "82.00 ± 4.97 %", "<td class=\"num\">80.00</td>", "can&#39;t be told from A",
        "With 3 seeds an interval is wide", "8 ms", "186 M", "python -m tfnas.compare A B",
        "runs/B0/subnet.json", "seeds 0, 1, 2", "shipped cut", "3×3", "label_smoothing",
        "9 s of CPU time", "paired differences",
    ):  # fmt: skip
        assert told in text, told
    assert text.count("<svg") == 2
    assert "better" not in text
    check_self_contained(text)


def test_several_nets_of_each() -> None:
    text = page_of(made_up([A, B], [C, [0.7, 0.71, 0.7]]))
    assert "a dot is a net, its mean" in text
    assert "paired" not in text
    assert "with 2 nets of a method" in text.lower()
    assert "A: runs/A1/subnet.json" in text


def test_what_was_raised_is_on_the_page() -> None:
    c = made_up([A], [B])
    slow = replace(c.methods[1], nets=(replace(c.methods[1].nets[0], table_ms=8.4),))
    text = page_of(replace(c, methods=(c.methods[0], slow), latency_tolerance=0.1, resolution=16))
    assert "The nets don&#39;t take the same time: they differ by 5 %," in text
    assert "Accuracies are those at 16 px, latencies those at 32 px." in text


@pytest.mark.parametrize(
    "hostile",
    ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "]]>&<!--", "$\\frac{a$",
     "\u202egnp", "name " * 200],
)  # fmt: skip
def test_hostile_names_stay_text(hostile: str) -> None:
    c = made_up([A], [C], [B])
    methods = tuple(
        replace(m, name=f"{hostile}{i}", nets=(replace(m.nets[0], path=hostile),))
        for i, m in enumerate(c.methods)
    )
    text = page_of(
        replace(
            c,
            methods=methods,
            command=f"python -m tfnas.compare {hostile}",
            data=replace(c.data, name=hostile, origin=hostile),
            table=replace(c.table, file=hostile, device=hostile, fingerprint=hostile),
            versions={"tfnas": hostile, hostile: "1"},
        )
    )
    assert "\u202e" not in text
    read = check_self_contained(text).text
    if hostile.isprintable() and len(hostile) < 100:
        assert f"{hostile}0" in read


def test_a_browser_shows_it_without_complaint(tmp_path: Path) -> None:
    file = tmp_path / "compare.html"
    c = made_up([A], [C])
    hostile = "<script>document.title='run'</script>"
    first = replace(c.methods[0], name=hostile)
    file.write_text(page_of(replace(c, methods=(first, c.methods[1]))))
    shown = render(file, tmp_path)
    assert shown.console == ()
    page = Elements(shown.dom)
    assert f"Accuracy at one latency: {hostile} and B" in page.text
    assert sum(tag == "svg" for tag, _ in page.found) == 2
    assert "script" not in {tag for tag, _ in page.found}

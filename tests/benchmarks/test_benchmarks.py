"""The benchmarks' own promises: the plain supernet is ours, and each of them runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks.latency import profile_cost
from benchmarks.supernet import against_plain, growth, proxies, steps
from benchmarks.supernet.plain import PlainSearch
from benchmarks.waiting import pipeline, startup

pytestmark = pytest.mark.slow


def case(widths: str = "initial") -> against_plain.Case:
    return against_plain.Case("tiny", 16, 8, widths)


@pytest.mark.parametrize("widths", steps.WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_plain_supernet_has_the_gradients_of_ours(dtype: torch.dtype, widths: str) -> None:
    assert against_plain.check_gradients(case(widths), dtype) <= against_plain.TOLERANCE[dtype]


def test_other_weights_and_missing_gradients_are_noticed() -> None:
    search = against_plain.new_search(case(), steps.load_space("tiny"))
    x, y = steps.one_batch(search.task)
    plain = PlainSearch(search)
    with torch.no_grad():
        plain.net.classifier.weight[0, 0] += 0.1
    paths = search.paths(single=False)
    search.weight_step(x, y, paths)
    plain.weight_step(x, y, paths)
    ours, theirs = list(search.net.named_parameters()), list(plain.net.named_parameters())
    with pytest.raises(AssertionError, match="differ by"):
        against_plain.assert_equal_gradients(ours, theirs, 1e-6)
    ours[0][1].grad = torch.full_like(ours[0][1], torch.nan)
    with pytest.raises(AssertionError, match=r"of stem\.0\.conv\.weight differ by nan"):
        against_plain.assert_equal_gradients(ours, theirs, 1.0)
    ours[0][1].grad = None
    with pytest.raises(AssertionError, match="only one side"):
        against_plain.assert_equal_gradients(ours, theirs, 1.0)


def test_both_sides_draw_the_same_paths() -> None:
    search = against_plain.new_search(case(), steps.load_space("tiny"))
    plain = PlainSearch(search)
    assert plain.paths() == search.paths(single=False)


def test_a_ratio_is_that_of_rounds() -> None:
    slow = np.array([2.0, 4.0, 6.0, 2.0, 4.0, 6.0, 3.0])
    ratio = steps.Ratio.of(slow, slow / 2)
    assert (ratio.median, ratio.low, ratio.high) == (2, 2, 2)
    assert steps.Ratio.of(slow[:3], np.ones(3)).high == 6


def test_bend_and_exponent_tell_a_line_from_a_square() -> None:
    x = np.array([2.0, 4.0, 8.0])
    assert growth.bend(x, list(5 + 3 * x)) == pytest.approx(1)
    assert growth.exponent(x, list(3 * x)) == pytest.approx(1)
    assert growth.bend(x, list(x**2)) == pytest.approx(2)
    assert growth.exponent(x, list(x**2)) == pytest.approx(2)


@pytest.mark.parametrize("form", ["", " --channels-last"])
def test_supernet(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lines.json"
    arguments = "--space tiny --resolution 16 --threads 1 --widths scaled --batch 8 --repeats 2"
    arguments += form
    assert against_plain.main([*arguments.split(), "--steps", "weight", "--json", str(file)]) == 0
    lines = json.loads(file.read_text())
    assert [line["step"] for line in lines] == ["weight"]
    assert all(line["plain_mib"] >= 0 for line in lines)
    assert lines[0]["case"]["channels_last"] == bool(form)
    assert len(capsys.readouterr().out.splitlines()) == 4 + len(lines)


def test_growth(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--space tiny --repeats 1 --depth 1 2 --candidates 2 3 --resolution 16 24 --batch 8"
    assert growth.main([*arguments.split(), "16", "--no-memory"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_growth_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--space tiny --over batch --batch 8 --peak-of weight"
    assert growth.main(arguments.split()) == 0
    assert int(capsys.readouterr().out) >= 0


def test_startup(capsys: pytest.CaptureFixture[str]) -> None:
    assert startup.main(["--repeats", "1", "--space", "tiny", "--resolution", "16"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--space tiny --images 16 --workers 0 1 --resolution 32 --in-memory 16 --batch 4"
    assert pipeline.main([*arguments.split(), "--repeats", "1", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "synthetic" in out
    assert out.count("images/s,") == 2


def test_proxies_are_searched_once_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--space tiny --resolution 16 --batches 2 --epochs 1 --only 0 3 --repeats 1"
    command = [*arguments.split(), "--out", str(tmp_path / "runs.jsonl")]
    assert proxies.main([*command, "--searches-only"]) == 0
    assert capsys.readouterr().out.count("searched:") == 2
    assert proxies.main(command) == 0
    out = capsys.readouterr().out
    assert "searched:" not in out
    exact, some = (line.split() for line in out.splitlines()[1:])
    assert proxies.main([*command, "--gradients", "2"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    with pytest.raises(SystemExit, match="no exact search"):
        proxies.main([*command, "--epochs", "2", "--times-only"])
    assert exact[:3] == ["exact", "1.000", "100%"]
    assert some[0] == "arch_ops=2"
    assert -1 <= float(some[1]) <= 1


def test_profile_cost(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--space", "tiny", "--minutes", "0.1", "--precision", "0.5", "--nets", "2"]
    assert profile_cost.main(arguments) == 0
    told = capsys.readouterr().out
    ratio = float(told.partition("wall / pure measuring: ")[2].split()[0])
    assert ratio > 1


@pytest.mark.parametrize(
    ("benchmark", "arguments", "told"),
    [
        (against_plain, "--space nope", "space='nope'"),
        (against_plain, "--repeats 0", "'0': expected a whole number above 0"),
        (against_plain, "--json /nowhere/x.json", "there is no folder /nowhere"),
        (growth, "--over depth --depth -1", "'-1': expected a whole number above 0"),
        (pipeline, "--workers -1", "invalid choice"),
        (startup, "--repeats x", "'x': expected a whole number above 0"),
        (proxies, "--only 99", "invalid choice"),
        (proxies, "--searches-only --times-only", "not allowed with"),
        (startup, "--table /nowhere.json", "there is no such file"),
        (profile_cost, "--minutes -1", "expected a number above 0"),
    ],
)
def test_arguments_that_make_no_sense(
    benchmark: ModuleType, arguments: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        benchmark.main(arguments.replace(" -1", "=-1").split())
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_what_a_benchmark_cannot_do_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as a batch of more images than there are."""
    arguments = "--space tiny --resolution 16 --batches 9999 --epochs 1 --out /dev/null"
    with pytest.raises(SystemExit) as end:
        steps.run(lambda: proxies.main(arguments.split()))
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1

"""The quality benchmark runs each command once, goes on elsewhere, and prints a table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.quality import __main__ as quality
from tests.support.nets import image_archive
from tests.support.spaces import load_spec, macs_table
from tfnas.derive.menu import feasible

pytestmark = pytest.mark.slow

TINY = (
    "minutes=null", "budget=test", "budget.max_train=80", "budget.batch_size=16",
    "strategy=random", "strategy.subnets=4", "profile=test", "verify=test",
    "verify.max_minutes=0.05", "stage_minutes=0", "tolerance=9",
)  # fmt: skip


def test_jobs_run_once_and_go_on_with_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image_archive(tmp_path / "images.npz", train=400, test=40)
    space = load_spec("tiny").build(8)
    table = macs_table(space, quantum=8)
    table.save(tmp_path / "table.json")
    low, high = feasible(space, table)
    target_ms = f"{(low + high) / 2:.4f}"
    for name, value in (("SEARCHES", 1), ("TRAININGS", 1), ("RANDOM_NETS", 3)):
        monkeypatch.setattr(quality, name, value)
    monkeypatch.setattr(quality, "WAYS", {"found": TINY})

    def run(out: Path, *more: str) -> str:
        monkeypatch.setattr(
            "sys.argv",
            ["quality", str(tmp_path / "images.npz"), str(tmp_path / "table.json"),
             "--space", "tiny", "--target-ms", target_ms, "--recipe", "test", "--epochs", "1",
             "--out", str(out), *more],
        )  # fmt: skip
        quality.main()
        return capsys.readouterr().out

    out = tmp_path / "out"
    text = run(out)
    lines = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["job"] for line in lines] == [job.name for job in quality.jobs()]
    assert "| random, 3 |" in text
    assert "best of" in text

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("setting.json", "results.jsonl"):
        shutil.copy(out / name, elsewhere)
    # A found net is trained again from what its search's line says.
    kept = [line for line in lines if "train0-found" not in line]
    (elsewhere / "results.jsonl").write_text("".join(f"{line}\n" for line in kept))
    assert "| found, 1 |" in run(elsewhere)
    again = (elsewhere / "results.jsonl").read_text().splitlines()
    assert again[:-1] == kept
    known = {line["job"]: line for line in map(json.loads, lines)}
    last = json.loads(again[-1])
    assert last["top1"] == known[last["job"]]["top1"]
    with pytest.raises(SystemExit, match="another setting"):
        run(out, "--minutes", "3")


@pytest.mark.parametrize(("count", "expected"), [(1, 2.5), (2, 10 / 3), (3, 3.75), (9, 4)])
def test_best_of_is_the_expected_maximum(count: int, expected: float) -> None:
    assert quality.best_of([3, 1, 4, 2], count) == pytest.approx(expected)

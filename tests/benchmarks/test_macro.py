"""Searches judged by NAS-Bench-Macro, here with made-up accuracies and few images."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.truth import macro
from tests.support.nets import image_archive
from tests.support.spaces import load_spec, macs_table

pytestmark = pytest.mark.slow

TINY = {
    "epochs": 1, "warmup_epochs": 0, "batch_size": 16, "max_train": 80, "resolution": 16,
    "channel_factor": 0.25,
}  # fmt: skip
KNOBS = {"evaluations": 4, "optima": 2, "score_images": 16}


def test_searches_are_judged_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "truth").mkdir()
    rng = np.random.default_rng(0)
    worth = rng.normal(size=(8, 3))
    nets = {
        "".join(map(str, net)): {
            "mean_acc": 90 + float(worth[range(8), net].sum()), "flops": 1.0, "params": 1.0,
        }
        for net in product(range(3), repeat=8)
    }  # fmt: skip
    (tmp_path / "truth" / "nas-bench-macro_cifar10.json").write_text(json.dumps(nets))
    image_archive(tmp_path / "images.npz", train=80, test=20)
    macs_table(load_spec("nas_bench_macro").build(8), quantum=8).save(tmp_path / "table.json")
    monkeypatch.setitem(macro.SETTINGS, "surrogate", macro.Setting("surrogate", KNOBS, TINY))
    arguments = ["macro", str(tmp_path), *(str(tmp_path / f) for f in ("images.npz", "table.json"))]
    out = tmp_path / "out"

    reused = macro.Setting("surrogate", KNOBS, TINY, reused=0.5)
    monkeypatch.setitem(macro.SETTINGS, "surrogate reused", reused)

    def run(*quantiles: str, setting: str = "surrogate") -> list[dict[str, Any]]:
        options = ["--settings", setting, "--seeds", "0", "--quantiles", *quantiles]
        monkeypatch.setattr("sys.argv", [*arguments, "--out", str(out), *options])
        macro.main()
        return [json.loads(line) for line in (out / "macro.jsonl").read_text().splitlines()]

    (first,) = run("0.25")
    trained = {path: path.stat().st_mtime_ns for path in out.glob("*.ckpt*")}
    assert trained
    again, second = run("0.25", "0.5")
    assert again == first  # not searched again
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.ckpt*")} == trained
    for row in (first, second):
        assert abs(row["ms"] / row["target_ms"] - 1) <= macro.WINDOW
        assert row["share"] <= 1
        assert -1 <= row["rho"]["scored"] <= 1
        assert row["gain"] == pytest.approx(row["share"] * row["possible"])
    before = len(list(out.glob("*.ckpt")))
    *_, low, middle, high = run("0.1", "0.5", "0.9", setting="surrogate reused")
    assert len(list(out.glob("*.ckpt"))) == before + 1  # one training for all
    assert low["ms"] < middle["ms"] < high["ms"]
    assert low["seconds"] == middle["seconds"]
    assert "best of random nets" in capsys.readouterr().out

"""Trained nets of runs, as timm lists its own."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tests.nets.test_weights import TRAINED
from tests.support.nets import random_network, tiny_subnet
from tfnas.nets.weights import net_name, save_weights
from tfnas.runs.timm_results import TrainedNet, to_csv, trained_net


def test_the_best_net_comes_first_in_timms_columns() -> None:
    nets = [
        TrainedNet(Path(f"runs/{seed}"), tiny_subnet(seed), replace(TRAINED, top1=top1))
        for seed, top1 in ((0, 0.5), (1, 0.625))
    ]
    rows = list(csv.DictReader(to_csv(nets).splitlines()))
    best = rows[0]
    assert [row["run"] for row in rows] == ["runs/1", "runs/0"]
    assert list(best)[:9] == [
        "model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct",
        "interpolation",
    ]  # fmt: skip
    assert list(best.values())[:5] == [net_name(tiny_subnet(1)), "62.500", "37.500", "90.000",
                                       "10.000"]  # fmt: skip
    assert float(best["param_count"]) == pytest.approx(tiny_subnet(1).params / 1e6, abs=0.005)
    assert list(best.values())[6:10] == ["32", "0.875", "bilinear", TRAINED.data]


def test_a_run_tells_of_its_trained_net(tmp_path: Path) -> None:
    subnet, weights = tiny_subnet(), tmp_path / "weights.safetensors"
    subnet.save(tmp_path / "subnet.json")
    assert trained_net(tmp_path) is None
    save_weights(random_network(subnet).state_dict(), subnet, weights)  # of a supernet
    assert trained_net(tmp_path) is None
    save_weights(random_network(subnet).state_dict(), subnet, weights, TRAINED)
    assert trained_net(tmp_path) == TrainedNet(tmp_path, subnet, TRAINED)
    tiny_subnet(1).save(tmp_path / "subnet.json")
    with pytest.raises(ValueError, match="holds the weights of the subnet"):
        trained_net(tmp_path)
    weights.write_text("no weights")
    with pytest.raises(ValueError, match="can't read the weights"):
        trained_net(tmp_path)

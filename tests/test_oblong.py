"""Images that are wider than high, or higher than wide, on the whole path to a trained net."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import tfnas
from tests.support.entry import compose_config, run_entry
from tests.support.nets import few_images, few_root, random_network
from tests.support.spaces import macs_table
from tfnas.app.command_line import override
from tfnas.app.schemas import SearchConfig
from tfnas.app.values import load, load_space, shipped_tables_path
from tfnas.data import augment
from tfnas.data.batches import Batches
from tfnas.data.images import ArrayImages
from tfnas.data.preprocess import Preprocess
from tfnas.deploy.onnx_file import export, export_network
from tfnas.deploy.onnx_graph import build_model, ops_of, random_weights
from tfnas.latency.table import LatencyTable
from tfnas.nets.blocks import Network
from tfnas.nets.supernet import Supernet
from tfnas.pages.network import gather_network, network
from tfnas.pages.table import table_page
from tfnas.pipeline.folder import options_of
from tfnas.pipeline.planned import proxy_sizes
from tfnas.process.exits import DONE
from tfnas.runs.trained import train
from tfnas.space.search_space import SearchSpace
from tfnas.space.size import Oblong, Size
from tfnas.space.subnet import Subnet

HIGH_WIDE = [(24, 40), (40, 24)]


def space_of(resolution: object) -> SearchSpace:
    return load_space("tiny", 10, resolution=resolution).build(8)


def net_of(height: int, width: int) -> Subnet:
    return space_of([height, width]).sample(random.Random(0))


def test_an_oblong_space_is_another_one_and_a_square_is_the_same() -> None:
    wide, high = space_of([24, 40]), space_of([40, 24])
    assert space_of([32, 32]) == space_of(32)
    assert len({space_of(32).key, wide.key, high.key}) == 3
    assert wide.key.startswith("tiny@24x40-")
    assert str(wide.stem[0]) == "conv 24x40px 3→16 k3 s2 relu"
    assert not set(wide.ops()) & set(high.ops())
    mean = (space_of(24).sample(random.Random(0)).macs + net_of(40, 40).macs) / 2
    assert net_of(24, 40).macs == net_of(40, 24).macs < mean
    assert proxy_sizes(space_of([64, 96])) == proxy_sizes(space_of(64))


@pytest.mark.parametrize(("height", "width"), HIGH_WIDE)
def test_files_of_nets_and_tables(tmp_path: Path, height: int, width: int) -> None:
    net, space = net_of(height, width), space_of([height, width])
    net.save(tmp_path / "subnet.json")
    assert Subnet.load(tmp_path / "subnet.json") == net
    assert json.loads((tmp_path / "subnet.json").read_text())["stem"][0]["size"] == [height, width]
    table = macs_table(space)
    table.save(tmp_path / "table.json")
    loaded = LatencyTable.load(tmp_path / "table.json")
    assert set(loaded.rows) == set(table.rows)
    assert loaded.for_space(space).total(net) == pytest.approx(table.total(net))
    with pytest.raises(LookupError, match="doesn't cover"):
        loaded.check(space_of([width, height]))


def test_square_tables_are_written_as_before() -> None:
    for file in shipped_tables_path().glob("*.json"):
        assert LatencyTable.load(file).to_json() == file.read_text()


@pytest.mark.parametrize(("height", "width"), HIGH_WIDE)
def test_the_supernet_and_onnx_equal_the_net(tmp_path: Path, height: int, width: int) -> None:
    space, net = space_of([height, width]), net_of(height, width)
    supernet = Supernet(space).double()
    picks, widths = [0] * len(space.blocks), [list(row) for row in supernet.initial_widths()]
    first = 0
    for stage, ops, row in zip(space.stages, net.stages, space.choices_of(net), strict=True):
        for b, (op, pick) in enumerate(zip(ops, row, strict=True), first):
            picks[b], widths[b][pick] = pick, op.c_mid
        first += len(stage.blocks)
    extracted = Network(net)
    extracted.load_state_dict(supernet.extract(net), strict=False)
    x = torch.randn(4, 3, height, width, dtype=torch.float64)
    got = supernet(x, picks, list(net.depths), widths)
    torch.testing.assert_close(got, extracted.double().train()(x), rtol=1e-8, atol=1e-10)

    done = export_network(random_network(net), None, tmp_path / "net.onnx", batch=None)
    model = onnx.load(done.path)
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims[1:] == [3, height, width]
    assert done.metadata["resolution"] == f"{height}x{width}"
    assert ops_of(model) == net.ops
    assert (
        ops_of(build_model(net.ops, random_weights(net.ops, np.random.default_rng(0)))) == net.ops
    )


def wide_file(tmp_path: Path) -> str:
    """White in the middle 7/8 of its largest centre of 1 to 2, black around."""
    pixels = np.zeros((64, 200, 3), np.uint8)
    pixels[4:60, 44:156] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return str(tmp_path / "x.png")


def test_the_centre_of_a_file_has_the_proportions(tmp_path: Path) -> None:
    path = wide_file(tmp_path)
    size = Oblong(56, 112)
    found = augment.read_file(path, size, None, crop_scale=(1, 1), jitter=0)
    assert found.shape == (56, 112, 3)
    assert found.min() == 255
    prepare = Preprocess(size, (0.0,) * 3, (1.0,) * 3, augment.EVAL_FRACTION)
    assert torch.equal(prepare(path), torch.ones(1, 3, 56, 112))
    crops = augment.read_file(path, size, np.random.default_rng(0), crop_scale=(0.5, 1), jitter=0.1)
    assert crops.shape == (56, 112, 3)


@pytest.mark.parametrize("size", [Oblong(8, 16), Oblong(16, 8)])
def test_crops_have_the_proportions(size: Oblong) -> None:
    shape = size.width / size.height
    boxes = augment.crop_boxes(np.random.default_rng(0), 500, 400, 400, (0.1, 0.2), shape)
    left, top, right, bottom = boxes.T
    aspect = (right - left) / (bottom - top) / shape
    assert 0.74 < aspect.min() < 0.8
    assert 1.27 < aspect.max() < 1.34


@pytest.mark.parametrize("augmented", [False, True])
def test_batches_are_oblong(augmented: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 32, 3), np.uint8)
    images = ArrayImages(pixels, np.zeros(8, np.int64))
    batches = Batches(
        images, np.arange(8), batch=8, size=Oblong(16, 32), mean=(0.0,) * 3, std=(1.0,) * 3, seed=0,
        augment=augmented, shuffle=False, drop_last=True, crop_scale=(1.0, 1.0), jitter=0.0,
    )  # fmt: skip
    ((found, _),) = batches.epoch(0)
    assert found.shape == (8, 3, 16, 32)
    whole = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    if not augmented:
        assert torch.allclose(found, whole)
    ((small, _),) = batches.like(Oblong(8, 16)).epoch(0)
    assert small.shape == (8, 3, 8, 16)


def test_pages_tell_height_and_width() -> None:
    net, space = net_of(24, 40), space_of([24, 40])
    table = macs_table(space)
    page = network(gather_network(net, space, table), table.total(net))
    assert "24 × 40 × 3" in page
    assert "12 × 20 × 16" in page
    both = table.with_rows({**table.rows, **macs_table(space_of([40, 24])).rows})
    assert "12x20 px" in table_page(both)


def test_options_have_the_size_as_given() -> None:
    config = compose_config(
        SearchConfig, "search", "target_ms=8", "space=tiny", "space.resolution=[24,40]"
    )
    assert options_of(config)["space.resolution"] == [24, 40]
    assert config.space.size == Oblong(24, 40)


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "size"), [(None, Oblong(24, 40)), (12, Oblong(12, 20))])
def test_a_net_is_found_trained_and_loaded(
    tmp_path: Path, resolution: int | None, size: Size
) -> None:
    images = few_images(train=400, test=100)
    spec = tfnas.load_space("tiny", 10, resolution=[24, 40])
    table = macs_table(spec.build(8))
    found = tfnas.find_net(spec, images, table, 1e6, budget="test", at_most=True, cores=1)
    assert found.subnet.resolution == Oblong(24, 40)
    recipe = replace(load("recipe", "test"), epochs=1, resolution=resolution)
    result = train(found.subnet, images, recipe, seed=0, out=tmp_path)
    assert result.trained.resolution == size
    assert f"at {size} px" in result.line
    found.subnet.save(tmp_path / "subnet.json")
    model = tfnas.load(tmp_path)
    assert model.trained == result.trained
    x = model.preprocess(images.test.pixels[0])
    assert x.shape[2:] == (size.height, size.width)
    assert model(x).shape == (1, 10)
    (features,) = tfnas.load(tmp_path, features_only=True, out_indices=[0])(x)
    assert features.shape[2:] == (-(-size.height // 2), -(-size.width // 2))
    assert export(found.subnet, result.weights, tmp_path / "model.onnx").trained == result.trained


@pytest.mark.slow
def test_the_command_searches_verifies_and_reports(tmp_path: Path) -> None:
    space = "space=tiny", "space.resolution=[24,40]", f"data.root={few_root()}", "profile=test"
    done = run_entry("profilers", *space, "table=table.json", cwd=tmp_path)
    assert done.returncode == DONE, done.stdout + done.stderr
    out = tmp_path / "run"
    done = run_entry(
        "tfnas.search", *space, "budget=test", "verify=test", "loop_minutes=0.05",
        "stage_minutes=0.01", "cores=1", "target_ms=99", "derive.at_most=true", "table=table.json",
        "finals=test", "finals.recipe.resolution=12",
        override("hydra.run.dir", out), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["resolution"] == [24, 40]
    assert result["verified"]
    assert "24x40 px" in (out / "report.html").read_text()
    assert json.loads((out / "train.json").read_text())["resolution"] == [12, 20]
    done = run_entry("tfnas.report", str(out), cwd=tmp_path)
    assert done.returncode == DONE, done.stdout + done.stderr
    assert "at 12x20 px" in (out / "report.html").read_text()
    (row,) = (out / "runs.csv").read_text().splitlines()[1:]
    assert "12x20" in row

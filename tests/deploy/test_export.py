"""Exported files compute what torch computes, and say where they come from."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.nets.test_weights import TRAINED
from tests.support.entry import compose_config, run_entry
from tests.support.nets import few_images, random_network, tiny_subnet
from tests.support.spaces import load_space
from tests.test_train import recipe
from tfnas.app.schemas import ExportConfig
from tfnas.deploy.contract import Run
from tfnas.deploy.formats import FORMATS
from tfnas.deploy.onnx_file import Exported, export, export_network, fold
from tfnas.deploy.onnx_graph import (
    INPUT,
    IR_VERSION,
    OPSET,
    OUTPUT,
    build_model,
    random_weights,
    weight_shapes,
)
from tfnas.deploy.onnx_versions import RUNTIMES, OnnxVersions, onnx_versions
from tfnas.export import prepare
from tfnas.nets.backbone import Backbone
from tfnas.nets.blocks import Network
from tfnas.nets.weights import fingerprint, save_weights
from tfnas.process.exits import UNUSABLE_INPUT
from tfnas.runs.trained import train

pytestmark = pytest.mark.slow


def agrees(done: Exported) -> bool:
    """Whether torch and the runtime give the same."""
    assert done.max_abs_diff is not None
    assert done.output_scale is not None
    return done.max_abs_diff < 1e-4 * done.output_scale


def metadata_of(path: Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(path).metadata_props}


def test_fold_gives_every_weight_that_the_graph_needs() -> None:
    subnet = tiny_subnet(1)
    folded = fold(random_network(subnet))
    assert {name: w.shape for name, w in folded.items()} == weight_shapes(subnet.ops)
    assert all(w.dtype == np.float32 for w in folded.values())


@pytest.mark.parametrize("seed", range(5))
def test_output_equals_torch(tmp_path: Path, seed: int) -> None:
    network = random_network(tiny_subnet(seed), seed)
    done = export_network(network, TRAINED, tmp_path / "model.onnx", batch=2, seed=seed)
    assert agrees(done)
    assert done.versions == OnnxVersions(OPSET, IR_VERSION)


def test_a_net_of_the_published_space(tmp_path: Path) -> None:
    subnet = load_space("tfnas", classes=100).sample(random.Random(0))
    done = export(subnet, None, tmp_path / "model.onnx")
    assert agrees(done)


def test_an_open_batch_takes_any(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    network = random_network(tiny_subnet())
    export_network(network, TRAINED, path, batch=None)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = np.random.default_rng(0).standard_normal((batch, 3, 32, 32), dtype=np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(
            session.run([OUTPUT], {INPUT: x})[0], expected, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("batch", [2, None])
def test_a_backbones_maps_are_its_outputs(tmp_path: Path, batch: int | None) -> None:
    backbone = Backbone(random_network(tiny_subnet()), [0, -1])
    done = export_network(backbone, None, tmp_path / "features.onnx", batch=batch)
    assert agrees(done)
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = backbone(torch.from_numpy(x))
    found = session.run(None, {INPUT: x})
    assert [m.shape for m in found] == [tuple(m.shape) for m in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=1e-3)
    assert json.loads(metadata_of(done.path)["reductions"]) == backbone.feature_info.reduction()


def test_an_untrained_net_is_marked_and_seeded(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, seed in zip(paths, (3, 3, 4), strict=True):
        torch.rand(1)
        export(tiny_subnet(), None, path, seed=seed, target_ms=2.5, table_ms=2.4, table="t")
    a, b, c = (path.read_bytes() for path in paths)
    assert a == b != c
    found = metadata_of(paths[0])
    assert (found["weights"], found["seed"]) == ("untrained", "3")
    assert (found["target_ms"], found["table_ms"], found["table"]) == ("2.5", "2.4", "t")
    assert found["subnet"] == fingerprint(tiny_subnet())
    assert {"tfnas", "torch", "onnx", "onnxruntime", "space", "resolution"} <= set(found)
    assert "top1" not in found


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_no_activation_of_an_untrained_net_sinks_or_explodes(tmp_path: Path, seed: int) -> None:
    subnet = load_space("tfnas").sample(random.Random(seed))
    done = export(subnet, None, tmp_path / "model.onnx")
    assert done.output_scale is not None
    assert 1e-2 < done.output_scale < 10  # 2.6 to 130 once, and 4,300 for a net that was found


def test_trained_weights_bring_their_accuracy_and_preprocessing(tmp_path: Path) -> None:
    data = few_images(train=64, test=50)
    result = train(tiny_subnet(), data, recipe(epochs=1, resolution=16), seed=0, out=tmp_path)
    done = export(tiny_subnet(), result.weights, tmp_path / "model.onnx")
    assert done.trained == result.trained
    found = metadata_of(done.path)
    assert found["weights"] == "trained"
    assert float(found["top1"]) == result.trained.top1
    assert (found["top1_resolution"], found["resolution"]) == ("16", "32")
    assert json.loads(found["classes"]) == list(data.classes)
    assert json.loads(found["mean"]) == list(data.mean)
    assert "seed" not in found


def fused_ops(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """What onnxruntime makes of a model for its CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # it warns that this file is for this CPU only
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("name", ["tiny", "tfnas"])
def test_what_is_exported_has_the_ops_of_what_is_measured(tmp_path: Path, name: str) -> None:
    subnet = load_space(name).sample(random.Random(2))
    exported = onnx.load(export(subnet, None, tmp_path / "model.onnx").path)
    measured = build_model(subnet.ops, random_weights(subnet.ops, np.random.default_rng(0)))

    def sequence(model: onnx.ModelProto) -> list[tuple[str, str]]:
        return [(node.op_type, node.name) for node in model.graph.node]

    assert sequence(exported) == sequence(measured)
    fused = fused_ops(exported, tmp_path / "a.onnx")
    assert fused == fused_ops(measured, tmp_path / "b.onnx")
    assert sum(fused.values()) < len(exported.graph.node)


def test_a_difference_to_torch_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")
    network = random_network(tiny_subnet())
    network.layers[-1].register_forward_hook(lambda _m, _x, y: y + 0.1 * y.abs().max())
    with pytest.raises(RuntimeError, match=r"differs from torch's by .* nothing was written"):
        export_network(network, TRAINED, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch=0"):
        export(tiny_subnet(), None, tmp_path / "model.onnx", batch=0)
    weights = tmp_path / "w.safetensors"
    state = Network(tiny_subnet()).state_dict()
    save_weights(state, tiny_subnet(), weights)
    with pytest.raises(ValueError, match="doesn't tell what it was trained on"):
        export(tiny_subnet(), weights, tmp_path / "model.onnx")
    save_weights({n: v for n, v in state.items() if ".bn." not in n}, tiny_subnet(), weights)
    with pytest.raises(ValueError, match="missing"):
        export(tiny_subnet(), weights, tmp_path / "model.onnx")


def refused(*overrides: str) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        prepare(compose_config(ExportConfig, "export", "out=unused.onnx", *overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_input_is_refused_before_work(tmp_path: Path) -> None:
    good, weights = tmp_path / "subnet.json", tmp_path / "w.safetensors"
    tiny_subnet().save(good)
    save_weights(Network(tiny_subnet(5)).state_dict(), tiny_subnet(5), weights, TRAINED)
    assert "can't read the subnet" in refused(f"subnet={tmp_path}/none.json")
    assert "batch=0" in refused(f"subnet={good}", "batch=0")
    assert "target_ms=-1" in refused(f"subnet={good}", "target_ms=-1")
    assert "weights of the subnet" in refused(f"subnet={good}", f"weights={weights}")
    for given, said in (
        (["format=tensorrt"], f"format 'tensorrt': expected one of {', '.join(FORMATS)}"),
        (["opset=13"], "opset=13: expected 14 to 21"),
        (["ir_version=11"], "ir_version=11: expected 7 to 10"),
        (["format=ncnn", "batch=2"], "format=ncnn with batch=2: expected batch=1"),
        (["format=tflite", "batch=null"], "format=tflite with batch=null: expected batch=a number"),
    ):
        assert said in refused(f"subnet={good}", *given)
    for name in OTHERS:
        skip_without(name)
        assert "it belongs to format=onnx" in refused(
            f"subnet={good}", f"format={name}", "opset=17"
        )
        assert "expected a name that ends with" in refused(f"subnet={good}", f"format={name}")
    for text in ("{", "[]", '{"target_ms": 3}', '{"target_ms": "x", "table_ms": 1, "table": 1}'):
        (tmp_path / "result.json").write_text(text)
        assert "is no result of a search" in refused(f"subnet={good}")


def test_the_entry_point_takes_weights_and_result_beside_the_subnet(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    tiny_subnet().save(run / "subnet.json")
    result = {"target_ms": 3, "table_ms": 2.9, "table": "cpu", "more": None}
    (run / "result.json").write_text(json.dumps(result))
    network = random_network(tiny_subnet())
    save_weights(network.state_dict(), tiny_subnet(), run / "weights.safetensors", TRAINED)
    done = run_entry("tfnas.export", "subnet=run/subnet.json", "batch=null", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "opset 17, IR version 8, for onnxruntime 1.12 and newer" in done.stdout
    assert "onnxruntime and torch differ by at most" in done.stdout
    assert "top-1 50.0 % at 32 px" in done.stdout
    found = metadata_of(run / "model.onnx")
    assert (found["target_ms"], found["table_ms"], found["table"]) == ("3.0", "2.9", "cpu")
    assert found["weights"] == "trained"
    maps = ("subnet=run/subnet.json", "features_only=true", "out_indices=[0,1]")
    done = run_entry("tfnas.export", *maps, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "maps of [" in done.stdout
    assert len(onnx.load(run / "features.onnx").graph.output) == 2
    done = run_entry("tfnas.export", *maps[::2], cwd=tmp_path)
    assert done.returncode == UNUSABLE_INPUT
    assert "they need features_only=true" in done.stdout + done.stderr
    done = run_entry("tfnas.export", *maps[:1], "format=tflite", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run/model.tflite: by ai-edge-litert " in done.stdout
    assert "LiteRT and torch differ by at most" in done.stdout
    assert (run / "model.tflite").is_file()


@pytest.mark.parametrize(
    ("override", "expected"), [("batch=two", "two"), ("subnet=none.json", "none.json")]
)
def test_unusable_input_ends_with_2(tmp_path: Path, override: str, expected: str) -> None:
    done = run_entry("tfnas.export", override, cwd=tmp_path)
    assert done.returncode == UNUSABLE_INPUT
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


PACKAGES = {name: [p.replace("-", "_") for p in FORMATS[name].packages] for name in FORMATS}
OTHERS = [name for name, form in FORMATS.items() if name != "onnx" and form.run is not None]


def skip_without(name: str) -> None:
    for package in PACKAGES[name]:
        pytest.importorskip(package, reason=f"needs {' '.join(FORMATS[name].packages)}")


def run_of(name: str, path: Path) -> Run:
    run = FORMATS[name].run
    assert run is not None
    return run(path)


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_equal_torch(tmp_path: Path, name: str) -> None:
    skip_without(name)
    form = FORMATS[name]
    for seed in range(3):
        network = random_network(tiny_subnet(seed), seed)
        path = tmp_path / f"net{form.suffix}"
        done = export_network(network, TRAINED, path, seed=seed, format=name)
        assert done.max_abs_diff  # another runtime rounds otherwise
        assert agrees(done)
        x = np.random.default_rng(9).standard_normal((1, 3, 32, 32), dtype=np.float32)
        (found,) = run_of(name, path)(x)  # what was written
        with torch.inference_mode():
            expected = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * done.output_scale)


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_of_a_backbone(tmp_path: Path, name: str) -> None:
    skip_without(name)
    backbone = Backbone(random_network(tiny_subnet()))
    path = tmp_path / f"features{FORMATS[name].suffix}"
    done = export_network(backbone, None, path, format=name)
    assert agrees(done)
    maps = run_of(name, path)(np.zeros((1, 3, 32, 32), np.float32))
    assert [m.shape[1] for m in maps] == backbone.feature_info.channels()


@pytest.mark.parametrize("name", OTHERS)
def test_a_difference_in_another_runtime_is_refused(tmp_path: Path, name: str) -> None:
    skip_without(name)
    network = random_network(tiny_subnet())
    network.layers[-1].register_forward_hook(lambda _m, _x, y: y + 0.1 * y.abs().max())
    with pytest.raises(RuntimeError, match=rf"{FORMATS[name].runtime}'s output differs"):
        export_network(network, None, tmp_path / f"n{FORMATS[name].suffix}", format=name)
    assert list(tmp_path.iterdir()) == []


def test_openvino_takes_an_open_batch(tmp_path: Path) -> None:
    skip_without("openvino")
    network = random_network(tiny_subnet())
    done = export_network(network, None, tmp_path / "n.xml", batch=None, format="openvino")
    assert agrees(done)
    run = run_of("openvino", done.path)
    assert run(np.zeros((5, 3, 32, 32), np.float32))[0].shape == (5, 10)


@pytest.mark.parametrize(("runtime", "opset", "ir"), RUNTIMES)
def test_every_opset_is_the_same_net(tmp_path: Path, runtime: str, opset: int, ir: int) -> None:
    network = random_network(tiny_subnet())
    path = tmp_path / "model.onnx"
    done = export_network(network, None, path, opset=opset, ir_version=ir)
    assert agrees(done)
    assert done.versions.runtime == runtime
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (opset, ir)


def test_the_ir_version_is_as_old_as_the_opset_can_have_it() -> None:
    assert onnx_versions(None, None) == OnnxVersions(OPSET, IR_VERSION)
    assert [onnx_versions(o, None).ir for o in (14, 15, 19, 20, 21)] == [7, 8, 8, 9, 10]
    assert onnx_versions(15, 10).runtime == "1.18"


@pytest.mark.parametrize("name", OTHERS)
def test_a_missing_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    good = tmp_path / "subnet.json"
    tiny_subnet().save(good)
    config = compose_config(ExportConfig, "export", f"subnet={good}", f"format={name}")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(LookupError, match=rf"format={name} needs packages: pip install ") as caught:
        prepare(config)
    assert all(package in str(caught.value) for package in FORMATS[name].packages)

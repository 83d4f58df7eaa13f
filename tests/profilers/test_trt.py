"""TensorRT: engines built for real by TensorRT-RTX, which needs no GPU for that, and the adapter
against the API of versions that can't be run here."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from profilers.cache import CacheFile
from profilers.gpu.trt import EngineBuilder, TrtProfiler, fitted, supports
from profilers.tables.plan import extremes, plan
from tests.support.fake_trt import Fake
from tests.support.host_session import HostSession, Quiet
from tests.support.simulated_device import DEVICE
from tests.support.spaces import load_space
from tfnas.deploy.onnx_file import export
from tfnas.deploy.onnx_graph import build_model, half, ops_of, random_weights
from tfnas.space.ops import ACTIVATIONS, OpSpec

pytestmark = pytest.mark.slow

GPU = replace(DEVICE, kind="gpu", backend="tensorrt")
BLOCK = OpSpec("mbconv", 14, 16, 32, 8, 16, 3, 1, "swish")


def model_of(ops: Sequence[OpSpec], batch: int | None = 1) -> onnx.ModelProto:
    return build_model(ops, random_weights(ops, np.random.default_rng(0)), batch)


def content_of(ops: Sequence[OpSpec], precision: str, batch: int = 1) -> bytes:
    content: bytes = fitted(model_of(ops, batch), "it", batch, precision).SerializeToString()
    return content


# --- for real ------------------------------------------------------------------------------------


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx")


def one_of_each(ops: Sequence[OpSpec]) -> list[OpSpec]:
    """The widest op of every curve: every shape but for the mid width, every kind."""
    return list({op.curve if op.c_mid else op: op for op in ops}.values())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_op_of_each_curve_is_built(rtx: Any, precision: str) -> None:
    ops = one_of_each(plan(load_space("tfnas", quantum=8)).ops)
    assert len(ops) > 60
    builder = EngineBuilder(rtx, precision=precision)
    for op in ops:
        engine = builder.build(content_of((op,), precision), str(op))
        assert len(engine) > op.weights * (2 if precision == "fp16" else 4)


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        (None, "fp32"), (None, "fp16"), ((7, 5), "fp16"), ((8, 9), "fp32"), ((8, 9), "tf32"),
        ((12, 0), "fp16"),
    ],
)  # fmt: skip
def test_whole_nets_are_built(rtx: Any, capability: tuple[int, int] | None, precision: str) -> None:
    assert capability is None or supports(rtx, capability, precision)
    space = load_space("tfnas", quantum=8)
    nets = [*extremes(space), space.sample(random.Random(0))]
    builder = EngineBuilder(rtx, precision=precision, capability=capability)
    sizes = [len(builder.build(content_of(net.ops, precision))) for net in nets]
    assert sizes[0] == min(sizes)
    assert sizes[1] == max(sizes)


def test_turing_has_no_float32_classifier(rtx: Any) -> None:
    """Why `supports` says no. If this fails, TensorRT-RTX has learned it."""
    op = OpSpec("classifier", 7, 64, 0, 0, 10, 1, 1, "none")
    assert not supports(rtx, (7, 5), "fp32")
    with pytest.raises(ValueError, match=r"Turing.*FP32 GEMM") as caught:
        EngineBuilder(rtx, precision="fp32", capability=(7, 5)).build(content_of((op,), "fp32"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_is_built(rtx: Any, act: str, precision: str) -> None:
    op = replace(BLOCK, act=act)
    for batch in (1, 32):
        assert EngineBuilder(rtx, precision=precision).build(content_of((op,), precision, batch))


def test_an_exported_file_is_built_for_a_batch(rtx: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(extremes(load_space())[0], None, path, batch=None)
    model = fitted(onnx.load(path), "it", 8, "fp16").SerializeToString()
    builder = EngineBuilder(rtx, precision="fp16", graph=True)
    assert builder.build(model)
    assert builder.timing_cache == b""  # TensorRT-RTX has none, and asking for it needs a GPU


def test_what_can_not_be_built_is_told_in_one_line(rtx: Any) -> None:
    builder = EngineBuilder(rtx, precision="fp32")
    with pytest.raises(ValueError, match="tensorrt_rtx can't read the model") as caught:
        builder.build(b"no model")
    assert "\n" not in str(caught.value)
    model = model_of((BLOCK,))
    model.graph.node[0].op_type = "Mystery"
    with pytest.raises(ValueError, match="Mystery"):
        builder.build(model.SerializeToString(), "it")
    assert builder.build(content_of((BLOCK,), "fp32"))  # goes on


def test_the_module_tells_which_gpus_it_is_made_for(rtx: Any) -> None:
    assert supports(rtx, (8, 9), "fp32")
    assert supports(rtx, (12, 0), "fp32")
    assert not supports(rtx, (9, 0), "fp32")
    assert not supports(rtx, (7, 0), "fp16")


# --- the model that is built ---------------------------------------------------------------------


def test_half_is_float16_throughout_and_finite() -> None:
    model = model_of((BLOCK, replace(BLOCK, act="relu6")))
    huge = numpy_helper.to_array(model.graph.initializer[0]).copy()
    huge.flat[0] = 1e9
    name = model.graph.initializer[0].name
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(huge, name))
    result = half(model)
    assert {t.data_type for t in result.graph.initializer} == {TensorProto.FLOAT16}
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in result.graph.initializer)
    inferred = onnx.shape_inference.infer_shapes(result, strict_mode=True)
    tensors = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    assert {v.type.tensor_type.elem_type for v in tensors} == {TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT  # left as it was


def test_half_computes_the_same() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    net = extremes(load_space())[0]
    model = model_of(net.ops)
    size = net.resolution
    x = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)

    def run(of: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(
            of.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        result: np.ndarray = session.run(None, {"input": given})[0]
        return result

    expected = run(model, x)
    found = run(half(model), x.astype(np.float16))
    assert found.dtype == np.float16
    assert abs(found - expected).max() < 0.02 * abs(expected).max()


def test_the_batch_is_set_where_it_is_open() -> None:
    model = fitted(model_of((BLOCK,), None), "it", 5, "fp32")
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_value == 5
    assert ops_of(model) == (BLOCK,)


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"it is made for batch=2, asked was batch=1"):
        fitted(model_of((BLOCK,), 2), "it", 1, "fp32")
    with pytest.raises(ValueError, match="values are the most"):
        fitted(model_of((BLOCK,), None), "it", 10**6, "fp32")
    two = model_of((BLOCK,))
    two.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    with pytest.raises(ValueError, match="inputs input, more"):
        fitted(two, "it", 1, "fp32")
    cast = model_of((BLOCK,))
    cast.graph.node.insert(0, helper.make_node("Cast", ["input"], ["cast"], to=TensorProto.FLOAT))
    cast.graph.node[1].input[0] = "cast"
    with pytest.raises(ValueError, match="it: it can't be made float16"):
        fitted(cast, "it", 1, "fp16")


# --- versions ------------------------------------------------------------------------------------

VERSIONS = {
    "8.6": Fake("8.6.1"),
    "10": Fake("10.16.1.11"),
    "11": Fake("11.4.0.106"),
    "rtx": Fake("1.7.1.116", "tensorrt_rtx"),
}


@pytest.fixture(params=["8.6", "10", "11", "rtx"])
def fake(request: pytest.FixtureRequest) -> Fake:
    told = VERSIONS[request.param]
    return Fake(told.__version__, told.__name__)


def test_networks_are_created_as_each_version_asks(fake: Fake) -> None:
    EngineBuilder(fake, precision="fp16").build(b"model")
    explicit_batch, strongly_typed = 1 << 0, 1 << 1
    flags = {"8": explicit_batch, "10": strongly_typed, "11": 0, "1": strongly_typed}
    major = fake.__version__.partition(".")[0]
    assert fake.all_asked("create_network") == [flags[major]]
    # Only weakly typed networks are told to use float16: others take it from the model.
    assert fake.all_asked("set_flag") == (["FP16"] if major == "8" else [])
    assert fake.all_asked("clear_flag") == ["TF32"]
    assert fake.all_asked("set_memory_pool_limit") == [("workspace", 1 << 30)]


def test_tf32_is_asked_for_or_forbidden(fake: Fake) -> None:
    EngineBuilder(fake, precision="tf32").build(b"model")
    assert (fake.all_asked("set_flag"), fake.all_asked("clear_flag")) == (["TF32"], [])
    EngineBuilder(fake, precision="fp32").build(b"model")
    assert (fake.all_asked("set_flag"), fake.all_asked("clear_flag")) == (["TF32"], ["TF32"])


def test_rtx_builds_for_the_gpu_that_there_is() -> None:
    fake = Fake("1.7.1.116", "tensorrt_rtx")
    EngineBuilder(fake, precision="fp32", capability=(8, 9), graph=True).build(b"model")
    assert fake.all_asked("set_compute_capability") == [("SM89", 0)]
    assert fake.all_asked("set_flag") == ["REQUIRE_USER_ALLOCATION"]


def test_failed_builds_tell_why(fake: Fake) -> None:
    builder = EngineBuilder(fake, precision="fp32")
    fake.refuses = {"parse"}
    with pytest.raises(ValueError, match="can't read net: no such op"):
        builder.build(b"model", "net")
    fake.refuses = {"build"}
    with pytest.raises(ValueError, match="can't build net: out of luck"):
        builder.build(b"model", "net")
    fake.refuses = set()
    assert builder.build(b"model", "net") == b"engine"


# --- caches --------------------------------------------------------------------------------------


def test_a_timing_cache_goes_from_build_to_build(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake("10.16.1.11")
    builder = EngineBuilder(fake, precision="fp32", timing_cache=b"before")
    builder.build(b"model")
    builder.build(b"model")
    assert fake.all_asked("create_timing_cache") == [b"before", b"timings"]
    assert caplog.text == ""
    fake.refuses = {"set_timing_cache"}  # as that of another GPU
    builder.build(b"model")
    assert fake.all_asked("create_timing_cache")[-2:] == [b"timings", b""]
    assert "refuses the timing cache" in caplog.text


def test_a_cache_file_comes_back_and_damage_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = CacheFile(tmp_path / "new" / "folder" / "it.cache")
    assert file.load() == b""
    file.save(b"what was\nlearned")
    assert file.load() == b"what was\nlearned"
    assert [p.name for p in file.path.parent.iterdir()] == ["it.cache"]
    whole = file.path.read_bytes()
    assert caplog.text == ""
    for damaged in (whole[:-1], whole.replace(b"what", b"that"), b"", b"\n", b"\x00" * 100):
        file.path.write_bytes(damaged)
        caplog.clear()
        assert file.load() == b""
        assert "damaged; it is left out" in caplog.text
    file.path.unlink()
    file.path.mkdir()
    assert file.load() == b""
    file.save(b"more")  # is no reason to stop


# --- running, as far as it goes without a GPU ----------------------------------------------------


@pytest.fixture
def profile(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrtProfiler:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return profiler_of(fake)


def profiler_of(fake: Fake) -> TrtProfiler:
    return TrtProfiler(
        fake,
        GPU,
        HostSession(),
        Quiet(),
        capability=(8, 9),
        graph=False,  # type: ignore[arg-type]
    )


def test_each_version_is_run_by_its_own_calls(profile: TrtProfiler, fake: Fake) -> None:
    workload = profile.workload((BLOCK,))
    burst = workload.burst(4)
    assert 0 < burst.ms <= burst.wall_ms
    assert fake.all_asked("execute_async_v3") == [77] * 5  # one to warm up
    assert [name for name, _ in fake.all_asked("set_tensor_address")] == ["input", "output"]
    assert workload.x.shape == (1, 3, 8, 8)
    assert abs(workload.x).max() > 0.1  # zeros would be unlike images
    assert workload.output().shape == (1, 10)
    if fake.__version__.startswith("8."):
        assert fake.context.device_memory != 0
        assert fake.all_asked("strategy") == []
    else:
        assert fake.all_asked("strategy") == ["user"]
        ((address, nbytes),) = fake.all_asked("set_device_memory")
        assert (address != 0, nbytes) == (True, 4096)
    fake.refuses = {"execute_async_v3"}
    with pytest.raises(RuntimeError, match="failed to run"):
        workload.burst(1)
    workload.close()
    with pytest.raises(RuntimeError, match="closed"):
        workload.burst(1)


def test_what_was_learned_is_there_in_the_next_process(profile: TrtProfiler, fake: Fake) -> None:
    assert CacheFile.of(GPU).load() == b""
    profile.workload((BLOCK,)).close()
    rtx = fake.__name__ == "tensorrt_rtx"
    learned = b"kernels" if rtx else b"timings"
    assert CacheFile.of(GPU).load() == learned
    again = Fake(fake.__version__, fake.__name__)
    next_one = profiler_of(again)
    next_one.workload((BLOCK,))
    next_one.workload((BLOCK,)).close()
    if rtx:
        assert again.all_asked("deserialize") == [learned]  # one cache for all engines
        assert again.all_asked("set_runtime_cache") == [again.runtime_cache] * 2
    else:
        assert again.all_asked("create_timing_cache") == [learned] * 2


def test_engines_that_do_not_load_are_told(profile: TrtProfiler, fake: Fake) -> None:
    fake.refuses = {"load"}
    with pytest.raises(ValueError, match="can't load"):
        profile.workload((BLOCK,))


def test_conditions_are_those_of_the_gpu(profile: TrtProfiler) -> None:
    assert profile.conditions().readings == (("holds_context", 1.0),)


def test_a_refused_runtime_cache_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    CacheFile.of(GPU).save(b"of another driver")
    fake = Fake("1.7.1.116", "tensorrt_rtx")
    fake.refuses = {"deserialize"}
    caplog.set_level(logging.WARNING)
    profiler_of(fake).workload((BLOCK,)).close()
    assert "refuses" in caplog.text
    assert CacheFile.of(GPU).load() == b"kernels"

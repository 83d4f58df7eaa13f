"""Which backend a GPU gets, what is refused, and what a GPU's figures are kept under."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from profilers.gpu.device import (
    Options,
    check_compile,
    check_options,
    choose,
    describe,
    open_device,
)
from profilers.gpu.nvml import Gpu
from profilers.gpu.stream import SETTLED_SAMPLES, settle
from profilers.gpu.trt import supports
from tests.support.entry import REPOSITORY

OPTIONS = Options("gpu", "auto", 0, False, False)
ADA, HOPPER, TURING, BLACKWELL = (8, 9), (9, 0), (7, 5), (12, 0)
RTX = SimpleNamespace(
    __version__="1.7.1.116",
    ComputeCapability=SimpleNamespace(SM75=1, SM80=2, SM86=3, SM89=4, SM120=5),
)
RTX_4090 = Gpu("NVIDIA RTX 4090", "580.65", 24 << 10, "off", 450.0)


def tensorrt(version: str) -> SimpleNamespace:
    return SimpleNamespace(__version__=version)


def chosen(
    capability: tuple[int, int],
    backend: str = "auto",
    precision: str = "fp32",
    **installed: SimpleNamespace,
) -> tuple[str, Any]:
    return choose(backend, capability, precision, "the GPU", installed.get)


def test_auto_takes_the_first_that_is_installed_and_knows_the_gpu() -> None:
    trt = tensorrt("11.4.0.106")
    assert chosen(ADA, tensorrt=trt, tensorrt_rtx=RTX) == ("tensorrt", trt)
    assert chosen(ADA, tensorrt_rtx=RTX) == ("tensorrt_rtx", RTX)
    assert chosen(HOPPER, tensorrt_rtx=RTX) == ("cuda", None)
    assert chosen(HOPPER, tensorrt=trt, tensorrt_rtx=RTX) == ("tensorrt", trt)
    assert chosen(ADA) == ("cuda", None)
    old = tensorrt("8.6.1")
    assert chosen(BLACKWELL, tensorrt=old, tensorrt_rtx=RTX) == ("tensorrt_rtx", RTX)
    assert chosen(ADA, "cuda", tensorrt=trt) == ("cuda", None)
    assert chosen(TURING, tensorrt_rtx=RTX) == ("cuda", None)
    assert chosen(TURING, precision="fp16", tensorrt_rtx=RTX) == ("tensorrt_rtx", RTX)


@pytest.mark.parametrize(
    ("version", "known", "unknown"),
    [
        ("8.6.1", [(7, 0), ADA, HOPPER], [(10, 0), BLACKWELL]),
        ("10.0.1", [(7, 0), HOPPER], [(6, 1), BLACKWELL]),
        ("10.7.0.post1", [TURING, HOPPER], [(7, 0), BLACKWELL]),
        ("10.16.1.11", [TURING, HOPPER, (10, 0), BLACKWELL], [(7, 0)]),
        ("11.4.0.106", [TURING, HOPPER, (10, 0), BLACKWELL], [(7, 0)]),
        ("7.2.3", [], [TURING, ADA]),
    ],
)
def test_versions_of_tensorrt_know_other_gpus(
    version: str, known: list[tuple[int, int]], unknown: list[tuple[int, int]]
) -> None:
    assert all(supports(tensorrt(version), capability, "fp32") for capability in known)
    assert not any(supports(tensorrt(version), capability, "fp32") for capability in unknown)


def test_what_was_asked_for_is_given_or_refused() -> None:
    assert chosen(ADA, "tensorrt_rtx", tensorrt_rtx=RTX) == ("tensorrt_rtx", RTX)
    with pytest.raises(LookupError, match=r"tensorrt_rtx: it isn't installed.*tensorrt-rtx\]'"):
        chosen(ADA, "tensorrt_rtx")
    with pytest.raises(ValueError, match=r"1\.7\.1\.116 isn't made for the GPU .*9\.0.*cuda"):
        chosen(HOPPER, "tensorrt_rtx", tensorrt_rtx=RTX)


@pytest.mark.parametrize(
    ("changes", "threads", "precision", "message"),
    [
        ({"backend": "onnxruntime"}, 1, "fp32", r"backend='onnxruntime'"),
        ({}, 1, "int8", r"precision of device=gpu='int8'.*fp16"),
        ({}, 2, "fp32", r"threads=2.*threads=1"),
        ({"index": -1}, 1, "fp32", r"index=-1"),
        ({"backend": "tensorrt", "compile": True}, 1, "fp32", r"compile=true.*backend=cuda"),
    ],
)
def test_unusable_options_are_refused_in_one_line(
    changes: dict[str, Any], threads: int, precision: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_device(replace(OPTIONS, **changes), threads=threads, batch=1, precision=precision)
    assert "\n" not in str(caught.value)


def test_compile_is_refused_when_auto_takes_another() -> None:
    options = replace(OPTIONS, compile=True)
    check_options(options, 1, "fp32")
    check_compile(options, "cuda")
    with pytest.raises(ValueError, match="the backend is tensorrt_rtx"):
        check_compile(options, "tensorrt_rtx")


def test_without_a_driver_it_is_said_in_one_line() -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        pass
    else:
        pytest.skip("there is a driver here")
    with pytest.raises(LookupError, match="no NVIDIA driver") as caught:
        open_device(OPTIONS, threads=1, batch=1, precision="fp32")
    assert "\n" not in str(caught.value)


def test_config_has_every_option_and_no_other() -> None:
    read = OmegaConf.load(REPOSITORY / "conf/device/gpu.yaml")
    options = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Options), read))
    assert options == OPTIONS
    assert set(read) == set(vars(OPTIONS))


def test_fingerprints_tell_contexts_apart() -> None:
    def fingerprint(
        gpu: Gpu = RTX_4090, options: Options = OPTIONS, version: str = "11.4", **context: Any
    ) -> str:
        given = {"batch": 1, "precision": "fp32", **context}
        return describe(options, gpu, ADA, "tensorrt", version, "13.0", **given).fingerprint

    same = fingerprint()
    assert same == fingerprint(RTX_4090)  # two GPUs of one make are one
    contexts = [
        fingerprint(batch=2),
        fingerprint(precision="fp16"),
        fingerprint(version="11.5"),
        fingerprint(replace(RTX_4090, driver="590.1")),
        fingerprint(options=replace(OPTIONS, graph=True)),
    ]
    assert len({same, *contexts}) == 6
    assert {f.partition("-")[0] for f in contexts} == {same.partition("-")[0]}
    others = [
        fingerprint(replace(RTX_4090, power_limit_w=300.0)),
        fingerprint(replace(RTX_4090, mig="1g.5gb")),
        fingerprint(replace(RTX_4090, name="NVIDIA RTX 4080")),
    ]
    assert len({f.partition("-")[0] for f in (same, *others)}) == 4


def test_a_device_tells_what_shaped_its_figures() -> None:
    options = replace(OPTIONS, graph=True, compile=True)
    device = describe(options, RTX_4090, ADA, "cuda", "2.13", "13.0", batch=8, precision="tf32")
    assert (device.kind, device.backend, device.threads) == ("gpu", "cuda+compile+graph", 1)
    assert device.versions == {"torch": "2.13", "cuda": "13.0", "driver": "580.65"}


def settled(samples: list[float], max_seconds: float = 100.0) -> tuple[bool, int]:
    """(whether they settled, how many were taken), one a second."""
    taken = 0

    def sample() -> float:
        nonlocal taken
        taken += 1
        return samples[min(taken, len(samples)) - 1]

    agreed = settle(sample, now=lambda: float(taken), max_seconds=max_seconds)
    return agreed, taken


def test_warm_up_lasts_until_clocks_settle() -> None:
    assert settled([1.0]) == (True, SETTLED_SAMPLES)
    rising = [2.0, 1.8, 1.6, 1.4, 1.2]
    assert settled([*rising, 1.0]) == (True, len(rising) + SETTLED_SAMPLES)
    restless = [1.0 + 0.1 * (i % 2) for i in range(1000)]
    assert settled(restless, max_seconds=20)[0] is False
    assert settled(restless, max_seconds=20)[1] <= 22

"""NVML: the real library without a driver, and its readings on GPUs in all conditions."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from profilers.gpu import nvml
from profilers.gpu.nvml import GpuReader, open_nvml

pynvml = pytest.importorskip("pynvml")


class Card:
    """The functions of pynvml for one GPU in a state; constants and errors are the real ones."""

    def __init__(self, **told: Any):
        self.told = {
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlDeviceGetName": "NVIDIA RTX 4090",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 << 30),
            "nvmlDeviceGetEnforcedPowerLimit": 450_000,
            "nvmlDeviceGetPowerUsage": 449_100,
            "nvmlDeviceGetClockInfo": 2100,
            "nvmlDeviceGetMaxClockInfo": 2520,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            **told,
        }

    def __getattr__(self, name: str) -> Any:
        if name in self.told:
            value = self.told[name]
            if isinstance(value, type) and issubclass(value, Exception):
                return self._refuse(value)
            return lambda *_: value
        if name.startswith("nvmlDeviceGet") or name.startswith("nvmlSystem"):
            return self._refuse(pynvml.NVMLError_NotSupported)
        return getattr(pynvml, name)  # a setter would be the real one's, and fail without a driver

    @staticmethod
    def _refuse(error: type[Exception]) -> Any:
        def refuse(*_: Any) -> None:
            raise error

        return refuse

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in ("GPU-1234", "MIG-5678"):
            raise pynvml.NVMLError_NotFound
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:  # noqa: N802
        assert handle.startswith("MIG-")
        return "GPU-1234"


def process(pid: int, mib: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib << 20)


def test_no_driver_is_one_clear_line() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        pass
    else:
        pytest.skip("there is a driver here")
    with pytest.raises(LookupError, match=r"no NVIDIA driver.*give device=cpu$") as caught:
        open_nvml()
    assert "\n" not in str(caught.value)


def test_no_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(LookupError, match=r"pip install 'tfnas\[gpu\]'"):
        open_nvml()


def test_a_quiet_gpu_has_no_doubts() -> None:
    watch = GpuReader(Card(), "1234")
    assert (watch.gpu.mig, watch.gpu.memory_mib) == ("off", 24 << 10)
    seen = watch.conditions(holds_context=False)
    assert seen.doubts == ()
    assert dict(seen.readings) == {
        "gpu": "NVIDIA RTX 4090", "driver": "580.65.06", "sm_clock_mhz": 2100.0,
        "sm_clock_max_mhz": 2520.0, "memory_clock_mhz": 2100.0, "temperature_c": 61.0,
        "power_w": 449.1, "power_limit_w": 450.0, "clock_reasons": "none", "mig": "off",
        "other_processes": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("word", ["Event", "Throttle"])
def test_a_throttled_gpu_is_told_with_figures(word: str) -> None:
    """By the functions of new drivers and by those of old ones, which lack the new."""
    bits = pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwSlowdown
    card = Card(
        **{
            "nvmlDeviceGetCurrentClocksEventReasons": pynvml.NVMLError_FunctionNotFound,
            f"nvmlDeviceGetCurrentClocks{word}Reasons": bits,
        }
    )
    seen = GpuReader(card, "1234").conditions(holds_context=False)
    assert seen.doubts == (
        "throttled: power cap, hardware slowdown (2100 MHz of 2520 MHz, 449 W of 450 W, 61 °C)",
    )
    assert dict(seen.readings)["clock_reasons"] == "power cap, hardware slowdown"


@pytest.mark.parametrize("name", [name for name, _ in nvml.THROTTLED])
def test_reasons_are_those_of_the_library(name: str) -> None:
    bit = getattr(pynvml, f"nvmlClocksEventReason{name}")
    assert bit == getattr(pynvml, f"nvmlClocksThrottleReason{name}")
    seen = GpuReader(Card(nvmlDeviceGetCurrentClocksEventReasons=bit), "1234").conditions(False)
    assert len(seen.doubts) == 1


def test_fixed_or_idle_clocks_are_told_and_no_fault() -> None:
    bits = pynvml.nvmlClocksEventReasonGpuIdle | pynvml.nvmlClocksEventReasonSyncBoost
    seen = GpuReader(Card(nvmlDeviceGetCurrentClocksEventReasons=bits), "1234").conditions(False)
    assert seen.doubts == ()
    assert dict(seen.readings)["clock_reasons"] == "idle, sync boost"


def test_other_processes_are_told_and_ours_is_none() -> None:
    mine = process(os.getpid(), 900)

    def doubts(*processes: SimpleNamespace, holds_context: bool = True) -> tuple[str, ...]:
        card = Card(nvmlDeviceGetComputeRunningProcesses=list(processes))
        return GpuReader(card, "1234").conditions(holds_context).doubts

    assert doubts(mine) == ()
    assert doubts(mine, process(2, 512)) == ("shared with 1 other process (pid 2 512 MiB)",)
    assert doubts(*map(process, range(1, 7)), mine) == (
        "shared with 6 other processes (pid 1, pid 2, pid 3, pid 4, …)",
    )
    # In a container processes have other numbers: one of them is this one.
    foreign = process(10**7)
    assert doubts(foreign) == ()
    assert len(doubts(foreign, process(10**7 + 1))) == 1
    assert len(doubts(foreign, holds_context=False)) == 1


def test_a_mig_instance_is_found_and_told() -> None:
    name = "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    watch = GpuReader(Card(nvmlDeviceGetName=name), "5678")
    assert watch.gpu.mig == "1g.5gb"
    assert watch.conditions(False).doubts == (
        "a MIG instance (1g.5gb): others share its clocks and power",
    )
    assert GpuReader(Card(nvmlDeviceGetMigMode=[1, 1]), "1234").gpu.mig == "on"


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    missing = pynvml.NVMLError_NotSupported
    card = Card(
        nvmlDeviceGetPowerUsage=missing, nvmlDeviceGetEnforcedPowerLimit=missing,
        nvmlDeviceGetTemperature=missing, nvmlDeviceGetComputeRunningProcesses=missing,
        nvmlDeviceGetMigMode=missing, nvmlDeviceGetMemoryInfo=missing,
        nvmlDeviceGetCurrentClocksEventReasons=pynvml.nvmlClocksEventReasonSwPowerCap,
        nvmlDeviceGetName=b"Tegra",
    )  # fmt: skip
    watch = GpuReader(card, "GPU-1234")
    assert (watch.gpu.name, watch.gpu.power_limit_w, watch.gpu.mig) == ("Tegra", None, "off")
    seen = watch.conditions(False)
    assert seen.doubts == ("throttled: power cap (2100 MHz of 2520 MHz)",)
    assert not {"power_w", "temperature_c", "other_processes"} & set(dict(seen.readings))


def test_an_unknown_gpu_is_refused() -> None:
    with pytest.raises(LookupError, match=r"knows no GPU 9999.*nvidia-smi -L"):
        GpuReader(Card(), "9999")


def test_nothing_is_ever_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = GpuReader._read

    def noted(self: GpuReader, function: str, *arguments: Any) -> Any:
        asked.append(function)
        return read(self, function, *arguments)

    monkeypatch.setattr(GpuReader, "_read", noted)
    GpuReader(Card(nvmlDeviceGetCurrentClocksEventReasons=1), "1234").conditions(True)
    assert len(asked) > 10
    assert all(name.startswith(("nvmlDeviceGet", "nvmlSystemGet")) for name in asked)

"""What NVIDIA's management library says of a GPU. It is only read: nothing is ever set.

Not every GPU, driver and version of nvidia-ml-py (module pynvml) knows every reading; what one of
them doesn't tell is left out, and the rest still comes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profilers.onboard.conditions import Conditions

# Reasons for clocks below the highest that make figures doubtful, as pynvml names them after
# `nvmlClocksEventReason` (from 12.535 on) or `nvmlClocksThrottleReason`. The others are no fault:
# an idle GPU, or clocks that somebody fixed on purpose.
THROTTLED = (
    ("SwPowerCap", "power cap"),
    ("HwSlowdown", "hardware slowdown"),
    ("SwThermalSlowdown", "temperature (driver)"),
    ("HwThermalSlowdown", "temperature (hardware)"),
    ("HwPowerBrakeSlowdown", "power brake"),
)
FIXED = (
    ("GpuIdle", "idle"),
    ("ApplicationsClocksSetting", "application clocks"),
    ("SyncBoost", "sync boost"),
    ("DisplayClockSetting", "display clock"),
)
NAMED = 4  # other processes that a message names


@dataclass(frozen=True)
class Gpu:
    """What a GPU is and how it is set up.

    Attributes:
        driver: its version.
        memory_mib: in all.
        mig: "off", or the name of the instance or "on" where MIG is.
        power_limit_w: enforced; None where it isn't known.
    """

    name: str
    driver: str
    memory_mib: int
    mig: str
    power_limit_w: float | None


def open_nvml() -> Any:
    """The module pynvml, initialized.

    Raises:
        LookupError: without the package or a driver.
    """
    try:
        import pynvml
    except ImportError as error:
        raise LookupError(
            f"device=gpu needs nvidia-ml-py: pip install 'tfnas[gpu]' ({error})"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise LookupError(
            f"device=gpu: no NVIDIA driver answers here ({error}); expected a GPU with its driver: "
            "install it, or give device=cpu"
        ) from None
    return pynvml


class GpuReader:
    """One GPU (or MIG instance), by its UUID as CUDA tells it.

    Args:
        nvml: the module pynvml, initialized.
        uuid: with or without "GPU-" or "MIG-".

    Raises:
        LookupError: if the driver doesn't know it.
    """

    def __init__(self, nvml: Any, uuid: str):
        self._nvml = nvml
        self._handle, self._parent = self._find(uuid)
        instance = self._handle is not self._parent
        memory = self._read("nvmlDeviceGetMemoryInfo", self._handle)
        name = _text(self._read("nvmlDeviceGetName", self._handle) or "NVIDIA GPU")
        self.gpu = Gpu(
            name=name,
            driver=_text(self._read("nvmlSystemGetDriverVersion") or "unknown"),
            memory_mib=0 if memory is None else int(memory.total) >> 20,
            mig=(name.rpartition("MIG ")[2] if instance else self._mig_mode()),
            power_limit_w=self._power_limit_w(),
        )

    def _find(self, uuid: str) -> tuple[Any, Any]:
        """(handle, handle of the whole GPU that clocks and temperature are told of)."""
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        for name in (f"GPU-{bare}", f"MIG-{bare}"):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByUUID(name)
            except self._nvml.NVMLError:
                continue
            if name.startswith("GPU-"):
                return handle, handle
            return handle, self._nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        raise LookupError(
            f"the driver knows no GPU {uuid}, which torch has: expected one of those that "
            "nvidia-smi -L lists"
        )

    def conditions(self, holds_context: bool) -> Conditions:
        """A look at the GPU, about a millisecond.

        Args:
            holds_context: whether this process has one on the GPU. In a container the driver tells
                other process numbers than ours, so ours can only be counted.
        """
        nvml, gpu = self._nvml, self._parent
        sm = self._read("nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_SM)
        highest = self._read("nvmlDeviceGetMaxClockInfo", gpu, nvml.NVML_CLOCK_SM)
        memory = self._read("nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_MEM)
        heat = self._read("nvmlDeviceGetTemperature", gpu, nvml.NVML_TEMPERATURE_GPU)
        power, limit = self._watts("nvmlDeviceGetPowerUsage"), self._power_limit_w()
        reasons = self._reasons()
        others = self._others(holds_context)
        found: list[tuple[str, float | str | None]] = [
            ("gpu", self.gpu.name),
            ("driver", self.gpu.driver),
            ("sm_clock_mhz", sm),
            ("sm_clock_max_mhz", highest),
            ("memory_clock_mhz", memory),
            ("temperature_c", heat),
            ("power_w", power),
            ("power_limit_w", limit),
            ("clock_reasons", None if reasons is None else ", ".join(map(str, reasons)) or "none"),
            ("mig", self.gpu.mig),
            ("other_processes", None if others is None else len(others)),
        ]
        readings = tuple(
            (name, value if isinstance(value, str) else float(value))
            for name, value in found
            if value is not None
        )
        doubts = []
        faults = [text for text in reasons or () if text in dict(THROTTLED).values()]
        if faults:
            figures = [
                f"{value:.0f} {unit} of {most:.0f} {unit}"
                for value, most, unit in (
                    (sm, highest, "MHz"),
                    (power, limit, "W"),
                )
                if value is not None and most is not None
            ]
            if heat is not None:
                figures.append(f"{heat:.0f} °C")
            doubts.append(f"throttled: {', '.join(faults)} ({', '.join(figures)})")
        if others:
            doubts.append(_shared(others))
        if self._handle is not self._parent:
            doubts.append(f"a MIG instance ({self.gpu.mig}): others share its clocks and power")
        return Conditions(readings, tuple(doubts))

    def _others(self, holds_context: bool) -> list[Any] | None:
        """Other processes that compute here; None where the driver doesn't tell."""
        processes = self._read("nvmlDeviceGetComputeRunningProcesses", self._handle)
        if processes is None:
            return None
        others = [p for p in processes if p.pid != os.getpid()]
        if holds_context and len(others) == len(processes):
            return others[1:]  # one of them is this one, under a number that we don't know
        return others

    def _reasons(self) -> list[str] | None:
        """Why the clocks are where they are; None where it isn't known."""
        for word in ("Event", "Throttle"):  # renamed in 2023; old drivers lack the new function
            bits = self._read(f"nvmlDeviceGetCurrentClocks{word}Reasons", self._parent)
            if bits is not None:
                return [
                    text
                    for name, text in (*THROTTLED, *FIXED)
                    if bits & getattr(self._nvml, f"nvmlClocks{word}Reason{name}", 0)
                ]
        return None

    def _mig_mode(self) -> str:
        mode = self._read("nvmlDeviceGetMigMode", self._parent)  # [current, pending]
        return "on" if mode is not None and mode[0] else "off"

    def _power_limit_w(self) -> float | None:
        return self._watts("nvmlDeviceGetEnforcedPowerLimit")

    def _watts(self, function: str) -> float | None:
        milliwatts = self._read(function, self._parent)
        return None if milliwatts is None else milliwatts / 1000

    def _read(self, function: str, *arguments: Any) -> Any:
        """A reading; None where this GPU, driver or version of the package doesn't have it."""
        read = getattr(self._nvml, function, None)
        if read is None:
            return None
        try:
            return read(*arguments)
        except self._nvml.NVMLError:
            return None


def _shared(others: Sequence[Any]) -> str:
    named = [
        f"pid {p.pid}" + (f" {p.usedGpuMemory >> 20} MiB" if p.usedGpuMemory else "")
        for p in others[:NAMED]
    ]
    more = ", …" if len(others) > NAMED else ""
    count = f"{len(others)} other process{'es' if len(others) > 1 else ''}"
    return f"shared with {count} ({', '.join(named)}{more})"


def _text(value: str | bytes) -> str:
    """Versions of the package before 11.510 give bytes."""
    return value.decode() if isinstance(value, bytes) else value

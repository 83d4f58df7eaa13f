"""What Linux tells of a machine, a board or a phone: which CPU it is, how fast and hot it is.

Only the standard library: the same file runs on this machine and on boards. Every function takes
what it reads from, so that a phone without Python is read by the same code from here.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from profilers.onboard.conditions import QUOTA_PERIODS, Conditions

# Instruction sets that runtimes' kernels choose by; others don't move the figures.
FLAGS = (
    "sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "fphp", "sve", "sve2", "i8mm", "bf16",
)  # fmt: skip
CPUS = "/sys/devices/system/cpu"
# Globs of files of one line each. A board may lack any of them.
WATCHED = (
    f"{CPUS}/cpu[0-9]*/cpufreq/scaling_cur_freq",
    f"{CPUS}/cpu[0-9]*/cpufreq/scaling_governor",
    f"{CPUS}/cpu[0-9]*/cpufreq/scaling_max_freq",
    f"{CPUS}/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "/sys/class/thermal/thermal_zone[0-9]*/type",
    "/sys/class/thermal/thermal_zone[0-9]*/temp",
    "/sys/class/power_supply/*/capacity",
    "/sys/class/power_supply/*/status",
    "/sys/class/power_supply/*/scope",
    "/sys/devices/platform/soc/soc:firmware/get_throttled",
)
# Kinds of thermal zones that stand for the processor, not for a charger, a battery or a skin. A
# bare `soc` is a battery's state of charge on some phones.
CPU_ZONE = re.compile(
    r"cpu|mtktscpu|tsens|soc[-_]?thermal|x86_pkg|package|(big|mid|little|prime|apss)(core)?[0-9]*\b",
    re.I,
)
HOT_C = 85.0  # a zone of the processor beyond it is about to slow it down, on most chips
BELOW_MAX = 0.95  # of a core's highest clock, as its driver limits it: it is held back
FASTEST = 0.9  # of the highest clock: cores that count as equally fast
READ_CLOCKS = 8  # cores at most: on some servers a reading takes 10 ms


def hardware(cpuinfo: str, machine: str, cores: int | None) -> dict[str, object]:
    """What identifies a CPU for its latencies: model, instruction sets, cores of the machine.

    Args:
        cpuinfo: /proc/cpuinfo.
        machine: as `uname -m` says.
    """
    info: dict[str, str] = {}
    for line in cpuinfo.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        info[key.strip()] = value.strip()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    # Arm has no model name there, but numbers of implementer and part.
    ids = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part", "CPU variant")
    return {
        "model": info.get("model name") or machine,
        "ids": [info.get(key, "") for key in ids],
        "machine": machine,
        "cores": cores,
        "flags": [flag for flag in FLAGS if flag in flags],
    }


def own_hardware() -> dict[str, object]:
    """That of this machine."""
    found = hardware(_read("/proc/cpuinfo"), platform.machine(), os.cpu_count())
    if found["model"] == platform.machine():
        found["model"] = platform.processor() or platform.machine()
    return found


def readable(model: str) -> str:
    """A CPU's name without its trademarks and clock."""
    for noise in ("(R)", "(TM)", "(r)", "(tm)", "CPU", "Processor"):
        model = model.replace(noise, " ")
    return " ".join(model.partition("@")[0].split()) or "cpu"


def watched_files(*, clocks: bool = True) -> dict[str, str]:
    """Path -> content of what `conditions` reads; without what each core runs at now, if asked."""
    found: dict[str, str] = {}
    for pattern in WATCHED[0 if clocks else 1 :]:
        root, _, rest = pattern[1:].partition("/")
        for path in Path(f"/{root}").glob(rest):
            found[str(path)] = _read(path)
    return found


def own_cores() -> set[int]:
    """Those that this process may use. Raises OSError where the system doesn't tell."""
    if not hasattr(os, "sched_getaffinity"):
        raise OSError(
            "measuring needs Linux: this system doesn't tell which cores a process may use"
        )
    return os.sched_getaffinity(0)


def own_conditions() -> Conditions:
    """Those of this machine, now, and of what this process may have of it."""
    cores = own_cores()
    found = conditions(watched_files(clocks=len(cores) <= READ_CLOCKS), cores)
    own: list[tuple[str, float | str]] = [("cores", ",".join(map(str, sorted(cores))))]
    if (periods := throttled_periods()) is not None:
        own.append((QUOTA_PERIODS, periods))
    return Conditions((*found.readings, *own), found.doubts)


def throttled_periods(root: Path = Path("/")) -> float | None:
    """How often a quota of its control groups has held this process back so far; None: no quota.

    Args:
        root: of the file system, for tests.
    """
    mount, groups = root / "sys/fs/cgroup", _read(root / "proc/self/cgroup")
    found = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for top in [mount / controllers, mount / "cpu"] if controllers else [mount]:
            for folder in (top, top / path.lstrip("/")):  # a container sees its own as the top
                counts = re.search(r"nr_throttled ([0-9]{1,15})$", _read(folder / "cpu.stat"), re.M)
                if counts:
                    found.append(float(counts[1]))
    return max(found, default=None)


def conditions(files: Mapping[str, str], cores: Iterable[int]) -> Conditions:
    """Clocks, governors, heat and battery.

    Args:
        files: see `watched_files`.
        cores: those that are measured; others' clocks and governors don't count.
    """
    readings: list[tuple[str, float | str]] = []
    doubts: list[str] = []
    of_cores = [f"{CPUS}/cpu{core}/cpufreq/" for core in cores]

    def numbers(name: str) -> list[float]:
        return [n for c in of_cores if (n := _number(files.get(c + name))) is not None]

    # One thread has one core awake; the others' clocks tell nothing.
    if clocks := numbers("scaling_cur_freq"):
        readings.append(("cpu_clock_mhz", max(clocks) / 1e3))
    for core in of_cores:  # big and little ones have limits of their own
        limit = _number(files.get(core + "scaling_max_freq"))
        highest = _number(files.get(core + "cpuinfo_max_freq"))
        if limit and highest and limit < BELOW_MAX * highest:
            doubts.append(f"throttled: the clock is limited to {limit / 1e3:.0f} MHz")
            break
    governors = sorted({g.strip() for c in of_cores if (g := files.get(c + "scaling_governor"))})
    if governors:
        readings.append(("governor", "+".join(governors)))
    zones = []
    for path, kind in files.items():
        if not (path.startswith("/sys/class/thermal/") and path.endswith("/type")):
            continue
        value = _number(files.get(path[: -len("type")] + "temp"))
        if value is not None and CPU_ZONE.match(kind):
            zones.append(value / 1e3 if abs(value) > 200 else value)
    if zones:
        readings.append(("cpu_temperature_c", max(zones)))
        if max(zones) >= HOT_C:
            doubts.append(f"hot: a thermal zone of the CPU is at {HOT_C:.0f} °C or above")
    for path in sorted(files):
        charge = _number(files[path])
        own = files.get(path[: -len("capacity")] + "scope", "").strip() != "Device"  # not a pen's
        if path.endswith("/capacity") and charge is not None and own:
            readings.append(("battery_percent", charge))
            state = files.get(path[: -len("capacity")] + "status", "").strip()
            if state:
                readings.append(("battery", state))
            if charge <= 15 and state == "Discharging":
                doubts.append("the battery is nearly empty: many phones slow down then")
            break
    for path, text in files.items():
        if path.endswith("/get_throttled"):  # Raspberry Pi: bits 0-3 tell of now
            bits = int(text.strip() or "0", 16) if _is_hex(text) else 0
            readings.append(("throttled_bits", f"{bits:#x}"))
            if bits & 0xF:
                doubts.append("throttled: under-voltage, heat or a limited clock, says the board")
    return Conditions(tuple(readings), tuple(doubts))


def fastest_cores(files: Mapping[str, str], cores: Iterable[int]) -> list[int]:
    """The big cores of a big.LITTLE processor: those with the highest clock; all where no clocks
    are told."""
    clocks = {c: _number(files.get(f"{CPUS}/cpu{c}/cpufreq/cpuinfo_max_freq")) for c in cores}
    known = [clock for clock in clocks.values() if clock is not None]
    least = FASTEST * max(known, default=0.0)
    return [core for core, clock in clocks.items() if not known or (clock or 0.0) >= least]


def parse_cores(text: str) -> list[int]:
    """`4-7` or `0,2-3` as Linux writes lists of cores. Raises ValueError."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not (low.isdecimal() and (high.isdecimal() or not dash) and len(part) < 12):
            raise ValueError(f"cores={text!r}: expected numbers and ranges, such as 4-7 or 0,2")
        ends = int(low), int(high or low)
        if not ends[0] <= ends[1] < 4096:
            raise ValueError(f"cores={text!r}: expected ranges from low to high, below 4096")
        found += range(ends[0], ends[1] + 1)
    return sorted(set(found))


def _number(text: str | None) -> float | None:
    text = (text or "").strip()
    return float(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def _is_hex(text: str) -> bool:
    return re.fullmatch(r"(0x)?[0-9a-f]{1,16}", text.strip().lower()) is not None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

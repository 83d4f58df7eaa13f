"""What is read off boards and phones, from texts as they have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from profilers.onboard.conditions import QUOTA_PERIODS, Conditions, Watch
from profilers.onboard.linux import (
    CPUS,
    conditions,
    fastest_cores,
    hardware,
    own_conditions,
    parse_cores,
    readable,
    throttled_periods,
    watched_files,
)

# A phone with 4 small, 3 big cores and a prime one: cores of one cluster share their clock.
CLUSTERS = {range(4): (1_785_600, 1_785_600), range(4, 7): (2_419_200, 2_419_200),
            range(7, 8): (2_841_600, 2_841_600)}  # fmt: skip
ZONES = {0: ("cpu-1-7-usr", "48300"), 1: ("battery", "31000"), 2: ("skin-therm", "93000"),
         3: ("gpuss-0-usr", "99000"), 4: ("pm8150_tz", "37000")}  # fmt: skip


def phone(
    *, limited: int | None = None, cpu_temp: str = "48300", charge: str = "80",
    state: str = "Discharging",
) -> dict[str, str]:  # fmt: skip
    """Path -> content, with the line ends that the files have."""
    files = {}
    for cores, (highest, limit) in CLUSTERS.items():
        for core in cores:
            folder = f"{CPUS}/cpu{core}/cpufreq"
            files[f"{folder}/cpuinfo_max_freq"] = f"{highest}\n"
            files[f"{folder}/scaling_max_freq"] = f"{limited if limited else limit}\n"
            files[f"{folder}/scaling_cur_freq"] = f"{min(highest, limited or limit)}\n"
            files[f"{folder}/scaling_governor"] = "schedutil\n"
    for zone, (kind, temp) in ZONES.items():
        files[f"/sys/class/thermal/thermal_zone{zone}/type"] = f"{kind}\n"
        files[f"/sys/class/thermal/thermal_zone{zone}/temp"] = temp + "\n"
    files["/sys/class/thermal/thermal_zone0/temp"] = f"{cpu_temp}\n"
    files["/sys/class/power_supply/battery/capacity"] = f"{charge}\n"
    files["/sys/class/power_supply/battery/status"] = f"{state}\n"
    return files


def test_a_cool_phone_gives_no_doubts() -> None:
    seen = conditions(phone(), [7])
    assert seen.doubts == ()
    assert dict(seen.readings) == {
        "cpu_clock_mhz": 2841.6, "governor": "schedutil", "cpu_temperature_c": 48.3,
        "battery_percent": 80.0, "battery": "Discharging",
    }  # fmt: skip


def test_the_core_that_is_awake_counts() -> None:
    assert dict(conditions(phone(), range(8)).readings)["cpu_clock_mhz"] == 2841.6
    assert dict(conditions(phone(), [0, 4]).readings)["cpu_clock_mhz"] == 2419.2


@pytest.mark.parametrize(
    ("files", "doubt"),
    [
        (phone(limited=1_497_600), "throttled: the clock is limited to 1498 MHz"),
        (phone(cpu_temp="86000"), "hot: a thermal zone of the CPU is at 85 °C or above"),
        (phone(cpu_temp="86"), "hot: a thermal zone of the CPU is at 85 °C or above"),
        (phone(charge="9"), "the battery is nearly empty: many phones slow down then"),
    ],
)
def test_what_slows_a_phone_down_is_told(files: dict[str, str], doubt: str) -> None:
    assert conditions(files, [7]).doubts == (doubt,)


def test_what_does_not_slow_it_down_is_no_doubt() -> None:
    assert conditions(phone(charge="9", state="Charging"), [7]).doubts == ()
    # A limit just below is a driver's rounding.
    assert conditions(phone(limited=2_800_000), [7]).doubts == ()
    # Little cores have a lower limit than big ones, and none is held back.
    assert conditions(phone(), range(8)).doubts == ()


@pytest.mark.parametrize("kind", ["soc", "battery", "skin-therm", "app-therm", "midnight"])
def test_zones_that_are_no_processor(kind: str) -> None:
    files = phone()
    files["/sys/class/thermal/thermal_zone0/type"] = kind
    files["/sys/class/thermal/thermal_zone0/temp"] = "90"
    seen = conditions(files, [7])
    assert seen.doubts == ()
    assert "cpu_temperature_c" not in dict(seen.readings)


@pytest.mark.parametrize(
    ("text", "bits", "told"),
    [("0", "0x0", 0), ("50005", "0x50005", 1), ("0x50000\n", "0x50000", 0), ("junk", "0x0", 0)],
)
def test_a_raspberry_pi_tells_of_its_supply(text: str, bits: str, told: int) -> None:
    path = "/sys/devices/platform/soc/soc:firmware/get_throttled"
    seen = conditions({path: text}, [0])
    assert dict(seen.readings) == {"throttled_bits": bits}
    assert len(seen.doubts) == told


@pytest.mark.parametrize("text", ["", "-", "nan", "<unsupported>", "1" * 50, "٣٤x", "\x00"])
def test_files_without_a_number_are_passed_over(text: str) -> None:
    files = dict.fromkeys(phone(), text)
    assert all(isinstance(value, str) for _, value in conditions(files, range(8)).readings)


@pytest.mark.parametrize(
    "kind", ["mtktscpu", "tsens_tz_sensor5", "bigcore0-thermal", "littlecore-thermal", "apss-0",
             "soc-thermal", "soc_thermal", "x86_pkg_temp", "CPU0-therm"],
)  # fmt: skip
def test_zones_of_processors(kind: str) -> None:
    files = phone()
    files["/sys/class/thermal/thermal_zone0/type"] = kind
    assert dict(conditions(files, [7]).readings)["cpu_temperature_c"] == 48.3


def test_a_pen_has_a_battery_of_its_own() -> None:
    files = phone()
    for name, content in (("capacity", "4"), ("status", "Discharging"), ("scope", "Device")):
        files[f"/sys/class/power_supply/a_pen/{name}"] = f"{content}\n"
    seen = conditions(files, [7])
    assert seen.doubts == ()
    assert [value for name, value in seen.readings if name == "battery_percent"] == [80.0]


@pytest.mark.parametrize(
    ("group", "file"),
    [
        ("0::/a/b", "sys/fs/cgroup/a/b/cpu.stat"),  # version 2
        ("0::/", "sys/fs/cgroup/cpu.stat"),
        ("3:cpu,cpuacct:/a", "sys/fs/cgroup/cpu,cpuacct/a/cpu.stat"),  # version 1
        ("3:cpu,cpuacct:/docker/x", "sys/fs/cgroup/cpu,cpuacct/cpu.stat"),  # in a container
    ],
)
def test_a_quota_that_holds_back_is_a_doubt(group: str, file: str, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"7:memory:/a\n{group}\n")
    assert throttled_periods(tmp_path) is None
    stat = tmp_path / file
    stat.parent.mkdir(parents=True)
    watch = Watch()
    for periods in (5, 5, 12):
        stat.write_text(f"nr_periods 20\nnr_throttled {periods}\nthrottled_time 1000\n")
        found = throttled_periods(tmp_path)
        assert found == periods
        watch.add(Conditions(((QUOTA_PERIODS, found),)))
        held_back = "a CPU quota held the process back in 7 periods"
        assert watch.doubts == ((held_back,) if periods == 12 else ())


def test_conditions_of_this_machine() -> None:
    seen = own_conditions()
    assert ("cores", ",".join(map(str, sorted(os.sched_getaffinity(0))))) in seen.readings
    assert all(isinstance(value, (float, str)) for _, value in seen.readings)
    assert all(path.startswith("/sys/") for path in watched_files())


def test_the_fastest_cores_are_those_with_the_highest_clock() -> None:
    assert fastest_cores(phone(), range(8)) == [7]
    assert fastest_cores(phone(), range(7)) == [4, 5, 6]
    assert fastest_cores(phone(), [0, 1]) == [0, 1]
    close = phone()
    close[f"{CPUS}/cpu7/cpufreq/cpuinfo_max_freq"] = "2500000"  # as favoured cores of a PC
    assert fastest_cores(close, range(8)) == [4, 5, 6, 7]
    assert fastest_cores({}, range(4)) == [0, 1, 2, 3]


def test_lists_of_cores_are_read() -> None:
    assert parse_cores("4-7") == [4, 5, 6, 7]
    assert parse_cores("7, 0,2-3,3") == [0, 2, 3, 7]
    for text in ("", "-", "7-4", "a", "1-", "-1", "0x1", "1,,2", "4096", "0-99999999999"):
        with pytest.raises(ValueError, match="cores="):
            parse_cores(text)


def test_an_arm_processor_is_told_by_its_numbers() -> None:
    cpuinfo = (
        "processor\t: 0\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd fphp asimdhp asimddp\n"
        "CPU implementer\t: 0x41\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n\n"
        "processor\t: 1\nCPU part\t: 0xd05\n"
    )
    found = hardware(cpuinfo, "aarch64", 4)
    assert found["model"] == "aarch64"
    assert found["ids"] == ["", "", "", "0x41", "0xd0b", "0x4"]
    assert found["flags"] == ["asimd", "asimdhp", "asimddp", "fphp"]
    assert found != hardware(cpuinfo.replace("0xd0b", "0xd0d"), "aarch64", 4)
    assert readable("Intel(R) Xeon(R) CPU E5 @ 2.20GHz") == "Intel Xeon E5"
    assert readable("") == "cpu"

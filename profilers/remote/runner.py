"""What runs models on a device at the end of a link, and what such a device tells of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from profilers.onboard.job import Job, Round
from profilers.onboard.linux import fastest_cores, hardware, parse_cores, readable
from profilers.remote.transport import SHORT_S, Transport
from tfnas.files.bounded import check_text, shown

# Marked sections; what a device lacks is empty. With the names of the tools that it must have.
DESCRIBE = r"""
section() { echo "@$1"; }
section machine; uname -m
section cpuinfo; cat /proc/cpuinfo
section online; cat /sys/devices/system/cpu/online
section allowed; sed -n 's/^Cpus_allowed_list:[^0-9]*//p' /proc/self/status
section board; [ ! -r /proc/device-tree/model ] || tr -d '\000' < /proc/device-tree/model; echo
section phone
! command -v getprop > /dev/null ||
    echo "$(getprop ro.product.manufacturer) $(getprop ro.product.model)"
section clocks
for file in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq; do
    [ ! -r "$file" ] || echo "$file $(cat "$file")"
done
section missing
for tool; do command -v "$tool" > /dev/null || echo "$tool"; done
section end
"""


@dataclass(frozen=True)
class Described:
    """A device as it tells of itself.

    Attributes:
        name: for people, such as `Raspberry Pi 5 Model B Rev 1.0`.
        hardware: what identifies it for its latencies.
        cores, fastest_cores: that may be used.
        versions: of what runs the models.
    """

    name: str
    hardware: Mapping[str, object]
    cores: tuple[int, ...]
    fastest_cores: tuple[int, ...]
    versions: tuple[tuple[str, str], ...] = ()


def describe(transport: Transport, tools: Sequence[str] = ()) -> Described:
    """The device, without the versions of what runs models there.

    Args:
        tools: programs that it must have.

    Raises:
        LookupError: if it lacks one of them.
        ValueError: if what it tells makes no sense.
    """
    command = ["sh", "-c", DESCRIBE, "sh", *tools]
    ran = transport.run(command, timeout_s=SHORT_S, max_bytes=1_000_000)
    parts = re.split(r"^@([a-z]+)\n", ran.out.decode(errors="replace"), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if missing := found.get("missing", "").split():
        raise LookupError(
            f"{transport.name} lacks {', '.join(map(shown, missing))}: Android 9 and newer "
            "have them, and busybox has"
        )
    try:
        if "end" not in found:
            raise ValueError("it broke off")
        online = parse_cores(found["online"].strip())
        cores = parse_cores(found["allowed"].strip())
        cpu = hardware(found["cpuinfo"], check_text(found["machine"].strip(), 50), len(online))
        phone, board = found["phone"].strip(), found["board"].strip()
        name = check_text(phone or board or readable(str(cpu["model"])), 200)
        if not name.isprintable():
            raise ValueError(f"its name is {shown(name)}")
        pairs = (line.partition(" ") for line in found["clocks"].splitlines())
        clocks = {path: value for path, _, value in pairs}
    except (ValueError, LookupError) as error:
        raise ValueError(f"{transport.name} tells no sense of itself: {error}") from None
    return Described(
        name=name,
        hardware={**cpu, "board": board or phone},
        cores=tuple(cores),
        fastest_cores=tuple(fastest_cores(clocks, cores)),
    )


class Runner(Protocol):
    """What runs the models on the device: a runtime, and how to drive it there.

    Attributes:
        runtime: as `Job.runtime` has it.
        precision: what it computes in.
        int8: whether it computes QDQ models in int8.
    """

    runtime: str
    precision: str
    int8: bool

    def files(self) -> Mapping[str, bytes]:
        """What it needs on the device beside the models, by name."""
        ...

    def describe(self, transport: Transport) -> Described:
        """The device. Raises LookupError, with what to install, for one that can't run models."""
        ...

    def models(self, onnx: bytes) -> Mapping[str, bytes]:
        """A model as the runtime wants it, by suffix. Raises ValueError where it can't be had."""
        ...

    def job_files(self, job: Job) -> Mapping[str, bytes]:
        """What tells the device its job, by name, JOB among them."""
        ...

    def command(self, folder: str, job_folder: str) -> Sequence[str]:
        """Does the job: ends with 0, BUSY or UNUSABLE and leaves its answer in SAMPLES."""
        ...

    def rounds(self, answer: bytes, job: Job) -> Iterator[Round]:
        """What it measured. Raises ValueError where the answer stops making sense."""
        ...

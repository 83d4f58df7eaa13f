"""Android devices through the real `adb` client: the transport, and which devices there are.

The client's exit status tells nothing: it is 0 where the link breaks in mid-command, and 1 for its
own faults as for a program's. So every command prints a random mark and its status at the end of
its output; without them it didn't end.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from profilers.contract import DeviceError, LinkError
from profilers.remote.device import RemoteProfiler
from profilers.remote.runners import RunnerOptions, runner_for
from profilers.remote.transport import Ran, TooMuchError, run_bounded
from tfnas.files.bounded import shown

SCRATCH = "/data/local/tmp"  # the one folder of every Android where programs may be put and run
ASK_TIMEOUT_S = 60.0  # of small requests; the client may have to start its server first
SLOWEST = 1_000_000  # bytes/s of a link that still works: USB 2 gives 30 times as much
SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}")
STATUS = re.compile(rb" ([0-9]{1,3})\s*")
# What the client says of itself on standard error before that of the command.
CHATTER = re.compile(r"(\* daemon .*\n|adb server version .*\n)+")
ADVICE = {
    "unauthorized": "accept the key on the phone's screen (Allow USB debugging?)",
    "authorizing": "accept the key on the phone's screen (Allow USB debugging?)",
    "no permissions": "let this user open the phone's USB (udev rules; see `adb devices`)",
    "offline": "wait until it has booted; else unplug it and plug it in again",
    "not found": "see `adb devices`",
    "no device": "plug a phone in that has USB debugging on",
}


@dataclass(frozen=True)
class Listed:
    """A device as the client lists it: `state` is `device` where it can be used."""

    serial: str
    state: str


@dataclass
class Options(RunnerOptions):
    """conf/device/adb.yaml"""

    kind: str
    serial: str | None  # of `adb devices`; null: ANDROID_SERIAL, or the only one
    scratch: str  # a folder on the device where programs may be put and run


def open_device(options: Options, *, threads: int, batch: int, precision: str) -> RemoteProfiler:
    """See `profilers.open_profiler`."""
    runner = runner_for(options, batch=batch)
    transport = AdbTransport(options.serial, options.scratch)
    return RemoteProfiler(
        "adb", transport, runner, options, threads=threads, batch=batch, precision=precision
    )


def devices() -> list[Listed]:
    """All devices that the client knows, whatever their state.

    Raises:
        LookupError: if there is no `adb` program.
        LinkError: if its server doesn't answer.
    """
    ran = _adb(("devices",), ASK_TIMEOUT_S, 1_000_000)
    if ran.status:
        raise LinkError(f"adb devices: {_reason(ran.err)}")
    lines = ran.out.decode(errors="replace").splitlines()
    pairs = [line.split("\t", 1) for line in lines if "\t" in line]
    return [Listed(*pair) for pair in pairs]


def pick_serial(serial: str | None) -> str:
    """The serial of a device that can be used: the asked one, that of ANDROID_SERIAL, or the only.

    Raises:
        ValueError: if `serial` is none.
        LookupError: if there is no `adb` program.
        LinkError: if there is no such device or it isn't ready, or there are several to choose.
    """
    wanted = serial or os.environ.get("ANDROID_SERIAL")
    if wanted and not SERIAL.fullmatch(wanted):
        raise ValueError(f"device.serial={shown(wanted)}: expected one of `adb devices`")
    listed = devices()
    found = [d for d in listed if d.serial == wanted] if wanted else listed
    if not found:
        if wanted is None or not listed:
            which = f" {wanted}" if wanted else ""
            raise LinkError(f"no device{which} there: {ADVICE['no device']}")
        others = ", ".join(shown(d.serial) for d in listed)
        raise LinkError(f"device {wanted} not found, there are {others}")
    ready = [d for d in found if d.state == "device"]
    if len(ready) > 1:
        serials = ", ".join(d.serial for d in ready if SERIAL.fullmatch(d.serial))
        raise LinkError(f"more than one device: choose by device.serial=SERIAL among {serials}")
    if not ready:
        raise LinkError("; ".join(f"device {shown(d.serial)}: {_advised(d.state)}" for d in found))
    (one,) = ready
    if not SERIAL.fullmatch(one.serial):
        raise LinkError(f"the device has the serial {shown(one.serial)}: expected {SERIAL.pattern}")
    return one.serial


class AdbTransport:
    """See `profilers.remote.transport.Transport`.

    Where the link breaks or the time is over, the device ends the command and all that it started.

    Attributes:
        serial: which of the devices.

    Raises:
        ValueError, LookupError, LinkError: as `pick_serial`.
        LookupError: for a device older than Android 7, whose commands can't be told to end.
    """

    def __init__(self, serial: str | None = None, scratch: str = SCRATCH):
        self.serial = pick_serial(serial)
        self.scratch = scratch
        self.name = f"adb {self.serial}"
        features = self._adb(("features",), ASK_TIMEOUT_S, 1_000_000)
        if features.status:
            raise self._link_error(features.err)
        if b"shell_v2" not in features.out.split():
            raise LookupError(f"{self.name} is too old: expected Android 7 or newer")

    def run(self, command: Sequence[str], *, timeout_s: float, max_bytes: int = 10_000_000) -> Ran:
        """Run a program with its arguments; without a terminal, its input is empty.

        Raises:
            ValueError: if there is no program, or a NUL in an argument.
            LinkError: if the link broke, the device is gone or `timeout_s` is over.
            TooMuchError: if there is more than `max_bytes` of output.
        """
        try:
            return self._run(command, timeout_s, max_bytes)
        except TooMuchError:
            raise TooMuchError(f"{self.name}: more than {max_bytes:,} bytes of output") from None

    def push(self, files: Mapping[str, Path], folder: str) -> None:
        """Write local files into a folder on the device that exists, by their names there.

        Raises:
            ValueError: if a name is none of a file in a folder.
            LinkError: as `run`.
            OSError: if a local file isn't there, or the device can't take one.
        """
        if not files:
            return
        timeout_s = ASK_TIMEOUT_S
        # The client takes names on the device from local ones where it is given many files.
        with tempfile.TemporaryDirectory(prefix="tfnas-adb-") as temporary:
            sources = []
            for name, path in files.items():
                if name in ("", ".", "..") or "/" in name or "\0" in name:
                    raise ValueError(f"name {shown(name)}: expected that of a file in a folder")
                source = Path(temporary, name)
                source.symlink_to(path.resolve(strict=True))
                timeout_s += source.stat().st_size / SLOWEST
                sources.append(str(source))
            ran = self._adb(("push", *sources, folder + "/"), timeout_s, 10_000_000)
        if ran.status:
            said = (ran.out.decode(errors="replace") + ran.err).strip()
            _, remote, why = said.rpartition(": remote ")  # what the device itself answered
            if remote:
                raise DeviceError(f"{self.name} can't take files in {folder}: {shown(why)}")
            raise self._link_error(said)

    def pull(self, path: str, max_bytes: int) -> bytes:
        """A file on the device, as it is now.

        Raises:
            LinkError: as `run`.
            FileNotFoundError: if there is none.
            OSError: if it can't be read, or holds more than `max_bytes`.
        """
        place = f"{path} of {self.name}"
        try:
            # By `cat`, as its output ends at the limit, whatever the file's size was or is.
            ran = self._run(("cat", path), ASK_TIMEOUT_S + max_bytes / SLOWEST, max_bytes)
        except TooMuchError:
            raise TooMuchError(f"{place} holds more than {max_bytes:,} bytes") from None
        if ran.status:
            why = ran.err.strip()
            if why.endswith("No such file or directory"):
                raise FileNotFoundError(f"{place}: no such file")
            raise DeviceError(f"can't read {place}: {shown(why)}")
        return ran.out

    def _run(self, command: Sequence[str], timeout_s: float, max_bytes: int) -> Ran:
        if not command or any("\0" in word for word in command):
            raise ValueError(f"command {shown(list(command))}: expected a program and arguments")
        mark = secrets.token_hex(16)
        quoted = " ".join(map(shlex.quote, command))
        # The device tells its shell alone, by SIGHUP, that the client went away.
        script = f"trap 'kill 0' HUP; {quoted} </dev/null & wait $!; printf '{mark} %s' $?"
        ran = self._adb(("shell", "-n", "-T", script), timeout_s, max_bytes + 100)
        out, _, tail = ran.out.rpartition(mark.encode())
        ended = STATUS.fullmatch(tail)
        if ended is None:
            raise self._link_error(ran.err)
        if len(out) > max_bytes:
            raise TooMuchError
        return Ran(int(ended[1]), out, CHATTER.sub("", ran.err, count=1))

    def _adb(self, arguments: Sequence[str], timeout_s: float, max_bytes: int) -> Ran:
        return _adb(("-s", self.serial, *arguments), timeout_s, max_bytes)

    def _link_error(self, said: str) -> LinkError:
        again = f", or `adb connect {self.serial}`" if ":" in self.serial else ""
        return LinkError(f"{self.name}: {_reason(said)}{again}")


def _adb(arguments: Sequence[str], timeout_s: float, max_bytes: int) -> Ran:
    """Run the client to its end; its status is its own, not a command's.

    Raises:
        LookupError: if there is no such program.
        LinkError: if `timeout_s` is over.
        TooMuchError: if it writes more than `max_bytes`.
    """
    program = shutil.which("adb")
    if program is None:
        raise LookupError(
            "device=adb needs the program `adb` on the PATH: install Android's platform-tools "
            "(Debian, Ubuntu: apt install adb)"
        )
    try:
        return run_bounded([program, *arguments], timeout_s=timeout_s, max_bytes=max_bytes)
    except TimeoutError:
        asked = " ".join(arguments[:3])  # not all of a script
        raise LinkError(f"adb {asked}: no end within {timeout_s:g} s") from None


def _reason(said: str) -> str:
    """Why the client failed, in one line, with what to do."""
    lines = [line.strip() for line in CHATTER.sub("", said).splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(("error: ", "adb: "))]
    line = (own or lines or [""])[-1]
    if not line:
        return "the link broke, or the device ended the command's shell"
    return _advised(line[:300])


def _advised(text: str) -> str:
    for word, advice in ADVICE.items():
        if word in text:
            return f"{text}: {advice}"
    return text

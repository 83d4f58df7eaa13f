"""The transport over the real `adb` client, its server and a device end on this host."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from profilers.contract import LinkError
from profilers.remote import adb
from profilers.remote.adb import AdbTransport, devices, pick_serial
from profilers.remote.transport import TooMuchError, Transport
from tests.support.adb_device import GETPROP, MODERN, AdbDevice
from tests.support.entry import run_entry
from tfnas.app.command_line import override
from tfnas.latency.table import LatencyTable

pytestmark = pytest.mark.slow

needs_client = pytest.mark.skipif(
    shutil.which("adb") is None, reason="needs the program adb (Debian: apt install adb)"
)
ODD_NAMES = (
    "plain", "two  words", "it's", '"quoted"', "$(touch made)", "`touch made`", "a\nb\n", "tab\t",
    "-n", "--", "*", "~", "a;b", "a&b", "a\\b", "a,b", "grüße 手机", "%s", "# no", "'$HOME'",
)  # fmt: skip
ALL_BYTES = bytes(range(256)) * 3 + b"\r\n\n\r\0"


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server of the client's own for this file: its keys and its log in a folder, its port free,
    and it looks for no emulators."""
    folder = tmp_path_factory.mktemp("adb-home")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ADB_SERVER_SOCKET", "ADB_VENDOR_KEYS", "ADB_TRACE", "ANDROID_SERIAL"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("ADB_LOCAL_TRANSPORT_MAX_PORT", "5553")
        yield
        client("kill-server")


@pytest.fixture
def device_of(_server: None, tmp_path: Path) -> Iterator[Callable[..., AdbDevice]]:
    """Starts devices and connects the client to them."""
    with ExitStack() as stack:

        def start(features: str = MODERN, properties: str = GETPROP) -> AdbDevice:
            folder = tmp_path / f"device{len(list(tmp_path.iterdir()))}"
            device = stack.enter_context(AdbDevice(folder, features, properties))
            stack.callback(client, "disconnect", device.serial)
            connect(device)
            return device

        yield start


@pytest.fixture
def link(device_of: Callable[..., AdbDevice]) -> tuple[AdbTransport, AdbDevice]:
    device = device_of()
    return AdbTransport(device.serial, str(device.scratch)), device


def client(*arguments: str) -> str:
    run = subprocess.run(["adb", *arguments], capture_output=True, text=True, timeout=20)
    return run.stdout + run.stderr


def connect(device: AdbDevice, state: str = "device") -> None:
    client("disconnect", device.serial)
    client("connect", device.serial)
    wait_for(lambda: adb.Listed(device.serial, state) in devices())


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def starts_and_waits(transport: AdbTransport) -> tuple[Path, list[str]]:
    """A command of two processes that doesn't end, and the file that tells their ids."""
    pids = Path(transport.scratch, "pids")
    inner = f'echo $$ >> "{pids}"; sleep 60; :'
    return pids, ["sh", "-c", f"echo $$ >> '{pids}'; sh -c '{inner}'; :"]


@contextmanager
def dropped_when(device: AdbDevice, condition: Callable[[], bool]) -> Iterator[None]:
    """Loses the link once a condition, which may lack its file at first, holds."""

    def safe() -> bool:
        with suppress(FileNotFoundError):
            return condition()
        return False

    def watch() -> None:
        wait_for(safe)
        device.drop()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def gone(pids: Path) -> bool:
    return not any(Path("/proc", pid).exists() for pid in pids.read_text().split())


@needs_client
def test_status_output_and_errors(link: tuple[AdbTransport, AdbDevice]) -> None:
    transport: Transport = link[0]
    for status in (0, 1, 7, 126, 127, 255):
        script = f"echo out; echo of it >&2; exit {status}"
        ran = transport.run(("sh", "-c", script), timeout_s=10)
        assert (ran.status, ran.out, ran.err) == (status, b"out\n", "of it\n")
    assert transport.run(("true",), timeout_s=10).out == b""
    assert transport.run(("sh", "-c", "kill -9 $$"), timeout_s=10).status == 137
    missing = transport.run(("no such program",), timeout_s=10)
    assert missing.status == 127
    assert "no such program" in missing.err


@needs_client
def test_bytes_and_words_pass_as_they_are(link: tuple[AdbTransport, AdbDevice]) -> None:
    transport, device = link
    words = [*ODD_NAMES, ""]
    ran = transport.run(("printf", "%s\\0", *words), timeout_s=10)
    assert ran.out == b"".join(word.encode() + b"\0" for word in words)
    (device.scratch / "bytes").write_bytes(ALL_BYTES)
    assert transport.run(("cat", f"{device.scratch}/bytes"), timeout_s=10).out == ALL_BYTES
    assert transport.run(("cat",), timeout_s=10).out == b""  # its input is empty
    both = transport.run(("sh", "-c", "yes out | head -c 400000; yes err | head -c 50000 >&2"),
                         timeout_s=10)  # fmt: skip
    assert (len(both.out), len(both.err)) == (400_000, 50_000)
    for command in ((), ("echo", "\0")):
        with pytest.raises(ValueError, match="expected a program and arguments"):
            transport.run(command, timeout_s=10)
    assert not list(device.scratch.glob("made"))


@needs_client
def test_files_come_back_as_they_went(link: tuple[AdbTransport, AdbDevice], tmp_path: Path) -> None:
    transport, device = link
    big, small, empty = tmp_path / "big", tmp_path / "it's small", tmp_path / "empty"
    big.write_bytes(os.urandom(5_000_000))
    small.write_bytes(ALL_BYTES)
    empty.touch()
    folder = f"{transport.scratch}/$(touch made) 'x'\nü"
    assert transport.run(("mkdir", folder), timeout_s=10).status == 0
    transport.push({"big": big, "empty": empty, **dict.fromkeys(ODD_NAMES, small)}, folder)
    transport.push({}, folder)
    assert sorted(path.name for path in Path(folder).iterdir()) == sorted(
        ("big", "empty", *ODD_NAMES)
    )
    assert transport.pull(f"{folder}/big", 5_000_000) == big.read_bytes()
    assert transport.pull(f"{folder}/empty", 0) == b""
    for name in ODD_NAMES[:10]:
        assert transport.pull(f"{folder}/{name}", 10_000) == ALL_BYTES
    transport.push({"big": small}, folder)
    assert transport.pull(f"{folder}/big", 10_000) == ALL_BYTES
    assert list(device.scratch.iterdir()) == [Path(folder)]


@needs_client
def test_what_cannot_be_pushed_or_pulled(
    link: tuple[AdbTransport, AdbDevice], tmp_path: Path
) -> None:
    transport, device = link
    (device.scratch / "bytes").write_bytes(ALL_BYTES)
    refused(OSError, "holds more than 772 bytes", transport.pull, f"{device.scratch}/bytes", 772)
    refused(OSError, "holds more than", transport.pull, "/dev/zero", 100_000)
    refused(OSError, "Is a directory", transport.pull, transport.scratch, 10)
    refused(FileNotFoundError, "no such file", transport.pull, f"{device.scratch}/it's", 10)

    local = tmp_path / "local"
    local.write_bytes(bytes(300_000))
    for name in ("", ".", "..", "a/b", "/a", "a\0b"):
        refused(ValueError, "expected that of a file", transport.push, {name: local}, "/tmp")
    nowhere = {"a": tmp_path / "nowhere"}
    refused(FileNotFoundError, "nowhere", transport.push, nowhere, transport.scratch)
    missing = f"{transport.scratch}/missing"
    refused(OSError, "couldn't create file", transport.push, {"a": local}, missing)
    device.full = True
    two = {"a": local, "b": local}
    refused(OSError, "No space left on device", transport.push, two, transport.scratch)
    device.full = False
    transport.push(two, transport.scratch)


def refused(
    kind: type[Exception], text: str, call: Callable[..., object], *arguments: object
) -> None:
    with pytest.raises(kind, match=text) as caught:
        call(*arguments)
    assert not isinstance(caught.value, LinkError)


@needs_client
def test_output_is_limited(link: tuple[AdbTransport, AdbDevice]) -> None:
    transport, _ = link
    assert (
        len(transport.run(("head", "-c", "99", "/dev/zero"), timeout_s=10, max_bytes=99).out) == 99
    )
    for command in (("head", "-c", "100", "/dev/zero"), ("yes",)):
        with pytest.raises(TooMuchError, match="more than 99 bytes of output"):
            transport.run(command, timeout_s=10, max_bytes=99)


@needs_client
def test_what_takes_too_long_is_ended(link: tuple[AdbTransport, AdbDevice]) -> None:
    transport, _ = link
    pids, command = starts_and_waits(transport)
    with pytest.raises(LinkError, match=r"no end within 2 s"):
        transport.run(command, timeout_s=2)
    wait_for(lambda: gone(pids))
    assert transport.run(("echo", "again"), timeout_s=10).out == b"again\n"


@needs_client
def test_a_lost_link_is_no_success(link: tuple[AdbTransport, AdbDevice], tmp_path: Path) -> None:
    transport, device = link
    pids, command = starts_and_waits(transport)
    with (
        dropped_when(device, lambda: len(pids.read_text().split()) == 2),
        pytest.raises(LinkError, match=f"the link broke.* `adb connect {device.serial}`"),
    ):
        transport.run(command, timeout_s=20)
    wait_for(lambda: gone(pids))
    connect(device)
    assert transport.run(("echo", "again"), timeout_s=10).out == b"again\n"

    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    there = device.scratch / "large"
    with dropped_when(device, lambda: there.stat().st_size > 0), pytest.raises(LinkError):
        transport.push({"large": large}, transport.scratch)
    assert there.stat().st_size < 100_000_000


@needs_client
def test_reboot_and_a_new_server(device_of: Callable[..., AdbDevice]) -> None:
    device = device_of()
    transport = AdbTransport(device.serial, str(device.scratch))
    device.reboot(1.0)
    with pytest.raises(LinkError):
        transport.run(("true",), timeout_s=10)
    time.sleep(1.0)
    connect(device)
    assert transport.run(("echo", "up"), timeout_s=10).out == b"up\n"
    client("kill-server")
    with pytest.raises(LinkError, match=r"not found: see `adb devices`, or `adb connect"):
        transport.run(("true",), timeout_s=10)  # the client starts its server
    connect(device)
    assert transport.run(("sh", "-c", "echo up >&2"), timeout_s=10).err == "up\n"


@needs_client
def test_choosing(device_of: Callable[..., AdbDevice], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LinkError, match="no device there: plug a phone in"):
        pick_serial(None)
    with pytest.raises(LinkError, match=r"no device.* there"):
        pick_serial("R58M123ABC")
    one = device_of()
    assert pick_serial(None) == one.serial
    two = device_of(MODERN, GETPROP.replace("Model One", "Model Two"))
    serials = f"({one.serial}, {two.serial}|{two.serial}, {one.serial})"
    with pytest.raises(LinkError, match=rf"more than one device: .*device\.serial=.* {serials}$"):
        AdbTransport()
    for device, model in ((one, b"Model One"), (two, b"Model Two")):
        assert model in AdbTransport(device.serial).run(("getprop",), timeout_s=10).out
    monkeypatch.setenv("ANDROID_SERIAL", two.serial)
    assert AdbTransport().name == f"adb {two.serial}"
    assert AdbTransport(one.serial).serial == one.serial
    with pytest.raises(LinkError, match=r"device R58M123ABC not found, there are '127\.0\.0\.1:"):
        pick_serial("R58M123ABC")
    for serial in ("-d", "a b", "a;b", "a\n", "ü", "x" * 300):
        with pytest.raises(ValueError, match="expected one of `adb devices`"):
            pick_serial(serial)
    two.reboot(60.0)
    wait_for(lambda: adb.Listed(two.serial, "offline") in devices())
    with pytest.raises(LinkError, match=f"device '{two.serial}': offline: wait"):
        pick_serial(None)


@needs_client
def test_a_locked_phone(device_of: Callable[..., AdbDevice]) -> None:
    device = device_of()
    transport = AdbTransport(device.serial)
    device.locked = True
    device.drop()
    connect(device, "unauthorized")
    for call in (
        lambda: AdbTransport(device.serial), lambda: transport.run(("true",), timeout_s=10)
    ):  # fmt: skip
        with pytest.raises(LinkError, match=r"unauthorized.*: accept the key on the phone"):
            call()


@needs_client
def test_a_device_older_than_android_7_is_refused(device_of: Callable[..., AdbDevice]) -> None:
    with pytest.raises(LookupError, match="too old: expected Android 7"):
        AdbTransport(device_of("").serial)


def test_without_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LookupError, match=r"device=adb needs the program `adb` .* apt install adb"):
        AdbTransport()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'error: protocol fault (no status)' >&2; exit 1", "protocol fault"),
        ("printf '????????????\\tno permissions (user in plugdev); see [x]\\n'", "let this user"),
        ("printf 'a b\\tdevice\\n'", "the device has the serial 'a b': expected"),
        ("printf 'X1\\trecovery\\n'", "'X1': recovery"),
        ("echo nonsense", "no device there"),
    ],
)
def test_odd_clients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, expected: str
) -> None:
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    stand_in(monkeypatch, tmp_path, script)
    with pytest.raises(LinkError) as caught:
        AdbTransport()
    assert expected in str(caught.value)


def test_a_client_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "exec sleep 60")
    monkeypatch.setattr(adb, "ASK_TIMEOUT_S", 0.2)
    with pytest.raises(LinkError, match=r"adb devices: no end within 0\.2 s"):
        devices()


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    path = folder / "adb"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@needs_client
def test_a_table_over_the_real_client(device_of: Callable[..., AdbDevice], tmp_path: Path) -> None:
    """As a user profiles a phone that has Python; nothing is left there."""
    device = device_of()
    table = tmp_path / "phone.json"
    run = run_entry(
        "profilers", "device=adb", f"device.serial={device.serial}",
        override("device.scratch", device.scratch), f"device.python={sys.executable}",
        "device.rest_s=0", "device.job_s=3", "space=tiny", "profile=test", f"table={table}",
        cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    measured = LatencyTable.load(table)
    assert measured.device.kind == "adb"
    assert measured.calibration is not None
    assert not list(device.scratch.iterdir())

"""A device end that speaks the protocol of `adb`, on 127.0.0.1: commands run on this host.

After AOSP's protocol.txt, SYNC.TXT and shell_protocol.h: what `profilers.remote.adb` makes the
real client ask for, and nothing else. It can lose its link, reboot, fill its disk, be locked and
be an old one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO

VERSION = 0x01000000  # the one with checksums
HEADER = struct.Struct("<4s5I")  # command, two arguments, length, checksum, complement of command
MODERN = "shell_v2,cmd,stat_v2"
STDOUT, STDERR, EXIT = 1, 2, 3  # packets of shell_v2
GETPROP = """\
[ro.board.platform]: [bengal]
[ro.build.fingerprint]: [maker/one/one:14/AB1C.240101.001/1:user/release-keys]
[ro.build.version.release]: [14]
[ro.hardware]: [qcom]
[ro.lines]: [two
lines]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Maker]
[ro.product.model]: [Model One]
"""
GETPROP_SCRIPT = """\
cat <<'END' | if [ "$1" ]; then sed -n "s/^\\[$1\\]: \\[\\(.*\\)\\]/\\1/p"; else cat; fi
{}END
"""


class GoneError(Exception):
    """The other end is gone, of the link or of a stream."""


class AdbDevice:
    """Serves from `with` on; `folder` is for its own files.

    Attributes:
        serial: as the client calls it, once `adb connect SERIAL` was run.
        scratch: a folder for the transport.
        full: whether its disk is.
        locked: whether its owner has yet to accept the client's key.
    """

    def __init__(self, folder: Path, features: str = MODERN, properties: str = GETPROP):
        self.features = features
        self.full = self.locked = False
        self.scratch = folder / "data local tmp"
        self.scratch.mkdir(parents=True)
        self._bin = folder / "bin"
        self._bin.mkdir()
        self.set_properties(properties)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.serial = f"127.0.0.1:{self.port}"
        self._links: list[_Link] = []
        self._closed = False
        self._boots_at = 0.0
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> AdbDevice:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._thread.join()
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Lose the link."""
        while self._links:
            self._links.pop().close()

    def reboot(self, seconds: float) -> None:
        """Lose the link and take no other for some time."""
        self._boots_at = time.monotonic() + seconds
        self.drop()

    def set_properties(self, text: str) -> None:
        """What `getprop` prints, all or a name's value; without, it fails."""
        getprop = self._bin / "getprop"
        getprop.write_text("#!/bin/sh\n" + (GETPROP_SCRIPT.format(text) if text else "false\n"))
        getprop.chmod(0o755)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}"}

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._closed or time.monotonic() < self._boots_at:
                connection.close()
            else:
                self._links.append(_Link(self, connection))


class _Link:
    """One connection of a client's server: messages, by their streams."""

    def __init__(self, device: AdbDevice, connection: socket.socket):
        self.device = device
        self._connection = connection
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes = b"") -> None:
        magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        header = HEADER.pack(command, arg0, arg1, len(data), sum(data) & 0xFFFFFFFF, magic)
        try:
            with self._lock:
                self._connection.sendall(header + data)
        except OSError:
            raise GoneError from None

    def _serve(self) -> None:
        with contextlib.suppress(GoneError, OSError):
            while True:
                self._take(*self._receive())
        for stream in list(self._streams.values()):
            stream.close()
            stream.join()
        self._connection.close()

    def _receive(self) -> tuple[bytes, int, int, bytes]:
        command, arg0, arg1, length, checksum, magic = HEADER.unpack(self._read(HEADER.size))
        data = self._read(length)
        assert magic == int.from_bytes(command, "little") ^ 0xFFFFFFFF
        assert checksum == sum(data) & 0xFFFFFFFF
        return command, arg0, arg1, data

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._connection.recv(count - len(data))
            if not chunk:
                raise GoneError
            data += chunk
        return bytes(data)

    def _take(self, command: bytes, arg0: int, arg1: int, data: bytes) -> None:
        if command == b"AUTH" and arg0 == 3:
            pass  # the public key: the owner is asked
        elif self.device.locked:
            self.send(b"AUTH", 1, 0, bytes(20))
        elif command == b"CNXN":
            self.max_payload = min(arg1, 1 << 18 if self.device.features else 4096)
            banner = "device::ro.product.name=one;ro.product.model=Model One;ro.product.device=one;"
            banner += f"features={self.device.features}" if self.device.features else ""
            self.send(b"CNXN", VERSION, self.max_payload, banner.encode())
        elif command == b"OPEN":
            number = max(self._streams, default=0) + 1
            stream = _Stream(self, number, arg0, data.rstrip(b"\0"))
            self._streams[number] = stream
            stream.start()
        elif arg1 not in self._streams:
            pass  # it ended, and the other end didn't know yet
        elif command == b"OKAY":
            self._streams[arg1].ready.set()
        elif command == b"WRTE":
            self.send(b"OKAY", arg1, arg0)
            self._streams[arg1].incoming.put(data)
        elif command == b"CLSE":
            self._streams.pop(arg1).close()


class _Stream(threading.Thread):
    """One service on a link."""

    def __init__(self, link: _Link, number: int, remote: int, service: bytes):
        super().__init__()
        self.incoming: queue.Queue[bytes] = queue.Queue()
        self.ready = threading.Event()
        self._link, self._device = link, link.device
        self._ids = number, remote
        self._service = service
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._lock = threading.Lock()

    def close(self) -> None:
        """The other end closed it."""
        self._closed = True
        self.incoming.put(b"")
        self.ready.set()
        if self._process is not None and self._service.startswith(b"shell"):
            self._process.send_signal(signal.SIGHUP)  # as adbd does: the shell alone
        elif self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # a phone's run on: not here

    def run(self) -> None:
        name, _, rest = self._service.partition(b":")
        modern = b"shell_v2" in self._device.features.encode()
        with contextlib.suppress(GoneError):
            if name == b"exec":
                self._okay()
                self._execute(rest)
            elif name.startswith(b"shell,v2") and name.endswith(b",raw") and modern:
                self._okay()
                self._execute_v2(rest)
            elif name == b"sync":
                self._okay()
                self._sync()
            if not self._closed:
                number, remote = self._ids
                self._link.send(b"CLSE", number if self.ready.is_set() else 0, remote)

    def _okay(self) -> None:
        self.ready.set()
        self._link.send(b"OKAY", *self._ids)

    def write(self, data: bytes) -> None:
        with self._lock:
            for start in range(0, len(data), self._link.max_payload):
                self.ready.wait()
                if self._closed:
                    raise GoneError
                self.ready.clear()
                part = data[start : start + self._link.max_payload]
                self._link.send(b"WRTE", *self._ids, part)

    def read(self, count: int) -> bytes:
        while len(self._unread) < count:
            chunk = self.incoming.get()
            if self._closed:
                raise GoneError
            self._unread += chunk
        data, self._unread = self._unread[:count], self._unread[count:]
        return data

    def _start(self, command: bytes, stderr: int) -> subprocess.Popen[bytes]:
        # Its input stays open and empty, as that of a phone's shell does.
        self._process = subprocess.Popen(
            [b"/bin/sh", b"-c", command], cwd="/", env=self._device.environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
        )  # fmt: skip
        return self._process

    def _execute(self, command: bytes) -> None:
        with self._start(command, subprocess.STDOUT) as process:
            assert process.stdout is not None
            with contextlib.suppress(GoneError):
                while chunk := os.read(process.stdout.fileno(), 1 << 16):
                    self.write(chunk)

    def _execute_v2(self, command: bytes) -> None:
        def pump(kind: int, pipe: IO[bytes] | None) -> None:
            assert pipe is not None
            with contextlib.suppress(GoneError):
                while chunk := os.read(pipe.fileno(), 1 << 16):
                    self.write(struct.pack("<BI", kind, len(chunk)) + chunk)

        with self._start(command, subprocess.PIPE) as process:
            errors = threading.Thread(target=pump, args=(STDERR, process.stderr))
            errors.start()
            pump(STDOUT, process.stdout)
            errors.join()
            status = process.wait()
        self.write(struct.pack("<BIB", EXIT, 1, status & 0xFF))

    def _sync(self) -> None:
        while True:
            name, length = struct.unpack("<4sI", self.read(8))
            path = self.read(length)
            if name == b"STAT":
                found = _stat(path)
                self.write(struct.pack("<4s3I", name, found[0], found[1] & 0xFFFFFFFF, 0))
            elif name in (b"STA2", b"LST2"):
                mode, size = _stat(path)
                answer = struct.pack("<4sI2Q4IQ3q", name, 0 if mode else 2, 0, 0, mode, 1, 0, 0,
                                     size, 0, 0, 0)  # fmt: skip
                self.write(answer)
            elif name == b"SEND":
                self._take_file(path.rpartition(b",")[0])
            else:
                return  # QUIT

    def _take_file(self, path: bytes) -> None:
        fault = b"write failed: No space left on device" if self._device.full else b""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            file = None if fault else os.fdopen(os.open(path, flags, 0o644), "wb")
        except OSError as error:
            file, fault = None, f"couldn't create file: {error.strerror}".encode()
        with file or contextlib.nullcontext():
            while True:  # to the end in any case: only then the client reads what went wrong
                name, length = struct.unpack("<4sI", self.read(8))
                if name == b"DONE":
                    break
                assert name == b"DATA"
                data = self.read(length)
                if file is not None:
                    file.write(data)
        self.write(struct.pack("<4sI", b"FAIL" if fault else b"OKAY", len(fault)) + fault)


def _stat(path: bytes) -> tuple[int, int]:
    """Mode and size, zeros where there is nothing."""
    try:
        status = Path(os.fsdecode(path)).stat()
    except OSError:
        return 0, 0
    return status.st_mode, status.st_size

"""Linux boards over ssh: the system's own client, with the user's keys, hosts and settings.

Host keys are checked as the user's ssh checks them; nothing is asked for, and nothing listens.
"""

from __future__ import annotations

import re
import shlex
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from profilers.contract import DeviceError, LinkError
from profilers.remote.device import RemoteProfiler
from profilers.remote.runners import RunnerOptions, runner_for
from profilers.remote.transport import Ran, TooMuchError, run_bounded

CONNECT_S = 15
LINK_FAILED = 255  # ssh's own status: it never got to the command, or the link broke
NO_SUCH_FILE = 66


@dataclass
class Options(RunnerOptions):
    """conf/device/ssh.yaml"""

    kind: str
    host: str | None  # as ssh takes it: an alias, HOST or USER@HOST
    port: int | None
    config: str | None  # ssh's configuration file, if not the user's own


def open_device(options: Options, *, threads: int, batch: int, precision: str) -> RemoteProfiler:
    """See `profilers.open_profiler`."""
    runner = runner_for(options, batch=batch)
    if options.host is None:
        raise ValueError("device=ssh needs device.host=HOST, as ssh takes it")
    transport = SshTransport(options.host, options.port, options.config)
    return RemoteProfiler(
        "ssh", transport, runner, options, threads=threads, batch=batch, precision=precision
    )


class SshTransport:
    """See `profilers.remote.transport.Transport`. Needs a POSIX shell, tar and Python on the board.

    Raises:
        ValueError: for what can't be a host.
        LookupError: without an ssh client here.
        LinkError: if the board can't be reached.
    """

    def __init__(self, host: str, port: int | None = None, config: str | None = None):
        if not re.fullmatch(r"[A-Za-z0-9_.@:%\[\]+-]+", host) or host.startswith("-"):
            raise ValueError(f"device.host={host!r}: expected HOST, USER@HOST or an alias of ssh's")
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"device.port={port}: expected 1 to 65535")
        if config is not None and not Path(config).is_file():
            raise ValueError(f"device.config={config}: no such file")
        self.name = f"ssh {host}" + (f" port {port}" if port else "")
        options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_S}", "LogLevel=ERROR"]
        # A link that is silently gone is noticed after 20 s.
        options += ["ServerAliveInterval=5", "ServerAliveCountMax=4", "ClearAllForwardings=yes"]
        options += ["StrictHostKeyChecking=yes", "RemoteCommand=none", "RequestTTY=no"]
        self._ssh = ["ssh", "-a", "-x", *(part for option in options for part in ("-o", option))]
        self._ssh += ["-F", config] if config else []
        self._ssh += ["-p", str(port)] if port else []
        self._ssh += ["--", host]
        shell = 'umask 077; d="${XDG_CACHE_HOME:-$HOME/.cache}"; mkdir -p "$d" && cd "$d" && pwd'
        ran = self.run(["sh", "-c", shell], timeout_s=CONNECT_S + 15, max_bytes=10_000)
        self.scratch = ran.out.decode(errors="replace").strip()
        if ran.status or not self.scratch.startswith("/") or "\n" in self.scratch:
            raise LookupError(
                f"{self.name}: its shell gives no folder to work in ({ran.last_line}): "
                "expected a POSIX shell and a home folder that can be written"
            )

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        max_bytes: int = 10_000_000,
        stdin: IO[bytes] | None = None,
    ) -> Ran:
        # A shell that waits for the command: where it is the command itself, one that a signal
        # ended looks like a link that broke.
        script = shlex.join(["sh", "-c", '"$@"; exit $?', "sh", *command])
        try:
            ran = run_bounded(
                [*self._ssh, script], timeout_s=timeout_s, max_bytes=max_bytes, stdin=stdin
            )
        except FileNotFoundError:
            raise LookupError("device=ssh needs the ssh client: install openssh-client") from None
        except TimeoutError:
            raise LinkError(f"{self.name}: no end after {timeout_s:.0f} s") from None
        except TooMuchError:
            raise TooMuchError(f"{self.name}: more than {max_bytes:,} bytes came back") from None
        if ran.status == LINK_FAILED:
            raise LinkError(f"{self.name}: {self._why(ran)}")
        return ran

    def push(self, files: Mapping[str, Path], folder: str) -> None:
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for name, path in files.items():
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode = path.stat().st_size, 0o600
                    with path.open("rb") as content:
                        tar.addfile(entry, content)
            size = archive.tell()
            archive.seek(0)
            timeout_s = 60 + size / 100_000  # 100 kB/s, the slowest link that makes sense
            ran = self.run(["tar", "-xf", "-", "-C", folder], timeout_s=timeout_s, stdin=archive)
        if ran.status:
            raise DeviceError(f"{self.name} can't take files: {ran.first_line}")

    def pull(self, path: str, max_bytes: int) -> bytes:
        script = f'[ -f "$1" ] || exit {NO_SUCH_FILE}; cat "$1"'
        timeout_s = 60 + max_bytes / 100_000
        ran = self.run(["sh", "-c", script, "sh", path], timeout_s=timeout_s, max_bytes=max_bytes)
        if ran.status == NO_SUCH_FILE:
            raise FileNotFoundError(f"{self.name} has no file {path}")
        if ran.status:
            raise DeviceError(f"{self.name} can't read {path}: {ran.last_line}")
        return ran.out

    def _why(self, ran: Ran) -> str:
        text = ran.last_line if ran.err.strip() else "the link broke"
        if "IDENTIFICATION HAS CHANGED" in ran.err:
            text += (
                "; its key is another one than ssh knows: find out why before you trust it "
                "(ssh-keygen -R forgets the old one)"
            )
        elif "Host key verification failed" in ran.err:
            text += "; connect once by hand with ssh to see and accept its key"
        elif "Permission denied" in ran.err:
            text += "; a key is needed that works without a password (ssh-copy-id, ssh-agent)"
        return text

"""A real sshd on loopback, with keys of its own, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def is_installed() -> bool:
    return SSHD is not None and all(map(shutil.which, ("ssh", "ssh-keygen")))


@contextmanager
def sshd(folder: Path) -> Iterator[Path]:
    """The configuration file of a client that knows the host `board`, and `stranger`, the same
    machine without a known host key, `refused`, without an accepted key, and `changed`, whose
    host key was another one."""
    assert SSHD is not None
    for name in ("host", "user", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    port = _free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    key = (folder / "host.pub").read_text().strip()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
    (folder / "nobody").write_text("")
    other = (folder / "other.pub").read_text().strip()
    (folder / "before").write_text(f"[127.0.0.1]:{port} {other}\n")
    user = os.environ.get("USER") or subprocess.check_output(["id", "-un"], text=True).strip()
    hosts = (
        ("board", "user", "known"),
        ("stranger", "user", "nobody"),
        ("refused", "other", "known"),
        ("changed", "user", "before"),
    )
    client = folder / "client"
    client.write_text(
        "".join(
            f"Host {host}\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n"
            f"  IdentityFile {folder}/{identity}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder}/{known}\n  GlobalKnownHostsFile /dev/null\n"
            for host, identity, known in hosts
        )
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it gives up its rights
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _wait_for(port, server, folder / "sshd.log")
        yield client
    finally:
        server.terminate()
        server.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"sshd didn't start: {log.read_text()}")

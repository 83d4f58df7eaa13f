"""python -m benchmarks.latency.adb_qemu [--folder FOLDER] [--mirror URL] [COMMAND...]

The path to a phone without a phone: the real `adb` client, Debian trixie's real `adbd`, and behind
it an aarch64 Python with ONNX Runtime, run by trixie's `qemu-user`. Nets exported here go there by
`profilers.remote.adb`, run, and their outputs come back and are compared with this host's. An
emulated processor has no latency worth telling, so no clock is read.

`adbd` listens without asking for a key. So it runs in a network namespace of its own, whose only
interface is its loopback, and the address of virtual machines' sockets is kept from it.

Needs Linux x86-64 with Debian's apt and keys, `adb`, `unshare`, `ip`, root, and 0.8 GB for what it
fetches from the mirror of this system and from the index of its pip. A COMMAND runs there instead
of the comparison, with the device connected and DEVICE_PYTHON the path of its interpreter.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profilers.remote.adb import AdbTransport

INSIDE = "TFNAS_ADB_QEMU"  # set in the namespace
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITE, PYTHON = "trixie", "3.13"
HOST_PACKAGES, GUEST_PACKAGES = ("adbd", "qemu-user"), (f"python{PYTHON}", "libstdc++6")
WHEELS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
SERIAL = "127.0.0.1:5555"
TOLERANCE = 1e-5  # of the largest output
SPACES = ("tiny", "tfnas")
INFER = """
import platform, sys
import numpy as np
import onnxruntime as ort
model, inputs, outputs = sys.argv[1:]
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
(output,) = session.run(None, {session.get_inputs()[0].name: np.load(inputs)})
np.save(outputs, output)
print(platform.machine(), "onnxruntime", ort.__version__, "numpy", np.__version__)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="keep what is fetched there, for a next run")
    parser.add_argument("--mirror", help="of Debian; that of this system's apt if not given")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tfnas-adbd-")))
        folder = folder.resolve()
        if INSIDE in os.environ:
            with device(folder):
                sys.exit(subprocess.call(options.command) if options.command else check(folder))
        for tool in ("adb", "apt-get", "dpkg-deb", "unshare", "ip"):
            if shutil.which(tool) is None:
                parser.error(f"needs the program {tool}")
        fetch(folder, options.mirror or own_mirror())
        apart = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        up = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        again = [sys.executable, "-m", "benchmarks.latency.adb_qemu", "--folder", str(folder)]
        environment = {**os.environ, INSIDE: "1"}
        sys.exit(subprocess.call([*apart, *up, *again, *options.command], env=environment))


def fetch(folder: Path, mirror: str) -> None:
    """`host`, `guest` and `packages` in the folder, unless they are there."""
    for name, architecture, wanted in (
        ("host", "amd64", HOST_PACKAGES),
        ("guest", "arm64", GUEST_PACKAGES),
    ):
        if not (folder / name).is_dir():
            root = folder / f"{name}.part"
            for archive in debs(folder / f"apt-{name}", mirror, architecture, wanted):
                subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
            for link in ("bin", "lib", "lib64"):  # a package of the base system makes these
                if not (root / link).exists():
                    (root / link).symlink_to(f"usr/{link}")
            root.rename(folder / name)
    if not (folder / "packages").is_dir():
        part = folder / "packages.part"
        wheels = [f"{name}=={metadata.version(name)}" for name in ("onnxruntime", "numpy")]
        platforms = [f"--platform={name}" for name in WHEELS]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", f"--target={part}", *platforms,
             f"--python-version={PYTHON}", "--only-binary=:all:", *wheels],
            check=True,
        )  # fmt: skip
        part.rename(folder / "packages")
    interpreter(folder).write_text(
        f"#!/bin/sh\nPYTHONPATH={folder}/packages exec {folder}/host/usr/bin/qemu-aarch64 "
        f'-L {folder}/guest {folder}/guest/usr/bin/python{PYTHON} "$@"\n'
    )
    interpreter(folder).chmod(0o755)


def interpreter(folder: Path) -> Path:
    return folder / "python"


def own_mirror() -> str:
    run = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return min(run.stdout.split(), key=len)  # not that of security updates


def debs(folder: Path, mirror: str, architecture: str, wanted: Sequence[str]) -> list[Path]:
    """The packages and all that they need, by an apt whose every file is in the folder: nothing of
    this system's changes, and nothing is installed on it."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # nothing is installed yet
    (folder / "sources").write_text(f"deb [signed-by={KEYS}] {mirror} {SUITE} main\n")
    settings = folder / "apt.conf"
    settings.write_text(
        f'Dir::State "{folder}"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}";\n'
        f'Dir::Etc::sourcelist "{folder}/sources"; Dir::Etc::sourceparts "-";\n'
        f'APT::Architecture "{architecture}"; APT::Architectures {{ "{architecture}"; }};\n'
        'Acquire::Languages "none"; APT::Install-Recommends "false"; APT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(settings)}
    for arguments in (("update",), ("--yes", "--download-only", "install", *wanted)):
        subprocess.run(["apt-get", "-qq", *arguments], check=True, env=environment)
    return sorted((folder / "archives").glob("*.deb"))


@contextmanager
def device(folder: Path) -> Iterator[None]:
    """The client with a server, keys and a log of its own, connected to an `adbd`."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    os.environ |= {
        "HOME": str(home),
        "TMPDIR": str(home),
        "DEVICE_PYTHON": str(interpreter(folder)),
    }
    os.environ["ANDROID_SERIAL"] = SERIAL  # the client finds it as an emulator too
    for name in ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_PORT"):
        os.environ.pop(name, None)
    with ExitStack() as stack:
        take_vsock(stack)
        log = stack.enter_context((home / "adbd.log").open("wb"))
        process = stack.enter_context(
            subprocess.Popen(adbd(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        )
        stack.callback(process.kill)
        stack.callback(said, "adb", "kill-server")
        end = time.monotonic() + 30
        while f"{SERIAL}\tdevice" not in said("adb", "devices"):
            if time.monotonic() > end:
                raise TimeoutError(f"no adbd: see {home}/adbd.log")
            time.sleep(0.2)
            said("adb", "connect", SERIAL)
        yield


def take_vsock(stack: ExitStack) -> None:
    """Bind the port that adbd would listen on for the host of a virtual machine, and don't listen:
    network namespaces don't part these sockets."""
    try:
        taken = stack.enter_context(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return  # then adbd can't either
        raise
    taken.bind((socket.VMADDR_CID_ANY, 5555))


def adbd(folder: Path) -> list[str]:
    """The program by its own loader, as this system's C library may be older."""
    libraries = folder / "host/usr/lib/x86_64-linux-gnu"
    return [
        f"{libraries}/ld-linux-x86-64.so.2", "--library-path", f"{libraries}:{libraries}/android",
        f"{folder}/host/usr/lib/android-sdk/platform-tools/adbd",
    ]  # fmt: skip


def said(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return run.stdout + run.stderr


def check(folder: Path) -> int:
    """Exit status: 0 if every output is the host's."""
    from profilers.remote.adb import AdbTransport

    print("client:", " ".join(said("adb", "version").split()))
    print("device:", said(*adbd(folder), "--version").strip(), f"({package(folder, 'adbd')})")
    print("behind:", said(str(folder / "host/usr/bin/qemu-aarch64"), "--version").splitlines()[0])
    with tempfile.TemporaryDirectory() as temporary:
        transport = AdbTransport(SERIAL, scratch=temporary)
        check_commands(transport)
        check_job(transport, folder)
        return 0 if all(equal(transport, name, folder) for name in SPACES) else 1


def package(folder: Path, name: str) -> str:
    return ", ".join(path.name for path in (folder / "apt-host/archives").glob(f"{name}_*.deb"))


def check_commands(transport: AdbTransport) -> None:
    """What the tests' device end does is what the real one does."""
    from profilers.contract import LinkError
    from profilers.remote.transport import Ran

    script = "echo out; echo err >&2; exit 7"
    ran = transport.run(("sh", "-c", script), timeout_s=30)
    assert ran == Ran(7, b"out\n", "err\n"), ran
    assert transport.run(("cat",), timeout_s=30) == Ran(0, b"", "")
    pids = f"{transport.scratch}/pids"
    try:
        transport.run(
            ("sh", "-c", f"echo $$ > {pids}; sh -c 'echo $$ >> {pids}; sleep 60'; :"), timeout_s=2
        )
    except LinkError:
        time.sleep(1)
    left = [pid for pid in transport.pull(pids, 1000).split() if running(pid.decode())]
    assert not left, f"processes {left} outlive their link"
    print("commands: status, output, errors and empty input pass, nothing outlives a broken link")


def running(pid: str) -> bool:
    try:
        return "Z" not in Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def check_job(transport: AdbTransport, folder: Path) -> None:
    """The runner of boards takes rounds there; what it measured means nothing and isn't told."""
    from profilers.measure.bench import REFERENCE
    from profilers.onboard.rounds import Target
    from profilers.remote.device import RemoteOptions, RemoteProfiler
    from profilers.remote.runners import PythonRunner

    profiler = RemoteProfiler(
        "adb", transport, PythonRunner("onnxruntime", str(interpreter(folder))),
        RemoteOptions(cores=None, rest_s=0, job_s=1, memory_mb=400),
        threads=1, batch=1, precision="fp32",
    )  # fmt: skip
    target = Target(profiler.workload(REFERENCE), 1.0, [])
    with profiler.exclusive(print):
        rounds = profiler.rounds(profiler.workload(REFERENCE), random.Random(0), time.monotonic)
        taken = rounds.take([target], at_least=3, seconds=0.1)
    assert taken >= 3
    assert len(target.out) >= taken
    versions = ", ".join(" ".join(pair) for pair in profiler.device.versions.items())
    print(f"runner: {versions}, cores {profiler.cores}, {taken} rounds and their samples came back")


def equal(transport: AdbTransport, name: str, folder: Path) -> bool:
    """Whether a net of a space has the same output there as here."""
    import numpy as np
    import onnxruntime as ort

    from benchmarks.supernet.steps import load_space
    from tfnas.deploy.onnx_file import export

    there = f"{transport.scratch}/{name} on the device"
    assert transport.run(("mkdir", there), timeout_s=30).status == 0
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        path = export(load_space(name).sample(random.Random(0)), None, here / "model.onnx").path
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        (node,) = session.get_inputs()
        x = np.random.default_rng(0).standard_normal(node.shape, dtype=np.float32)
        (expected,) = session.run(None, {node.name: x})
        np.save(here / "input.npy", x)
        (here / "infer.py").write_text(INFER)
        files = ("infer.py", "model.onnx", "input.npy")
        transport.push({file: here / file for file in files}, there)
        words = [f"{there}/{file}" for file in (*files, "output.npy")]
        ran = transport.run((str(interpreter(folder)), *words), timeout_s=600)
        if ran.status:
            raise RuntimeError(f"{name} ends with {ran.status} there: {ran.err[-1000:]}")
        (here / "output.npy").write_bytes(transport.pull(words[-1], 1_000_000))
        output = np.load(here / "output.npy")
        size = path.stat().st_size / 1e6
    assert output.shape == expected.shape, output.shape
    difference, scale = np.abs(output - expected).max(), np.abs(expected).max()
    print(
        f"{name}, {x.shape[-1]} px, {size:.1f} MB, on {ran.out.decode().strip()}: max difference "
        f"{difference:.3g}, {difference / scale:.1g} of the largest output {scale:.3g}"
    )
    return bool(difference <= TOLERANCE * scale)


if __name__ == "__main__":
    main()

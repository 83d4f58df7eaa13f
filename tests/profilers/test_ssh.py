"""Boards over ssh: a real client and a real server on loopback, end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from profilers.contract import LinkError
from profilers.remote.ssh import SshTransport
from profilers.remote.transport import TooMuchError
from tests.support.entry import run_entry
from tests.support.spaces import load_space, macs_table
from tests.support.sshd import is_installed, sshd
from tfnas.latency.stages import load_stages
from tfnas.latency.table import LatencyTable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="needs ssh, ssh-keygen and sshd"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with sshd(tmp_path_factory.mktemp("sshd")) as path:
        yield path


@pytest.fixture
def board(client: Path) -> SshTransport:
    return SshTransport("board", config=str(client))


def test_commands_keep_their_arguments_and_status(board: SshTransport) -> None:
    odd = ["a b", "$(id)", "`id`", "'", '"', "\\", "*", "é", "a\nb", ";exit 3", "", "-n", "~"]
    ran = board.run(["printf", "%s\\0", *odd], timeout_s=20)
    assert ran.out.decode().split("\0")[:-1] == odd
    ran = board.run(["sh", "-c", "echo out; echo err >&2; exit 7"], timeout_s=20)
    assert (ran.status, ran.out, ran.err) == (7, b"out\n", "err\n")
    # What a signal ends is no link that broke.
    assert board.run(["sh", "-c", "kill -9 $$"], timeout_s=20).status == 137
    binary = board.run(["printf", "\\000\\377\\r\\n"], timeout_s=20)
    assert binary.out == b"\0\xff\r\n"


def test_files_go_there_and_back(board: SshTransport, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder; with $names"
    folder.mkdir()
    content = bytes(range(256)) * 20_000
    local = tmp_path / "local"
    local.write_bytes(content)
    board.push({"a": local, "b c.onnx": local}, str(folder))
    assert board.pull(f"{folder}/b c.onnx", 6_000_000) == content
    with pytest.raises(FileNotFoundError, match="no file"):
        board.pull(f"{folder}/nothing", 10)
    with pytest.raises(OSError, match="more than 100 bytes"):
        board.pull(f"{folder}/a", 100)
    with pytest.raises(TooMuchError, match="more than 1,000 bytes"):
        board.run(["cat", "/dev/zero"], timeout_s=20, max_bytes=1000)
    with pytest.raises(OSError, match="can't take files"):
        board.push({"a": local}, f"{folder}/nowhere")


def test_links_that_fail_say_why(client: Path, board: SshTransport) -> None:
    with pytest.raises(LinkError, match=r"Host key verification failed.*connect once by hand"):
        SshTransport("stranger", config=str(client))
    with pytest.raises(LinkError, match=r"find out why before you trust it"):
        SshTransport("changed", config=str(client))
    with pytest.raises(LinkError, match=r"Permission denied.*ssh-copy-id"):
        SshTransport("refused", config=str(client))
    with pytest.raises(LinkError, match="no end after 1 s"):
        board.run(["sleep", "5"], timeout_s=1)
    with pytest.raises(LinkError):
        SshTransport("127.0.0.1", port=1, config=str(client))


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "a b", "a;id", "", "$(id)"])
def test_hosts_that_are_none_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"device\.host"):
        SshTransport(host)


def test_a_board_without_its_runtime_says_what_to_install(client: Path, tmp_path: Path) -> None:
    bare = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = bare / "bin" / "python"
    run = run_entry(
        "profilers", "device=ssh", "device.host=board", f"device.config={client}",
        f"device.python={python}", "space=tiny", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 2
    assert "lacks onnxruntime: run `" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr


def test_a_board_that_was_asked_for_and_is_not_there_is_an_error(
    client: Path, tmp_path: Path
) -> None:
    """Not a search that ends unverified: whoever names a board wants it measured."""
    table = tmp_path / "t.json"
    made_up = macs_table(load_space())
    replace(made_up, device=replace(made_up.device, kind="ssh", backend="onnxruntime")).save(table)
    for wrong in (["device.host=stranger"], ["device.host=board", "device.cores=4000"]):
        run = run_entry(
            "tfnas.search", "device=ssh", *wrong, f"device.config={client}", "target_ms=0.2",
            f"device.python={sys.executable}", f"table={table}", "space=tiny", "budget=test",
            f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 2, run.stdout + run.stderr
        assert "Traceback" not in run.stdout + run.stderr


@pytest.mark.parametrize("wrong", ["+device.threads=2", "~device.kind", "+device.nonsense=1"])
def test_options_that_are_none_are_one_line(wrong: str, tmp_path: Path) -> None:
    run = run_entry("profilers", "device=ssh", "device.host=board", wrong, cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_from_profile_to_verify(client: Path, tmp_path: Path) -> None:
    """The whole path on a device that is elsewhere, as a user goes it."""
    device = (
        "device=ssh", "device.host=board", f"device.config={client}",
        f"device.python={sys.executable}", "device.job_s=20",
    )  # fmt: skip
    table = tmp_path / "board.json"
    run = run_entry(
        "profilers", *device, "space=tiny", "profile=test", f"table={table}", cwd=tmp_path
    )
    assert run.returncode == 0, run.stdout + run.stderr
    measured = LatencyTable.load(table)
    assert measured.device.kind == "ssh"
    net_ms = sorted(row.median_ms for row in measured.nets.values())
    target_ms = (net_ms[0] + net_ms[-1]) / 2
    out = tmp_path / "run"
    # A busy machine may take twice as long: what is tested is the path, not the figure.
    run = run_entry(
        "tfnas.search", *device, f"table={table}", "space=tiny", "budget=test",
        "strategy=tfnas", "loop_minutes=0.05", "stage_minutes=0.01", "verify=test",
        "verify.max_minutes=0.15", f"target_ms={target_ms}", "tolerance=9",
        f"hydra.run.dir={out}", cwd=tmp_path,
    )  # fmt: skip
    for _ in range(3):  # what is measured beside it on the same core may leave nothing usable
        if "no usable measurement" in run.stdout:
            run = run_entry("tfnas.search", f"resume={out}", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["verified"] is True
    assert result["device"] == measured.device.name
    assert result["measured_ms"] > 0
    stages = load_stages(out / "stages.json")
    assert stages.device == measured.device.name
    assert [part.name for part in stages.parts] == ["stem", "stage 1", "stage 2", "head"]
    assert f"device.host=board device.config={client}" in run.stdout  # the command to verify again
    # Without a way to the device the same table serves, and nothing is said to be verified.
    alone = tmp_path / "alone"
    run = run_entry(
        "tfnas.search", f"table={table}", "space=tiny", "budget=test", "strategy=tfnas",
        f"target_ms={target_ms}",
        f"hydra.run.dir={alone}", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads((alone / "result.json").read_text())["verified"] is False
    assert not (alone / "stages.json").exists()
    shutil.rmtree(out)

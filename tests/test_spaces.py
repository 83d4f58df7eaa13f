"""tfnas space from module:factory: what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.entry import run_entry
from tfnas.space.subnet import Subnet
from tfnas.spaces import main

NETS = "tests.support.own_nets"


def status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_a_space_is_written_and_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status("from", f"{NETS}:mobilenet_v3", "--resolution", "64", "48") == 0
    told = capsys.readouterr().out
    assert "  bneck.0  ok  mbconv_v3 32x24px 16·16→16 k3 s2 se8 relu\n" in told
    net = Subnet.load(tmp_path / "mobilenet_v3" / "subnet.json")
    assert f"{net.params:,} parameters and {net.macs / 1e6:.1f} M multiply-adds, as the" in told
    assert "next: python -m tfnas.search --config-dir=mobilenet_v3 space=mobilenet_v3" in told
    assert "subnet=mobilenet_v3/subnet.json weights=mobilenet_v3/weights.safetensors" in told
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == [
        "mobilenet_v3/space/mobilenet_v3.yaml", "mobilenet_v3/subnet.json",
        "mobilenet_v3/weights.safetensors",
    ]  # fmt: skip
    again = status("from", f"{NETS}:mobilenet_v3")
    assert again == 2
    assert "mobilenet_v3.yaml exists; delete it or give another folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_takes_the_folder(tmp_path: Path) -> None:
    made = run_entry(
        "tfnas.spaces", "from", f"{NETS}:mobilenet_v3", "--resolution", "64", cwd=tmp_path
    )
    assert made.returncode == 0
    run = run_entry(
        "tfnas.search", "--config-dir=mobilenet_v3", "space=mobilenet_v3", "target_ms=8",
        "--cfg", "job", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "kind: pooled_linear" in run.stdout
    assert "  name: mobilenet_v3\n" in run.stdout


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--out", str(tmp_path / "there"), "--name", "other", "--resolution", "32"]
    candidates = ["--kernels", "3", "7", "--expansions", "4", "--squeeze-excite", "both"]
    assert status("from", f"{NETS}:functional", *given, *candidates) == 0
    told = capsys.readouterr().out
    assert "40 biases in front of batch norms went into these" in told
    assert "20 parameters of the module do nothing for its output" in told
    text = (tmp_path / "there" / "space" / "other.yaml").read_text()
    assert "name: other\nresolution: 32\n" in text
    assert "kernels: [3, 7]\n" in text
    assert "  - {ratio: 4, min_ratio: 2.67, max_ratio: 5.33, se_ratio: 0.5}\n" in text


def test_blocks_that_do_not_fit_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    run = run_entry("tfnas.spaces", "from", f"{NETS}:resnet", "--resolution", "64", cwd=tmp_path)
    assert run.returncode == 2
    lines = run.stdout.splitlines()
    assert lines[0] == "  conv1     ok  conv 64px 3→8 k7 s2 relu"
    assert lines[1] == "  maxpool   NO  max_pool2d: no layer of a space does this"
    assert [line.split()[:2] for line in lines[2:]] == [
        ["layer1.0", "NO"], ["layer1.1", "NO"], ["layer2.0", "NO"], ["layer2.1", "NO"],
        ["fc", "ok"],
    ]  # fmt: skip
    (error,) = run.stderr.splitlines()
    assert error == f"error: 5 of 7 blocks of {NETS}:resnet fit no space; nothing was written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere:net"], "error: nowhere:net: ModuleNotFoundError"),
        (["tests.support.own_nets:CLASSES"], "TypeError"),
        ([f"{NETS}:mobilenet_v2", "--name", "tiny"], "there is a space tiny already; give another"),
        ([f"{NETS}:mobilenet_v2", "--name", "a/b"], "name 'a/b': expected letters, digits"),
        ([f"{NETS}:mobilenet_v2", "--resolution", "0"], "resolution=0: expected pixels from 1"),
        ([f"{NETS}:mobilenet_v2", "--resolution", "1", "2", "3"], "or \\[height, width\\]"),
        ([f"{NETS}:mobilenet_v2", "--channels", "1", "--resolution", "32"],
         "can't be traced on images of 1 channels and 32 px"),
        ([f"{NETS}:mobilenet_v2", "--kernels", "4", "--resolution", "32"], "expected an odd size"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert status("from", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message.replace("\\", "") in line
    assert list(tmp_path.iterdir()) == []

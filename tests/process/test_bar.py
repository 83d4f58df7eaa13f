"""Bars on a real terminal, and lines where there is none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.entry import environment, run_entry
from tests.support.spaces import load_space, macs_table
from tests.support.terminal import Terminal, lines_of
from tfnas.app.command_line import override
from tfnas.derive.menu import feasible
from tfnas.process.exits import DONE, INTERRUPTED

pytestmark = pytest.mark.slow

BAR = "━"
RECORD = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ [A-Z]+ (.*)")
# Lines come faster than in life, so that there are some.
BEATING = """
import logging, os, signal, sys, time
from tfnas.process import progress
from tfnas.process.bar import ConsoleHandler
progress.EVERY_S, logging.raiseExceptions = 0.6, False
handlers = [ConsoleHandler(), logging.FileHandler("log.txt")]
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)
log = logging.getLogger("beating")
with progress.heartbeat(log, "search", lambda: (0.25, "epoch 1/4"), lambda: "loss 2.5 [red]"):
    time.sleep(0.8)
    log.info("[bold]a line[/] :smile: of %s", "x" * 1500)
    time.sleep(0.8)
    END
log.info("after")
"""


def beating(folder: Path, end: str = "pass", **variables: str) -> Terminal:
    return Terminal("-c", BEATING.replace("END", end), cwd=folder, **variables)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A search of seconds for a device that is elsewhere."""
    space = load_space("tiny")
    table = macs_table(space)
    file = tmp_path_factory.mktemp("tables") / "elsewhere.json"
    table.save(file)
    return [
        "space=tiny", "budget=test", "strategy=tfnas",
        "data.root=shipped", "cores=1", "hydra.run.dir=run",
        f"target_ms={sum(feasible(space, table)) / 2:.4f}", override("table", file),
    ]  # fmt: skip


def test_a_search_draws_a_bar_that_leaves_its_lines_alone(
    search: list[str], tmp_path: Path
) -> None:
    with Terminal("-m", "tfnas.search", *search, cwd=tmp_path) as terminal:
        status = terminal.finish()
        screen, text = terminal.screen, terminal.written.decode()
    assert status == DONE, text
    assert BAR in text
    assert re.search(r"left · epoch [12]/2", text)  # a short one may go unseen
    assert re.search(r"top-1 [\d.]+ % · held out .* scaled [\d.]+ of [\d.]+ ms · ent", text)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(c.isprintable() or c == "\n" for c in log)
    records = [match[1] for match in map(RECORD.fullmatch, log.splitlines()) if match]
    told = [r.rstrip() for r in records if not r.startswith("search ")]
    assert len([r for r in told if r.startswith("epoch ")]) == 2
    assert lines_of(screen) == told
    assert not screen.cursor.hidden


def test_in_a_pipe_there_are_lines_alone(search: list[str], tmp_path: Path) -> None:
    done = run_entry("tfnas.search", *search, cwd=tmp_path)
    assert done.returncode == DONE, done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert BAR not in done.stdout
    log = (tmp_path / "run" / "log.txt").read_text()
    assert [RECORD.fullmatch(line)[1] for line in log.splitlines()] == done.stdout.splitlines()  # type: ignore[index]


def test_ctrl_c_leaves_the_terminal_clean(search: list[str], tmp_path: Path) -> None:
    with Terminal("-m", "tfnas.search", *search, "budget.epochs=50", cwd=tmp_path) as terminal:
        later = re.compile(rb"left \xc2\xb7 epoch ([2-9]|\d\d)/50")  # a short one may go unseen
        terminal.until(lambda written: bool(later.search(written)))
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish() == INTERRUPTED
        screen = terminal.screen
    lines = lines_of(screen)
    assert lines[-3] == "stopping after this step"
    assert lines[-2].startswith("stopped and saved; go on with: ")
    assert lines[-1].startswith("report: ")
    assert not any(BAR in line for line in lines)
    assert not screen.cursor.hidden


def test_a_profile_draws_how_far_it_is(tmp_path: Path) -> None:
    arguments = ("space=tiny", "profile=test", "data.root=shipped", "table=table.json")
    with Terminal("-m", "profilers", *arguments, cwd=tmp_path) as terminal:
        status = terminal.finish()
        screen, text = terminal.screen, terminal.written.decode()
    assert status == DONE, text
    assert re.search(f"latency table .*{BAR}.* left · \\d+ of \\d+ within", text)
    lines = lines_of(screen)
    assert any(line.startswith("table.json: ") for line in lines)
    assert not any(BAR in line for line in lines)


def test_lines_are_whole_and_beats_stand_in_files_alone(tmp_path: Path) -> None:
    with beating(tmp_path) as terminal:
        assert terminal.finish() == 0
        screen, text = terminal.screen, terminal.written.decode()
    assert "loss 2.5 [red]" in text
    line = f"[bold]a line[/] :smile: of {'x' * 1500}"
    assert "".join(lines_of(screen)) == f"{line}after"  # wrapped by the terminal
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert [r for r in log if not r.startswith("search")] == [line, "after"]
    assert "search  25 % · ? left · epoch 1/4" in log


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("raise RuntimeError('such a fault')", "RuntimeError: such a fault"),
        ("os.kill(os.getpid(), signal.SIGKILL)", None),
    ],
)
def test_a_crash_leaves_the_cursor(end: str, last: str | None, tmp_path: Path) -> None:
    with beating(tmp_path, end) as terminal:
        assert terminal.finish() != 0
        screen = terminal.screen
    assert BAR in terminal.written.decode()
    assert not screen.cursor.hidden
    if last is not None:
        assert lines_of(screen)[-1] == last
        assert not any(BAR in line for line in lines_of(screen))


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_lines(term: str, tmp_path: Path) -> None:
    with beating(tmp_path, TERM=term) as terminal:
        assert terminal.finish() == 0
    text = terminal.written.decode()
    assert "\x1b" not in text
    assert BAR not in text
    assert "search  25 % · ? left · epoch 1/4" in text


def test_a_terminal_without_utf_8_gets_lines(tmp_path: Path) -> None:
    with beating(tmp_path, PYTHONIOENCODING="ascii") as terminal:
        assert terminal.finish() == 0, terminal.written.decode()
    assert "\x1b" not in terminal.written.decode()


def test_no_color(tmp_path: Path) -> None:
    colour = re.compile(r"\x1b\[[\d;]*[34]\d[\d;]*m")
    texts = []
    for variables in ({}, {"NO_COLOR": "1"}):
        with beating(tmp_path, **variables) as terminal:
            assert terminal.finish() == 0
        texts.append(terminal.written.decode())
    assert colour.search(texts[0])
    assert not colour.search(texts[1])
    assert BAR in texts[1]


def test_a_terminal_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    with beating(tmp_path) as terminal:
        terminal.until(lambda written: BAR.encode() in written)
        os.close(terminal._handle)
        terminal._handle = os.open(os.devnull, os.O_RDONLY)
        assert terminal.process.wait(30) == 0
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert log[-1] == "after"


def test_a_forced_colour_in_a_pipe_draws_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEATING.replace("END", "pass")], cwd=tmp_path, check=True,
        env={**environment(), "FORCE_COLOR": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "\x1b" not in done.stdout + done.stderr
    assert "search  25 % · ? left · epoch 1/4" in done.stdout

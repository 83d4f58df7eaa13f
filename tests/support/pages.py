"""Pages in Markdown as tests use them: their blocks, their commands, what they add to a checkout.

A page of docs/ is a session in one checkout: its files are saved, its changes made, then its
commands run in order.

- ```python and ```yaml blocks whose first line is a comment with a path are that file, without the
  line;
- ```diff blocks change files: after `+++ PATH`, each `@@` starts a hunk whose old lines stand
  exactly once in the file;
- ```sh blocks are run as they stand, but for those marked ```sh not-run.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.entry import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PARTS = ("benchmarks", "conf", "docs", "profilers", "tests", "tfnas", "pyproject.toml", "setup.cfg")
FENCE = re.compile(r"^```(\w*) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w/.-]+\.(?:py|yaml))\n")
INLINE = re.compile(r"`([^`]+)`")
ENDS = ("&&", "|", ";", ">")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what stands behind it, its text."""

    language: str
    mark: str
    text: str


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text())]


def inline(page: Path) -> list[str]:
    """What stands between backquotes outside of blocks, each in one line."""
    return [" ".join(text.split()) for text in INLINE.findall(FENCE.sub("", page.read_text()))]


def files(page: Path) -> dict[str, str]:
    """The files that a page shows in full, by path."""
    named = [
        (NAMED.match(b.text), b.text) for b in blocks(page) if b.language in ("python", "yaml")
    ]
    return {match[1]: text[match.end() :] for match, text in named if match}


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Module and arguments of every `-m` command on a page, whether it is run or not."""
    lines = inline(page)
    for block in blocks(page):
        if block.language in ("sh", "yaml"):
            text = block.text.replace("\\\n", " ")
            lines += [line.removeprefix("# ") for line in text.splitlines()]
    found = []
    for line in lines:
        if not re.search(r"(python|torchrun).* -m [a-z]", line):
            continue
        words = shlex.split(line, comments=True)
        start = words.index("-m") + 1
        rest = [i for i, word in enumerate(words) if word in ENDS and i > start]
        arguments = words[start + 1 : min(rest, default=None)]
        found.append((words[start], [w.replace("…", "x") for w in arguments if w != "…"]))
    return found


def new_checkout(folder: Path) -> Path:
    """A copy of this one, without any tables."""
    folder.mkdir()
    for part in PARTS:
        source = REPOSITORY / part
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / part)
    (folder / "latency_tables").mkdir()
    return folder


def follow(page: Path, checkout: Path) -> None:
    """Do in a checkout what a page says, but for its commands.

    Raises:
        ValueError: if a change doesn't fit the file that it names.
    """
    for path, text in files(page).items():
        (checkout / path).write_text(text)
    for block in blocks(page):
        if block.language == "diff":
            for path, hunk in _hunks(block.text):
                file = checkout / path
                file.write_text(_changed(file.read_text(), hunk, f"{page.name}: {path}"))


def _hunks(diff: str) -> list[tuple[str, list[str]]]:
    hunks: list[tuple[str, list[str]]] = []
    path = ""
    for line in diff.splitlines():
        if line.startswith("+++ "):
            path = line[4:]
        elif line.startswith("@@"):
            hunks.append((path, []))
        else:
            hunks[-1][1].append(line or " ")
    return hunks


def _changed(text: str, hunk: list[str], where: str) -> str:
    old, new = ("".join(f"\n{line[1:]}" for line in hunk if line[0] in s) for s in (" -", " +"))
    count = f"\n{text}".count(f"{old}\n")
    if count != 1:
        raise ValueError(f"{where} holds these lines {count} times, expected once:{old}")
    return f"\n{text}".replace(f"{old}\n", f"{new}\n")[1:]

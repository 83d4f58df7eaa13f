"""What Dockerfile does, without a daemon: its stages by BuildKit's own parser, and what they copy
by the rules of Docker's client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dockerfile
from docker.utils.build import exclude_paths

from tests.support.entry import REPOSITORY

FILE = REPOSITORY / "Dockerfile"
ABSOLUTE = re.compile(r"(?<![\w./:])/(?=[a-z])")  # paths that a shell command names


@dataclass(frozen=True)
class Instruction:
    """One of the file; `flags` such as `--from=wheel` stand apart from the `words`."""

    name: str
    words: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str | None
    instructions: tuple[Instruction, ...]

    def of(self, name: str) -> list[Instruction]:
        return [each for each in self.instructions if each.name == name]


def stages() -> list[Stage]:
    """Raises dockerfile.GoParseError for what is no Dockerfile."""
    found: list[tuple[tuple[str, ...], list[Instruction]]] = []
    for command in dockerfile.parse_file(str(FILE)):
        instruction = Instruction(command.cmd.upper(), command.value, command.flags)
        if instruction.name == "FROM":
            found.append((instruction.words, []))
        else:
            found[-1][1].append(instruction)
    return [
        Stage(words[0], words[2] if len(words) == 3 else None, tuple(instructions))
        for words, instructions in found
    ]


def context() -> set[str]:
    """The files that Docker's client would send beside its own two, relative to the repository."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    sent = exclude_paths(str(REPOSITORY), patterns) - {"Dockerfile", ".dockerignore"}
    return {path for path in sent if (REPOSITORY / path).is_file()}


def copied(stage: Stage) -> Iterator[tuple[str, str]]:
    """Files of the context with where they are copied to, relative to the working folder."""
    sent = context()
    for copy in stage.of("COPY"):
        *sources, target = copy.words
        if copy.flags:
            continue  # from another stage
        for source in sources:
            inside = {path for path in sent if path == source or path.startswith(f"{source}/")}
            for path in inside:
                rest = path.removeprefix(source).lstrip("/") or Path(path).name
                yield path, os.path.normpath(Path(target) / rest)


def lay(stage: Stage, root: Path) -> None:
    """Copy what a stage copies of the context, below another root."""
    for source, target in copied(stage):
        file = root / _folder(stage) / target
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / source, file)


def run(stage: Stage, begins: str, root: Path, environment: Mapping[str, str]) -> str:
    """Run the commands of a stage that begin so, below another root; gives what they print.

    Raises:
        RuntimeError: for one that fails, with which a build would end.
    """
    said = []
    defaults = dict(arg.words[0].partition("=")[::2] for arg in stage.of("ARG"))
    for instruction in stage.of("RUN"):
        (command,) = instruction.words
        if command.startswith(begins):
            done = subprocess.run(
                ["/bin/sh", "-ec", ABSOLUTE.sub(f"{root}/", command)], cwd=root / _folder(stage),
                env={**defaults, **environment}, check=False, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{command}: status {done.returncode}: {done.stdout}")
            said.append(done.stdout)
    return "".join(said)


def _folder(stage: Stage) -> str:
    """The first working folder of a stage, relative to the root."""
    return stage.of("WORKDIR")[0].words[0].lstrip("/")

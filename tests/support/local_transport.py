"""A device at the end of a link that is a folder of this machine, and links that break."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from profilers.contract import LinkError
from profilers.onboard.job import SAMPLES
from profilers.remote.transport import Ran


@dataclass
class LocalTransport:
    """Runs commands here.

    Attributes:
        fault: is told of every command, push and pull before it is done; may raise.
        break_after: the next command that measures loses its link after so many rounds, and
            runs on.
        error: what is raised then; None: the command is killed, as where memory runs out.
    """

    scratch: str
    name: str = "a folder"
    fault: Callable[[str], None] = lambda what: None
    break_after: int | None = None
    error: BaseException | None = field(
        default_factory=lambda: LinkError("a folder: the link broke")
    )
    left_running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, command: Sequence[str], *, timeout_s: float, max_bytes: int = 10_000_000) -> Ran:
        self.fault(f"run {' '.join(command)}")
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if "measure" in command and self.break_after is not None:
            answer = Path(command[-1]) / SAMPLES
            while not answer.exists() or answer.read_bytes().count(b"\n") < self.break_after:
                assert process.poll() is None, "it ended before its link broke"
                time.sleep(0.01)
            self.break_after = None
            if self.error is not None:
                self.left_running.append(process)
                raise self.error
            process.kill()
        out, err = process.communicate(timeout=timeout_s)
        if len(out) > max_bytes:
            raise OSError(f"more than {max_bytes} bytes")
        status = process.returncode
        return Ran(status if status >= 0 else 128 - status, out, err.decode(errors="replace"))

    def push(self, files: Mapping[str, Path], folder: str) -> None:
        self.fault(f"push {' '.join(files)}")
        for name, path in files.items():
            shutil.copyfile(path, Path(folder) / name)

    def pull(self, path: str, max_bytes: int) -> bytes:
        self.fault(f"pull {path}")
        content = Path(path).read_bytes()
        if len(content) > max_bytes:
            raise OSError(f"more than {max_bytes} bytes")
        return content

    def end(self) -> None:
        """Wait for what still runs, as on a device whose link broke."""
        for process in self.left_running:
            process.communicate(timeout=60)

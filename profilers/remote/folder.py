"""This host's folder on a device: a runner's files, `models`, and `jobs` with their answers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from profilers.contract import DeviceError
from profilers.remote.transport import SHORT_S, Ran, Transport

# With the folder, and the names of the runner's files.
CLEAR = """
cd "$1" || exit 0
here=$1; shift
rm -rf models; rm -f "$@"
find jobs -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + 2> /dev/null
cd /; rmdir "$here/jobs" "$here" 2> /dev/null
"""


class DeviceFolder:
    """A folder on a device, and the link to it.

    Args:
        path: of the folder, there.
        local: a folder here, for files on their way.
        files: the runner's, by name.
    """

    def __init__(
        self, transport: Transport, path: str, local: Path, files: Mapping[str, bytes]
    ) -> None:
        self.transport, self.path = transport, path
        self._local, self._files = local, files

    def make(self) -> None:
        """Make it, with the runner in it."""
        self.check(["mkdir", "-p", "-m", "700", self.path])
        self.check(["mkdir", "-p", f"{self.path}/models", f"{self.path}/jobs"])
        self.put(self._files, self.path)

    def clear(self) -> None:
        """Remove models and runner. Jobs are removed one by one, when their answers have counted:
        one that is still there is the next run's, or a week old."""
        with suppress(OSError):
            command = ["sh", "-c", CLEAR, "sh", self.path, *self._files]
            self.transport.run(command, timeout_s=SHORT_S)

    def job(self, name: str) -> str:
        """The folder of a job."""
        return f"{self.path}/jobs/{name}"

    def check(self, command: Sequence[str]) -> Ran:
        """Run a command that must succeed. Raises LinkError, or DeviceError with what it said."""
        ran = self.transport.run(command, timeout_s=SHORT_S)
        if ran.status:
            raise DeviceError(
                f"{self.transport.name}: `{' '.join(command)}` failed: {ran.last_line}"
            )
        return ran

    def put(self, contents: Mapping[str, bytes], folder: str) -> None:
        """Write small files on the device."""
        with tempfile.TemporaryDirectory(dir=self._local) as local:
            files = {name: Path(local) / name for name in contents}
            for name, path in files.items():
                path.write_bytes(contents[name])
            self.transport.push(files, folder)

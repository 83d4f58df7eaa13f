"""Files that a run and a sweep leave in their folders, and the run folders within a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfnas.files.bounded import parse_yaml, read_bytes

MULTIRUN = "multirun.yaml"  # Hydra writes it into the folder of a sweep
SWEEP_OVERRIDES = "sweep_overrides.yaml"  # and we this, which stays as it was at the first start
DEPTH = 4  # folders between a sweep's and its members'
MOST_BYTES = 10_000_000


class RunFolder:
    """A run's folder, and what lies in it under which name.

    Attributes:
        overrides, train_overrides: the options of the search, and of the training, that began here:
            Hydra's own file changes with every try to go on, refused ones included.
        plan: what was planned from `minutes`, where these were given.
        finals: a folder for each net that was trained in them.
        supernet: all its weights, which searches of other targets reuse.
        weights: of the trained net; `supernet_weights` are those that the search shared.
        hub_weights: those of a folder that goes to a model hub, which has its name for them.
        int8: the top-1 of an exported int8 net, beside that in float.
        config: all options of the latest command, as Hydra noted them; only searches keep it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.subnet = path / "subnet.json"
        self.model = path / "model.onnx"
        self.result = path / "result.json"
        self.verified = path / "verify.json"
        self.stages = path / "stages.json"
        self.plan = path / "plan.json"
        self.scores = path / "scores.json"
        self.history = path / "history.jsonl"
        self.checkpoint = path / "search.ckpt"
        self.supernet = path / "supernet.safetensors"
        self.supernet_weights = path / "supernet_weights.safetensors"
        self.weights = path / "weights.safetensors"
        self.hub_weights = path / "model.safetensors"
        self.trained = path / "train.json"
        self.int8 = path / "int8.json"
        self.overrides = path / "search_overrides.yaml"
        self.train_overrides = path / "train_overrides.yaml"
        self.status = path / "status.json"
        self.log = path / "log.txt"
        self.finals = path / "finals"
        self.report = path / "report.html"
        self.config = path / ".hydra" / "config.yaml"

    @property
    def weights_there(self) -> Path:
        """The weights of the trained net that lie here; those of a run where there are none."""
        is_for_hub = self.hub_weights.is_file() and not self.weights.is_file()
        return self.hub_weights if is_for_hub else self.weights

    @property
    def is_run(self) -> bool:
        """Whether a run was begun here, and not a sweep."""
        left = (self.result, self.status, self.config.parent)
        return not (self.path / MULTIRUN).is_file() and any(path.exists() for path in left)

    @classmethod
    def reused(cls, given: str) -> RunFolder:
        """That which `reuse=` names: a folder, or the file of scores in it."""
        path = Path(given)
        return cls(path.parent if path.is_file() else path)

    def remove_unused(self) -> None:
        """Remove the folder if nothing lies in it but what every start leaves, refused or not."""
        at_start = {self.status, self.log, self.config.parent}
        if self.path.is_dir() and at_start.issuperset(self.path.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises OSError, or ValueError if it holds anything else."""
    data = parse_yaml(read_bytes(path, MOST_BYTES).decode())
    if not isinstance(data, dict):
        raise ValueError(f"holds a {type(data).__name__}, expected names and values")
    return data


def members(folder: Path) -> list[Path]:
    """The run folders within a folder, in order; the folder itself if it is a run's."""
    if RunFolder(folder).is_run:
        return [folder]
    return sorted(_runs_in(folder, DEPTH), key=natural)


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        if RunFolder(path).is_run:
            yield path
        elif depth > 1:
            yield from _runs_in(path, depth - 1)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """10 comes after 9."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in path.parts]

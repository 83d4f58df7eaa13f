"""Files that a run and a sweep leave in their folders, and the run folders within a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfnas.files.bounded import parse_yaml, read_bytes

# Of a run that began: Hydra's own file changes with every try to go on, refused ones included.
SEARCH_OVERRIDES = "search_overrides.yaml"
TRAIN_OVERRIDES = "train_overrides.yaml"

STATUS = "status.json"
RESULT = "result.json"
MULTIRUN = "multirun.yaml"  # Hydra writes it into the folder of a sweep
SWEEP_OVERRIDES = "sweep_overrides.yaml"  # and we this, which stays as it was at the first start

HYDRA_DIR = ".hydra"  # and this into that of a run
DEPTH = 4  # folders between a sweep's and its members'
MOST_BYTES = 10_000_000


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises OSError, or ValueError if it holds anything else."""
    data = parse_yaml(read_bytes(path, MOST_BYTES).decode())
    if not isinstance(data, dict):
        raise ValueError(f"holds a {type(data).__name__}, expected names and values")
    return data


def is_run(folder: Path) -> bool:
    return not (folder / MULTIRUN).is_file() and any(
        (folder / name).exists() for name in (RESULT, STATUS, HYDRA_DIR)
    )


def members(folder: Path) -> list[Path]:
    """The run folders within a folder, in order; the folder itself if it is a run's."""
    if is_run(folder):
        return [folder]
    return sorted(_runs_in(folder, DEPTH), key=natural)


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        if is_run(path):
            yield path
        elif depth > 1:
            yield from _runs_in(path, depth - 1)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """10 comes after 9."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in path.parts]

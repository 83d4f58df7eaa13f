"""What the page of a run shows, from the run's folder alone, as far as it can be read.

Nothing here raises for what a file holds: what can't be used is None, and a warning says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from tfnas.files.bounded import check_text, parse_yaml, read_bytes, shown
from tfnas.files.decode import convert
from tfnas.latency.stages import StageTimes, load_stages
from tfnas.latency.table import LatencyTable
from tfnas.runs.folder import MOST_BYTES, RunFolder, load_yaml
from tfnas.runs.history import load_history
from tfnas.runs.result import Result
from tfnas.runs.run import Run, clean, read_run
from tfnas.space.search_space import SearchSpace
from tfnas.space.spec import CandidateSpec, ExpansionSpec, LayerSpec, SpaceSpec, StageSpec
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import EpochRecord

MOST_OVERRIDES = 1_000
SAME = 1e-6  # relative: two ways to add up the same latencies
OLDER = [
    f.name for part in (LayerSpec, ExpansionSpec, CandidateSpec, StageSpec) for f in fields(part)
]
Value = TypeVar("Value")


@dataclass(frozen=True)
class RunFiles:
    """What could be read of a run's folder.

    Attributes:
        run: as reports of many runs tell it.
        result: None for a run that isn't finished, or whose result can't be used.
        space: what was searched; its widths are those of the table's quantum where `table` is
            known, else all between the bounds, and its stem and head the subnet's where that is.
        table: that result.json names, for this space.
        arguments: of the command line that began the search; None if it left none.
        options: all of its options by dotted key, see `options_of`.
        warnings: why something is missing.
    """

    run: Run
    result: Result | None
    records: tuple[EpochRecord, ...]
    subnet: Subnet | None
    space: SearchSpace | None
    table: LatencyTable | None
    stages: StageTimes | None
    arguments: tuple[str, ...] | None
    options: Mapping[str, Any]
    warnings: tuple[str, ...]


def read_files(folder: Path) -> RunFiles:
    """Read all that there is."""
    files = RunFolder(folder)
    run, warnings = read_run(folder)
    if files.overrides.is_file():
        run = replace(run, resume=folder)

    def tried(file: Path, read: Callable[[Path], Value]) -> Value | None:
        if not file.exists():
            return None
        try:
            return read(file)
        except (OSError, ValueError, LookupError, OverflowError) as error:
            reason = str(error)
            warnings.append(clean(reason if str(file) in reason else f"{file}: {reason}"))
            return None

    # `read_run` has said what is wrong with it; what it doesn't believe is not shown.
    result = tried(files.result, Result.load) if run.gap is not None else None
    subnet = tried(files.subnet, Subnet.load)
    stages = tried(files.stages, load_stages)
    arguments = tried(files.overrides, _load_arguments)
    history = load_history(files.history) if files.history.exists() else None
    config = tried(files.config, load_yaml) or {}
    values = config.get("space") if result is None else _space_values(result.options)
    table, space = None, None
    if values is not None:
        try:
            space = _space_of(values)
            if subnet is not None:  # which knows the data's number of classes
                space = replace(space, stem=subnet.stem, head=subnet.head)
            if result is not None and subnet is not None:
                table, space = _table_of(result, values, subnet)
        except (OSError, ValueError, LookupError, OverflowError) as error:
            warnings.append(clean(f"latencies of single blocks can't be told: {error}"))
    if result is not None and subnet is not None and table is not None:
        now_ms = table.total(subnet)
        if abs(now_ms / result.table_ms - 1) > SAME:
            warnings.append(
                f"the table was measured anew since: it now says {now_ms:.4g} ms of this net, "
                f"{result.table_ms:.4g} ms then; shares of blocks are those of now"
            )
    return RunFiles(
        run=run,
        result=result,
        records=history.records if history else (),
        subnet=subnet,
        space=space,
        table=table,
        stages=stages,
        arguments=arguments,
        options={**_by_dotted_key(config), **(result.options if result else {})},
        warnings=(*warnings, *(map(clean, history.warnings) if history else ())),
    )


def options_of(folder: Path, result: Result) -> dict[str, Any]:
    """All options of a finished run by dotted key: those that its result rests on, and what else
    Hydra noted of the latest command, as far as that can be read."""
    try:
        config = load_yaml(RunFolder(folder).config)
    except (OSError, ValueError):
        config = {}
    return {**_by_dotted_key(config), **result.options}


def _by_dotted_key(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= _by_dotted_key(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def _load_arguments(path: Path) -> tuple[str, ...]:
    values = parse_yaml(read_bytes(path, MOST_BYTES).decode())
    if not isinstance(values, list) or len(values) > MOST_OVERRIDES:
        raise ValueError(f"holds {shown(values)}, expected a list of options")
    return tuple(check_text(value) for value in values)


def _space_values(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `space` of options by dotted key; None where they hold none."""
    start = "space."
    found = {k.removeprefix(start): v for k, v in options.items() if k.startswith(start)}
    return found or None


@dataclass(frozen=True)
class _Resolution:
    """Which Hydra has as anything."""

    resolution: int | list[int]


def _space_of(values: object, quantum: int = 1) -> SearchSpace:
    """Raises ValueError for what is no space."""
    if not isinstance(values, dict):
        raise ValueError(f"space is {shown(values)}, expected names and values")
    # How many classes the data has makes no difference to what is searched.
    try:
        typed = vars(convert(values, _Resolution, partly=True, texts=True))
        spec = convert({**values, **typed, "classes": 1}, SpaceSpec, older=OLDER, texts=True)
    except ValueError as error:
        raise ValueError(f"the space {error}") from None
    return spec.build(quantum)


def _table_of(result: Result, values: object, subnet: Subnet) -> tuple[LatencyTable, SearchSpace]:
    """The table that a result names, and the space on its grid of widths.

    Raises:
        ValueError, LookupError: if it can't be read, or doesn't tell of this net.
    """
    table = LatencyTable.load(Path(result.table))
    space = _space_of(values, table.device.quantum)
    space = replace(space, stem=subnet.stem, head=subnet.head)
    space.choices_of(subnet)
    return table.for_space(space), space

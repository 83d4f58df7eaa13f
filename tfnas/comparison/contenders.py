"""Nets to compare: those that a command line names, and what they take on one latency table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfnas.app.command_line import override
from tfnas.files.bounded import shown
from tfnas.latency.table import LatencyTable
from tfnas.nets.weights import fingerprint
from tfnas.runs.folder import MULTIRUN, RunFolder, members
from tfnas.runs.result import Result
from tfnas.runs.run import clean
from tfnas.space.subnet import Subnet

USAGE = (
    "give two or more runs, `python -m tfnas.compare RUN RUN`; nets.NAME=RUN names one, and "
    "nets.NAME='[RUN,RUN]' takes several nets of one method"
)
# Flags of Hydra's that stand alone; what comes after another one is its value.
ALONE = ("-m", "--multirun", "-h", "--help")


@dataclass(frozen=True)
class Contender:
    """A net, or several of one method.

    Attributes:
        paths: of each net's subnet.json.
    """

    name: str
    paths: tuple[Path, ...]
    subnets: tuple[Subnet, ...]


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """A command line for Hydra: runs may stand there as they are, as the shell completes them, and
    `nets.NAME=` adds a name, for which Hydra wants a `+`.

    Raises:
        ValueError: if nets are given in both ways, or with `resume=`, which has no use here.
    """
    rest, runs = [], []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if "=" in argument or argument.startswith("-") or _takes_value(before):
            rest.append(f"+{argument}" if argument.startswith("nets.") else argument)
        else:
            runs.append(override("", argument).removeprefix("="))
    if runs and any(argument.startswith(("nets", "+nets")) for argument in rest):
        raise ValueError(f"{runs[0]} beside nets: give all runs in one way; {USAGE}")
    if any(argument.startswith("resume=") for argument in rest):
        raise ValueError("resume: the command that a comparison was started with goes on with it")
    return [*rest, f"nets=[{','.join(runs)}]"] if runs else rest


def _takes_value(flag: str) -> bool:
    return flag.startswith("-") and flag not in ALONE and "=" not in flag


def load_contenders(nets: object) -> tuple[Contender, ...]:
    """What `nets` names, two or more.

    Args:
        nets: {name: path or paths}, or a list of paths. A path is a run's folder, a sweep's, which
            is all nets of its members, or a subnet.json.

    Raises:
        ValueError: if it can't be read or compared; says what to give.
    """
    if isinstance(nets, list):
        paths = [_path(value) for value in nets]
        pairs = dict(zip(_names(paths), ([path] for path in paths), strict=True))
        if len(pairs) < len(paths):
            raise ValueError(f"nets={shown(nets)} names one net twice; {USAGE}")
    elif isinstance(nets, dict):
        pairs = {
            _name(name): [_path(v) for v in (value if isinstance(value, list) else [value])]
            for name, value in nets.items()
        }
    else:
        raise ValueError(USAGE if nets is None else f"nets={shown(nets)}: {USAGE}")
    if len(pairs) < 2:
        raise ValueError(f"nets={shown(nets)} names {len(pairs)}: {USAGE}")
    found = []
    for name, given in pairs.items():
        files = tuple(file for path in given for file in _subnets_of(path))
        if not files:
            raise ValueError(f"nets.{name} names no net; {USAGE}")
        found.append(Contender(name, files, tuple(map(Subnet.load, files))))
    _check_distinct(found)
    _check_counts(found)
    return tuple(found)


def _path(value: object) -> Path:
    if type(value) not in (str, int) or value == "":
        raise ValueError(f"nets holds {shown(value)}, expected a run's folder or a subnet.json")
    return Path(str(value))


def _name(value: object) -> str:
    name = clean(str(value)).strip()
    if not name:
        raise ValueError(f"nets holds the name {shown(value)}, expected one that can be printed")
    return name


def _names(paths: Sequence[Path]) -> list[str]:
    """Each one's folder, or the last two of them where one isn't enough."""
    folders = [path.resolve() for path in paths]
    folders = [path.parent if path == RunFolder(path.parent).subnet else path for path in folders]
    short = [_name(path.stem if path.suffix == ".json" else path.name) for path in folders]
    if len(set(short)) == len(short):
        return short
    return [_name("/".join(path.parts[-2:])) for path in folders]


def _subnets_of(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path  # loading it tells what is wrong
    elif RunFolder(path).subnet.is_file():
        yield RunFolder(path).subnet
    else:
        runs = members(path) if (path / MULTIRUN).is_file() else []
        files = [RunFolder(run).subnet for run in runs]
        lacking = [file for file in files if not file.is_file()]
        if not runs or lacking:
            why = (
                f"{len(lacking)} of its {len(runs)} runs lack one" if runs else "nor is it a sweep"
            )
            raise ValueError(
                f"{path} holds no subnet.json, {why}: give the folder of a finished search; "
                f"`python -m tfnas.search {override('resume', path)}` goes on with one"
            )
        yield from files


def _check_distinct(contenders: Sequence[Contender]) -> None:
    """Raises ValueError for nets that count twice, or that differ in nothing."""
    seen: dict[frozenset[str], str] = {}
    for contender in contenders:
        prints = [fingerprint(subnet) for subnet in contender.subnets]
        [(most, count)] = Counter(prints).most_common(1)
        if count > 1:
            same = [str(p) for p, f in zip(contender.paths, prints, strict=True) if f == most]
            raise ValueError(
                f"nets.{contender.name}: {' and '.join(same)} are the same net, which would count "
                "as several: leave all but one out"
            )
        other = seen.setdefault(frozenset(prints), contender.name)
        if other != contender.name:
            raise ValueError(
                f"{other} and {contender.name} are the same net{'s' if len(prints) > 1 else ''}: "
                "there is nothing to compare"
            )


def _check_counts(contenders: Sequence[Contender]) -> None:
    counts = {c.name: len(c.paths) for c in contenders}
    if max(counts.values()) > 1 and min(counts.values()) == 1:
        numbers = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ValueError(
            f"nets holds {numbers}: one net tells nothing of how its method's nets vary; give one "
            "of each, to compare nets, or two or more of each, to compare methods"
        )


def check_shapes(contenders: Sequence[Contender], classes: int, origin: str) -> None:
    """Raises ValueError for nets of other classes than the data's, or of several resolutions."""
    for name, path, subnet in _all(contenders):
        if subnet.classes != classes:
            raise ValueError(
                f"{name} ({path}) has {subnet.classes} classes, the data {classes} ({origin}): "
                "compare nets that were searched for the data given by data="
            )
    sizes = {name: subnet.resolution for name, _, subnet in _all(contenders)}
    if len({subnet.resolution for _, _, subnet in _all(contenders)}) > 1:
        each = ", ".join(f"{name} at {size} px" for name, size in sizes.items())
        raise ValueError(
            f"the nets are for different resolutions ({each}): accuracies can be compared at one "
            "only; compare nets that were searched at the same space.resolution"
        )


def _all(contenders: Sequence[Contender]) -> Iterator[tuple[str, Path, Subnet]]:
    for contender in contenders:
        for path, subnet in zip(contender.paths, contender.subnets, strict=True):
            yield contender.name, path, subnet


def find_table(given: str | None, contenders: Sequence[Contender]) -> LatencyTable:
    """The table that is given, or that all runs were searched with.

    Raises:
        ValueError: if there is none, or it can't be read.
    """
    if given is not None:
        return LatencyTable.load(Path(given))
    used: dict[str, list[str]] = {}
    for name, path, _ in _all(contenders):
        result = RunFolder(path.parent).result
        if not result.is_file():
            raise ValueError(
                f"which table {name} was searched with isn't known, for there is no {result}: "
                "give table=FILE"
            )
        used.setdefault(Result.load(result).table, []).append(name)
    if len(used) > 1:
        each = "; ".join(f"{', '.join(names)} with {clean(file)}" for file, names in used.items())
        raise ValueError(
            f"the nets were searched with several tables ({each}): give the one to compare their "
            "latencies on, table=FILE"
        )
    (file,) = used
    try:
        return LatencyTable.load(Path(file))
    except ValueError as error:
        raise ValueError(f"{error}; the runs name it, give another by table=FILE") from None


def latencies(table: LatencyTable, contenders: Sequence[Contender]) -> Mapping[Path, float]:
    """ms of each net on the table, by its path.

    Raises:
        LookupError: if the table lacks an op, or has no calibration for nets of their space.
        ValueError: if a latency isn't positive.
    """
    found = {}
    for name, path, subnet in _all(contenders):
        try:
            ms = _calibrated(table, subnet).total(subnet)
        except LookupError as error:
            raise LookupError(f"{name} ({path}): {error.args[0]}") from None
        if not ms > 0:
            raise ValueError(f"{name} ({path}) takes {ms:g} ms on {table.source}: no latency")
        found[path] = ms
    return found


def _calibrated(table: LatencyTable, subnet: Subnet) -> LatencyTable:
    """The table with the calibration of the subnet's space, of which a subnet has the name.

    Raises:
        LookupError: if there are calibrations, but not one that must be its own.
    """
    known = [key for key, fit in table.spaces.items() if fit.calibration]
    if not known:
        return replace(table, space="")
    own = [key for key in known if key.startswith(f"{subnet.space}@{subnet.resolution}-")]
    if len(own) != 1:
        raise LookupError(
            f"{table.source} is calibrated for {', '.join(map(clean, known))}, of which "
            f"{len(own) or 'none'} can be that of the space {clean(subnet.space)} at "
            f"{subnet.resolution} px: give a table with one, see `python -m profilers`"
        )
    return replace(table, space=own[0])


def gap_of(ms: Sequence[float]) -> float:
    """How far the slowest is above the fastest, as a fraction."""
    return max(ms) / min(ms) - 1


def check_latencies(
    found: Mapping[Path, float], contenders: Sequence[Contender], tolerance: float, source: str
) -> None:
    """Raises ValueError, naming all, if the nets' latencies differ by more than `tolerance`."""
    gap = gap_of(list(found.values()))
    if gap > tolerance:
        each = ", ".join(f"{name} {found[path]:.4g} ms" for name, path, _ in _all(contenders))
        raise ValueError(
            f"the nets differ in latency by {100 * gap:.2g} % on {source} ({each}), which is more "
            f"than latency_tolerance={tolerance:g}: their accuracies would tell of that too. "
            f"Search them for one target_ms, or accept it with latency_tolerance="
            f"{_at_least(gap):g}, which all that is written then says"
        )


def _at_least(gap: float) -> float:
    """Two digits, not below."""
    return float(f"{1.05 * gap:.2g}")

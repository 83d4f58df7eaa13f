"""What an entry point knows of its own command line and folder."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tfnas.process.errors import as_text
from tfnas.process.exits import UNUSABLE_INPUT
from tfnas.process.ranks import Ranks

log = logging.getLogger(__name__)

# Of Hydra's messages: where in its own structures a value stands, and advice for other cases.
TRAILERS = (
    "full_key:", "object_type=", "reference_type=", "Set the environment", "To append",
    "Config search path", "provider=",
)  # fmt: skip


NO_TEXT = (
    r"(?i)null|true|false|[+-]?(inf|nan|[._]*[0-9][0-9._]*(e[+-]?[0-9_]+)?)"  # for Hydra, unquoted
)
SAID_S = 10.0  # that rank 0 gets to say what is wrong with a command line


def say(text: str, ranks: Ranks) -> None:
    """What all processes would say, once: rank 0's end ends the others, unless it has no reason."""
    if ranks.rank:
        try:
            time.sleep(SAID_S)
        except KeyboardInterrupt:
            return
    print(text, file=sys.stderr)


def override(key: str, value: object) -> str:
    """`key=value` for a Hydra command line, whatever characters a path has."""
    if isinstance(value, (int, float)) or value is None:
        return f"{key}={'null' if value is None else value}"
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_./+-]+", text) and not re.fullmatch(NO_TEXT, text):
        return f"{key}={text}"
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    text = re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"{key}='{text}'"


def value_of(argument: str) -> str:
    """The value of `key=value` as Hydra would read it; as it stands where it can't be read."""
    plain = argument.partition("=")[2]
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
        value = parsed.value()
    except HydraException:
        return plain
    return str(OmegaConf.create([value])[0]) if isinstance(value, str) else plain


def as_meant(arguments: Sequence[str], schema: type) -> list[str]:
    """Arguments with quotes around texts, such as paths, that Hydra's grammar would read otherwise.

    Raises:
        ValueError: for several values of a number where no sweep is asked for.
    """
    sweeps = any(map(_asks_for_a_sweep, arguments))
    texts = dict.fromkeys(("resume", "hydra.run.dir", "hydra.sweep.dir"), str)
    kinds = {**dict(_keys(schema)), **texts}
    return [_as_meant(argument, kinds, sweeps) for argument in arguments]


def _asks_for_a_sweep(argument: str) -> bool:
    shortened = len(argument) > len("--") and "--multirun".startswith(
        argument
    )  # argparse allows it
    return shortened or argument in ("-m", "hydra.mode=MULTIRUN")


def _as_meant(argument: str, kinds: Mapping[str, Any], sweeps: bool) -> str:
    key, equals, value = argument.partition("=")
    kind = kinds.get(key)
    is_text = str in (kind, *get_args(kind))
    if not equals or kind is None or value[:1] in ("'", '"', ""):
        return argument
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
        if not parsed.is_sweep_override() or sweeps:
            return argument
    except HydraException:
        if not is_text:
            raise ValueError(f"{argument}: not readable as a value of {key}") from None
    if get_origin(kind) is list:
        raise ValueError(f"{argument}: expected a list, {key}=[{value}]")
    if not is_text:
        raise ValueError(
            f"{argument}: expected one value; for a run with each add --multirun, and decimals are "
            "written with a point"
        )
    return override(key, value)


def overrides() -> list[str]:
    """The `key=value` of this job's command line."""
    return list(HydraConfig.get().overrides.task)


def output_dir() -> Path:
    """The run folder of this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def is_sweep() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def no_such_key(error: BaseException, schema: type) -> str | None:
    """What is wrong, if it is that an override's key doesn't exist, with the key nearest to it."""
    found = re.match(r"Could not override '([^']+)'", str(error))
    if found is None or not isinstance(error.__cause__, OmegaConfBaseException):
        return None
    near = get_close_matches(found[1], dict(_keys(schema)), 1, cutoff=0.7)
    meant = f"did you mean {near[0]}?" if near else "--help lists them"
    return f"{found[1]}: there is no such key; {meant}"


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their types."""
    for name, kind in get_type_hints(schema).items():
        yield f"{prefix}{name}", kind
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _keys(kind, f"{prefix}{name}.")


def in_one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages without their trailers; the innermost one says most."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(TRAILERS)]
    cause = error.__cause__
    if cause is not None and str(cause) not in str(error):
        kept.append(in_one_line(cause))
    key = getattr(error, "full_key", None) or next(
        (line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), None
    )
    if key and not any(str(key) in line for line in kept):
        kept.append(f"(key {key})")
    return " ".join(kept) or repr(error)


def refuse(error: Exception) -> int:
    """Say what is wrong with the input, in one line; the status for it."""
    text = as_text(error)
    if isinstance(error, OmegaConfBaseException):
        text = in_one_line(error)
    log.error("error: %s", text)
    log.debug("", exc_info=error)
    return UNUSABLE_INPUT

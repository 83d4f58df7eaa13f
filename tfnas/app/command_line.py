"""What an entry point knows of its own command line and folder."""

from __future__ import annotations

import logging
import re
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from tfnas.process.exits import UNUSABLE_INPUT
from tfnas.process.ranks import Ranks

log = logging.getLogger(__name__)

# Of Hydra's messages: where in its own structures a value stands, and advice for other cases.
TRAILERS = (
    "full_key:", "object_type=", "reference_type=", "Set the environment", "To append",
    "Config search path", "provider=",
)  # fmt: skip


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
    if re.fullmatch(r"[A-Za-z0-9_./+-]+", str(value)):
        return f"{key}={value}"
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def overrides() -> list[str]:
    """The `key=value` of this job's command line."""
    return list(HydraConfig.get().overrides.task)


def output_dir() -> Path:
    """The run folder of this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def is_sweep() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


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
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OmegaConfBaseException):
        text = in_one_line(error)
    log.error("error: %s", text)
    log.debug("", exc_info=error)
    return UNUSABLE_INPUT

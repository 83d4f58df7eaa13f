"""python -m profilers.verify onnx=RUN/model.onnx target_ms=8

Measures a model on a device in this fresh process, without any table, and says whether it meets the
target. Without a target it is just timed; `tfnas verify a.onnx b.onnx` times models side by side.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from profilers.configured import configured_device
from profilers.measure.verification import verify
from tfnas.app.answer import answer_to, keep_stdout_free
from tfnas.app.command_line import override
from tfnas.app.main import Work, main
from tfnas.app.schemas import VerifierConfig
from tfnas.files.decode import encode
from tfnas.process.exits import DONE, FAILED, OUTSIDE_TOLERANCE, UNUSABLE_INPUT

log = logging.getLogger(__name__)


def as_keys(arguments: Sequence[str]) -> list[str]:
    """Files that stand by themselves as `onnx=` and `against=`; the first is `onnx=` if none is.

    Raises:
        ValueError: for `against=` beside them.
    """
    files = [a for a in arguments if _is_file(a)]
    others = [a for a in arguments if not _is_file(a)]
    first = []
    if files and not any(a.startswith("onnx=") for a in others):
        first = [override("onnx", files.pop(0))]
    if files and any(a.startswith("against=") for a in others):
        raise ValueError(
            f"{' '.join(files)} beside against=: give all files in one of the two ways"
        )
    quoted = ",".join(override("", file).removeprefix("=") for file in files)
    return [*others, *first, *([f"against=[{quoted}]"] if files else [])]


def _is_file(argument: str) -> bool:
    if "=" in argument and argument[0] not in "./":
        return False
    return argument.endswith(".onnx") or (argument[:1] != "-" and Path(argument).is_file())


def prepare(config: VerifierConfig) -> Work:
    """Check the input; raises ValueError or LookupError if it is unusable."""
    keep_stdout_free(config.json)
    profiler = configured_device(config)
    path, *against = [Path(file) for file in (config.onnx, *config.against)]
    for file in (path, *against):
        profiler.model_workload(file).close()  # an unusable model is found before any waiting
    answer = answer_to(config.json, (path, *against))

    def work() -> int:
        result = verify(
            profiler,
            path,
            config.target_ms,
            config.tolerance,
            at_most=config.at_most,
            max_minutes=config.verify.max_minutes,
            precision=config.verify.precision,
            seed=config.seed,
            against=against,
        )
        log.info("%s", result)
        if not result.usable:
            log.error("error: no usable measurement; try again on a quieter machine")
            return FAILED
        answer(encode(result))
        return OUTSIDE_TOLERANCE if result.within is False else DONE

    return work


if __name__ == "__main__":
    try:
        sys.argv[1:] = as_keys(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(UNUSABLE_INPUT)
    main(VerifierConfig, "verify", prepare)

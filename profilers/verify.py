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
from tfnas.app.command_line import override
from tfnas.app.main import Work, main
from tfnas.app.schemas import VerifierConfig
from tfnas.files.atomic import write_atomically
from tfnas.files.decode import encode
from tfnas.process.bar import ConsoleHandler
from tfnas.process.exits import DONE, FAILED, OUTSIDE_TOLERANCE

log = logging.getLogger(__name__)


def as_keys(arguments: Sequence[str]) -> list[str]:
    """Files that stand by themselves as `onnx=` and `against=`."""
    files = [a for a in arguments if a.endswith(".onnx") and ("=" not in a or a[0] in "./")]
    others = [a for a in arguments if a not in files]
    if not files:
        return others
    first, *rest = files
    quoted = [override("", file).removeprefix("=") for file in rest]
    return [*others, override("onnx", first), *([f"against=[{','.join(quoted)}]"] if rest else [])]


def prepare(config: VerifierConfig) -> Work:
    """Check the input; raises ValueError or LookupError if it is unusable."""
    profiler = configured_device(config)
    path, *against = [Path(file) for file in (config.onnx, *config.against)]
    for file in (path, *against):
        profiler.model_workload(file).close()  # an unusable model is found before any waiting
    if config.json == "-":
        for handler in logging.getLogger().handlers:
            if isinstance(handler, ConsoleHandler):
                handler.setStream(sys.stderr)

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
        if config.json == "-":
            print(encode(result), end="")
        elif config.json:
            write_atomically(Path(config.json), encode(result))
        return OUTSIDE_TOLERANCE if result.within is False else DONE

    return work


if __name__ == "__main__":
    sys.argv[1:] = as_keys(sys.argv[1:])
    main(VerifierConfig, "verify", prepare)

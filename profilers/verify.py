"""python -m profilers.verify onnx=RUN/model.onnx target_ms=8

Measures a model on a device in this fresh process, without any table, and says whether it meets the
target.
"""

from __future__ import annotations

import logging
from pathlib import Path

from profilers.configured import configured_device
from profilers.measure.verification import verify
from tfnas.app.main import Work, main
from tfnas.app.schemas import VerifierConfig
from tfnas.files.atomic import write_atomically
from tfnas.files.decode import encode
from tfnas.process.exits import DONE, FAILED, OUTSIDE_TOLERANCE

log = logging.getLogger(__name__)


def prepare(config: VerifierConfig) -> Work:
    """Check the input; raises ValueError or LookupError if it is unusable."""
    profiler = configured_device(config)
    path = Path(config.onnx)
    profiler.model_workload(path).close()  # an unusable model is found before any waiting

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
        )
        log.info("%s", result)
        if not result.usable:
            log.error("error: no usable measurement; try again on a quieter machine")
            return FAILED
        if config.json:
            write_atomically(Path(config.json), encode(result))
        return DONE if result.within else OUTSIDE_TOLERANCE

    return work


if __name__ == "__main__":
    main(VerifierConfig, "verify", prepare)

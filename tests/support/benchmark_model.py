"""Stands in for TFLite's `benchmark_model`, which no package has: takes the arguments that are used
of it, runs LiteRT for real and prints what the program prints."""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--graph", required=True)
    for name in ("num_threads", "num_runs", "warmup_runs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("min_secs", "warmup_min_secs"):
        parser.add_argument(f"--{name}", type=float, choices=[0.0], required=True)
    parser.add_argument("--use_xnnpack", choices=["true"], required=True)
    given = parser.parse_args()
    started = time.perf_counter()
    own = Interpreter(model_path=given.graph, num_threads=given.num_threads)
    own.allocate_tensors()
    init = 1e6 * (time.perf_counter() - started)
    (node,) = own.get_input_details()
    own.set_tensor(node["index"], np.random.default_rng(0).random(node["shape"], dtype=np.float32))
    us = []
    for _ in range(given.warmup_runs + given.num_runs):
        started = time.perf_counter()
        own.invoke()
        us.append(1e6 * (time.perf_counter() - started))
    warm, timed = us[: given.warmup_runs], us[given.warmup_runs :]
    for some in (warm, timed):
        print(
            f"INFO: count={len(some)} first={some[0]:.0f} curr={some[-1]:.0f} min={min(some):.0f} "
            f"max={max(some):.0f} avg={statistics.fmean(some):g} std={statistics.pstdev(some):.0f}"
        )
    print(
        f"INFO: Inference timings in us: Init: {init:.0f}, First inference: {us[0]:.0f}, "
        f"Warmup (avg): {statistics.fmean(warm):g}, Inference (avg): {statistics.fmean(timed):g}"
    )
    print("INFO: Note: as the benchmark tool itself affects memory footprint, this is APPROXIMATE")


if __name__ == "__main__":
    main()

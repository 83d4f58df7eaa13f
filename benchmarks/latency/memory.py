"""python -m benchmarks.latency.memory --space NAME --out FILE

Is what `limits.memory_mb` bounds what ONNX Runtime allocates? Random nets are exported and run once
more after a first run, each in a process of its own without an arena. What its resident memory
grows by at most, over what it was before, is compared with what `tfnas.costs.memory` says. A batch
makes the activations large against what else a run allocates. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tfnas.api import export_net, load_space
from tfnas.costs.memory import MemoryMb

# Without this glibc keeps what is freed, and growth can't be seen.
PLAIN = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
CHILD = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = False
options.enable_mem_pattern = len(sys.argv) > 2
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(image,) = session.get_inputs()
inputs = {image.name: numpy.random.default_rng(0).standard_normal(image.shape, "float32")}
def kib(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
session.run(None, inputs)
open("/proc/self/clear_refs", "w").write("5")
before = kib("VmRSS")
session.run(None, inputs)
print(kib("VmHWM") - before)
"""


def grown_mb(model: Path) -> float:
    """What a run's resident memory grows by, at most, in 1e6 bytes."""
    line = [sys.executable, "-c", CHILD, str(model)]
    done = subprocess.run(
        line, check=True, capture_output=True, text=True, env={**os.environ, **PLAIN}
    )
    return int(done.stdout) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", default="tfnas")
    parser.add_argument("--nets", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--quantum", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    space, cost, errors = load_space(options.space, 10).build(options.quantum), MemoryMb(4), []
    with tempfile.TemporaryDirectory() as scratch, options.out.open("a") as lines:
        for seed in range(options.nets):
            net = space.sample(random.Random(seed))
            file = export_net(net, Path(scratch) / "net.onnx", batch=options.batch).path
            # The input lies there before.
            into = options.batch * net.in_channels * net.ops[0].pixels * 4 / 1e6
            predicted = options.batch * cost.total(net)
            measured = grown_mb(file)
            first = max(net.ops, key=cost.op) == net.ops[0]
            error = (predicted - into * first) / measured - 1
            errors.append(error)
            row = {
                "space": options.space, "seed": seed, "batch": options.batch,
                "predicted_mb": predicted, "measured_mb": measured, "at_stem": first,
            }  # fmt: skip
            lines.write(json.dumps(row) + "\n")
            print(f"net {seed}: {predicted:.1f} MB predicted, {measured:.1f} measured {error:+.1%}")
    print(f"{np.mean(np.abs(errors)):.1%} off on average, at most {np.max(np.abs(errors)):.1%}")


if __name__ == "__main__":
    main()

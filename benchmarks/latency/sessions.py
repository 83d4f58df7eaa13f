"""python -m benchmarks.latency.sessions MODEL.onnx ... --out FILE [--rounds 12] [--seconds 15]

What makes two readings of one file differ: the process that reads it, or the moment? Each round
verifies every model twice, in a shuffled order: by a fresh process, and by this one, which lasts
and sets up its bench anew. Where fresh processes scatter more, it is the process; where the two go
together from round to round, it is the moment. Each reading is written as it is there; run again,
it goes on. Sessions are noted in FILE's folder, not in the user's.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from profilers.contract import Profiler
from profilers.devices import open_profiler
from profilers.measure.verification import verify
from tfnas.app.command_line import override

KINDS = ("fresh", "lasting")


@dataclass(frozen=True)
class Reading:
    """One verification.

    Attributes:
        session_ms: as this session ran; `ms` is that at the machine's usual speed.
        half: of the 95 % interval of `ms`, a fraction of it.
    """

    model: str
    round: int
    kind: str
    session_ms: float
    ms: float
    half: float


def read_fresh(model: Path, seed: int, seconds: float) -> tuple[float, float, Sequence[float]]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "verify.json"
        command = [
            sys.executable, "-m", "profilers.verify", "target_ms=1", f"seed={seed}",
            "verify.precision=1e-6", f"verify.max_minutes={seconds / 60}",
            override("onnx", model), override("json", answer),
        ]  # fmt: skip
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        found = json.loads(answer.read_text())
    return found["session_ms"], found["measured_ms"], found["measured_ci_ms"]


def read_here(
    profiler: Profiler, model: Path, seed: int, seconds: float
) -> tuple[float, float, Sequence[float]]:
    found = verify(
        profiler, model, 1.0, 1.0, max_minutes=seconds / 60, precision=1e-6, seed=seed,
        progress=lambda _: None,
    )  # fmt: skip
    assert found.session_ms is not None
    return found.session_ms, found.measured_ms, found.measured_ci_ms


def show(readings: Sequence[Reading]) -> None:
    """Print what scatters with what, in percent, over all models."""
    models = sorted({r.model for r in readings})
    rounds = sorted({r.round for r in readings})
    found = {(r.model, r.round, r.kind): r for r in readings}
    rounds = [n for n in rounds if all((m, n, k) in found for m in models for k in KINDS)]
    if len(rounds) < 3:
        return

    def off(name: str, kind: str) -> np.ndarray:
        """(models, rounds): log of each reading over the mean of its model."""
        ms = [[getattr(found[m, n, kind], name) for n in rounds] for m in models]
        logs = np.log(np.array(ms))
        return 100 * np.asarray(logs - logs.mean(axis=1, keepdims=True))

    print(f"{len(models)} models, {len(rounds)} rounds; standard deviations in %")
    for name in ("session_ms", "ms"):
        by_kind = {kind: off(name, kind) for kind in KINDS}
        scatter = {k: np.sqrt((v**2).sum() / (v.size - len(models))) for k, v in by_kind.items()}
        both = np.corrcoef(*(v.ravel() for v in by_kind.values()))[0, 1]
        pairs = by_kind["fresh"][:, 1:] + by_kind["fresh"][:, :-1]
        mean_of_two = np.sqrt((pairs**2).sum() / (pairs.size - len(models))) / 2
        print(
            f"{name:10s} fresh {scatter['fresh']:.2f}  lasting {scatter['lasting']:.2f}  "
            f"correlation of the two {both:+.2f}  mean of two fresh ones {mean_of_two:.2f}"
        )
    every = [
        abs(off("ms", kind)[i, j]) <= 100 * found[model, n, kind].half
        for kind in KINDS
        for i, model in enumerate(models)
        for j, n in enumerate(rounds)
    ]
    print(f"within its own interval of its model's mean: {100 * np.mean(every):.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_STATE_HOME"] = str(args.out.parent.resolve() / "state")
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    readings = [Reading(**json.loads(line)) for line in lines]
    done = {(r.model, r.round, r.kind) for r in readings}
    profiler = open_profiler("cpu", threads=1)
    for number in range(args.rounds):
        rng = random.Random(args.seed + number)
        todo = [(model, kind) for model in args.models for kind in KINDS]
        rng.shuffle(todo)
        for model, kind in todo:
            if (model.name, number, kind) in done:
                continue
            seed = rng.randrange(2**31)
            if kind == "fresh":
                session_ms, ms, ci = read_fresh(model, seed, args.seconds)
            else:
                session_ms, ms, ci = read_here(profiler, model, seed, args.seconds)
            half = (ci[1] - ci[0]) / 2 / ms
            readings.append(Reading(model.name, number, kind, session_ms, ms, half))
            with args.out.open("a") as out:
                out.write(json.dumps(asdict(readings[-1])) + "\n")
    show(readings)


if __name__ == "__main__":
    main()

"""python -m benchmarks.truth.methods REFERENCE --out FILE [--seeds 30]

All methods that only say which net to score next, by accuracies that are known: on once-for-all's
space with its i7 table (scores with noise), and on the trained nets of Accel-NASBench. Gains are
points above the mean of random nets of the same cost, as in `benchmarks.truth`. Each line of FILE
is a method on a case with so many scores; the same command goes on with what is missing, and
prints the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth.__main__ import NOISE, REFERENCE_NETS, SHARE, WINDOW, exact_optimum
from benchmarks.truth.oracles import Floats, Ints, Pool, Problem, accel_pool, ofa_problem
from tfnas.app.values import load
from tfnas.strategies.parts.proposing import Ground, Proposals, Proposer, nothing_asked
from tfnas.strategies.parts.surrogate import Features, Genes, Search, Settings

METHODS = ("aging", "nas_rl", "mnas", "manas", "alphax", "pnas")
DEVICES = ("throughput_tpuv3", "throughput_a100", "throughput_tpuv2", "latency_zcu102")


@dataclass(frozen=True)
class Case:
    """A ground whose nets' values are known.

    Attributes:
        noise: of a score, points.
        counts: of scores, that methods may have.
    """

    name: str
    ground: Ground
    genes: Genes
    reference: Ints  # random nets
    value: Callable[[Ints], Floats]
    noise: float
    scores: tuple[int, ...]

    @property
    def mean(self) -> float:
        return float(self.value(self.reference).mean())


@dataclass(frozen=True)
class OpenGround:
    """Nets of a space on a table."""

    problem: Problem
    target_ms: float
    exact: Callable[[tuple[Floats, ...], Ints], Ints]

    @property
    def counts(self) -> list[int]:
        return [len(loads) for loads in self.problem.loads]

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        return self.problem.stages

    def random(self, count: int, rng: np.random.Generator) -> Ints:
        low, high = (1 - WINDOW) * self.target_ms, (1 + WINDOW) * self.target_ms
        return self.problem.random_within(rng, count, low, high)

    def optimum(self, values: Sequence[Floats], asked: Ints) -> Ints:
        return self.exact(tuple(values), asked)


@dataclass(frozen=True)
class PoolGround:
    """Nets of a pool, of which none is asked for twice."""

    pool: Pool

    @property
    def counts(self) -> list[int]:
        return [len(factors) for factors in self.pool.genes.factors]

    @property
    def stages(self) -> list[tuple[int, int]]:
        return [(1, 1)] * len(self.counts)

    def random(self, count: int, rng: np.random.Generator) -> Ints:
        return self.pool.nets[rng.choice(len(self.pool.nets), count, replace=False)]

    def optimum(self, values: Sequence[Floats], asked: Ints) -> Ints:
        nets = self.pool.nets
        total = sum((v[nets[:, p]] for p, v in enumerate(values)), np.zeros(len(nets)))
        if len(asked):
            total[(nets[:, None] == asked).all(axis=2).any(axis=1)] = -np.inf
        return np.asarray(nets[int(total.argmax())])


def open_case(problem: Problem, target_ms: float) -> Case:
    ground = OpenGround(problem, target_ms, exact_optimum(problem, target_ms))
    reference = ground.random(REFERENCE_NETS, np.random.default_rng(99))
    return Case(
        f"OFA {target_ms:g} ms", ground, problem.genes, reference, problem.value, NOISE,
        (20, 50, 100),
    )  # fmt: skip


def pool_case(pool: Pool, device: str) -> Case:
    near = pool.near_median(SHARE)

    def value(nets: Ints) -> Floats:
        lines = [int((near.nets == net).all(axis=1).argmax()) for net in nets]
        return near.value[lines]

    return Case(device, PoolGround(near), near.genes, near.nets, value, 0.0, (12, 20))


def gain(case: Case, method: str, count: int, seed: int) -> float:
    """Points above the mean of random nets, of the net that a method takes after so many scores."""
    rng = np.random.default_rng((seed, count))
    proposals, noisy = proposed(case, method, count, rng), np.random.default_rng((seed, count, 1))
    nets, scores = nothing_asked(case.ground), np.zeros(0)
    asked = next(proposals)
    while True:
        asked = asked[: count - len(nets)]
        found = case.value(asked) + case.noise * noisy.normal(size=len(asked))
        nets, scores = np.concatenate([nets, asked]), np.concatenate([scores, found])
        if len(nets) == count:
            break
        asked = proposals.send(found)
    # A net that was scored several times has the mean of its scores.
    distinct, place = np.unique(nets, axis=0, return_inverse=True)
    means = np.bincount(place.ravel(), scores) / np.bincount(place.ravel())
    return float(case.value(distinct[int(means.argmax())][None])[0]) - case.mean


def proposed(case: Case, method: str, count: int, rng: np.random.Generator) -> Proposals:
    """What a method proposes; `best of random` and `surrogate` are there to be compared with."""
    if method == "best of random":
        return _random(case.ground, count, rng)
    if method == "surrogate":
        return _surrogate(case, rng)
    strategy = load("strategy", method)
    assert isinstance(strategy, Proposer)
    return strategy.propose(case.ground, rng, count)


def _random(ground: Ground, count: int, rng: np.random.Generator) -> Proposals:
    yield ground.random(count, rng)


def _surrogate(case: Case, rng: np.random.Generator) -> Proposals:
    settings = Settings(noise=case.noise or Settings().noise, batch=5 if case.noise else 2)
    features = Features.of_genes(case.genes, case.reference, settings)
    search = Search(features, case.ground.optimum, settings, rng)
    while True:
        nets = search.ask(settings.batch)
        scores = yield nets
        search.tell(nets[: len(scores)], scores)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("--targets", type=float, nargs="*", default=[22.0])
    parser.add_argument("--devices", nargs="*", default=list(DEVICES))
    parser.add_argument("--methods", nargs="*", default=["best of random", *METHODS, "surrogate"])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    known = map(json.loads, lines)
    rows = {(r["case"], r["method"], r["scores"], r["first_seed"]): r for r in known}
    truth = options.reference / "truth"
    problem = ofa_problem(
        options.reference / "tables" / "ofa_i7_8700k.yaml", truth / "ofa_accuracy_predictor.npz"
    )
    cases = [open_case(problem, target) for target in options.targets]
    cases += [pool_case(accel_pool(truth / "accel_nasbench.csv", d), d) for d in options.devices]
    for case in cases:
        for method in options.methods:
            for count in case.scores:
                key = (case.name, method, count, options.first_seed)
                if key in rows:
                    continue
                seeds = range(options.first_seed, options.first_seed + options.seeds)
                gains = [gain(case, method, count, seed) for seed in seeds]
                rows[key] = {
                    "case": case.name, "method": method, "scores": count,
                    "first_seed": options.first_seed, "gains": gains,
                }  # fmt: skip
                with options.out.open("a") as file:
                    file.write(json.dumps(rows[key]) + "\n")
                print(f"{case.name} {method} {count}: {shown(gains)}", flush=True)
    print(table(list(rows.values())))


def shown(gains: Sequence[float]) -> str:
    half = 1.96 * np.std(gains, ddof=1) / np.sqrt(len(gains))
    return f"{np.mean(gains):.2f} ± {half:.2f}"


def table(rows: Sequence[dict[str, object]]) -> str:
    """Gains by method, case and scores, as Markdown."""
    columns = list(dict.fromkeys((str(r["case"]), r["scores"]) for r in rows))
    known = {(r["method"], str(r["case"]), r["scores"]): r["gains"] for r in rows}
    lines = [
        "| method | " + " | ".join(f"{case}, {count}" for case, count in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for method in dict.fromkeys(str(r["method"]) for r in rows):
        cells = [known.get((method, *column)) for column in columns]
        lines.append(
            f"| {method} | " + " | ".join(shown(c) if isinstance(c, list) else "" for c in cells)
            + " |"
        )  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()

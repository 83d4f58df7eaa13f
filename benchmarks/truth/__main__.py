"""python -m benchmarks.truth REFERENCE [--targets 18 22] [--devices NAME ...] [--seeds 30]

Judges search methods by accuracies that are known, without a training. REFERENCE is the folder that
holds `truth/` and `tables/`. Gains are points above the mean of random nets of the same cost, with
95 % intervals over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.truth.oracles import Floats, Ints, Pool, Problem, accel_pool, ofa_problem
from tfnas.derive.solver import Group, Row, cheapest
from tfnas.derive.uniform import ABSENT
from tfnas.strategies.parts.surrogate import Features, Search, Settings

WINDOW = 0.01  # share of the target within which random nets lie
SHARE = 0.05  # the same in a pool
NOISE = 0.2  # points, sd of an evaluation of (a)
REFERENCE_NETS = 3000
POPULATION, SAMPLE = 10, 3  # regularized evolution's, of NATS-Bench's published code
RIDGE = 1.0

Strategy = Callable[[int, np.random.Generator], float]  # number of evaluations -> gain


# --- (a) a space with a predictor -----------------------------------------------------------------


def exact_optimum(problem: Problem, target_ms: float) -> Callable[[tuple[Floats, ...], Ints], Ints]:
    """Make what finds the net of highest value of no more than the target."""

    def optimum(values: tuple[Floats, ...], _: Ints) -> Ints:
        rows, first = [], 0
        for positions, least in problem.stages:
            places = range(first, first + positions)
            groups = tuple(Group(-values[p], problem.loads[p][:, None]) for p in places)
            rows.append(Row(groups, np.where(np.arange(positions + 1) < least, np.inf, 0.0)))
            first += positions
        high = np.array([target_ms - problem.fixed])
        found = cheapest(rows, np.array([-np.inf]), high, np.zeros(1))
        if found is None:
            raise ValueError(f"No net is as fast as {target_ms} ms")
        net = [
            [*items, *[ABSENT] * (positions - len(items))]
            for items, (positions, _) in zip(found.items, problem.stages, strict=True)
        ]
        return np.array([item for stage in net for item in stage], np.int64)

    return optimum


@dataclass(frozen=True)
class Open:
    """Strategies on a space whose nets can all be evaluated, with noise."""

    problem: Problem
    target_ms: float
    settings: Settings
    reference: Ints  # random nets at the target
    mean: float  # of their true values

    @classmethod
    def at(cls, problem: Problem, target_ms: float, settings: Settings) -> Open:
        reference = _near(problem, np.random.default_rng(99), REFERENCE_NETS, target_ms)
        mean = float(problem.value(reference).mean())
        return cls(problem, target_ms, settings, reference, mean)

    def random(self, count: int, rng: np.random.Generator) -> float:
        return self._gain(_near(self.problem, rng, 1, self.target_ms)[0])

    def best_of_random(self, count: int, rng: np.random.Generator) -> float:
        nets = _near(self.problem, rng, count, self.target_ms)
        return self._gain(nets[int(self._scores(nets, rng).argmax())])

    def evolution(self, count: int, rng: np.random.Generator) -> float:
        """Run regularized evolution (E. Real et al., AAAI 2019); children stay at the target."""
        nets = _near(self.problem, rng, min(POPULATION, count), self.target_ms)
        scores = self._scores(nets, rng)
        while len(nets) < count:
            living = np.arange(max(0, len(nets) - POPULATION), len(nets))
            drawn = rng.choice(living, min(SAMPLE, len(living)))
            child = self._child(nets[drawn[int(scores[drawn].argmax())]], rng)[None]
            nets = np.concatenate([nets, child])
            scores = np.concatenate([scores, self._scores(child, rng)])
        return self._gain(nets[int(scores.argmax())])

    def surrogate(self, count: int, rng: np.random.Generator) -> float:
        features = Features.of_genes(self.problem.genes, self.reference, self.settings)
        optimum = exact_optimum(self.problem, self.target_ms)
        search = Search(features, optimum, self.settings, rng)
        while len(search.nets) < count:
            nets = search.ask(min(self.settings.batch, count - len(search.nets)))
            search.tell(nets, self._scores(nets, rng))
        return self._gain(search.best())

    def _child(self, parent: Ints, rng: np.random.Generator) -> Ints:
        """Change a few genes, as few as an accepted draw needs."""
        low, high = _window(self.target_ms)
        for attempt in range(100):
            donors = self.problem.random(rng, 500)
            changed = rng.random(donors.shape) < (1 + attempt) / donors.shape[1]
            children = np.where(changed & (donors != ABSENT) & (parent != ABSENT), donors, parent)
            first = 0
            for positions, _ in self.problem.stages:  # a stage's depth comes with its items
                whole = rng.random(len(donors)) < 0.1
                stage = slice(first, first + positions)
                children[whole, stage] = donors[whole, stage]
                first += positions
            cost = self.problem.cost(children)
            fit = (cost >= low) & (cost <= high) & (children != parent).any(axis=1)
            if fit.any():
                fits = children[fit]
                return np.asarray(fits[int((fits != parent).sum(axis=1).argmin())])
        return np.asarray(_near(self.problem, rng, 1, self.target_ms)[0])

    def _scores(self, nets: Ints, rng: np.random.Generator) -> Floats:
        return self.problem.value(nets) + NOISE * rng.normal(size=len(nets))

    def _gain(self, net: Ints) -> float:
        return float(self.problem.value(net[None])[0]) - self.mean


def _window(target_ms: float) -> tuple[float, float]:
    return (1 - WINDOW) * target_ms, (1 + WINDOW) * target_ms


def _near(problem: Problem, rng: np.random.Generator, count: int, target_ms: float) -> Ints:
    return problem.random_within(rng, count, *_window(target_ms))


# --- (b) a pool of trained nets -------------------------------------------------------------------


@dataclass(frozen=True)
class Closed:
    """Strategies on a pool of nets, each trained once; their gain is that of the best trained."""

    pool: Pool
    settings: Settings

    @classmethod
    def at(cls, pool: Pool, settings: Settings) -> Closed:
        return cls(pool.near_median(SHARE), settings)

    def random(self, count: int, rng: np.random.Generator) -> float:
        return self._gain([int(rng.integers(len(self.pool.nets)))])

    def best_of_random(self, count: int, rng: np.random.Generator) -> float:
        return self._gain(self._draw(rng, count))

    def evolution(self, count: int, rng: np.random.Generator) -> float:
        """Run regularized evolution; a child is the new net with the fewest other genes."""
        trained = self._draw(rng, min(POPULATION, count // 2))
        living = len(trained)
        while len(trained) < count:
            drawn = rng.choice(trained[-living:], SAMPLE)
            parent = drawn[int(self.pool.value[drawn].argmax())]
            other = (self.pool.nets != self.pool.nets[parent]).sum(axis=1) + rng.random(
                len(self.pool.nets)
            )
            other[trained] = np.inf
            trained.append(int(other.argmin()))
        return self._gain(trained)

    def ridge(self, count: int, rng: np.random.Generator) -> float:
        """Train half at random, the rest by a ridge fit on one-hot genes and sizes."""
        x = self._one_hot()
        trained = self._draw(rng, count // 2)
        while len(trained) < count:
            some, score = x[trained], self.pool.value[trained]
            dual = some @ some.T + RIDGE * np.eye(len(some))
            predicted = x @ (some.T @ np.linalg.solve(dual, score - score.mean()))
            predicted[trained] = -np.inf
            trained.append(int(predicted.argmax()))
        return self._gain(trained)

    def surrogate(self, count: int, rng: np.random.Generator) -> float:
        nets = self.pool.nets

        def optimum(values: tuple[Floats, ...], asked: Ints) -> Ints:
            total = sum((v[nets[:, p]] for p, v in enumerate(values)), np.zeros(len(nets)))
            total[(nets[:, None] == asked).all(axis=2).any(axis=1)] = -np.inf
            return np.asarray(nets[int(total.argmax())])

        features = Features.of_genes(self.pool.genes, nets, self.settings)
        search = Search(features, optimum, self.settings, rng)
        while len(search.nets) < count:
            asked = search.ask(min(self.settings.batch, count - len(search.nets)))
            search.tell(asked, self.pool.value[self._lines(asked)])
        return self._gain(self._lines(search.best()[None]))

    def _lines(self, nets: Ints) -> list[int]:
        return [int((self.pool.nets == net).all(axis=1).argmax()) for net in nets]

    def _draw(self, rng: np.random.Generator, count: int) -> list[int]:
        return [int(i) for i in rng.choice(len(self.pool.nets), count, replace=False)]

    def _one_hot(self) -> Floats:
        columns: list[Floats] = []
        totals = np.zeros((len(self.pool.nets), self.pool.genes.sizes[0].shape[1]))
        parts = zip(self.pool.genes.factors, self.pool.genes.sizes, self.pool.nets.T, strict=True)
        for factors, sizes, item in parts:
            totals += sizes[item]
            for level in factors[item].T[1:]:
                columns += [(level == value).astype(float) for value in np.unique(level)]
        logs = np.log(totals)
        x = np.concatenate([np.stack(columns, axis=1), logs / logs.std(axis=0)], axis=1)
        return np.asarray(x - x.mean(axis=0))

    def _gain(self, trained: list[int]) -> float:
        return float(self.pool.value[trained].max() - self.pool.value.mean())


# --- the table ------------------------------------------------------------------------------------


def strategies(case: Open | Closed) -> Iterator[tuple[str, Strategy]]:
    """List the strategies by name."""
    yield "random", case.random
    yield "best of random", case.best_of_random
    yield "regularized evolution", case.evolution
    if isinstance(case, Closed):
        yield "ridge, half random", case.ridge
    yield "surrogate", case.surrogate


def report(name: str, case: Open | Closed, counts: Sequence[int], seeds: Sequence[int]) -> None:
    """Print a line for each strategy: gain and half of its interval, and lead over the random."""
    luck: dict[int, Floats] = {}
    for label, strategy in strategies(case):
        cells = []
        for count in counts:
            gains = np.array([strategy(count, np.random.default_rng((s, count))) for s in seeds])
            cell = f"{gains.mean():5.2f} ±{_half(gains):.2f}"
            if label == "best of random":
                luck[count] = gains
            elif count in luck:
                lead = gains - luck[count]
                cell += f" ({lead.mean():+.2f} ±{_half(lead):.2f})"
            cells.append(f"{cell:28s}")
        print(f"{name:16s} {label:22s} {' '.join(cells)}".rstrip(), flush=True)


def _half(values: Floats) -> float:
    return float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--targets", type=float, nargs="*", default=[18.0, 22.0])
    parser.add_argument("--devices", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--counts", type=int, nargs="*")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.targets:
        table = options.reference / "tables" / "ofa_i7_8700k.yaml"
        problem = ofa_problem(table, options.reference / "truth" / "ofa_accuracy_predictor.npz")
        for target in options.targets:
            case = Open.at(problem, target, Settings(noise=NOISE))
            report(f"OFA {target:g} ms", case, options.counts or (20, 50, 100), seeds)
    for device in options.devices:
        pool = accel_pool(options.reference / "truth" / "accel_nasbench.csv", device)
        short = replace(Settings(), batch=2)
        report(device, Closed.at(pool, short), options.counts or (6, 12, 20), seeds)


if __name__ == "__main__":
    main()

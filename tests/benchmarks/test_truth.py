"""The surrogate of benchmarks/truth on a made-up space whose values are known."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.truth.oracles import accel_pool, ofa_problem
from tfnas.strategies.parts.surrogate import Features, Floats, Genes, Ints, Search, Settings

REFERENCE = os.environ.get("TFNAS_REFERENCE")
POSITIONS, ITEMS = 8, 4


def test_few_evaluations_find_a_better_net_than_as_many_random_ones() -> None:
    gains = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        worth = rng.normal(size=(POSITIONS, ITEMS))
        factors = np.stack([np.ones(ITEMS), np.arange(ITEMS)], axis=1)
        sizes = np.arange(1.0, ITEMS + 1)[:, None]
        genes = Genes((factors,) * POSITIONS, (sizes,) * POSITIONS)
        reference = rng.integers(0, ITEMS, (500, POSITIONS))

        def value(nets: Ints, worth: Floats = worth) -> Floats:
            return np.asarray(worth[np.arange(POSITIONS), nets].sum(axis=1))

        def optimum(values: tuple[Floats, ...], _asked: Ints) -> Ints:
            return np.array([int(row.argmax()) for row in values])

        settings = Settings(noise=0.1)
        search = Search(Features.of_genes(genes, reference, settings), optimum, settings, rng)
        while len(search.nets) < 20:
            nets = search.ask(5)
            search.tell(nets, value(nets) + 0.1 * rng.normal(size=len(nets)))
        random = rng.integers(0, ITEMS, (20, POSITIONS))
        gains.append(value(search.best()[None])[0] - value(random).max())
    assert np.mean(gains) > 0


@pytest.mark.skipif(not REFERENCE, reason="TFNAS_REFERENCE doesn't name the reference data")
def test_the_reference_is_read_as_its_readme_says() -> None:
    folder = Path(str(REFERENCE))
    problem = ofa_problem(
        folder / "tables" / "ofa_i7_8700k.yaml",
        folder / "truth" / "ofa_accuracy_predictor.npz",
    )
    nets = problem.random_within(np.random.default_rng(0), 300, 17.82, 18.18)
    assert problem.value(nets).mean() == pytest.approx(81.57, abs=0.15)
    pool = accel_pool(folder / "truth" / "accel_nasbench.csv", "throughput_3090")
    assert len(pool.nets) > 5000

"""An additive value of nets, learned from few evaluations, and what to evaluate next.

A net has one item at each of its positions, or none where it is cut off. Its value is taken to be a
sum over positions, so that an exact solver of sums finds the net of highest value under a bound on
latency. Weights of the sum are Gaussian beforehand and stay so (Bayesian linear regression, e.g.
C. M. Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3); no sign is assumed.
Three kinds of terms share the variance: factors of items (kernel, ratio, presence), in part with
one weight for all positions; sizes (multiply-adds, weights); one deviation for each item of each
position.

Nets to evaluate are optima of posterior draws whose deviation is shrunk (W. R. Thompson, Biometrika
25, 1933; shrunk: O. Chapelle and L. Li, NeurIPS 2011). Before the first evaluation they are optima
of prior draws, which differ in the shared factors as far as the bound lets them. No sum is true
everywhere: what it misses counts as noise that grows with the distance from the present optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tfnas.derive.uniform import ABSENT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCALES = tuple(2.0**k for k in range(-3, 5))  # signal's variance, in variances of the scores
SPREAD = 1.5  # sd of its logarithm beforehand
MISFITS = (0.0, 0.1, 0.3, 1.0)  # variance of what the sum misses, in signal's variances
FREE = 100.0  # variance of the mean beforehand, in variances of the scores
TRIES = 6  # draws until one leads to a new net
WARMER = 1.5  # temperature's growth from one to the next
SAME = 1e-12  # variance of what is the same in all nets, but for rounding
LEAST = 0.02  # variance of a sum at the target, in the sum of its positions' variances


@dataclass(frozen=True)
class Genes:
    """What is known of the items of each position.

    Attributes:
        factors: for each position, (items, f) numbers; the first is 1: the item's presence.
        sizes: for each position, (items, s) amounts that add up to those of the net.
        kinds: for each position, (items,) numbers from 0; items of one number (an op at several
            widths) share a deviation. Each has its own where none are given.
    """

    factors: tuple[Floats, ...]
    sizes: tuple[Floats, ...]
    kinds: tuple[Ints, ...] | None = None

    def deviations(self) -> list[Floats]:
        """For each position, (items, k) with a 1 where the item has the deviation, k of all."""
        kinds = self.kinds or tuple(np.arange(len(factors)) for factors in self.factors)
        sizes = [int(kind.max()) + 1 for kind in kinds]
        firsts = np.cumsum([0, *sizes])
        single = np.eye(firsts[-1])
        return [single[first + kind] for first, kind in zip(firsts, kinds, strict=False)]


@dataclass(frozen=True)
class Settings:
    """Shares of the variance of random nets' values beforehand, and how to search.

    Attributes:
        shared: share of a factor's variance that is common to all positions.
        temperature: factor of a draw's deviation from the posterior mean.
        noise: sd of an evaluation.
        batch: nets asked for at once.
        apart: least distance of a new net from others; that of two random nets is 1 in the mean.
    """

    factors: float = 0.3
    sizes: float = 0.2
    items: float = 0.5
    shared: float = 0.5
    temperature: float = 0.2
    noise: float = 0.2
    batch: int = 5
    apart: float = 0.0


@dataclass(frozen=True)
class Features:
    """Vectors of items, scaled so that all weights have variance 1 beforehand.

    Attributes:
        items: for each position, (items, d).
        center: (d,) mean over reference nets.
    """

    items: tuple[Floats, ...]
    center: Floats

    @classmethod
    def of_genes(cls, genes: Genes, reference: Ints, settings: Settings) -> Features:
        """Build them, with variances as they are among reference nets (at the target)."""
        count = len(genes.factors)
        every = np.concatenate(genes.factors)
        mean, sd = every.mean(axis=0), every.std(axis=0)
        mean[0], sd[0] = 0.0, 1.0
        common = settings.shared * np.ones((count, count)) + (1 - settings.shared) * np.eye(count)
        root = np.linalg.cholesky(common + 1e-9 * np.eye(count))
        parts: list[tuple[float, list[Floats]]] = []
        for f in range(len(mean)):
            levels = [(factors[:, f : f + 1] - mean[f]) / sd[f] for factors in genes.factors]
            rows = [level * line for level, line in zip(levels, root, strict=True)]
            parts.append((settings.factors / len(mean), rows))
        for s in range(genes.sizes[0].shape[1]):
            rows = [sizes[:, s : s + 1] for sizes in genes.sizes]
            parts.append((settings.sizes / genes.sizes[0].shape[1], rows))
        parts.append((settings.items, genes.deviations()))
        scaled = []
        for share, rows in parts:
            apart = sum(
                _sums([row], reference[:, [p]]).var(axis=0).sum() for p, row in enumerate(rows)
            )
            variance = max(_sums(rows, reference).var(axis=0).sum(), LEAST * apart)
            scale = np.sqrt(share / variance) if variance > SAME else 0.0
            scaled.append([row * scale for row in rows])
        items = tuple(np.concatenate(rows, axis=1) for rows in zip(*scaled, strict=True))
        return cls(items, _sums(items, reference).mean(axis=0))

    def of_nets(self, nets: Ints) -> Floats:
        """Sum up over positions, (n, d)."""
        return _sums(self.items, nets) - self.center

    def values(self, weights: Floats) -> tuple[Floats, ...]:
        """Give each item of each position its value."""
        return tuple(vectors @ weights for vectors in self.items)


def _sums(items: list[Floats] | tuple[Floats, ...], nets: Ints) -> Floats:
    total = np.zeros((len(nets), items[0].shape[1]))
    for position, vectors in enumerate(items):
        kept = nets[:, position] != ABSENT
        total[kept] += vectors[nets[kept, position]]
    return total


@dataclass(frozen=True)
class _Case:
    """One pair of variances, and the posterior under it."""

    scale: float  # the signal's variance
    errors: Floats  # (n,) variances of noise and misfit
    covariance: Floats  # (n, n) of the scores
    log_evidence: float


@dataclass(frozen=True)
class Posterior:
    """What scores tell of the weights, under several variances with a probability each."""

    x: Floats  # (n, d)
    scores: Floats  # (n,) around their mean
    free: float
    cases: tuple[_Case, ...]

    @property
    def probabilities(self) -> Floats:
        logs = np.array([case.log_evidence for case in self.cases])
        shares = np.exp(logs - logs.max())
        return np.asarray(shares / shares.sum())

    def mean(self) -> Floats:
        """Give the mean of the weights under the most probable variances."""
        return self._mean(self.cases[int(self.probabilities.argmax())], self.scores)

    def draw(self, rng: np.random.Generator, temperature: float) -> Floats:
        """Draw variances, then weights; their deviation from the mean is scaled.

        A prior draw is corrected by the posterior mean of what it misses of the scores
        (G. Matheron's rule; A. G. Journel and C. J. Huijbregts, Mining Geostatistics, 1978).
        """
        case = self.cases[int(rng.choice(len(self.cases), p=self.probabilities))]
        weights = temperature * np.sqrt(case.scale) * rng.normal(size=self.x.shape[1])
        errors = temperature * np.sqrt(case.errors) * rng.normal(size=len(self.scores))
        shift = temperature * np.sqrt(self.free) * rng.normal()
        missed = self.scores - self.x @ weights - errors - shift
        return np.asarray(weights + self._mean(case, missed))

    def estimates(self, noise: float) -> Floats:
        """Estimate the evaluated nets' values, with a share of what the sum misses of each."""
        case = self.cases[int(self.probabilities.argmax())]
        fitted = self.x @ self.mean()
        missed = self.scores - fitted
        missed -= missed.mean()
        own = np.maximum(case.errors - noise**2, 0.02 * case.scale)
        return np.asarray(fitted + missed * own / (own + noise**2))

    def _mean(self, case: _Case, scores: Floats) -> Floats:
        return np.asarray(case.scale * (self.x.T @ np.linalg.solve(case.covariance, scores)))


def fit(x: Floats, scores: Floats, noise: float, center: Floats) -> Posterior:
    """Fit the weights to scores; the sum is held to be true at `center` (d,), less so far off."""
    around = scores - scores.mean()
    unit = float(around.var()) or 1.0
    distance = ((x - center) ** 2).sum(axis=1) / 2  # of two random nets 1 in the mean
    signal = x @ x.T
    cases = []
    for ratio in SCALES:
        for misfit in MISFITS:
            errors = noise**2 + misfit * ratio * unit * distance
            covariance = ratio * unit * signal + np.diag(errors + 1e-6 * unit) + FREE * unit
            root = np.linalg.cholesky(covariance)
            white = np.linalg.solve(root, around)
            log_prior = -0.5 * (np.log(ratio) / SPREAD) ** 2
            evidence = -0.5 * white @ white - np.log(np.diag(root)).sum() + log_prior
            cases.append(_Case(ratio * unit, errors, covariance, float(evidence)))
    return Posterior(x, around, FREE * unit, tuple(cases))


@dataclass
class Search:
    """Asks for nets to evaluate and is told their scores.

    Attributes:
        optimum: gives the net (positions,) of the highest sum of items' values within the bounds;
            the second argument are nets asked for already, which it may leave out.
        center: (d,) features of the present optimum, where the sum is held to be true.
    """

    features: Features
    optimum: Callable[[tuple[Floats, ...], Ints], Ints]
    settings: Settings
    rng: np.random.Generator
    nets: Ints = field(init=False)
    scores: Floats = field(init=False)
    center: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.nets = np.zeros((0, len(self.features.items)), np.int64)
        self.scores = np.zeros(0)
        self.center = np.zeros_like(self.features.center)

    def ask(self, count: int) -> Ints:
        """Give nets to evaluate, all new where the draws lead to new ones."""
        posterior = self.posterior() if len(self.scores) else None
        asked = self.nets
        for _ in range(count):
            temperature = self.settings.temperature
            for _ in range(TRIES):
                if posterior is None:
                    weights = self.rng.normal(size=len(self.center))
                else:
                    weights = posterior.draw(self.rng, temperature)
                net = self.optimum(self.features.values(weights), asked)
                if self._is_new(net, asked):
                    break
                temperature *= WARMER
            asked = np.concatenate([asked, net[None]])
        return asked[len(self.nets) :]

    def _is_new(self, net: Ints, asked: Ints) -> bool:
        if (asked == net).all(axis=1).any():
            return False
        if not (self.settings.apart and len(asked)):
            return True
        x = self.features.of_nets(np.concatenate([asked, net[None]]))
        return bool((((x[:-1] - x[-1]) ** 2).sum(axis=1) / 2).min() >= self.settings.apart)

    def tell(self, nets: Ints, scores: Floats) -> None:
        """Take the scores of nets in; higher is better."""
        self.nets = np.concatenate([self.nets, nets])
        self.scores = np.concatenate([self.scores, scores])
        best = self.optimum(self.features.values(self.posterior().mean()), self.nets[:0])
        self.center = self.features.of_nets(best[None])[0]

    def posterior(self) -> Posterior:
        """Fit the weights to all scores."""
        return fit(self.features.of_nets(self.nets), self.scores, self.settings.noise, self.center)

    def best(self) -> Ints:
        """Give the evaluated net of the highest estimate."""
        return np.asarray(self.nets[int(self.posterior().estimates(self.settings.noise).argmax())])

"""From what a search learned to the subnet that meets the target.

`derive_greedy` is the published derivation (TF-NAS, arXiv 2008.05314, section 3.4): the most
probable op of every block and depth of every stage, whose widths are scaled until the target is
passed. It can't meet a target that the widths of that one choice don't span.

`derive_constrained` finds the optimum under the target, lexicographic: first the most probable ops
and depths, then the widths nearest to the scaled ones. What it minimizes, in this order:

1. the log-probability given up, sum over blocks of (max alpha - alpha[op]) plus sum over stages of
   (max beta - beta[depth]). A block that the depth cuts off keeps its most probable op and gives up
   nothing, so the argmax is the optimum whenever it can meet the target, and depth isn't favoured
   for having fewer factors. Between choices of equal probability, the one with fewest changes
   against the argmax (each change counts as a billionth nat).
2. the sum over kept blocks of ((width - scaled) / scaled)², where `scaled` are the widths that the
   published scaling gives these ops and depths for the first constraint.

Both are exact but for the merging of partial sums within `Derived.error_bound_ms` (see there and
`solver.cheapest`). Every result is checked against the tables' own sums. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tfnas.architecture import (
    Architecture,
    Constraint,
    Derived,
    argmax,
    log_prob,
    picked_widths,
)
from tfnas.constrained import Constrained
from tfnas.menu import Menu, feasible_ms, nearby, scale, scale_widths
from tfnas.space import SearchSpace

__all__ = [
    "Architecture",
    "Constraint",
    "Derived",
    "argmax",
    "derive_constrained",
    "derive_greedy",
    "draw_constrained",
    "feasible_ms",
    "nearby",
    "scale_widths",
]


def derive_greedy(space: SearchSpace, arch: Architecture, constraint: Constraint) -> Derived:
    """Argmax and progressive scaling, as published. A missed target is `reached=False`."""
    menu = Menu(space, [constraint.table])
    depths, picks = argmax(space, arch)
    current = picked_widths(arch, picks)
    widths = scale(menu, depths, picks, current, constraint.target_ms)
    return _derived(space, arch, [constraint], depths, picks, widths, (0.0,))


def derive_constrained(
    space: SearchSpace, arch: Architecture, constraints: Sequence[Constraint]
) -> Derived:
    """The most probable subnet that meets all constraints; see the module's docstring.

    Raises:
        LookupError: if a table doesn't cover the space.
        ValueError: if no subnet meets the constraints, with the reachable range and the nearest
            reachable target.
    """
    if not constraints:
        raise ValueError("no constraint given: expected at least one table with its target")
    for constraint in constraints:
        if not (0 < constraint.target_ms < np.inf and 0 < constraint.tol < 1):
            raise ValueError(
                f"target_ms={constraint.target_ms}, tol={constraint.tol}: expected a positive "
                "target and a tolerance between 0 and 1"
            )
    problem = Constrained(space, arch, constraints)
    depths, picks, widths = problem.solve()
    derived = _derived(space, arch, constraints, depths, picks, widths, problem.error_bound_ms)
    assert derived.reached, (derived.table_ms, constraints)
    return derived


def draw_constrained(
    space: SearchSpace,
    arch: Architecture,
    constraints: Sequence[Constraint],
    rng: np.random.Generator,
) -> Derived:
    """A subnet that meets all constraints, drawn by the probabilities.

    It is what `derive_constrained` finds where every log-probability has Gumbel noise added
    (perturb-and-MAP, Papandreou and Yuille, ICCV 2011): without a constraint an exact sample. Its
    `error_bound_ms` is that of the noisy problem.

    Raises:
        LookupError, ValueError: see `derive_constrained`.
    """
    noisy = replace(
        arch,
        alphas=tuple(row + rng.gumbel(size=row.shape) for row in arch.alphas),
        betas=tuple(row + rng.gumbel(size=row.shape) for row in arch.betas),
    )
    drawn = derive_constrained(space, noisy, constraints)
    return _derived(
        space, arch, constraints, drawn.depths, drawn.picks, drawn.widths, drawn.error_bound_ms
    )


def _derived(
    space: SearchSpace,
    arch: Architecture,
    constraints: Sequence[Constraint],
    depths: tuple[int, ...],
    picks: tuple[int, ...],
    widths: tuple[int, ...],
    error_bound_ms: tuple[float, ...],
) -> Derived:
    subnet = space.subnet(depths, picks, widths)
    table_ms = tuple(constraint.table.subnet_ms(subnet) for constraint in constraints)
    best = argmax(space, arch)
    return Derived(
        subnet=subnet,
        depths=depths,
        picks=picks,
        widths=widths,
        table_ms=table_ms,
        log_prob=log_prob(space, arch, depths, picks),
        argmax_log_prob=log_prob(space, arch, *best),
        reached=all(c.met_by(ms) for c, ms in zip(constraints, table_ms, strict=True)),
        error_bound_ms=error_bound_ms,
        argmax_depths=best[0],
        argmax_picks=best[1],
    )

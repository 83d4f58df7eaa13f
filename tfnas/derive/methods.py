"""From what a search learned to the subnet that meets the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tfnas.derive.architecture import (
    Architecture,
    Constraint,
    Derived,
    argmax,
    log_prob,
    picked_widths,
)
from tfnas.derive.bounded import Bounded
from tfnas.derive.constrained import Constrained
from tfnas.derive.menu import Menu
from tfnas.derive.scaling import scale
from tfnas.space.search_space import SearchSpace


def derive_greedy(space: SearchSpace, arch: Architecture, constraint: Constraint) -> Derived:
    """Argmax and progressive scaling, as published. A missed target is `reached=False`."""
    menu = Menu(space, [constraint.cost])
    depths, picks = argmax(space, arch)
    current = picked_widths(arch, picks)
    widths = scale(menu, depths, picks, current, constraint.target)
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
    problem = Constrained(space, arch, constraints)
    depths, picks, widths = problem.solve()
    derived = _derived(space, arch, constraints, depths, picks, widths, problem.error_bounds)
    assert derived.reached, (derived.costs, constraints)
    return derived


def derive_valued(
    bounded: Bounded, values: Sequence[np.ndarray], depth_values: Sequence[np.ndarray]
) -> Derived:
    """The subnet of the highest sum of values that meets all constraints, ops and widths at once.

    Args:
        values: for each block, (items,) of `Menu.items`.
        depth_values: for each stage, (depths,).

    Raises:
        ValueError: if no subnet meets the constraints.
    """
    found = bounded.cheapest_items([-v for v in values], [-v for v in depth_values])
    if found is None:
        raise ValueError(bounded.unreachable())
    derived = derived_of(bounded, *found)
    assert derived.reached, (derived.costs, bounded.constraints)
    return derived


def derived_of(bounded: Bounded, depths: tuple[int, ...], items: Sequence[int]) -> Derived:
    """The subnet of these depths and items of all kept blocks, which nothing was learned of.

    Its probabilities are uniform, and it gave up nothing. Blocks that are cut off have their first
    op at its initial width.
    """
    space, menu = bounded.space, bounded.menu
    chosen = [(0, block[0].op.c_mid) for block in space.blocks]
    for b, item in zip(menu.kept(depths), items, strict=True):
        chosen[b] = menu.items[b][item]
    picks, widths = (tuple(column) for column in zip(*chosen, strict=True))
    derived = _derived(
        space, Architecture.initial(space), bounded.constraints, depths, picks, widths,
        bounded.error_bounds,
    )  # fmt: skip
    return replace(
        derived, argmax_log_prob=derived.log_prob, argmax_depths=depths, argmax_picks=picks
    )


def draw_constrained(
    space: SearchSpace,
    arch: Architecture,
    constraints: Sequence[Constraint],
    rng: np.random.Generator,
) -> Derived:
    """A subnet that meets all constraints, drawn by the probabilities.

    It is what `derive_constrained` finds where every log-probability has Gumbel noise added
    (perturb-and-MAP, Papandreou and Yuille, ICCV 2011): without a constraint an exact sample. Its
    `error_bounds` is that of the noisy problem.

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
        space, arch, constraints, drawn.depths, drawn.picks, drawn.widths, drawn.error_bounds
    )


def _derived(
    space: SearchSpace,
    arch: Architecture,
    constraints: Sequence[Constraint],
    depths: tuple[int, ...],
    picks: tuple[int, ...],
    widths: tuple[int, ...],
    error_bounds: tuple[float, ...],
) -> Derived:
    subnet = space.subnet(depths, picks, widths)
    costs = tuple(constraint.cost.total(subnet) for constraint in constraints)
    best = argmax(space, arch)
    return Derived(
        subnet=subnet,
        depths=depths,
        picks=picks,
        widths=widths,
        costs=costs,
        log_prob=log_prob(space, arch, depths, picks),
        argmax_log_prob=log_prob(space, arch, *best),
        reached=all(c.met_by(cost) for c, cost in zip(constraints, costs, strict=True)),
        error_bounds=error_bounds,
        argmax_depths=best[0],
        argmax_picks=best[1],
    )

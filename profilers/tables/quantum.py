"""Which mid widths a device likes: the quantum that searched widths are multiples of.

Devices compute channels in groups. A width off the group's multiple is padded up to the next one,
or leaves the fast path altogether (3x slower on x86). The probe measures widths of every residue
between multiples of 32 and asks, for each power of two, whether its odd multiples cost more than
the line through the multiples of 32 says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfnas.space.ops import OpSpec

# c_in is aligned to every candidate, and no width equals it: then there'd be no expansion.
PROBED = OpSpec("mbconv", 28, 32, 64, 0, 32, 3, 1, "relu")
KNOTS = (64, 96, 128)
# By the largest power of two that divides them: 1, 2, 4, 8, 16; around two widths, near the knots'
# middles and ends, so that an error of one knot doesn't look like a residue's cost.
RESIDUES: tuple[tuple[int, ...], ...] = (
    (65, 73, 81, 95, 97, 111),
    (66, 74, 86, 94, 98, 110),
    (68, 76, 84, 92, 100, 108),
    (72, 88, 104, 120),
    (80, 112),
)
WIDTHS = tuple(sorted({*KNOTS, *(w for row in RESIDUES for w in row)}))
SIGNIFICANT = 3.0  # standard errors that an excess must stand above zero
# A slow path needs less certainty: too coarse a quantum costs little, too fine a one a factor of 3.
SLOW, LIKELY = 0.15, 1.0
Point = tuple[float, float]  # (ms, half-width of its 95 % interval in ms)


@dataclass(frozen=True)
class Quantum:
    """The probe's result.

    Attributes:
        evidence: (mid width, ms) as measured.
        excess_pct: for the odd multiples of 1, 2, 4, 8, 16: what they cost above the line.
    """

    quantum: int
    evidence: tuple[tuple[int, float], ...]
    excess_pct: tuple[float, ...]

    def __str__(self) -> str:
        costs = ", ".join(f"{2**j}: {e:+.0f} %" for j, e in enumerate(self.excess_pct))
        return f"width quantum {self.quantum} (odd multiples cost above the line: {costs})"


def probe_quantum(measure: Callable[[Sequence[OpSpec]], Sequence[Point]]) -> Quantum:
    """Probe a device; `measure` gives (ms, half-width) for each op, measured side by side."""
    points = measure([replace(PROBED, c_mid=width) for width in WIDTHS])
    return find_quantum(dict(zip(WIDTHS, points, strict=True)))


def find_quantum(points: Mapping[int, Point]) -> Quantum:
    """The smallest quantum whose multiples all lie on the fast line.

    A residue counts as costly if its excess is more than half of what padding it up to the next
    power of two would cost, and stands out of the noise.
    """
    ms = {width: point[0] for width, point in points.items()}
    error = {width: point[1] / 1.96 for width, point in points.items()}
    knots = [ms[k] for k in KNOTS]
    slope = max(0.0, (knots[-1] - knots[0]) / (KNOTS[-1] - KNOTS[0]))
    knot_error = max(error[k] for k in KNOTS) / len(KNOTS) ** 0.5
    quantum, excesses = 1, []
    for power, widths in enumerate(RESIDUES):
        line = np.interp(widths, KNOTS, knots)
        values = np.array([ms[w] for w in widths])
        excess = float(np.mean(values - line))
        noise = float(np.hypot(np.sqrt(np.sum([error[w] ** 2 for w in widths])) / len(widths),
                               knot_error))  # fmt: skip
        excesses.append(100 * excess / float(np.mean(line)))
        padded = excess > max(0.5 * 2**power * slope, SIGNIFICANT * noise)
        slow = excess > max(SLOW * float(np.mean(line)), LIKELY * noise)
        if padded or slow:
            quantum = 2 ** (power + 1)
    return Quantum(quantum, tuple(sorted(ms.items())), tuple(excesses))

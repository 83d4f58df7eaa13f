"""Search strategies: one file each, one contract (`tfnas.strategies.contract`)."""

from __future__ import annotations

from importlib import import_module

from tfnas.strategies.contract import Strategy

STRATEGIES = {
    "tfnas": "tfnas.TFNAS",
    "random": "random_search.Random",
    "spos": "spos.SPOS",
    "surrogate": "surrogate.Surrogate",
    "aging": "aging.Aging",
    "nas_rl": "reinforce.Reinforce",
    "mnas": "reinforce.Reinforce",
    "manas": "manas.MANAS",
    "alphax": "alphax.AlphaX",
    "pnas": "pnas.PNAS",
}
"""Name (that of its YAML in conf/strategy/) -> file and class."""


def strategy_class(name: str) -> type[Strategy]:
    """Raises LookupError, with the known names, for an unknown one. Imports torch."""
    if name not in STRATEGIES:
        raise LookupError(f"strategy={name!r}: expected one of {', '.join(STRATEGIES)}")
    module, cls = STRATEGIES[name].split(".")
    found: type[Strategy] = getattr(import_module(f"tfnas.strategies.{module}"), cls)
    return found

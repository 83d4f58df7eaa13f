"""Search strategies: one file each, one contract (`tfnas.strategies.contract`)."""

from __future__ import annotations

from importlib import import_module

from tfnas.strategies.contract import Strategy

STRATEGIES = {
    "tfnas": "TFNAS",
}
"""Name (that of its file and of its YAML in conf/strategy/) -> class."""


def strategy_class(name: str) -> type[Strategy]:
    """Raises LookupError, with the known names, for an unknown one. Imports torch."""
    if name not in STRATEGIES:
        raise LookupError(f"strategy={name!r}: expected one of {', '.join(STRATEGIES)}")
    found: type[Strategy] = getattr(import_module(f"tfnas.strategies.{name}"), STRATEGIES[name])
    return found

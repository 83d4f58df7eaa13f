"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from tfnas.version import __version__


def versions() -> dict[str, str]:
    """Of what shapes a result."""
    found = {"python": platform.python_version(), "tfnas": __version__}
    for name in ("torch", "onnx", "onnxruntime", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""Everything that reads a clock or talks to a device.

From Python: `open` a device, `profile` it into a table, `close_loop` on a found net, `verify_onnx`
a file. Loaded when they are used.

- `onboard/`: what takes samples, here or on a board; it is sent there as it is
- `measure/`: from samples to a latency; the last word on a net
- `tables/`: what is measured of a space, the table, its card, the closed loop
- `cpu`, `gpu/`, `remote/`: the backends; `devices` knows them by name, `contract` what they offer

To add a backend: a module with `Options` and `open_device`, a YAML in conf/device/, a line in
`profilers.devices.BACKENDS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profilers.api import Profiler as Profiler
    from profilers.api import close_loop as close_loop
    from profilers.api import open as open
    from profilers.api import profile as profile
    from profilers.api import verify_onnx as verify_onnx

__all__ = ["Profiler", "close_loop", "open", "profile", "verify_onnx"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'profilers' has no attribute {name!r}")
    from profilers import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

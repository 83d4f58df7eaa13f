"""tfnas: hardware-aware, latency-constrained neural architecture search.

What a script needs is here, loaded when it is used; `profilers` has what measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfnas.version import __version__ as __version__

if TYPE_CHECKING:
    from tfnas.api import FoundNet as FoundNet
    from tfnas.api import Subnet as Subnet
    from tfnas.api import create_model as create_model
    from tfnas.api import export_net as export_net
    from tfnas.api import find_net as find_net
    from tfnas.api import list_models as list_models
    from tfnas.api import load as load
    from tfnas.api import load_images as load_images
    from tfnas.api import load_preset as load_preset
    from tfnas.api import load_space as load_space
    from tfnas.api import load_subnet as load_subnet
    from tfnas.api import load_table as load_table
    from tfnas.api import space_from as space_from
    from tfnas.api import train_net as train_net

__all__ = [
    "FoundNet", "Subnet", "create_model", "export_net", "find_net", "list_models", "load",
    "load_images", "load_preset", "load_space", "load_subnet", "load_table", "space_from",
    "train_net",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tfnas' has no attribute {name!r}")
    from tfnas import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""What torch trains on."""

from __future__ import annotations

import torch

ACCELERATORS = ("auto", "cpu", "cuda")


def pick_accelerator(name: str) -> torch.device:
    """The device of one of `ACCELERATORS`; `auto` takes a GPU where there is one.

    Raises:
        ValueError: for another name, and for `cuda` where torch finds none.
    """
    if name not in ACCELERATORS:
        raise ValueError(f"accelerator={name!r}: expected one of {', '.join(ACCELERATORS)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("accelerator=cuda: torch finds no GPU here; give accelerator=cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")

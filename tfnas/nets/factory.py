"""A torch module of somebody's own, by `module:factory`."""

from __future__ import annotations

import pkgutil

import torch
from torch import nn


def make_module(entry_point: str, option: str = "") -> nn.Module:
    """What a function without arguments gives. The caller's random numbers stay as they were.

    Args:
        entry_point: `module:factory`, of a module that can be imported here.
        option: what it was given for, such as `teacher=`; errors begin with it.

    Raises:
        ValueError: if it can't be imported, fails, or gives no torch module.
    """
    given = f"{option}{entry_point}"
    try:
        with torch.random.fork_rng(devices=[]):
            made = pkgutil.resolve_name(entry_point)()
    except Exception as error:  # whatever a user's code raises
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{given}: {type(error).__name__}: {reason}; expected module:factory, a function "
            "without arguments that can be imported here: installed, on PYTHONPATH or, for "
            "`python -m tfnas.…` but not for `tfnas …`, in this folder"
        ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"{given} gives a {type(made).__name__}, expected a torch.nn.Module")
    return made

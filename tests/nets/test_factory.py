"""A module by `module:factory`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tfnas.nets.factory import make_module


def net() -> nn.Module:
    return nn.Linear(2, 2)


def number() -> int:
    return 3


def test_a_factory_is_called_and_leaves_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    assert isinstance(make_module(f"{__name__}:net"), nn.Linear)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.at_all:net", "ModuleNotFoundError: .*; expected module:factory, a function"),
        (f"{__name__}:nothing", "AttributeError: "),
        (f"{__name__}:number", r"gives a int, expected a torch\.nn\.Module"),
        ("torch.nn:Linear", "TypeError: "),
    ],
)
def test_what_is_no_factory_is_said_with_what_it_was_given_for(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{given}.*{message}"):
        make_module(given)
    with pytest.raises(ValueError, match=f"^teacher={given}"):
        make_module(given, "teacher=")

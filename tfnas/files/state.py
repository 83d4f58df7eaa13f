"""What is saved of an object, declared once: its class names in STATE the attributes that change.

An attribute may be a number, a text, a list of these, a tensor, a generator of random numbers,
whatever has a `state_dict` (modules, optimizers), an object with a STATE of its own, or a tuple of
all these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tfnas.files.checkpoint import State


def state_of(thing: Any) -> State:
    """All that changes, as a checkpoint can hold it; as it is until the next step."""
    return {name: _saved(getattr(thing, name)) for name in thing.STATE}


def restore(thing: Any, state: State) -> None:
    """Take over what `state_of` gave of a thing made alike.

    Raises one of many errors if that doesn't fit: see `fitting`.
    """
    for name in thing.STATE:
        setattr(thing, name, _restored(name, getattr(thing, name), state[name]))


@contextmanager
def fitting(otherwise: str) -> Iterator[None]:
    """Raises ValueError, beginning with `otherwise`, for whatever a damaged state brings about."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{otherwise}: {error}") from None


def _saved(value: Any) -> Any:
    if hasattr(value, "STATE"):
        return state_of(value)
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, tuple):
        return [_saved(member) for member in value]
    return value.detach() if isinstance(value, Tensor) else value


def _restored(name: str, now: Any, saved: Any) -> Any:
    """What is saved; `now` itself with that in it, where others may hold it too."""
    if hasattr(now, "STATE"):
        restore(now, saved)
    elif hasattr(now, "load_state_dict"):
        now.load_state_dict(saved)
    elif isinstance(now, torch.Generator):
        now.set_state(saved)
    elif isinstance(now, np.random.Generator):
        now.bit_generator.state = saved
    elif isinstance(now, tuple):
        return tuple(_restored(name, *pair) for pair in zip(now, saved, strict=True))
    elif isinstance(now, Tensor) and now.shape == saved.shape:
        now.detach().copy_(saved)
    elif now is None or (type(now) is type(saved) and not isinstance(now, Tensor)):
        return saved
    else:
        raise TypeError(f"{name} is no {type(now).__name__} as it is here")
    return now

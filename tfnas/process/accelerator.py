"""What torch trains on."""

from __future__ import annotations

import logging
import os

import torch

from tfnas.process.cores import usable_cores
from tfnas.process.ranks import ALONE, Ranks

log = logging.getLogger(__name__)

ACCELERATORS = ("auto", "cpu", "cuda")


def pick_accelerator(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device of one of `ACCELERATORS`; `auto` takes a GPU where there is one.

    Of several ranks each gets a GPU of its own, which becomes torch's current one.

    Raises:
        ValueError: for another name, for `cuda` where torch finds none, and for more ranks on this
            machine than GPUs.
    """
    if name not in ACCELERATORS:
        raise ValueError(f"accelerator={name!r}: expected one of {', '.join(ACCELERATORS)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("accelerator=cuda: torch finds no GPU here; give accelerator=cpu")
    if not available or name == "cpu":
        return torch.device("cpu")
    if ranks.size == 1:
        return torch.device("cuda")
    if ranks.local_size > torch.cuda.device_count():
        raise ValueError(
            f"{ranks.local_size} processes on this machine, with {torch.cuda.device_count()} GPUs: "
            "give torchrun --nproc_per_node of at most so many, or accelerator=cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def check_amp(amp: bool, device: torch.device) -> None:
    """Raises ValueError where a search's mixed precision is asked of a GPU without bfloat16."""
    if amp and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ValueError("amp=true: this GPU computes no bfloat16; give amp=false")


def cpu_threads(wanted: int | None, ranks: Ranks = ALONE, *, tell: bool = True) -> int:
    """The CPU threads of this process: those wanted, or its share of the cores it may use.

    Args:
        tell: log what makes them fewer than the machine's.
    """
    if wanted:
        return wanted
    cores = usable_cores()
    if cores.limit and tell and ranks.rank == 0:
        log.info("cores: %d of this machine's %d (%s)", cores.count, os.cpu_count(), cores.limit)
    return max(1, cores.count // ranks.local_size)

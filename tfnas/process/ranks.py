"""Several processes on one search or training: torchrun's ranks, and what they say to each other.

Each rank takes its own part of every batch and averages its gradients with the others'. That is
done here by hand and not by torch's DistributedDataParallel, whose reducer expects one forward pass
a backward pass and the same parameters in every step: bi-sampling has two, over parameters that
change from step to step.

Nothing but gradients and batch statistics differs between ranks: draws come from generators of the
CPU with one seed, so that paths, alphas, widths and weights stay the same everywhere, which
`Ranks.check_same` watches. Files, logs and measurements are rank 0's.

Whatever is no gradient of a GPU goes over gloo, between CPUs: no GPU is waited for.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tfnas.process.errors import DisagreementError, LostError

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = timedelta(days=1)  # the others wait while rank 0 measures a device
MESSAGE = 4096  # bytes of an error that other ranks get
BUCKET = 32 * 2**20  # bytes that are sent at once: what the copy of the gradients may take


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started; without it, alone.

    Alone, no method does anything or opens anything. Among several, all ranks must call the same
    methods in the same order, and each raises LostError where another rank is gone.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        local_rank, local_size: the same, among those of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def launcher(self) -> str:
        """What starts a module by `-m` in as many processes."""
        if self.size == 1:
            return "python"
        if self.size == self.local_size:
            return f"torchrun --standalone --nproc_per_node={self.size}"
        return "torchrun OPTIONS"  # of several machines: those that it was started with

    def part(self, count: int) -> slice:
        """This rank's contiguous part of `count` things."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over ranks, in place.

        Args:
            tensors: floating point; as many and as large on every rank.
        """
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            with _together():
                dist.all_reduce(flat)
            flat /= self.size
            parts = flat.split([t.numel() for t in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def sum(self, *values: float) -> tuple[float, ...]:
        """Sums over ranks."""
        if self.size == 1:
            return values
        import torch
        import torch.distributed as dist

        sums = torch.tensor(values, dtype=torch.float64)
        with _together():
            dist.all_reduce(sums)
        return tuple(sums.tolist())

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag whether any rank has it: what one decides, all do."""
        return tuple(total > 0 for total in self.sum(*flags))

    def wait(self) -> None:
        """Until all ranks are here."""
        self.sum(0.0)

    def wait_for_end(self) -> None:
        """Let rank 0 say what all ranks came to, and end: the first one to end ends the others."""
        with suppress(LostError):
            self.wait()
        self.leave()

    def agree(self, error: Exception | None) -> None:
        """Make sure that no rank has an error that the others don't know of.

        Args:
            error: this rank's own, if it has one.

        Raises:
            ValueError: on all ranks, with the first error that one has.
            LostError: where another rank is gone.
        """
        if self.size == 1:
            return
        import torch

        text = b"" if error is None else (str(error) or repr(error)).encode()
        own = torch.frombuffer(bytearray(text[:MESSAGE].ljust(MESSAGE, b"\0")), dtype=torch.uint8)
        for rank, row in enumerate(self._gathered(own)):
            if message := row.numpy().tobytes().rstrip(b"\0").decode(errors="replace"):
                raise ValueError(f"process {rank}: {message}") from error

    def broadcast(self, value: Any) -> Any:
        """What rank 0 calls this with, on every rank; on the others its tensors are in main memory.

        Args:
            value: tensors, numbers, texts, None, and lists, tuples and dicts of these.
        """
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        content = torch.empty(0, dtype=torch.uint8)
        if self.rank == 0:
            file = io.BytesIO()
            torch.save(value, file)
            content = torch.frombuffer(file.getbuffer(), dtype=torch.uint8)
        length = torch.tensor(len(content))
        with _together():
            dist.broadcast(length, src=0)
        if self.rank:
            content = torch.empty(int(length), dtype=torch.uint8)
        with _together():
            dist.broadcast(content, src=0)
        if self.rank == 0:
            return value
        sent = io.BytesIO(content.numpy().tobytes())
        return torch.load(sent, map_location="cpu", weights_only=True)

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Make sure that every rank has the same values.

        Args:
            values: by what they are called in an error: tensors, sequences of tensors, or whatever
                has a `repr` that tells it fully.

        Raises:
            DisagreementError: on all ranks, if one differs from rank 0 in anything.
        """
        if self.size == 1:
            return
        import torch

        own = torch.tensor([_digest(value) for value in values.values()])
        rows = self._gathered(own)
        differ = {
            name: [str(r) for r, row in enumerate(rows) if row[i] != rows[0][i]]
            for i, name in enumerate(values)
        }
        found = [f"{name}: {', '.join(others)}" for name, others in differ.items() if others]
        if found:
            raise DisagreementError(
                f"the {self.size} processes no longer do the same; they differ from rank 0 in "
                f"{'; '.join(found)} (ranks). Give all of them the same code, data, libraries and "
                "kind of device, and start anew or from the last checkpoint"
            )

    def _gathered(self, own: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of one shape, in order."""
        import torch
        import torch.distributed as dist

        rows = [torch.empty_like(own) for _ in range(self.size)]
        with _together():
            dist.all_gather(rows, own)
        return rows

    def leave(self) -> None:
        """Nothing is said any more; the threads of the group end."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


ALONE = Ranks()


def from_environment(environ: Mapping[str, str] = os.environ) -> Ranks:
    """Who this process is, as torchrun tells it. Raises ValueError for what makes no sense."""
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return ALONE
    try:
        rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        local_rank = int(environ.get("LOCAL_RANK", rank))
        local_size = int(environ.get("LOCAL_WORLD_SIZE", size))
    except ValueError as error:
        raise ValueError(f"RANK, WORLD_SIZE, LOCAL_RANK in the environment: {error}") from None
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        raise ValueError(
            f"RANK={rank} of WORLD_SIZE={size}, LOCAL_RANK={local_rank} of {local_size}: expected "
            "what torchrun sets"
        )
    return Ranks(rank, size, local_rank, local_size)


def join() -> Ranks:
    """Who this process is, connected to the others, if there are any.

    Raises:
        ValueError: if the environment makes no sense, or this process is connected already.
        LostError: if the others can't be reached.
    """
    ranks = from_environment()
    if ranks.size > 1:
        import torch
        import torch.distributed as dist

        # Its functions' defaults keep the group that there is when it is imported, which an
        # optimizer does: gloo's threads would outlive `leave`, and now and then abort the exit.
        import torch.distributed.nn

        if dist.is_initialized():
            raise ValueError("one search or training a torchrun: start each by one of its own")
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:  # ValueError: MASTER_ADDR and the like
            raise LostError(f"the other processes can't be reached ({_reason(error)})") from error
    return ranks


def check_batch(name: str, batch: int, ranks: Ranks) -> None:
    """Raises ValueError, naming the option, for a batch that can't be shared evenly."""
    if ranks.size > 1 and (batch % ranks.size or batch < 2 * ranks.size):
        raise ValueError(
            f"{name}={batch} on {ranks.size} processes: expected a multiple of {ranks.size}, and "
            f"at least {2 * ranks.size}, since batch norm needs 2 images on each"
        )


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Of one device and type each, in the order that they come."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for kind in kinds.values():
        bucket: list[Tensor] = []
        size = 0
        for tensor in kind:
            if bucket and size + tensor.nbytes > BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += tensor.nbytes
        yield bucket


def _digest(value: Any) -> int:
    """64 bits."""
    import torch

    state = hashlib.blake2b(digest_size=8)
    if isinstance(value, torch.Tensor):
        value = [value]
    if isinstance(value, Sequence) and value and isinstance(value[0], torch.Tensor):
        for tensor in value:
            state.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        state.update(repr(value).encode())
    return int.from_bytes(state.digest(), "little", signed=True)


@contextmanager
def _together() -> Iterator[None]:
    """Around what the ranks do together. Raises LostError for torch's own."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:  # of this process
        raise
    except RuntimeError as error:  # of gloo, NCCL and the store: all are of this class
        raise LostError(
            f"another process of this run ended, and should have said why ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

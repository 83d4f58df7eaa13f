"""Work on a CUDA stream, timed by the events of the device.

What is timed is the net alone, its input already on the GPU: copies from and to the host are
excluded. Runs follow each other in the stream without waiting for the host, so a latency is the
time of one run among others; where the host can't launch fast enough, it is the host's time that
the events read, as in use without a CUDA graph.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

from profilers.contract import Profiler
from profilers.gpu.nvml import GpuReader
from profilers.onboard.conditions import Conditions
from profilers.onboard.rounds import Burst, closed
from tfnas.latency.table import Device

log = logging.getLogger(__name__)

# Clocks have settled when the last samples agree. An idle GPU takes some tenths of a second to
# reach its clocks, and seconds to reach the temperature that it holds.
SETTLED_SAMPLES = 5
SETTLED = 0.01  # largest spread of them, as a fraction
SETTLE_SAMPLE_MS = 50.0
SETTLE_SECONDS = 6.0  # then it goes on as it is: what comes is sampled in rounds anyway
IDLE_SECONDS = 2.0  # without work, after which clocks may have dropped
GRAPH_WARMUPS = 3  # runs before capturing: libraries allocate and choose kernels in the first


def settle(
    sample_ms: Callable[[], float],
    *,
    now: Callable[[], float] = time.monotonic,
    max_seconds: float = SETTLE_SECONDS,
) -> bool:
    """Run until the last samples agree or the time is over; whether they agree."""
    start, last = now(), [sample_ms()]
    while now() - start < max_seconds:
        last = [*last[1 - SETTLED_SAMPLES :], sample_ms()]
        if len(last) == SETTLED_SAMPLES and max(last) <= (1 + SETTLED) * min(last):
            return True
    return False


class Session:
    """A stream of one GPU, its clock, and the memory that workloads share, since one runs at a
    time: hundreds of nets with activations of their own wouldn't fit at a large batch."""

    def __init__(self, torch: Any, index: int):
        self.torch = torch
        self.device = torch.device("cuda", index)
        with torch.cuda.device(self.device):
            self.stream = torch.cuda.Stream()
            self._start = torch.cuda.Event(enable_timing=True)
            self._end = torch.cuda.Event(enable_timing=True)
        self._pools: dict[str, Any] = {}
        self._graph_pool: Any = None
        self._last_s = -float("inf")

    def on(self) -> AbstractContextManager[None]:
        """Makes the GPU and the stream the current ones."""
        return self.torch.cuda.stream(self.stream)

    @property
    def holds_context(self) -> bool:
        """Whether this process has taken memory of the GPU."""
        return self.torch.cuda.memory_reserved(self.device) > 0

    def memory(self, pool: str, nbytes: int) -> Any:
        """A uint8 tensor of at least so many bytes, shared by all who ask for that pool. Those who
        got a smaller one keep it; sizes double, so they add up to no more than the largest."""
        held = self._pools.get(pool)
        if held is None or held.numel() < nbytes:
            size = max(nbytes, 2 * held.numel() if held is not None else 1)
            with self.on():
                held = self.torch.zeros(size, dtype=self.torch.uint8, device=self.device)
            self.stream.synchronize()
            self._pools[pool] = held
        return held

    def graph_pool(self) -> Any:
        """The memory that all CUDA graphs share."""
        if self._graph_pool is None:
            self._graph_pool = self.torch.cuda.graph_pool_handle()
        return self._graph_pool

    def tensor(self, pool: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """A tensor in the memory of a pool, filled with seeded noise."""
        torch = self.torch
        nbytes = prod(shape) * torch.empty(0, dtype=dtype).element_size()
        tensor = self.memory(pool, nbytes)[:nbytes].view(dtype).view(shape)
        with self.on():
            generator = torch.Generator(self.device).manual_seed(0)
            tensor.normal_(generator=generator)
        self.stream.synchronize()
        return tensor

    def time(self, launch: Callable[[], Any], runs: int) -> Burst:
        """One run to warm up, then `runs` timed ones; first until clocks settle if it was idle."""
        if time.monotonic() - self._last_s > IDLE_SECONDS:
            once = self._time(launch, 1).ms
            many = max(1, min(10_000, int(SETTLE_SAMPLE_MS / max(once, 1e-3))))
            if not settle(lambda: self._time(launch, many).ms):
                log.info("the GPU's clocks did not settle within %.0f s", SETTLE_SECONDS)
        burst = self._time(launch, runs)
        self._last_s = time.monotonic()
        return burst

    def _time(self, launch: Callable[[], Any], runs: int) -> Burst:
        wall = time.perf_counter_ns()
        # The first event is queued behind the warm-up run, so that the timed runs are waiting for
        # the device when it gets there, and not the device for them.
        launch()
        self._start.record(self.stream)
        for _ in range(runs):
            launch()
        self._end.record(self.stream)
        self._end.synchronize()
        # On the wall clock the warm-up can't be told from the others: it counts as one of them.
        wall_ms = (time.perf_counter_ns() - wall) / 1e6 * runs / (runs + 1)
        return Burst(self._start.elapsed_time(self._end), wall_ms)


class StreamWorkload:
    """A net on the GPU.

    Args:
        launch: queues one run on the session's stream, and gives the tensor it will end in.
        graph: capture one run into a CUDA graph and launch that.
        x: the input, on the GPU.
        mode: a context that `launch` needs; entered once a burst, outside of the clock.
        held: what must live as long as it.
        done: called when it is closed.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        launch: Callable[[], Any],
        *,
        x: Any,
        graph: bool,
        mode: Callable[[], AbstractContextManager[Any]] = nullcontext,
        held: Any = None,
        done: Callable[[], None] = lambda: None,
    ):
        self.name, self.x = name, x
        self._session, self._mode = session, mode
        self._held, self._done = held, done
        self._launch = self._captured(launch) if graph else launch

    def _captured(self, launch: Callable[[], Any]) -> Callable[[], Any]:
        session = self._session
        with session.on(), self._mode():
            for _ in range(GRAPH_WARMUPS):
                launch()
            session.stream.synchronize()
            graph = session.torch.cuda.CUDAGraph()
            # One pool for all: nets run one at a time, and many of their own wouldn't fit.
            with session.torch.cuda.graph(graph, pool=session.graph_pool(), stream=session.stream):
                y = launch()

        def replay() -> Any:
            graph.replay()
            return y

        return replay

    def burst(self, runs: int) -> Burst:
        """`ms` by the device's events, `wall_ms` by the host's clock; both of `runs` runs."""
        with self._session.on(), self._mode():
            return self._session.time(self._launch, runs)

    def output(self) -> Any:
        """The output for `x` of one run, a tensor on the host."""
        with self._session.on(), self._mode():
            y = self._launch()
            self._session.stream.synchronize()
        return y.float().cpu()

    def close(self) -> None:
        """Free what it holds on the GPU."""
        self._launch = closed
        self.x = self._held = None
        self._mode = nullcontext
        self._done()


class GpuProfiler(Profiler):
    """One GPU through a runtime on a stream.

    Args:
        graph: launch runs as CUDA graphs.
    """

    def __init__(self, device: Device, session: Session, reader: GpuReader, *, graph: bool):
        self.device = device
        self._session, self._reader, self._graph = session, reader, graph

    def conditions(self) -> Conditions:
        return self._reader.conditions(self._session.holds_context)

"""GPUs through torch itself: eager, channels_last, cuDNN choosing its kernels by timing.

Batch norm is folded into the convolutions, as in what is exported. An ONNX file is run by torch if
`tfnas.export` wrote it: torch reads no ONNX, but ops and weights can be read off such a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from profilers.gpu.nvml import GpuReader
from profilers.gpu.stream import GpuProfiler, Session, StreamWorkload
from profilers.models import image_model, onnx_model
from tfnas.deploy.onnx_graph import ops_of, weight_shapes, weights_of
from tfnas.latency.table import Device
from tfnas.nets.blocks import ConvBN, build
from tfnas.space.ops import OpSpec
from tfnas.space.size import sides


def folded_module(ops: Sequence[OpSpec], weights: Mapping[str, np.ndarray]) -> nn.Sequential:
    """A row of ops in eval mode, without batch norm.

    Args:
        weights: as `tfnas.deploy.onnx_graph.build_model` takes them.
    """
    layers = nn.Sequential(*(build(op) for op in ops)).eval()
    for name in weight_shapes(ops):
        index, layer, what = name.split(".")
        module: nn.Module = layers[int(index)]
        if not isinstance(module, ConvBN):
            module = module.get_submodule(layer)
        if isinstance(module, ConvBN):
            module.bn = nn.Identity()  # type: ignore[assignment]
            module = module.conv
        setattr(module, what, nn.Parameter(torch.from_numpy(weights[name].copy())))
    return layers


def compiled(module: nn.Module, backend: str = "inductor") -> Any:
    """By torch.compile, in code of its own: hundreds of ops that share one `forward` would run into
    its limit of versions of one function, and then be run uncompiled without a word."""
    traced = torch.fx.symbolic_trace(module)
    return torch.compile(traced, backend=backend, fullgraph=True, dynamic=False)


@contextmanager
def numerics(precision: str) -> Iterator[None]:
    """Inference with or without TF32 in convolutions and matrix products; as before afterwards."""
    tf32 = precision == "tf32"
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class CudaProfiler(GpuProfiler):
    """One GPU through torch.

    Args:
        graph: launch runs as CUDA graphs.
        compile: by torch.compile, which takes seconds to minutes for each op.
    """

    def __init__(
        self, device: Device, session: Session, reader: GpuReader, *, graph: bool, compile: bool
    ):
        super().__init__(device, session, reader, graph=graph)
        self._compile = compile

    def load(self, name: str, model: bytes) -> StreamWorkload:
        """A model of `tfnas.export`, or of ops.

        Raises:
            ValueError: for any other, or one that is made for another batch.
        """
        graph = onnx_model(model)
        try:
            ops = ops_of(graph)
        except ValueError as error:
            raise ValueError(
                f"onnx={name}: torch can't read ONNX files but those of tfnas.export, and "
                f"{error}; give device.backend=tensorrt or tensorrt_rtx"
            ) from None
        graph = image_model(graph, name, self.device.batch)
        session, precision = self._session, self.device.precision
        dtype = torch.float16 if precision == "fp16" else torch.float32
        first = ops[0]
        shape = (self.device.batch, *sides(first.size), first.c_in)
        # Channels last in memory, (N, C, H, W) to torch.
        x = session.tensor("input", shape, dtype).permute(0, 3, 1, 2)
        with session.on(), numerics(precision):
            module: Any = folded_module(ops, weights_of(graph)).to(session.device, dtype)
            module = module.to(memory_format=torch.channels_last)
            if self._compile:
                module = compiled(module)
            module(x)  # chooses kernels, or compiles
            session.stream.synchronize()
        return StreamWorkload(
            name,
            session,
            lambda: module(x),
            x=x,
            graph=self._graph,
            mode=lambda: numerics(precision),
        )

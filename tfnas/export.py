"""python -m tfnas.export subnet=RUN/subnet.json

Writes a subnet as an ONNX file, see `tfnas.deploy.onnx_file`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from tfnas.app.command_line import is_sweep, output_dir
from tfnas.app.main import Work, main
from tfnas.app.schemas import ExportConfig
from tfnas.deploy.onnx_file import Target, export_network, network_with
from tfnas.files.decode import load
from tfnas.nets.backbone import Backbone
from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained, told
from tfnas.process.exits import DONE, FAILED
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import MAX_BYTES
from tfnas.space.subnet import Subnet

log = logging.getLogger("tfnas.export")


def prepare(config: ExportConfig) -> Work:
    source = Path(config.subnet)
    subnet = Subnet.load(source)
    weights = None if config.weights is None else Path(config.weights)
    beside = RunFolder(source.parent).weights
    if weights is None and beside.exists():
        weights = beside
    network, trained = network_with(subnet, weights, config.seed)
    target = _target(RunFolder(source.parent).result, config.target_ms)
    exported: Network | Backbone = network
    if config.features_only:
        exported = Backbone(network, config.out_indices, trained)
    elif config.out_indices is not None:
        raise ValueError(f"out_indices={config.out_indices}: they need features_only=true")
    if config.out is None:
        folder = RunFolder(output_dir() if is_sweep() else source.parent)
        path = folder.path / "features.onnx" if config.features_only else folder.model
    else:
        path = Path(config.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    return lambda: _work(exported, weights, trained, path, config.batch, target, config.seed)


@dataclass(frozen=True)
class _Promise:
    """What is taken from result.json."""

    target_ms: float
    table_ms: float
    table: str


def _target(result: Path, target_ms: float | None) -> Target:
    """What the result of the search beside the subnet says, and `target_ms` where it is given."""
    if not result.is_file():
        return Target(target_ms=target_ms)
    try:
        found = load(result, _Promise, "result of a search", MAX_BYTES, partly=True)
    except ValueError as error:
        raise ValueError(f"{error}: take the subnet out of that folder, or mend it") from None
    known = Target(found.target_ms, found.table_ms, found.table)
    return known if target_ms is None else Target(target_ms, known.table_ms, known.table)


def _work(
    network: Network | Backbone,
    weights: Path | None,
    trained: Trained | None,
    path: Path,
    batch: int | None,
    target: Target,
    seed: int,
) -> int:
    try:
        done = export_network(network, trained, path, batch=batch, target=target, seed=seed)
    except (RuntimeError, OSError) as error:
        log.error("error: %s", error)
        return FAILED
    deployed = network.subnet.resolution
    log.info(
        "%s: opset %d, batch %s, %s px; onnxruntime and torch differ by at most %.2g "
        "(outputs up to %.2g)",
        path, done.opset, "any" if batch is None else batch, deployed, done.max_abs_diff,
        done.output_scale,
    )  # fmt: skip
    if isinstance(network, Backbone):
        info = network.feature_info
        log.info("maps of %s channels, reductions %s", info.channels(), info.reduction())
    if trained is None:
        log.info("the weights are random (seed %d): fit for measuring latency only", seed)
    else:
        mark = "" if trained.resolution == deployed else f", while the file takes {deployed} px"
        log.info("weights of %s, %s at %s px%s", weights, told(trained.top1, trained.scores),
                 trained.resolution, mark)  # fmt: skip
    return DONE


if __name__ == "__main__":
    main(ExportConfig, "export", prepare)

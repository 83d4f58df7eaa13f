"""python -m tfnas.export subnet=RUN/subnet.json [format=onnx|openvino|tflite|ncnn|coreml]

Writes a subnet as an ONNX file or for another runtime, see `tfnas.deploy.onnx_file`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfnas.app.command_line import is_sweep, output_dir
from tfnas.app.data import load_data
from tfnas.app.main import Work, main
from tfnas.app.schemas import ExportConfig
from tfnas.data.batches import Batches
from tfnas.data.images import Dataset, Images
from tfnas.deploy.formats import FORMATS, usable_format
from tfnas.deploy.int8 import PRECISION, Quantization
from tfnas.deploy.int8_check import Int8Check, arrays, check_int8, deployed_images
from tfnas.deploy.onnx_file import Target, export_network, network_with
from tfnas.deploy.onnx_versions import onnx_versions
from tfnas.files.decode import load
from tfnas.nets.backbone import Backbone
from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained, told
from tfnas.pages.hub import ModelCard, read_card, write_hub_folder
from tfnas.process.checks import check_choice
from tfnas.process.exits import DONE, FAILED
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import MAX_BYTES
from tfnas.space.subnet import Subnet

log = logging.getLogger("tfnas.export")

BATCH = 32  # images that calibrate or check at once


def prepare(config: ExportConfig) -> Work:
    _check_format(config)
    source = Path(config.subnet)
    subnet = Subnet.load(source)
    run = RunFolder(source.parent)
    weights = None if config.weights is None else Path(config.weights)
    if weights is None and run.weights_there.exists():
        weights = run.weights_there
    network, trained = network_with(subnet, weights, config.seed)
    promise = _promise(run.result)
    target = _target(promise, config.target_ms)
    quantization = _quantization(config, promise, len(network.layers))
    dataset = None
    if quantization is not None and trained is not None:
        dataset = load_data(config.data, None).fed_as(subnet.in_channels)
        if dataset.classes != trained.classes:
            raise ValueError(
                f"data={config.data.name} has other classes than {weights} was trained on: an int8 "
                "net is calibrated on its training images; give data=NAME as it was trained"
            )
    exported: Network | Backbone = network
    if config.features_only:
        exported = Backbone(network, config.out_indices, trained)
    elif config.out_indices is not None:
        raise ValueError(f"out_indices={config.out_indices}: they need features_only=true")
    card = None
    if config.hub is not None:
        card = _card(config, network, trained, run, weights)
        path, trained = RunFolder(Path(config.hub)).model, card.trained
    elif config.out is None:
        folder = RunFolder(output_dir() if is_sweep() else source.parent)
        stem = "features" if config.features_only else folder.model.stem
        path = folder.path / f"{stem}{FORMATS[config.format].suffix}"
    else:
        path = Path(config.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    return lambda: _work(
        exported, weights, trained, path, target, config, card, quantization, dataset
    )


def _card(
    config: ExportConfig,
    network: Network,
    trained: Trained | None,
    run: RunFolder,
    weights: Path | None,
) -> ModelCard:
    """What a hub's folder tells of the net. Raises ValueError if there is none to be made."""
    if config.out is not None or config.features_only or config.format != "onnx" or is_sweep():
        raise ValueError(
            f"hub={config.hub}: it gets one whole net as ONNX: leave out out=, features_only=, "
            "format= and -m"
        )
    if trained is None or weights is None:
        raise ValueError(
            f"hub={config.hub}: {config.subnet} has no trained weights: train it with "
            f"`python -m tfnas.train subnet={config.subnet}`"
        )
    return read_card(network.subnet, trained, run, weights)


def _check_format(config: ExportConfig) -> None:
    """Raises ValueError or LookupError for a format that can't be made so."""
    form = usable_format(config.format, config.batch)
    onnx_versions(config.opset, config.ir_version)
    if config.format == "onnx":
        return
    for name in ("opset", "ir_version"):
        if getattr(config, name) is not None:
            raise ValueError(f"{name}= beside format={config.format}: it belongs to format=onnx")
    ending = f".{form.suffix.rpartition('.')[2]}"
    if config.out is not None and not config.out.endswith(ending):
        raise ValueError(f"out={config.out}: expected a name that ends with {ending}")


@dataclass(frozen=True)
class _Promise:
    """What is taken from result.json."""

    target_ms: float
    table_ms: float
    table: str
    precision: str = "fp32"
    activations: str | None = None


def _promise(result: Path) -> _Promise | None:
    """What the search beside the subnet says, if there is one."""
    if not result.is_file():
        return None
    try:
        return load(result, _Promise, "result of a search", MAX_BYTES, partly=True)
    except ValueError as error:
        raise ValueError(f"{error}: take the subnet out of that folder, or mend it") from None


def _target(found: _Promise | None, target_ms: float | None) -> Target:
    """What the search says, and `target_ms` where it is given."""
    if found is None:
        return Target(target_ms=target_ms)
    known = Target(found.target_ms, found.table_ms, Path(found.table).name)
    return known if target_ms is None else Target(target_ms, known.table_ms, known.table)


def _quantization(config: ExportConfig, found: _Promise | None, ops: int) -> Quantization | None:
    """How the net becomes an int8 one; None where it stays float."""
    precision, asked = config.precision, config.int8
    if precision is None:  # of float16 a runtime makes what it needs from the float32 file
        promised = found is not None and found.precision == PRECISION and config.format == "onnx"
        precision = PRECISION if promised else "fp32"
    check_choice("precision of an export", precision, ("fp32", PRECISION))
    if precision != PRECISION:
        return None
    if bad := [op for op in asked.float_ops if not 0 <= op < ops]:
        raise ValueError(f"int8.float_ops={bad}: the net has the ops 0 to {ops - 1}")
    activations = asked.activations
    if activations == "auto":
        activations = "uint8" if found is None else found.activations or "uint8"
    return Quantization(activations, asked.method, tuple(asked.float_ops), asked.reduce_range)


def _work(
    network: Network | Backbone,
    weights: Path | None,
    trained: Trained | None,
    path: Path,
    target: Target,
    config: ExportConfig,
    card: ModelCard | None,
    quantization: Quantization | None,
    dataset: Dataset | None,
) -> int:
    form, batch, seed = FORMATS[config.format], config.batch, config.seed

    def deployed_batches(images: Images, most: int, size: int | None) -> Batches:
        assert trained is not None
        return deployed_images(
            images, network, trained, most=most, batch=size or BATCH, seed=seed,
            whole=size is not None,
        )  # fmt: skip

    calibration = None
    if dataset is not None:
        calibration = arrays(deployed_batches(dataset.train, config.int8.images, None))
    try:
        done = export_network(
            network, trained, path, batch=batch, target=target, seed=seed, format=config.format,
            opset=config.opset, ir_version=config.ir_version, quantization=quantization,
            images=calibration,
        )  # fmt: skip
        if card is not None and isinstance(network, Network):
            write_hub_folder(card, network, path.parent)
    except (RuntimeError, ValueError, OSError) as error:
        log.error("error: %s", error)
        return FAILED
    deployed = network.subnet.resolution
    made = f"by {form.maker}"
    if config.format == "onnx":
        v = done.versions
        made = f"opset {v.opset}, IR version {v.ir}, for onnxruntime {v.runtime} and newer"
    checked = f"not compared with torch: {form.runtime} doesn't run here"
    if done.max_abs_diff is not None:
        checked = (
            f"{form.runtime} and torch differ by at most {done.max_abs_diff:.2g} "
            f"(outputs up to {done.output_scale:.2g})"
        )
    log.info(
        "%s: %s; batch %s, %s px; %s",
        path, made, "any" if batch is None else batch, deployed, checked,
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
    if dataset is not None and isinstance(network, Network):
        tested = deployed_batches(dataset.test, config.int8.check_images, batch)
        _tell(check_int8(network, path, tested, dataset.classes), network, config.int8.float_ops)
    if card is not None:
        log.info("%s is ready to be pushed; its README.md has no license yet", path.parent)
    return DONE


def _tell(found: Int8Check, network: Network, float_ops: Sequence[int]) -> None:
    name, lost = found.worst_class
    log.info(
        "top-1 on %s test images: %.2f %% in float, %.2f %% in int8 (%+.2f points); %s loses most "
        "(%+.1f points)",
        f"{found.images:,}", 100 * found.float_top1, 100 * found.int8_top1, -100 * found.drop,
        name, -100 * lost,
    )  # fmt: skip
    if found.layers:
        log.warning(
            "warning: int8 costs more than a point; signal over error is least in %s. Keep such "
            "ops float with int8.float_ops=[NUMBER,…], or try int8.method=percentile or entropy",
            ", ".join(f"{layer} ({ratio_db:.0f} dB)" for layer, ratio_db in found.layers),
        )
    if float_ops:
        macs = sum(network.subnet.ops[op].macs for op in float_ops)
        log.info("%.0f %% of the multiply-adds stay float", 100 * macs / network.subnet.macs)


if __name__ == "__main__":
    main(ExportConfig, "export", prepare)

"""python -m tfnas.export subnet=RUN/subnet.json [format=onnx|openvino|tflite|ncnn|coreml]

Writes a subnet as an ONNX file or for another runtime, see `tfnas.deploy.onnx_file`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from tfnas.app.command_line import is_sweep, output_dir
from tfnas.app.data import load_data
from tfnas.app.main import Work, main
from tfnas.app.schemas import ExportConfig
from tfnas.deploy.formats import FORMATS, usable_format
from tfnas.deploy.int8 import Int8Check, Quantization
from tfnas.deploy.int8_export import (
    Int8Images,
    Int8Options,
    export_int8,
    float_share,
    plan_int8,
)
from tfnas.deploy.onnx_file import Exported, Target, export_network, network_with
from tfnas.deploy.onnx_versions import onnx_versions
from tfnas.files.decode import load
from tfnas.nets.backbone import Backbone
from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained, told
from tfnas.pages.hub import ModelCard, read_card, write_hub_folder
from tfnas.process.exits import DONE, FAILED
from tfnas.runs.exported import accuracy_of
from tfnas.runs.folder import RunFolder
from tfnas.runs.result import MAX_BYTES
from tfnas.space.subnet import Subnet

log = logging.getLogger("tfnas.export")


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
    asked = config.int8
    quantization = plan_int8(
        Int8Options(
            config.precision, asked.activations, asked.method, tuple(asked.float_ops),
            asked.reduce_range,
        ),
        trained=trained,
        ops=len(network.layers),
        format=config.format,
        searched=None if promise is None else promise.precision,
        activations=None if promise is None else promise.activations,
    )  # fmt: skip
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
    images = None
    if quantization is not None and trained is not None:
        dataset = load_data(config.data, None).fed_as(subnet.in_channels)
        images = Int8Images(dataset, trained, asked.images, asked.check_images)
    path.parent.mkdir(parents=True, exist_ok=True)
    return lambda: _work(
        exported, weights, trained, path, target, config, card, quantization, images
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


def _work(
    network: Network | Backbone,
    weights: Path | None,
    trained: Trained | None,
    path: Path,
    target: Target,
    config: ExportConfig,
    card: ModelCard | None,
    quantization: Quantization | None,
    images: Int8Images | None,
) -> int:
    form, batch = FORMATS[config.format], config.batch
    try:
        done = _written(network, trained, path, target, config, card, quantization, images)
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
        log.info("the weights are random (seed %d): fit for measuring latency only", config.seed)
    else:
        mark = "" if trained.resolution == deployed else f", while the file takes {deployed} px"
        log.info("weights of %s, %s at %s px%s", weights, told(trained.top1, trained.scores),
                 trained.resolution, mark)  # fmt: skip
    if done.flushed:
        log.info(
            "%d constants below float32's normal range became zero: a runtime would compute slowly "
            "with them", done.flushed,
        )  # fmt: skip
    if done.check is not None:
        _tell(done.check)
    if quantization is not None and quantization.float_ops and isinstance(network, Network):
        share = float_share(network, quantization.float_ops)
        log.info("%.0f %% of the multiply-adds stay float", 100 * share)
    if card is not None:
        log.info("%s is ready to be pushed; its README.md has no license yet", path.parent)
    return DONE


def _written(
    network: Network | Backbone,
    trained: Trained | None,
    path: Path,
    target: Target,
    config: ExportConfig,
    card: ModelCard | None,
    quantization: Quantization | None,
    images: Int8Images | None,
) -> Exported:
    """The file, and what goes beside it."""
    if images is not None and quantization is not None:
        done = export_int8(
            network, path, quantization, images, batch=config.batch, target=target,
            seed=config.seed, format=config.format, opset=config.opset,
            ir_version=config.ir_version,
        )  # fmt: skip
    else:
        done = export_network(
            network, trained, path, batch=config.batch, target=target, seed=config.seed,
            format=config.format, opset=config.opset, ir_version=config.ir_version,
            quantization=quantization,
        )  # fmt: skip
    checked = accuracy_of(done, network.subnet)
    if card is not None and isinstance(network, Network):
        write_hub_folder(replace(card, int8=checked or card.int8), network, path.parent)
    elif checked is not None:
        checked.save(RunFolder(path.parent).int8)
    return done


def _tell(found: Int8Check) -> None:
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
            "ops float with int8.float_ops=[NUMBER,…], try int8.method=percentile or entropy, or "
            "fine-tune with `python -m tfnas.train recipe=qat weights=WEIGHTS out=FOLDER`",
            ", ".join(f"{layer} ({ratio_db:.0f} dB)" for layer, ratio_db in found.layers),
        )


if __name__ == "__main__":
    main(ExportConfig, "export", prepare)

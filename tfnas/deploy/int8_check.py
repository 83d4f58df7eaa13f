"""What a net loses in int8, on images that it was not trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import torch

from tfnas.data.batches import Batches
from tfnas.data.images import Images
from tfnas.deploy.formats import run_onnx
from tfnas.deploy.int8 import ImageReader, Int8Check
from tfnas.deploy.onnx_file import float_model
from tfnas.nets.backbone import Backbone
from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained

DROP = 0.01  # of top-1: from here on the worst layers are looked for
LAYERS = 5  # of these
LOOKED_AT = 64  # images


def deployed_images(
    images: Images,
    network: Network | Backbone,
    trained: Trained,
    *,
    most: int,
    batch: int,
    seed: int,
    whole: bool = False,
) -> Batches:
    """Images as the net takes them where it is deployed, at most so many, drawn by the seed.

    Args:
        whole: leave out what makes no whole batch.
    """
    chosen = np.random.default_rng(seed).permutation(len(images))[:most]
    return Batches(
        images, np.sort(chosen), batch=batch, size=network.subnet.resolution, mean=trained.mean,
        std=trained.std, seed=seed, augment=False, drop_last=whole,
    )  # fmt: skip


def arrays(batches: Batches) -> Iterator[np.ndarray]:
    """The images alone, as ONNX Runtime takes them."""
    for images, _ in batches.epoch(0):
        yield np.ascontiguousarray(images.numpy())


def check_int8(network: Network, path: Path, tested: Batches, classes: Sequence[str]) -> Int8Check:
    """Compare a network in eval mode with its int8 file, made for batches of this size."""
    run = run_onnx(path)
    right = np.zeros((2, len(classes)), np.int64)  # float, int8
    count = np.zeros(len(classes), np.int64)
    for images, labels in tested.epoch(0):
        with torch.inference_mode():
            in_float = network(images).argmax(1).numpy()
        given = np.ascontiguousarray(images.numpy())
        in_int8 = run(given)[0].argmax(1)
        truth = labels.numpy()
        count += np.bincount(truth, minlength=len(classes))
        for row, found in enumerate((in_float, in_int8)):
            right[row] += np.bincount(truth[found == truth], minlength=len(classes))
    lost = (right[0] - right[1]) / np.maximum(count, 1)
    worst, top1 = int(np.argmax(lost)), right.sum(1) / count.sum()
    layers = _worst_layers(network, path, tested) if top1[0] - top1[1] > DROP else ()
    return Int8Check(
        int(count.sum()), float(top1[0]), float(top1[1]), (classes[worst], float(lost[worst])),
        tuple(layers),
    )  # fmt: skip


def _worst_layers(network: Network, path: Path, tested: Batches) -> list[tuple[str, float]]:
    from onnxruntime.quantization import qdq_loss_debug as debug

    images = list(islice(arrays(tested), max(1, LOOKED_AT // tested.batch)))
    models = (float_model(network, None), onnx.load_model(path))
    seen = []
    with tempfile.TemporaryDirectory(prefix="tfnas-") as folder:
        for name, model in zip(("float", "int8"), models, strict=True):
            source, augmented = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}-all.onnx"
            onnx.save_model(model, source)
            debug.modify_model_output_intermediate_tensors(source, augmented)
            seen.append(debug.collect_activations(str(augmented), ImageReader(images)))
    pairs = debug.create_activation_matching(seen[1], seen[0])
    errors = debug.compute_activation_error(pairs)
    found = [(name, float(e["xmodel_err"])) for name, e in errors.items() if "xmodel_err" in e]
    return sorted(found, key=lambda pair: pair[1])[:LAYERS]

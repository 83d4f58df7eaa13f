"""A trained net as a folder that can be pushed to a model hub: its files and a model card.

`subnet.json` and `model.safetensors` are what `tfnas.load` takes, `config.json` tells those who use
`model.onnx` without tfnas how images are prepared. The card is README.md, with front matter as the
Hugging Face hub reads it. No file names a folder of this machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tfnas.data.preprocess import Preprocess
from tfnas.files.atomic import write_atomically
from tfnas.files.decode import encode
from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained, fingerprint, net_name, save_weights
from tfnas.runs.folder import RunFolder
from tfnas.runs.int8 import INT8, Int8Accuracy, load_int8
from tfnas.runs.result import Result
from tfnas.runs.run import clean
from tfnas.runs.trained import Finished, load_finished
from tfnas.space.size import sides
from tfnas.space.subnet import Subnet

DATASETS = {  # names on the Hugging Face hub
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}
TASK = "image-classification"
FOLDERS = re.compile(r"(?<!\S)/\S*/(?=\S)")  # of an absolute path


@dataclass(frozen=True)
class HubConfig:
    """What config.json holds; names are timm's, as far as it has them."""

    library_name: str
    architecture: str  # the space, and what names the ops
    num_classes: int
    label_names: tuple[str, ...]
    input_size: tuple[int, int, int]  # channels, height, width
    mean: tuple[float, ...]  # of each channel, in 0..1
    std: tuple[float, ...]
    crop_pct: float  # part of the shorter side that is kept; 1: the image is only resized
    interpolation: str


@dataclass(frozen=True)
class ModelCard:
    """What is known of a trained net.

    Attributes:
        result: of the search that found it; None where there is none beside the subnet.
        finished: its training; None where there is no record of it.
        int8: its accuracy in int8; None where that isn't known.
    """

    subnet: Subnet
    trained: Trained
    result: Result | None
    finished: Finished | None
    int8: Int8Accuracy | None = None

    def text(self, name: str) -> str:
        """README.md."""
        t, net = self.trained, self.subnet
        assert t.top1 is not None
        assert t.top5 is not None
        return f"""---
# license: yours to choose, for these weights
{yaml.safe_dump(self._front_matter(name), sort_keys=False, allow_unicode=True)}---

# {name}

A convolutional network of the search space {clean(net.space)} for {net.classes} classes,
{net.resolution} px: {net.params / 1e6:.2f} M parameters, {net.macs / 1e6:.0f} M multiply-adds.
{self._search()}
## Use

```python
import tfnas

model = tfnas.load(FOLDER)  # where these files lie
logits = model(model.preprocess("image.jpg"))
print(model.classes[int(logits.argmax())])
```

`model.onnx` takes float32 images. `config.json` has the size, mean and standard deviation that
images were tested with, how they were resized, and the names of the classes.

## Accuracy

- {clean(t.data)}: top-1 {100 * t.top1:.2f} %, top-5 {100 * t.top5:.2f} % of the
  test images at {t.resolution} px{self._precision()}.
{self._int8()}{self._training()}
## Latency

{self._latency()}
"""

    def _front_matter(self, name: str) -> dict[str, Any]:
        data = clean(self.trained.data)
        name_of_data = data.partition(":")[0]
        known = DATASETS.get(name_of_data)
        t = self.trained
        values = {"top-1": t.top1, "top-5": t.top5}
        return {
            "library_name": "tfnas",
            "pipeline_tag": TASK,
            "tags": [TASK, "tfnas", "neural-architecture-search", "onnx"],
            **({"datasets": [known]} if known else {}),
            "metrics": ["accuracy"],
            "model-index": [{
                "name": name,
                "results": [{
                    "task": {"type": TASK},
                    "dataset": {"type": known or name_of_data, "name": data, "split": "test"},
                    "metrics": [
                        {"type": "accuracy", "name": f"{which} (%)", "value": round(100 * value, 2)}
                        for which, value in values.items()
                        if value is not None
                    ],
                }],
            }],
        }  # fmt: skip

    def _search(self) -> str:
        if self.result is None:
            return ""
        r = self.result
        return f"Found by `tfnas search`, strategy {clean(r.strategy)}, seed {r.seed}.\n"

    def _precision(self) -> str:
        """Of the accuracy, wherever int8 is about."""
        if self.trained.quantized is not None:
            return ", in int8 as its training simulates it"
        return ", in float" if self._in_int8 or self.int8 is not None else ""

    @property
    def _in_int8(self) -> bool:
        """Whether the latency is that of an int8 net."""
        return self.result is not None and self.result.precision == INT8

    def _int8(self) -> str:
        if self.int8 is None:
            if not self._in_int8:
                return ""
            return "- In int8, which the latency is of: not known.\n"
        found = self.int8
        return (
            f"- In int8 ({clean(found.model)}, activations {clean(found.activations)}, ranges by "
            f"{clean(found.calibration)}): top-1 {100 * found.int8_top1:.2f} %, and in float "
            f"{100 * found.float_top1:.2f} %, on {found.images:,} test images at "
            f"{found.resolution} px.\n"
        )

    def _training(self) -> str:
        if self.finished is None:
            return ""
        done = self.finished
        start = "random weights" if done.weights is None else "given weights"
        return (
            f"- Trained with the recipe {clean(str(done.recipe.get('name')))}, {len(done.epochs)} "
            f"epochs from {start}, seed {done.seed}; tfnas {clean(done.versions.tfnas)}, torch "
            f"{clean(done.versions.torch)}. One training: its spread over seeds isn't known.\n"
        )

    def _latency(self) -> str:
        """With all that it depends on."""
        if self.result is None:
            return "Not measured: `tfnas verify onnx=model.onnx` does, on any machine."
        r = self.result
        where = (
            f"{clean(r.device)}: {r.threads} threads, batch {r.batch}, {clean(r.precision)}, "
            f"{r.resolution} px"
        )
        asked = f"{r.target_ms:.4g} ms {'at most ' if r.at_most else ''}were asked for"
        if r.measured_ms is None or r.measured_ci_ms is None:
            return f"- {r.table_ms:.4g} ms by the table of {where}; {asked}. Not measured."
        low, high = r.measured_ci_ms
        doubt = f" Doubtful: {clean(r.noisy)}." if r.noisy else ""
        versions = ", ".join(f"{clean(k)} {clean(v)}" for k, v in r.versions.items())
        return (
            f"- {r.measured_ms:.4g} ms, 95 % interval {low:.4g} to {high:.4g} ms, on {where}; "
            f"{asked}.{doubt}\n- Measured with {versions}. Other devices, threads and versions "
            "take other times: `tfnas verify onnx=model.onnx` measures them."
        )


def read_card(subnet: Subnet, trained: Trained, run: RunFolder, weights: Path) -> ModelCard:
    """The card of a net.

    Args:
        run: where its subnet lies; the search's result beside it is of this net.
        weights: a record of a training beside them counts if it is of them.

    Raises:
        ValueError: if a result or a record is damaged, or the result is of another net.
    """
    if trained.top1 is None:
        raise ValueError(f"{weights}: a model card is of nets that tell classes, by top-1")
    result = Result.load(run.result) if run.result.is_file() else None
    if result is not None and (result.space, result.macs) != (subnet.space, subnet.macs):
        raise ValueError(f"{run.result} is of another net: take the subnet out of that folder")
    finished = None
    if RunFolder(weights.parent).trained.is_file():
        finished = load_finished(weights.parent)
        if (finished.subnet, finished.top1) != (fingerprint(subnet), trained.top1):
            finished = None
    beside = RunFolder(weights.parent).int8
    int8 = load_int8(beside) if beside.is_file() else None
    if int8 is not None and not int8.is_of(fingerprint(subnet), trained.top1):
        int8 = None
    trained = replace(trained, data=FOLDERS.sub("", trained.data))
    return ModelCard(subnet, trained, result, finished, int8)


def write_hub_folder(card: ModelCard, network: Network, folder: Path) -> None:
    """Write all but model.onnx. Raises OSError."""
    files, t = RunFolder(folder), card.trained
    config = HubConfig(
        library_name="tfnas",
        architecture=net_name(card.subnet),
        num_classes=card.subnet.classes,
        label_names=t.classes,
        input_size=(card.subnet.in_channels, *sides(t.resolution)),
        mean=t.mean,
        std=t.std,
        crop_pct=t.crop_fraction,
        interpolation=Preprocess.interpolation,
    )
    card.subnet.save(files.subnet)
    save_weights(network.state_dict(), card.subnet, files.hub_weights, t)
    write_atomically(folder / "config.json", encode(config))
    write_atomically(folder / "README.md", card.text(folder.resolve().name))

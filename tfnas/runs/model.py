"""The trained network of a folder as a module that is ready to be used."""

from __future__ import annotations

from pathlib import Path

from tfnas.data.preprocess import Preprocess
from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained, load_weights
from tfnas.runs.folder import RunFolder
from tfnas.space.subnet import Subnet


class TrainedNetwork(Network):
    """A `Network` with what it was trained on, (N, in_channels, R, R) -> (N, classes).

    Attributes:
        classes: names of the outputs, in order.
        preprocess: makes (1, in_channels, R, R) of an image; concatenate several to a batch.
        trained: data, resolution and accuracy.
    """

    def __init__(self, subnet: Subnet, trained: Trained):
        super().__init__(subnet)
        self.trained = trained
        self.classes = trained.classes
        self.preprocess = Preprocess(
            trained.resolution, trained.mean, trained.std, trained.crop_fraction
        )


def load_model(path: Path) -> TrainedNetwork:
    """The trained network of a folder, in eval mode on the CPU.

    Args:
        path: the folder, or a subnet or weights in it: the other one has its usual name.

    Raises:
        FileNotFoundError: if there is no subnet or no weights; names what makes them.
        ValueError: if they are damaged or don't fit together, or the file is neither.
    """
    given = path.suffix if path.is_file() else ""
    if given not in ("", ".json", ".safetensors"):
        raise ValueError(f"{path}: expected the folder of a run, its subnet.json or its weights")
    beside = RunFolder(path.parent if given else path)
    subnet_file = path if given == ".json" else beside.subnet
    weights_file = path if given == ".safetensors" else beside.weights_there
    if not subnet_file.is_file():
        raise FileNotFoundError(
            f"{subnet_file}: no such file; expected the folder of a run, its subnet or its weights"
        )
    if not weights_file.is_file():
        raise FileNotFoundError(
            f"{weights_file}: no such file; train the net with "
            f"`python -m tfnas.train subnet={subnet_file}`"
        )
    subnet = Subnet.load(subnet_file)
    trained = load_weights(Network(subnet), weights_file, complete=True).trained
    if trained is None:
        raise ValueError(f"{weights_file} doesn't say what it was trained on")
    network = TrainedNetwork(subnet, trained)
    load_weights(network, weights_file, complete=True)
    return network.eval()

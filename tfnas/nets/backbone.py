"""A net as a backbone: its last map of each size, as a detector's or a segmenter's head takes them.

The conventions are those of timm's `features_only` (github.com/huggingface/pytorch-image-models):
`out_indices` count the sizes from the largest, `feature_info` tells channels and reductions. Stages
of one size give one map, that of the last block; head and classifier are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from tfnas.nets.blocks import Network
from tfnas.nets.weights import Trained
from tfnas.space.subnet import Subnet


@dataclass(frozen=True)
class Feature:
    """A map that a net computes.

    Attributes:
        layer: number of the layer that gives it.
        reduction: pixels of the input for one of the map, each way.
    """

    layer: int
    channels: int
    reduction: int


def features_of(subnet: Subnet) -> tuple[Feature, ...]:
    """The last map of each size before the head, the largest first."""
    last: dict[int, Feature] = {}
    reduction = 1
    for layer, op in enumerate((*subnet.stem, *subnet.blocks)):
        reduction *= op.stride
        last[reduction] = Feature(layer, op.c_out, reduction)
    return tuple(last.values())


class FeatureInfo:
    """What the maps of a backbone are, in its order."""

    def __init__(self, features: Sequence[Feature], out_indices: Sequence[int]):
        self.out_indices = tuple(out_indices)
        self.features = tuple(features[index] for index in out_indices)

    def channels(self) -> list[int]:
        """Of each map."""
        return [feature.channels for feature in self.features]

    def reduction(self) -> list[int]:
        """Pixels of the input for one of each map."""
        return [feature.reduction for feature in self.features]

    def module_name(self) -> list[str]:
        """Of the layers that give the maps."""
        return [f"layers.{feature.layer}" for feature in self.features]

    def get_dicts(self) -> list[dict[str, int | str]]:
        """Of each map what the other methods tell, by timm's names."""
        return [
            {"num_chs": f.channels, "reduction": f.reduction, "module": f"layers.{f.layer}"}
            for f in self.features
        ]


class Backbone(nn.Module):
    """(N, in_channels, H, W) -> a list of (N, channels, H / reduction, W / reduction), rounded up.

    Shares its layers with the network that it is made of.

    Args:
        out_indices: of `features_of`; None: all of them.

    Attributes:
        feature_info: channels and reductions of the maps.
        trained: what the weights were trained on; its `mean` and `std` are the input's.

    Raises:
        ValueError: for indices that aren't there, or not in order.
    """

    def __init__(
        self,
        network: Network,
        out_indices: Sequence[int] | None = None,
        trained: Trained | None = None,
    ):
        super().__init__()
        features = features_of(network.subnet)
        count = len(features)
        given = list(range(count)) if out_indices is None else out_indices
        plain = isinstance(given, Sequence) and all(type(index) is int for index in given)
        indices = [index + count if index < 0 else index for index in given] if plain else []
        if not indices or indices != sorted({i for i in indices if 0 <= i < count}):
            raise ValueError(
                f"out_indices={given}: expected some of 0 to {count - 1} in order, the maps "
                f"of reductions {', '.join(str(feature.reduction) for feature in features)}"
            )
        self.subnet, self.trained = network.subnet, trained
        self.feature_info = FeatureInfo(features, indices)
        self.taken = tuple(feature.layer for feature in self.feature_info.features)
        self.layers = nn.Sequential(*list(network.layers)[: self.taken[-1] + 1])
        self.train(network.training)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer, module in enumerate(self.layers):
            x = module(x)
            if layer in self.taken:
                maps.append(x)
        return maps

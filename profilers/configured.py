"""What an entry point's configuration stands for: a device, a space with its classes."""

from __future__ import annotations

from dataclasses import replace

from profilers.contract import Profiler
from profilers.devices import BACKENDS, open_profiler
from tfnas.app.schemas import DataConfig, DeviceContext
from tfnas.data.sets import num_classes
from tfnas.files.bounded import shown
from tfnas.space.spec import SpaceSpec


def configured_device(config: DeviceContext) -> Profiler:
    """The profiler of the configured device; see `open_profiler`."""
    options = {str(key): value for key, value in config.device.items()}
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or options.keys() & {"threads", "batch", "precision"}:
        raise ValueError(
            f"device={shown(config.device)}: expected options of one of {', '.join(BACKENDS)}; "
            "threads, batch and precision stand beside it"
        )
    return open_profiler(
        kind, threads=config.threads, batch=config.batch, precision=config.precision, **options
    )


def configured_space(space: SpaceSpec, data: DataConfig) -> SpaceSpec:
    """The space with as many classes as the data has, where it doesn't say itself."""
    if space.classes is not None:
        return space
    classes = num_classes(
        data.name, root=data.root, train_list=data.train_list, test_list=data.test_list
    )
    return replace(space, classes=classes)

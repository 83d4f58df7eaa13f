"""python -m tests.support.fuzz TARGET --runs N

Coverage-guided fuzzing of what reads files from elsewhere, by atheris (the extra `fuzz`). What
isn't a ValueError, takes more than ten seconds or more than 2 GB is a finding: libFuzzer ends with
status 77 then and names the file with the input.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import random
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
from torch._weights_only_unpickler import Unpickler

from tfnas.data.cifar import CIFAR10, read_cifar
from tfnas.data.npz import read_npz

with atheris.instrument_imports(include=["tfnas", "pickletools", "tarfile", "gzip"]):
    from tests import test_loaders as loaders
    from tfnas.files.checkpoint import write_checkpoint
    from tfnas.nets.weights import save_weights

Unpickler.load = atheris.instrument_func(Unpickler.load)

FOLDER = Path(tempfile.mkdtemp(prefix="tfnas_fuzz_"))
FILE = FOLDER / "input"
VALUES: list[bytes] = []
ARRAYS = {
    "train_images": np.zeros((3, 2, 2, 3), np.uint8),
    "train_labels": np.arange(3),
    "test_images": np.zeros((2, 2, 2), np.uint8),
    "test_labels": np.arange(2, dtype=np.uint8)[:, None],
    "classes": np.array(["a", "b", "c"]),
}
ENTRIES: dict[str, bytes] = {}
Load = Callable[[Path], object]


def table_seed() -> bytes:
    loaders.TABLE.save(FILE)
    return FILE.read_bytes()


def weights_seed() -> bytes:
    """The header: the values that follow it are put behind each input."""
    save_weights(loaders.NETWORK.state_dict(), loaders.SUBNET, FILE, loaders.TRAINED)
    content = FILE.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    VALUES.append(content[end:])
    return content[:end]


def weights(path: Path) -> None:
    path.write_bytes(path.read_bytes() + VALUES[0])
    loaders.attempt_weights(path)


def checkpoint_seed() -> bytes:
    """The pickle inside: the archive around it is made anew for each input."""
    write_checkpoint(
        FILE, {"identity": {"seed": 0}, "x": loaders.torch.arange(8), "y": [1.0, None]}
    )
    with zipfile.ZipFile(FILE) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def checkpoint(path: Path) -> None:
    path.write_bytes(loaders.checkpoint(path.read_bytes()))
    loaders.attempt_checkpoint(path)


def cifar(path: Path) -> None:
    loaders.attempt_data(lambda: loaders.read_batch(path.read_bytes()), "batch")


def archive(path: Path) -> None:
    loaders.attempt_data(lambda: read_cifar(path, CIFAR10), path.name)


def array_seeds() -> list[bytes]:
    """One of each kind: the archive around them is made anew for each input."""
    for name, array in ARRAYS.items():
        file = io.BytesIO()
        np.save(file, array)
        ENTRIES[name] = file.getvalue()
    return list(ENTRIES.values())


def npz(path: Path) -> None:
    """The input in place of each array in turn."""
    content = path.read_bytes()
    for name in ENTRIES:
        with zipfile.ZipFile(path, "w") as archive:
            for each, good in (ENTRIES | {name: content}).items():
                archive.writestr(f"{each}.npy", good)
        found = loaders.attempt(read_npz, path)
        if found is not None:
            classes, *parts = found
            for images in parts:
                assert len(images.pixels) == len(images.labels)
                assert 0 <= images.labels.min() <= images.labels.max() < len(classes)


def pickles() -> list[bytes]:
    tables = [loaders.PUBLISHED, {**loaders.HARDCORE, "general": 0.01}]
    return [pickle.dumps(table, protocol) for table in tables for protocol in (0, 2, 4)]


# name -> what reads the file and asserts what must hold, good inputs, ending of the file's name
TARGETS: dict[str, tuple[Load, Callable[[], list[bytes]], str]] = {
    "subnet": (loaders.sound_subnet, lambda: [loaders.SUBNET.to_json().encode()], ".json"),
    "table": (loaders.sound_table, lambda: [table_seed()], ".json"),
    "json": (loaders.sound_import, lambda: [json.dumps(loaders.DENSE).encode()], ""),
    "yaml": (
        loaders.sound_import,
        lambda: [f"{loaders.MIT}:\n  mean: 0.5\n  count: 3\n".encode()],
        ".yaml",
    ),
    "pickle": (loaders.sound_import, pickles, ".pkl"),
    "cifar": (cifar, lambda: [loaders.cifar_batch(1)], ""),
    "tar": (archive, lambda: [loaders.tar("cifar-10-batches-py/batches.meta", 3) + b"abc"], ""),
    "weights": (weights, lambda: [weights_seed()], ".safetensors"),
    "npz": (npz, array_seeds, ".npz"),
    "checkpoint": (checkpoint, lambda: [checkpoint_seed()], ".ckpt"),
}


ODD = [*loaders.RAW, "\ud800", "x" * 20_000, "", None, True, -1, 0, 1.5, 10**20, [], {}, [[1, 2]]]


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """Every other time a part of what is JSON is dropped, doubled or replaced, else bytes."""
    rng = random.Random(seed)
    try:
        root = json.loads(data)
        assert isinstance(root, (dict, list))
        assert rng.random() < 0.5
    except (AssertionError, ValueError, RecursionError):
        return atheris.Mutate(data, longest)
    node = root
    while node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], (dict, list)) or rng.random() < 0.3:
            change = rng.random()
            if change < 0.2:
                del node[key]
            elif change < 0.3 and isinstance(node, list):
                node.append(node[key])
            else:
                node[key] = rng.choice([*ODD, rng.randrange(300), rng.random()])
            break
        node = node[key]
    return loaders.raw_json(root).encode()[:longest]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=100_000, help="number of inputs")
    parser.add_argument("--seconds", type=int, default=0, help="end after these, 0: never")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    load, seeds, suffix = TARGETS[args.target]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds()):
        (corpus / str(number)).write_bytes(content)
    path = FILE.with_suffix(suffix)
    warnings.simplefilter("error")

    def one(data: bytes) -> None:
        path.write_bytes(data)
        load(path)

    options = {
        "runs": args.runs, "max_total_time": args.seconds, "seed": args.seed, "timeout": 10,
        "rss_limit_mb": 2048, "max_len": 16_384, "verbosity": 0, "print_final_stats": 1,
        "artifact_prefix": f"{FOLDER}/",
    }  # fmt: skip
    arguments = [sys.argv[0], *(f"-{k}={v}" for k, v in options.items()), str(corpus)]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

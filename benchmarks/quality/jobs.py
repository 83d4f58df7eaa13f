"""The jobs of `benchmarks.quality`: searches, trainings, and supernets that rank.

A job is plain data, and so is its result: a line of JSON that needs no other file, but for the
supernet's weights that a training may start from.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from tfnas.app.command_line import override
from tfnas.app.data import load_data
from tfnas.app.schemas import SearchConfig
from tfnas.app.values import conf_path
from tfnas.data.batches import Batches
from tfnas.data.images import ArrayImages
from tfnas.derive.architecture import Constraint, Derived
from tfnas.derive.hand_made import hand_made
from tfnas.derive.methods import derive_constrained, derive_greedy
from tfnas.files import checkpoint
from tfnas.latency.table import LatencyTable
from tfnas.nets.blocks import Network
from tfnas.nets.weights import save_weights
from tfnas.pipeline.inputs import make_strategy, split, with_classes
from tfnas.runs.trained import train
from tfnas.space.subnet import Subnet
from tfnas.strategies.contract import Found, Progress, Task
from tfnas.strategies.parts.evaluate import Genome, SampledSearch
from tfnas.strategies.spos import SPOS
from tfnas.training.loop import CHECKPOINT
from tfnas.training.recipe import Recipe

TABLE = Path(__file__).with_name("table.json")
SPACE = "small"
WEIGHTS = "supernet_weights.safetensors"
NO_RANDOM_NET = 20_000  # seed of the random nets; a search's is below 1000


@dataclass(frozen=True)
class Setting:
    """What all jobs of a study share; written down before the first one runs.

    Attributes:
        data: its name, or that of its file.
        first_seed: all seeds count from it.
        variants: overrides of `tfnas.search` by the name of a way to search.
        proxies: overrides by the name of a way to train a supernet on uniform paths.
        random_nets: how many.
        recipe: of all trainings, a name of conf/recipe/.
        recipe_epochs: instead of the recipe's own.
    """

    data: str
    target_ms: float
    first_seed: int
    variants: Mapping[str, tuple[str, ...]]
    proxies: Mapping[str, tuple[str, ...]]
    random_nets: int
    recipe: str
    recipe_epochs: int


@dataclass(frozen=True)
class Search:
    """One search by one of the setting's variants."""

    variant: str
    seed: int

    @property
    def name(self) -> str:
        return f"search-{self.variant}-{self.seed}"

    @property
    def needs(self) -> tuple[Job, ...]:
        return ()


@dataclass(frozen=True)
class Train:
    """A training of a net: `random-7`, `mobilenetv2`, or what a search found.

    Attributes:
        derivation: greedy: the published one; likely: the most probable net that meets the target;
            "": what the search ends with.
        inherits: starts from the supernet's weights.
    """

    net: str
    seed: int
    source: Search | None = None
    derivation: str = ""
    inherits: bool = False

    @classmethod
    def found(
        cls, source: Search, seed: int, derivation: str = "", inherits: bool = False
    ) -> Train:
        name = f"{'+'.join(filter(None, (source.variant, derivation)))}-{source.seed}"
        return cls(name, seed, source, derivation, inherits)

    @property
    def name(self) -> str:
        return f"train-{self.net}-{'inherited' if self.inherits else 'scratch'}-{self.seed}"

    @property
    def needs(self) -> tuple[Job, ...]:
        return () if self.source is None else (self.source,)


@dataclass(frozen=True)
class Rank:
    """A supernet trained on uniform paths that scores the random nets."""

    proxy: str
    seed: int

    @property
    def name(self) -> str:
        return f"rank-{self.proxy}-{self.seed}"

    @property
    def needs(self) -> tuple[Job, ...]:
        return ()


Job = Search | Train | Rank


def run(
    out: Path, data: str, setting: Setting, job: Job, found: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Run a job in a process of its own; its result.

    Args:
        out: folder for what is large.
        data: a name of conf/data/, or the path of an archive of arrays.
        found: the result of the search that a training needs.
    """
    torch.set_num_threads(1)
    logging.getLogger("tfnas").setLevel(logging.ERROR)
    started = time.process_time()
    study = Study(data, setting)
    if isinstance(job, Search):
        result = searched(study, out, job)
    elif isinstance(job, Train):
        result = trained(study, out, job, found)
    else:
        result = ranked(study, job)
    return {"job": job.name, **result, "cpu_s": round(time.process_time() - started, 1)}


class Study:
    """The data, the space and the table of a setting."""

    def __init__(self, data: str, setting: Setting):
        self.data = data
        self.setting = setting
        self.table = LatencyTable.load(TABLE)
        cfg = self.config()
        self.dataset = load_data(cfg.data, cfg.budget.max_train)
        self.spec = with_classes(cfg.space, self.dataset)
        self.space = self.spec.build(self.table.device.quantum)
        self.constraint = Constraint(self.table.for_space(self.space), setting.target_ms)

    def config(self, overrides: Sequence[str] = (), seed: int = 0) -> SearchConfig:
        data = self.data
        given = (
            ("data=npz", override("data.root", Path(data).resolve()))
            if data.endswith(".npz")
            else (f"data={data}", "data.root=shipped")
        )
        ConfigStore.instance().store(name="search_schema", node=SearchConfig)
        with initialize_config_dir(str(conf_path()), version_base="1.3"):
            composed = compose(
                "search",
                [f"space={SPACE}", f"target_ms={self.setting.target_ms}", f"seed={seed}", *given,
                 "data.workers=0", *overrides],
            )  # fmt: skip
        cfg = OmegaConf.to_object(composed)
        assert isinstance(cfg, SearchConfig)
        return cfg

    def task(self, overrides: Sequence[str], seed: int) -> tuple[SearchConfig, Task]:
        cfg = self.config(overrides, seed)
        dataset = load_data(cfg.data, cfg.budget.max_train)
        size = cfg.budget.resolution or self.spec.resolution
        train_batches, held_out = split(dataset, cfg.budget, size, seed)
        task = Task(
            self.space, (self.constraint,), train_batches, held_out, cfg.budget, seed,
            cfg.derive.method, torch.device("cpu"),
        )  # fmt: skip
        return cfg, task

    def written_down(self) -> dict[str, Any]:
        """Every value that shapes a result."""
        ways = {**self.setting.variants, **self.setting.proxies}
        configs = {name: self.config(overrides) for name, overrides in ways.items()}
        dataset = self.dataset
        assert isinstance(dataset.train, ArrayImages)
        assert isinstance(dataset.test, ArrayImages)
        arrays = [a for part in (dataset.train, dataset.test) for a in (part.pixels, part.labels)]
        return {
            **asdict(self.setting),
            "images": [len(dataset.train), len(dataset.test)],
            "images_sha256": _digest(*(a.tobytes() for a in arrays)),
            "table_sha256": _digest(TABLE.read_bytes()),
            "space": self.space.key,
            "recipe": asdict(self.recipe),
            "searches": {
                name: {"strategy": dict(c.strategy), "budget": asdict(c.budget)}
                for name, c in configs.items()
            },
        }

    @cached_property
    def recipe(self) -> Recipe:
        values = OmegaConf.load(conf_path() / "recipe" / f"{self.setting.recipe}.yaml")
        own = {"epochs": self.setting.recipe_epochs}
        merged = OmegaConf.merge(OmegaConf.structured(Recipe), values, own)
        loaded = OmegaConf.to_object(merged)
        assert isinstance(loaded, Recipe)
        return loaded

    @cached_property
    def random_nets(self) -> list[Derived]:
        """Uniform depths, ops and widths, each changed to meet the target."""
        budget = next(iter(self.setting.variants.values()))  # a task has one; it doesn't matter
        _, task = self.task(budget, self.setting.first_seed)
        seeds = range(self.setting.random_nets)
        first = NO_RANDOM_NET + self.setting.first_seed
        rngs = [np.random.default_rng(first + i) for i in seeds]
        return [Genome.random(task, rng).meet_target(task, rng) for rng in rngs]

    def net(self, name: str) -> Subnet:
        """One that no search found."""
        if name.startswith("random-"):
            return self.random_nets[int(name.removeprefix("random-"))].subnet
        return hand_made(self.space, self.constraint, name)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def searched(study: Study, out: Path, job: Search) -> dict[str, Any]:
    """Search, keep what is found, and have the supernet score the random nets."""
    folder = out / job.name
    folder.mkdir(parents=True, exist_ok=True)
    cfg, task = study.task(study.setting.variants[job.variant], job.seed)
    history: list[dict[str, Any]] = []
    found: Found | None = None
    started = time.process_time()
    for event in make_strategy(cfg.strategy, cfg.derive.method).run(task):
        if isinstance(event, Progress) and event.record is not None:
            history.append(asdict(event.record))
        if isinstance(event, Found):
            found = event
    assert found is not None
    cost = time.process_time() - started
    derived, arch = found.derived, found.architecture
    others = {}
    if arch is not None:
        others["greedy"] = _told(derive_greedy(study.space, arch, study.constraint))
        others["likely"] = _told(derive_constrained(study.space, arch, [study.constraint]))
    supernet_top1 = None
    if found.weights is not None:
        weights = found.weights(derived.subnet)
        save_weights(weights, derived.subnet, folder / WEIGHTS)
        supernet_top1 = [_score(found, net.subnet, task.held_out) for net in study.random_nets]
    return {
        "variant": job.variant,
        "seed": job.seed,
        "search_cpu_s": round(cost, 1),
        **_told(derived),
        **others,
        "scores": dict(found.scores),
        "supernet_top1": supernet_top1,
        "history": history,
    }


def _told(derived: Derived) -> dict[str, Any]:
    return {
        "depths": derived.depths,
        "picks": derived.picks,
        "widths": derived.widths,
        "table_ms": derived.table_ms[0],
        "macs": derived.subnet.macs,
        "reached": derived.reached,
        "log_prob": derived.log_prob,
        "argmax_log_prob": derived.argmax_log_prob,
    }


@torch.no_grad()
def _score(found: Found, subnet: Subnet, held_out: Batches) -> float:
    """Top-1 on held-out images, percent, by the supernet's weights and each batch's statistics."""
    assert found.weights is not None
    network = Network(subnet).train().to(memory_format=torch.channels_last)
    missing, unexpected = network.load_state_dict(dict(found.weights(subnet)), strict=False)
    assert not unexpected
    assert all(".bn." in name for name in missing), missing
    hits = [(network(x).argmax(1) == y).float().mean() for x, y in held_out.epoch(0)]
    return 100 * float(torch.stack(hits).mean())


def trained(study: Study, out: Path, job: Train, found: Mapping[str, Any] | None) -> dict[str, Any]:
    if found is None:
        subnet = study.net(job.net)
    else:
        how = found[job.derivation] if job.derivation else found
        subnet = study.space.subnet(how["depths"], how["picks"], how["widths"])
    folder = out / job.name
    folder.mkdir(parents=True, exist_ok=True)
    weights = None
    if job.inherits:
        assert job.source is not None
        weights = out / job.source.name / WEIGHTS
    resumed = checkpoint.exists(folder / CHECKPOINT)
    result = train(
        subnet, study.dataset, study.recipe, seed=job.seed, out=folder,
        weights=weights, resume=resumed,
    )  # fmt: skip
    return {
        "net": job.net,
        "seed": job.seed,
        "inherits": job.inherits,
        "resumed": resumed,  # its CPU seconds are those since then
        "table_ms": study.constraint.table.subnet_ms(subnet),
        "macs": subnet.macs,
        "top1": 100 * result.trained.top1,
        "top1_by_epoch": [round(100 * epoch.top1, 3) for epoch in result.epochs],
    }


def ranked(study: Study, job: Rank) -> dict[str, Any]:
    """Train a supernet on uniform paths, and have it score the random nets."""
    cfg, task = study.task(study.setting.proxies[job.proxy], job.seed)
    strategy = make_strategy(cfg.strategy, cfg.derive.method)
    assert isinstance(strategy, SPOS)
    search = SampledSearch(task, strategy, len(task.held_out) * task.held_out.batch, then=0)
    started = time.process_time()
    for _ in search.train():
        pass
    cost = time.process_time() - started
    for net in study.random_nets:
        search.add(net)
    return {
        "proxy": job.proxy,
        "seed": job.seed,
        "search_cpu_s": round(cost, 1),
        "supernet_top1": [search.scored[net.subnet][0].top1 for net in study.random_nets],
    }

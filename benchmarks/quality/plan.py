"""What `benchmarks.quality` compares: searches, nets and budgets, and the jobs that they need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.quality.jobs import Job, Rank, Search, Setting, Study, Train
from tfnas.files.atomic import write_atomically

SEARCHES = 3  # of each way to search
TRAININGS = 2  # of each net of the main comparison; one in the others
RANDOM_NETS = 20
HAND_MADE = ("mobilenetv2", "mobilenetv3")
HAND_TRAININGS = 4
SHIPPED = "fashion_mnist"
RECIPE = "small"
TRAINING_IMAGES = 110_000  # that a training sees, about, whatever the data: 20 epochs of emoji
SETTING, RESULTS = "setting.json", "results.jsonl"  # in the folder of --out
TARGET_MS = 0.1  # the few nets of 0.14 and 0.24 ms that were tried were no better
MAX_TRAIN = 6000  # images that a search sees
BUDGET = (
    "budget.epochs=20", "budget.warmup_epochs=4", "budget.batch_size=32",
    f"budget.max_train={MAX_TRAIN}",
    "budget.resolution=null", "budget.start_alike=true",
)  # fmt: skip
OURS = ("strategy.arch_every=4", "strategy.arch_lr=0.03", "strategy.candidates=100")
# Epochs that cost what the twenty of TF-NAS cost: on emoji an epoch takes 23 s of a CPU core, 9 in
# the warm-up, 15 with single sampling and 5.5 with SPOS, which scores 200 nets besides.
SINGLE_EPOCHS, SPOS_EPOCHS = 28, 60
VARIANTS = {
    "tfnas": OURS,
    "spos": ("strategy=spos", f"budget.epochs={SPOS_EPOCHS}", "budget.warmup_epochs=0"),
    "own_start": (*OURS, "budget.start_alike=false"),
    "skip_op": (*OURS, "strategy.depth=skip_op", "strategy.candidates=1"),
    "single": (*OURS, "strategy.second_path=none", f"budget.epochs={SINGLE_EPOCHS}"),
    "gumbel": (*OURS, "strategy.second_path=gumbel"),
    "max": (*OURS, "strategy.second_path=max"),
    "min": (*OURS, "strategy.second_path=min"),
}
UNIFORM_EPOCHS = 20
UNIFORM = ("strategy=spos", f"budget.epochs={UNIFORM_EPOCHS}", "budget.warmup_epochs=0")


def proxies(images: int) -> dict[str, tuple[str, ...]]:
    """Ways to train a supernet on uniform paths, for less.

    Args:
        images: training images of the data.
    """
    return {
        "uniform": (),
        "channel_factor=0.5": ("budget.channel_factor=0.5",),
        "resolution=16": ("budget.resolution=16",),
        "half the samples": (f"budget.max_train={min(images, MAX_TRAIN) // 2}",),
        "half the epochs": (f"budget.epochs={UNIFORM_EPOCHS // 2}",),
    }


PROXIES = tuple(proxies(0))


def plan(first_seed: int) -> dict[str, list[Job]]:
    """The jobs of each comparison, in the order that they run in."""
    seeds = range(first_seed, first_seed + SEARCHES)
    trainings = range(first_seed, first_seed + TRAININGS)

    def searches(*variants: str) -> list[Search]:
        return [Search(variant, seed) for variant in variants for seed in seeds]

    def once(*variants: str) -> list[Job]:
        return [*searches(*variants), *(Train.found(s, first_seed) for s in searches(*variants))]

    ours, spos = searches("tfnas"), searches("spos")
    hand = range(first_seed, first_seed + HAND_TRAININGS)
    random: list[Job] = [Train(f"random-{i}", first_seed) for i in range(RANDOM_NETS)]
    found: list[Job] = [*ours, *(Train.found(s, seed) for seed in trainings for s in ours)]
    pays: list[Job] = [
        *found,
        *random,
        *(Train(net, seed) for net in HAND_MADE for seed in hand),
        *spos,
        *(Train.found(source, seed) for seed in trainings for source in spos),
    ]
    inherited = [Train.found(s, seed, inherits=True) for seed in trainings for s in ours]
    others = [Train.found(s, first_seed, how) for how in ("likely", "greedy") for s in ours]
    return {
        "pays": pays,
        "rank": [*random, *ours, *(Rank(proxy, seed) for proxy in PROXIES for seed in seeds)],
        "inherit": [*found, *inherited],
        "start": [*once("tfnas"), *once("own_start")],
        "derive": [*once("tfnas"), *others, *once("skip_op")],
        "second_path": [*once("tfnas"), *once("single", "gumbel", "max", "min")],
    }


def setting_of(data: str, group: int, images: int) -> Setting:
    return Setting(
        data=Path(data).name,
        target_ms=TARGET_MS,
        first_seed=100 * group,
        variants={name: (*BUDGET, *own) for name, own in VARIANTS.items()},
        proxies={name: (*BUDGET, *UNIFORM, *own) for name, own in proxies(images).items()},
        random_nets=RANDOM_NETS,
        recipe=RECIPE,
        recipe_epochs=max(1, round(TRAINING_IMAGES / images)),
    )


def check_setting(out: Path, study: Study, jobs: Mapping[str, Sequence[Job]]) -> None:
    """Write down what is planned and every value in it, or make sure that it stands there.

    Raises:
        SystemExit: if another plan or other values do.
    """
    names = {name: [job.name for job in chosen] for name, chosen in jobs.items()}
    text = json.dumps({**study.written_down(), "jobs": names}, indent=1) + "\n"
    file = out / SETTING
    if file.is_file() and file.read_bytes() != text.encode():
        raise SystemExit(f"{file} has another setting than this command: give another --out")
    write_atomically(file, text)


def check_group(out: Path, data: str, jobs: Mapping[str, Sequence[Job]]) -> None:
    """Make sure that a folder has results of these data and jobs. Raises ValueError, or OSError."""
    file = out / SETTING
    try:
        setting = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{out} has no {SETTING}: expected the --out of an earlier run") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(setting, dict) or "data" not in setting:
        raise ValueError(f"{file} is no setting of this benchmark")
    if setting["data"] != Path(data).name:
        raise ValueError(f"{out} is of {setting['data']}, not of {data}")
    planned = setting.get("jobs", {}).get("pays")  # absent in those of an earlier version
    if planned and jobs["pays"][0].name not in planned:
        raise ValueError(f"{out} begins with {planned[0]}: give its --group")

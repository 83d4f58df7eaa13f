"""What `benchmarks.quality` found, as tables of Markdown. All accuracies are percent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_jobs import Job, Rank, Search, Train
from tfnas.intervals import (
    Interval,
    difference,
    mean_interval,
    paired_difference,
    spearman,
    spearman_interval,
)

NOTHING = "–"
RESAMPLES = 2000
SHOWN_EPOCHS = (1, 2, 5, 10, 20)
NAMES = {
    "tfnas": "TF-NAS",
    "spos": "SPOS",
    "random": "random",
    "mobilenetv2": "MobileNetV2-like",
    "mobilenetv3": "MobileNetV3-like",
    "own_start": "TF-NAS with starts of their own",
    "skip_op": "skip as an op",
    "single": "single sampling, equal cost",
    "gumbel": "second path: another Gumbel sample",
    "max": "second path: the most probable other op",
    "min": "second path: the least probable op",
}


class Results(dict[str, dict[str, Any]]):
    """Records of finished jobs by the jobs' names."""

    @classmethod
    def load(cls, file: Path) -> Results:
        lines = file.read_text().splitlines() if file.is_file() else []
        records = [json.loads(line) for line in lines]
        return cls({record["job"]: record for record in records})

    def values(self, jobs: Sequence[Job], key: str) -> list[Any]:  # type: ignore[override]
        """Of those jobs that are done."""
        return [self[job.name][key] for job in jobs if job.name in self]


@dataclass(frozen=True)
class Group:
    """Nets of one origin: an accuracy and a cost each.

    Attributes:
        top1: of each net, the mean over its trainings.
        train_cpu_s: of one training, mean.
        search_cpu_s: of one search, mean; 0 for what nobody searched.
    """

    top1: list[float]
    ms: float
    macs: float
    train_cpu_s: float
    search_cpu_s: float


def tables(results: Results, jobs: Mapping[str, Sequence[Job]]) -> str:
    """All that can be told of what is done."""
    of = {"pays": pays, "rank": ranks, "inherit": inherits, "start": starts, "derive": derives,
          "second_path": second_paths}  # fmt: skip
    texts = []
    for name, chosen in jobs.items():
        count = sum(job.name in results for job in chosen)
        text = of[name](results, jobs) if count else ""
        head = f"### {name}: {count} of {len(chosen)} jobs"
        texts.append(f"{head}\n\n{text}" if text else head)
    hours = sum(record["cpu_s"] for record in dict.values(results)) / 3600
    return "\n\n".join([*texts, f"{len(results)} jobs, {hours:.1f} hours of a CPU core."])


def trained(jobs: Sequence[Job], key: str) -> list[Train]:
    """The trainings from scratch of nets of one origin: `tfnas`, `random`, `tfnas+greedy`."""
    return [
        job for job in jobs
        if (isinstance(job, Train) and not job.inherits and job.net.rpartition("-")[0] == key)
        or (isinstance(job, Train) and job.net == key)
    ]  # fmt: skip


def group(
    results: Results, jobs: Sequence[Job], key: str, seeds: int | None = None
) -> Group | None:
    """Attributes of what is done; None if nothing is.

    Args:
        seeds: so many trainings of each net count; None: all.
    """
    by_net: dict[str, list[dict[str, Any]]] = {}
    for job in trained(jobs, key):
        if job.name in results:
            by_net.setdefault(job.net, []).append(results[job.name])
    if not by_net:
        return None
    rows = [sorted(rows, key=lambda r: r["seed"])[:seeds] for rows in by_net.values()]
    hand = len(rows) == 1  # a net by a rule: its trainings are all that varies
    top1 = [[r["top1"] for r in net] for net in rows]
    flat = [r for net in rows for r in net]
    sources = {job.source for job in trained(jobs, key) if job.source is not None}
    cost = results.values(list(sources), "search_cpu_s")
    return Group(
        top1[0] if hand else [float(np.mean(t)) for t in top1],
        float(np.mean([r["table_ms"] for r in flat])),
        float(np.mean([r["macs"] for r in flat])),
        float(np.mean([r["cpu_s"] for r in flat])),
        float(np.mean(cost)) if cost else 0.0,
    )


def pays(results: Results, jobs: Mapping[str, Sequence[Job]]) -> str:
    chosen = jobs["pays"]
    ours, random = group(results, chosen, "tfnas"), group(results, chosen, "random")
    rows = []
    for key in ("tfnas", "spos", "random", "mobilenetv2", "mobilenetv3"):
        found = group(results, chosen, key)
        if found is None:
            continue
        against = (
            NOTHING
            if found is ours or ours is None or key == "tfnas"
            else told(difference(ours.top1, found.top1), sign=True)
        )
        rows.append((*_described(NAMES[key], found), against))
    if ours is not None and random is not None:
        for count in dict.fromkeys((equal_cost(ours, random), len(random.top1))):
            best, gap = best_of(random.top1, count, ours.top1)
            what = "for the cost of one search" if count < len(random.top1) else "all"
            rows.append((f"the best of {count} random ({what})", NOTHING, NOTHING, NOTHING,
                         told(best), NOTHING, told(gap, sign=True)))  # fmt: skip
    head = ("nets", "n", "table, ms", "M multiply-adds", "top-1", "CPU s: search + training",
            "TF-NAS minus it")  # fmt: skip
    return markdown(head, rows)


def _described(name: str, found: Group) -> tuple[str, ...]:
    return (
        name,
        str(len(found.top1)),
        f"{found.ms:.4f}",
        f"{found.macs / 1e6:.2f}",
        told(mean_interval(found.top1)),
        f"{found.search_cpu_s:.0f} + {found.train_cpu_s:.0f}",
    )


def equal_cost(ours: Group, random: Group) -> int:
    """How many random nets can be trained for one search and the training of what it finds."""
    return max(1, round((ours.search_cpu_s + ours.train_cpu_s) / random.train_cpu_s))


def best_of(
    values: Sequence[float], count: int, ours: Sequence[float]
) -> tuple[Interval, Interval]:
    """The expected highest of `count` of the values, and the mean of ours minus it.

    The highest on the test images themselves, which favours it. Intervals by bootstrap.
    """
    rng = np.random.default_rng(0)
    n, count = len(values), min(count, len(values))
    weights = [math.comb(k, count - 1) / math.comb(n, count) for k in range(n)]

    def expected(x: np.ndarray) -> float:
        return float(np.sort(x) @ weights)

    x = np.array(values)
    best = [expected(x[rng.integers(n, size=n)]) for _ in range(RESAMPLES)]
    spread = mean_interval(list(ours)).half_width
    half = _half_width(best)
    middle = expected(x)
    gap = Interval(float(np.mean(ours)) - middle, math.hypot(half, spread), n)
    return Interval(middle, half, n), gap


def _half_width(drawn: Sequence[float]) -> float:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(high - low) / 2


def ranks(results: Results, jobs: Mapping[str, Sequence[Job]]) -> str:
    random = [job for job in trained(jobs["pays"], "random") if job.name in results]
    truth = [results[job.name]["top1"] for job in random]
    index = [int(job.net.removeprefix("random-")) for job in random]
    rows = []
    by_supernet: dict[str, list[dict[str, Any]]] = {}
    for job in dict.fromkeys(j for chosen in jobs.values() for j in chosen):
        record = results.get(job.name)
        if record is None or not record.get("supernet_top1"):
            continue
        if isinstance(job, Rank):
            by_supernet.setdefault(f"uniform paths: {job.proxy}", []).append(record)
        elif isinstance(job, Search):
            by_supernet.setdefault(f"that of {NAMES[job.variant]}", []).append(record)
    for name, records in by_supernet.items():
        scores = [[r["supernet_top1"][i] for i in index] for r in records]
        each = [spearman(s, truth) for s in scores]
        mean = np.mean(scores, axis=0).tolist()
        cost = np.mean([r.get("search_cpu_s", r["cpu_s"]) for r in records])
        rows.append((name, str(len(records)), f"{np.mean(scores):.1f}", f"{np.mean(each):+.2f}",
                     told(spearman_interval(mean, truth), sign=True, digits=2),
                     f"{cost:.0f}"))  # fmt: skip
    if not truth:
        return ""
    head = ("supernet", "seeds", "its mean top-1", "Spearman, mean of one seed's",
            "Spearman of the mean score", "CPU s")  # fmt: skip
    return f"{markdown(head, rows)}\n\n{_reliability(results, jobs, truth)}"


def _reliability(
    results: Results, jobs: Mapping[str, Sequence[Job]], truth: Sequence[float]
) -> str:
    """What share of the random nets' spread is theirs, and not their training seeds'."""
    trainings: dict[str, list[float]] = {}
    for chosen in jobs.values():
        for job in chosen:
            if isinstance(job, Train) and not job.inherits and job.name in results:
                trainings.setdefault(job.net, []).append(results[job.name]["top1"])
    repeated = [t for t in trainings.values() if len(t) > 1]
    if not repeated or len(truth) < 2:
        return ""
    freedom = sum(len(t) - 1 for t in repeated)
    seed_var = sum(float(np.var(t, ddof=1)) * (len(t) - 1) for t in repeated) / freedom
    var = float(np.var(truth, ddof=1))
    share = max(0.0, 1 - seed_var / var)
    return (
        f"Trained top-1 of the {len(truth)} random nets: {min(truth):.1f} to {max(truth):.1f}, "
        f"standard deviation {math.sqrt(var):.2f}; that of a net's training seeds is "
        f"{math.sqrt(seed_var):.2f} ({freedom} degrees of freedom). A perfect score would "
        f"correlate by {math.sqrt(share):.2f} with one training of each."
    )


def inherits(results: Results, jobs: Mapping[str, Sequence[Job]]) -> str:
    pairs: dict[str, list[tuple[list[float], list[float]]]] = {}
    for job in jobs["inherit"]:
        assert isinstance(job, Train)
        assert job.source is not None
        scratch = Train.found(job.source, job.seed)
        if job.name in results and scratch.name in results:
            pair = (results[r.name]["top1_by_epoch"] for r in (job, scratch))
            one, other = pair
            pairs.setdefault(job.net, []).append((one, other))
    rows = []
    for epoch in SHOWN_EPOCHS:
        both = [
            np.mean([[a[epoch - 1], b[epoch - 1]] for a, b in net], axis=0)
            for net in pairs.values()
            if epoch <= len(net[0][0])
        ]
        if both:
            inherited, scratch_top1 = np.transpose(both).tolist()
            rows.append((str(epoch), told(mean_interval(inherited)),
                         told(mean_interval(scratch_top1)),
                         told(paired_difference(inherited, scratch_top1), sign=True)))  # fmt: skip
    head = ("after epoch", "from the supernet's weights", "from scratch", "paired difference")
    return markdown(head, rows) if rows else ""


def starts(results: Results, jobs: Mapping[str, Sequence[Job]]) -> str:
    return _ablation(results, [*jobs["pays"], *jobs["start"]], {
        "tfnas": "ops of a block start alike",
        "own_start": "each op has its own start",
    })  # fmt: skip


def derives(results: Results, jobs: Mapping[str, Sequence[Job]]) -> str:
    return _ablation(results, [*jobs["pays"], *jobs["derive"]], {
        "tfnas": "sink-connecting, constrained derivation",
        "tfnas+greedy": "the same searches, greedy derivation",
        "skip_op": "skip as an op, constrained derivation",
    })  # fmt: skip


def second_paths(results: Results, jobs: Mapping[str, Sequence[Job]]) -> str:
    names = {"tfnas": "bi-sampling: the second path at random"}
    variants = dict.fromkeys(j.variant for j in jobs["second_path"] if isinstance(j, Search))
    names |= {variant: NAMES[variant] for variant in variants}
    return _ablation(results, [*jobs["pays"], *jobs["second_path"]], names)


def _ablation(results: Results, jobs: Sequence[Job], names: Mapping[str, str]) -> str:
    """Of one training of each search's net; differences are paired by the searches' seeds."""
    ours = group(results, jobs, "tfnas", seeds=1)
    rows = []
    for key, name in names.items():
        found = group(results, jobs, key, seeds=1)
        if found is None:
            continue
        searches = list(dict.fromkeys(j.source for j in trained(jobs, key) if j.source is not None))
        ms = [results[s.name]["greedy"]["table_ms"] if "+greedy" in key
              else results[s.name]["table_ms"] for s in searches if s.name in results]  # fmt: skip
        against = NOTHING
        if ours is not None and key != "tfnas" and len(ours.top1) == len(found.top1):
            against = told(paired_difference(ours.top1, found.top1), sign=True)
        spread = ", ".join(f"{value:.4f}" for value in ms)
        rows.append((name, spread, told(mean_interval(found.top1)),
                     f"{found.search_cpu_s:.0f}", against))  # fmt: skip
    head = ("search", "table, ms", "top-1", "CPU s of a search", "the first minus it, paired")
    return markdown(head, rows)


def told(value: Interval, *, sign: bool = False, digits: int = 1) -> str:
    mean = f"{value.mean:{'+' if sign else ''}.{digits}f}"
    return mean if math.isinf(value.half_width) else f"{mean} ± {value.half_width:.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

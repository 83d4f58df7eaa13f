"""What `benchmarks.quality` found, as tables of Markdown. All accuracies are percent."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.jobs import Job, Rank, Search, Train
from tfnas.intervals import (
    Interval,
    difference,
    mean_interval,
    paired_difference,
    spearman,
    spearman_bounds,
)

NOTHING = "–"
RESAMPLES = 2000
SAME_MS = 0.002  # largest difference of latencies, as a fraction, that counts as none
SHOWN_EPOCHS = (1, 2, 5, 10)  # and the last one
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
        """Read lines; the last one is passed over if it was cut. Raises ValueError, or OSError."""
        results = cls()
        lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                print(f"{file}: its last line is cut and doesn't count", file=sys.stderr)
                break
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
            if not isinstance(record, dict) or not {"job", "cpu_s"} <= record.keys():
                raise ValueError(f"{file}, line {number}: no result of a job")
            results[record["job"]] = record
        return results

    def of(self, jobs: Sequence[Job], key: str) -> list[Any]:
        """A value of those jobs that are done."""
        return [self[job.name][key] for job in jobs if job.name in self]


@dataclass(frozen=True)
class Group:
    """Nets of one origin: an accuracy and a cost each.

    Attributes:
        top1: of each net by its search's seed or its number, the mean over its trainings; of a net
            by a rule each training's.
        train_cpu_s: of one training, mean.
        search_cpu_s: of one search, mean; 0 for what nobody searched.
    """

    top1: dict[str, float]
    ms: list[float]
    macs: float
    train_cpu_s: float
    search_cpu_s: float

    @property
    def values(self) -> list[float]:
        return list(self.top1.values())


Jobs = Sequence[Job]


def tables(results: Results, jobs: Mapping[str, Jobs]) -> str:
    """All that the jobs that are done show."""
    of = {"pays": pays, "rank": ranks, "inherit": inherits, "start": starts, "derive": derives,
          "second_path": second_paths}  # fmt: skip
    texts = []
    for name, chosen in jobs.items():
        count = sum(job.name in results for job in chosen)
        text = of[name](results, chosen) if count else ""
        head = f"### {name}: {count} of {len(chosen)} jobs"
        texts.append(f"{head}\n\n{text}" if text else head)
    if ended := how_searches_ended(results, jobs):
        texts.append(f"### How the searches ended\n\n{ended}")
    hours = sum(record["cpu_s"] for record in results.values()) / 3600
    return "\n\n".join([*texts, f"{len(results)} jobs, {hours:.1f} hours of a CPU core."])


def trained(jobs: Jobs, key: str) -> list[Train]:
    """The trainings from scratch of nets of one origin: `tfnas`, `random`, `tfnas+greedy`."""
    return [
        job for job in jobs
        if isinstance(job, Train) and not job.inherits
        and key in (job.net, job.net.rpartition("-")[0])
    ]  # fmt: skip


def group(results: Results, jobs: Jobs, key: str, seeds: int | None = None) -> Group | None:
    """Attributes of what is done; None if nothing is.

    Args:
        seeds: so many trainings of each net count; None: all.
    """
    by_net: dict[str, list[dict[str, Any]]] = {}
    chosen = [job for job in trained(jobs, key) if job.name in results]
    for job in chosen:
        by_net.setdefault(job.net, []).append(results[job.name])
    if not by_net:
        return None
    if key in by_net:  # a net by a rule: its trainings are all that varies
        top1 = {str(r["seed"]): float(r["top1"]) for r in by_net[key]}
    else:
        by_net = {
            name: sorted(rows, key=lambda r: int(r["seed"]))[:seeds]
            for name, rows in by_net.items()
        }
        top1 = {
            name.rpartition("-")[2]: float(np.mean([r["top1"] for r in rows]))
            for name, rows in by_net.items()
        }
    cost = results.of(list(dict.fromkeys(j.source for j in chosen if j.source)), "search_cpu_s")
    whole = [r["cpu_s"] for rows in by_net.values() for r in rows if not r["resumed"]]
    return Group(
        top1,
        [float(rows[0]["table_ms"]) for rows in by_net.values()],
        float(np.mean([rows[0]["macs"] for rows in by_net.values()])),
        float(np.mean(whole)) if whole else math.nan,
        float(np.mean(cost)) if cost else 0.0,
    )


def pays(results: Results, jobs: Jobs) -> str:
    ours, random = group(results, jobs, "tfnas"), group(results, jobs, "random")
    rows = []
    for key in ("tfnas", "spos", "random", "mobilenetv2", "mobilenetv3"):
        found = group(results, jobs, key)
        if found is None:
            continue
        against = NOTHING
        if ours is not None and key != "tfnas":
            against = cell(difference(ours.values, found.values), sign=True)
        rows.append((*_described(NAMES[key], found), against))
    besides = ""
    if ours is not None and random is not None:
        noise = _noise(results, random.values)
        favours = []
        for count, what in ((equal_cost(ours, random), "at equal cost"), (len(random.top1), "all")):
            best, gap = best_of(random.values, count, ours.values)
            favours.append(f"{(1 - noise.share) * (best.mean - np.mean(random.values)):.1f}")
            rows.append((f"the best of {min(count, len(random.top1))} random, {what}", NOTHING,
                         NOTHING, NOTHING, cell(best), NOTHING, cell(gap, sign=True)))  # fmt: skip
        besides = (
            "\n\nThe best of several is chosen by the very accuracies that are shown, which "
            f"favours it: trained again, it would be about {' and '.join(favours)} points lower, "
            "by what training seeds make of one net."
        ) if not math.isnan(noise.seed) else ""  # fmt: skip
    head = ("nets", "n", "table, ms", "M multiply-adds", "top-1", "CPU s: search + training",
            "TF-NAS minus it")  # fmt: skip
    return markdown(head, rows) + besides


def _described(name: str, found: Group) -> tuple[str, ...]:
    return (
        name,
        str(len(found.top1)),
        f"{np.mean(found.ms):.4f}",
        f"{found.macs / 1e6:.2f}",
        cell(mean_interval(found.values)),
        f"{found.search_cpu_s:.0f} + {found.train_cpu_s:.0f}",
    )


def equal_cost(ours: Group, random: Group) -> int:
    """How many random nets can be trained for one search and the training of what it finds."""
    share = (ours.search_cpu_s + ours.train_cpu_s) / random.train_cpu_s
    return 1 if math.isnan(share) else max(1, round(share))


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


def random_trainings(results: Results, jobs: Jobs) -> tuple[list[Train], list[int]]:
    """Those that are done, and the numbers of their nets."""
    random = [job for job in trained(jobs, "random") if job.name in results]
    return random, [int(job.net.removeprefix("random-")) for job in random]


def ranks(results: Results, jobs: Jobs) -> str:
    random, index = random_trainings(results, jobs)
    truth = results.of(random, "top1")
    if len(truth) < 2:
        return ""
    by_supernet: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        record = results.get(job.name)
        if isinstance(job, Rank | Search) and record is not None and record["supernet_top1"]:
            name = f"uniform paths: {job.proxy}" if isinstance(job, Rank) else "that of TF-NAS"
            by_supernet.setdefault(name, []).append(record)
    rows = []
    for name, records in by_supernet.items():
        scores = [[r["supernet_top1"][i] for i in index] for r in records]
        each = [spearman(s, truth) for s in scores]
        cost = np.mean([r["search_cpu_s"] for r in records])
        spread = np.mean([np.std(of_nets, ddof=1) for of_nets in scores])
        rows.append((name, f"{np.mean(scores):.1f}", f"{spread:.1f}", _listed(each, "+.2f"),
                     _correlation(float(np.mean(each)), len(truth)), _between(scores),
                     f"{cost:.0f}"))  # fmt: skip
    by_macs = spearman(results.of(random, "macs"), truth)
    rows.append(("none: multiply-adds", NOTHING, NOTHING, NOTHING,
                 _correlation(by_macs, len(truth)), NOTHING, "0"))  # fmt: skip
    head = ("supernet", "its top-1, mean", "standard deviation", "Spearman, by seed",
            "mean (95 % over nets)", "between seeds", "CPU s")  # fmt: skip
    return f"{markdown(head, rows)}\n\n{_reliability(results, truth)}"


def _between(scores: Sequence[Sequence[float]]) -> str:
    """Mean rank correlation of supernets of several seeds, on the same nets."""
    pairs = [spearman(a, b) for a, b in combinations(scores, 2)]
    return f"{np.mean(pairs):+.2f}" if pairs else NOTHING


def _correlation(mean: float, count: int) -> str:
    low, high = spearman_bounds(mean, count)
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


@dataclass(frozen=True)
class Noise:
    """What training seeds make of the accuracy of one net, beside what nets differ by.

    Attributes:
        between: standard deviation of the nets' accuracies, one training each.
        seed: that of one net's; nan where no net was trained twice.
        freedom: degrees of freedom of `seed`.
        share: of `between`, as variance, that is the nets' own.
    """

    between: float
    seed: float
    freedom: int
    share: float


def _noise(results: Results, values: Sequence[float]) -> Noise:
    """Of nets that were trained once each, by all nets that were trained more often."""
    trainings: dict[str, list[float]] = {}
    for record in results.values():
        if "top1" in record and not record["inherits"]:
            trainings.setdefault(record["net"], []).append(record["top1"])
    repeated = [t for t in trainings.values() if len(t) > 1]
    var = float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
    if not repeated or var == 0:
        return Noise(math.sqrt(var), math.nan, 0, 1.0)
    freedom = sum(len(t) - 1 for t in repeated)
    seed_var = sum(float(np.var(t, ddof=1)) * (len(t) - 1) for t in repeated) / freedom
    return Noise(math.sqrt(var), math.sqrt(seed_var), freedom, max(0.0, 1 - seed_var / var))


def _reliability(results: Results, truth: Sequence[float]) -> str:
    """What share of the random nets' spread is theirs, and not their training seeds'."""
    noise = _noise(results, truth)
    spread = (
        f"Trained top-1 of the {len(truth)} random nets: {min(truth):.1f} to {max(truth):.1f}, "
        f"standard deviation {noise.between:.2f}"
    )
    if math.isnan(noise.seed):
        return f"{spread}."
    return (
        f"{spread}; that of a net's training seeds is {noise.seed:.2f} ({noise.freedom} degrees "
        f"of freedom). A perfect score would correlate by {math.sqrt(noise.share):.2f} with one "
        "training of each."
    )


def inherits(results: Results, jobs: Jobs) -> str:
    pairs: dict[str, list[tuple[list[float], list[float]]]] = {}
    for job in jobs:
        if not isinstance(job, Train) or not job.inherits or job.source is None:
            continue
        scratch = Train.found(job.source, job.seed)
        if job.name in results and scratch.name in results:
            one, other = (results[r.name]["top1_by_epoch"] for r in (job, scratch))
            pairs.setdefault(job.net, []).append((one, other))
    rows = []
    last = max((len(inherited) for net in pairs.values() for inherited, _ in net), default=0)
    for epoch in [*(e for e in SHOWN_EPOCHS if e < last), last]:
        both = [
            np.mean([[a[epoch - 1], b[epoch - 1]] for a, b in net], axis=0)
            for net in pairs.values()
        ]
        if both:
            inherited, scratch_top1 = np.transpose(both).tolist()
            rows.append((str(epoch), cell(mean_interval(inherited)),
                         cell(mean_interval(scratch_top1)),
                         cell(paired_difference(inherited, scratch_top1), sign=True)))  # fmt: skip
    head = ("after epoch", "from the supernet's weights", "from scratch", "paired difference")
    return markdown(head, rows) if rows else ""


def starts(results: Results, jobs: Jobs) -> str:
    names = {"tfnas": "ops of a block start alike", "own_start": "each op has its own start"}
    return _ablation(results, jobs, names)


def derives(results: Results, jobs: Jobs) -> str:
    names = {
        "tfnas": "sink-connecting, the net that the search found",
        "tfnas+likely": "the same searches, the most probable net at the target",
        "tfnas+greedy": "the same searches, greedy derivation",
        "skip_op": "skip as an op, the most probable net at the target",
    }
    return _ablation(results, jobs, names)


def second_paths(results: Results, jobs: Jobs) -> str:
    names = {"tfnas": "second path: at random (bi-sampling)"}
    variants = dict.fromkeys(j.variant for j in jobs if isinstance(j, Search))
    return _ablation(results, jobs, {**{v: NAMES[v] for v in variants}, **names})


def _ablation(results: Results, jobs: Jobs, names: Mapping[str, str]) -> str:
    """Of one training of each search's net; differences are paired by the searches' seeds."""
    ours = group(results, jobs, "tfnas", seeds=1)
    rows, late = [], False
    for key, name in sorted(names.items(), key=lambda item: item[0] != "tfnas"):
        found = group(results, jobs, key, seeds=1)
        if found is None:
            continue
        against = NOTHING
        seeds = [s for s in found.top1 if ours is not None and s in ours.top1]
        if ours is not None and key != "tfnas" and seeds:
            pair = [ours.top1[s] for s in seeds], [found.top1[s] for s in seeds]
            against = cell(paired_difference(*pair), sign=True)
            if max(abs(a / b - 1) for a in ours.ms for b in found.ms) > SAME_MS:
                against, late = f"{against} *", True
        rows.append(
            (
                name,
                ", ".join(f"{ms:.4f}" for ms in found.ms),
                cell(mean_interval(found.values)),
                f"{found.search_cpu_s:.0f}",
                against,
            )
        )
    head = ("search", "table, ms", "top-1", "CPU s of a search", "the first minus it, paired")
    note = "\n\n\\* At other latencies: the difference is also theirs." if late else ""
    return markdown(head, rows) + note


def how_searches_ended(results: Results, jobs: Mapping[str, Jobs]) -> str:
    """What the searches of one variant learned, by their last epochs and by their supernets."""
    every = list(dict.fromkeys(job for chosen in jobs.values() for job in chosen))
    by_variant: dict[str, list[dict[str, Any]]] = {}
    for job in every:
        if isinstance(job, Search) and job.name in results:
            by_variant.setdefault(job.variant, []).append(results[job.name])
    random, index = random_trainings(results, every)
    truth = results.of(random, "top1")
    rows = []
    for variant, records in by_variant.items():
        last = [r["history"][-1] for r in records]
        supernets = [[r["supernet_top1"][i] for i in index] for r in records if r["supernet_top1"]]
        ranks = [spearman(scores, truth) for scores in supernets] if len(truth) > 1 else []
        rows.append((
            NAMES[variant],
            _listed([np.mean(e["entropy"]) for e in last if e["entropy"]], ".2f"),
            _listed([e["expected_ms"] for e in last if e.get("expected_ms")], ".4f"),
            agreement([r["history"] for r in records], "op_probs"),
            agreement([r["history"] for r in records], "depth_probs"),
            _listed([np.mean(scores) for scores in supernets if scores], ".1f"),
            _listed(ranks, "+.2f"),
            _between(supernets) if ranks else NOTHING,
        ))  # fmt: skip
    head = ("search", "mean entropy of ops, nats", "expected, ms", "ops agree", "depths agree",
            "supernet's top-1 of the random nets", "Spearman with trained",
            "between seeds")  # fmt: skip
    return markdown(head, rows) if rows else ""


def _listed(values: Sequence[float], form: str) -> str:
    return ", ".join(format(value, form) for value in values) or NOTHING


def agreement(histories: Sequence[Sequence[Mapping[str, Any]]], key: str) -> str:
    """Correlation of what searches with several seeds learned, the mean over their pairs.

    Args:
        histories: epochs of each search.
        key: op_probs or depth_probs, whose logarithms are compared after the last epoch, less the
            mean of each block or stage.
    """
    learned = []
    for records in histories:
        rows = [np.log(np.maximum(row, 1e-9)) for row in records[-1][key] if len(row) > 1]
        if rows:
            learned.append(np.concatenate([row - row.mean() for row in rows]))
    pairs = [np.corrcoef(a, b)[0, 1] for a, b in combinations(learned, 2) if len(a) == len(b)]
    return f"{np.mean(pairs):+.2f}" if pairs else NOTHING


def cell(value: Interval, *, sign: bool = False, digits: int = 1) -> str:
    mean = f"{value.mean:{'+' if sign else ''}.{digits}f}"
    return mean if math.isinf(value.half_width) else f"{mean} ± {value.half_width:.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

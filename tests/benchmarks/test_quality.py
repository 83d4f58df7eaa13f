"""The quality benchmark runs its jobs once, goes on after a stop, and prints its tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.__main__ import go_on
from benchmarks.quality.jobs import TABLE, Job, Rank, Search, Setting, Study, Train
from benchmarks.quality.plan import HAND_MADE, check_group, check_setting, plan, setting_of
from benchmarks.quality.tables import Results, best_of, group, tables
from tfnas.latency.table import LatencyTable

pytestmark = pytest.mark.slow

TINY = (
    "budget.epochs=2", "budget.warmup_epochs=1", "budget.batch_size=16", "budget.resolution=16",
    "budget.max_train=80",
)  # fmt: skip
UNIFORM = (*TINY, "strategy=spos", "strategy.population=2", "strategy.generations=1")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    arrays = {}
    for part, count in (("train", 100), ("test", 20)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 10
    np.savez(path, **arrays)
    return path


def tiny_setting(images: Path) -> Setting:
    return replace(
        setting_of(str(images), 0, 100),
        variants={"tfnas": TINY, "spos": UNIFORM},
        proxies={"half": (*UNIFORM, "budget.channel_factor=0.5")},
        random_nets=4,
        recipe="test",
        recipe_epochs=2,
    )


@pytest.fixture(scope="module")
def study(images: Path) -> Study:
    return Study(str(images), tiny_setting(images))


def test_the_table_is_one_of_the_space(study: Study) -> None:
    table = LatencyTable.load(TABLE)
    table.check(study.space)
    low, high = (study.constraint.target_ms * f for f in (1 - 5e-4, 1 + 5e-4))
    for net in study.random_nets:
        assert low <= net.table_ms[0] <= high
    assert len({net.subnet for net in study.random_nets}) == 4


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_nets_follow_their_rule_to_the_target(study: Study, name: str) -> None:
    net = study.net(name)
    ms = study.constraint.table.subnet_ms(net)
    assert ms == pytest.approx(study.constraint.target_ms, rel=5e-4)
    kernels = [{op.kernel for op in stage} for stage in net.stages]
    se = [{bool(op.c_se) for op in stage} for stage in net.stages]
    if name == "mobilenetv2":
        assert (kernels, se) == ([{3}] * 4, [{False}] * 4)
    else:
        assert (kernels, se) == ([{3}, {5}, {3}, {5}], [{False}, {True}, {True}, {True}])


def test_every_job_that_is_needed_is_planned_before() -> None:
    jobs = plan(100)
    seen: set[str] = set()
    for chosen in jobs.values():
        for job in chosen:
            assert all(need.name in seen for need in job.needs), job
            seen.add(job.name)
    assert set(jobs["second_path"][:3]) == {Search("tfnas", seed) for seed in (100, 101, 102)}
    assert len(seen) == len({job for chosen in jobs.values() for job in chosen})
    assert not seen & {job.name for chosen in plan(0).values() for job in chosen}


def jobs_to_try() -> list[Job]:
    ours, spos = Search("tfnas", 0), Search("spos", 0)
    return [
        ours, spos, Train("random-1", 0), Train("mobilenetv2", 0), Train.found(ours, 0),
        Train.found(ours, 0, "greedy"), Train.found(ours, 0, "likely"),
        Train.found(ours, 0, inherits=True), Rank("half", 0),
    ]  # fmt: skip


def test_jobs_run_and_go_on(
    tmp_path: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    setting, jobs = tiny_setting(images), jobs_to_try()
    go_on(tmp_path, str(images), setting, jobs[:5], processes=2)
    file = tmp_path / "results.jsonl"
    first = file.read_text()
    go_on(tmp_path, str(images), setting, jobs, processes=1)
    assert file.read_text().startswith(first)  # nothing runs twice
    results = Results.load(file)
    assert set(results) == {job.name for job in jobs}
    for job in jobs:
        record = results[job.name]
        assert record["cpu_s"] > 0
        if isinstance(job, Train):
            assert record["top1"] == record["top1_by_epoch"][-1]
        else:
            assert len(record["supernet_top1"]) == 4
    assert "to go" in capfd.readouterr().out
    file.write_text(file.read_text() + '{"job": "half a li')
    assert set(Results.load(file)) == set(results)
    print(tables(results, {"pays": jobs[:5], "rank": jobs, "inherit": jobs}))
    told = capfd.readouterr().out
    assert f"{results['train-random-1-scratch-0']['top1']:.1f}" in told


def test_a_folder_has_one_setting(tmp_path: Path, study: Study, images: Path) -> None:
    check_setting(tmp_path, study, plan(0))
    check_setting(tmp_path, study, plan(0))
    other = Study(str(images), replace(study.setting, recipe="quick"))
    for args in ((study, plan(100)), (other, plan(0))):
        with pytest.raises(SystemExit, match="another setting"):
            check_setting(tmp_path, *args)
    check_group(tmp_path, str(images), plan(0))
    with pytest.raises(ValueError, match="begins with search-tfnas-0: give its --group"):
        check_group(tmp_path, str(images), plan(100))
    with pytest.raises(ValueError, match=r"is of images.npz, not of fashion_mnist"):
        check_group(tmp_path, "fashion_mnist", plan(0))
    told = json.loads((tmp_path / "setting.json").read_text())
    assert told["recipe"]["epochs"] == 2
    assert told["searches"]["tfnas"]["strategy"]["arch_lr"] == 0.01


def test_the_best_of_some() -> None:
    values = [float(v) for v in range(1, 11)]
    everything, gap = best_of(values, 10, [12.0, 12.0])
    assert everything.mean == pytest.approx(10)
    assert gap.mean == pytest.approx(2)
    one, _ = best_of(values, 1, [12.0, 12.0])
    assert one.mean == pytest.approx(5.5)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(values, 4, replace=False).max() for _ in range(4000)]
    assert best_of(values, 4, [0.0, 0.0])[0].mean == pytest.approx(np.mean(drawn), abs=0.1)


def test_tables_of_known_results() -> None:
    jobs = plan(0)
    results = Results()
    for job in (job for chosen in jobs.values() for job in chosen):
        results[job.name] = record_of(job)
    found = group(results, jobs["pays"], "tfnas")
    assert found is not None
    assert found.values == [50.0, 51.0, 52.0]  # each the mean of two trainings
    assert found.search_cpu_s == 290
    text = tables(results, jobs)
    assert "| TF-NAS | 3 | 0.1400 | 4.00 | 51.0 ± 2.5 | 290 + 100 | – |" in text
    assert "the best of 4 random, at equal cost" in text
    assert "trained again, it would be about " in text
    assert "| the same searches, greedy derivation | 0.1500, 0.1500, 0.1500 | 51.0 ± 2.5" in text
    assert "| -1.0 ± 0.0 * |" in text  # at another latency
    assert "| TF-NAS | 0.56, 0.56, 0.56 | 0.1300, 0.1300, 0.1300 | +1.00 | – | 9.5, " in text
    assert "| uniform paths: half the epochs | 9.5 | 5.9 | +1.00, +1.00, +1.00 | +1.00 (" in text
    assert "| none: multiply-adds | – | – | – | -1.00 (" in text
    assert "standard deviation 2.96" in text


def record_of(job: Job) -> dict[str, object]:
    record: dict[str, object] = {"job": job.name, "cpu_s": 100.0, "macs": 4e6, "table_ms": 0.14}
    if not isinstance(job, Train):
        return record | {
            "search_cpu_s": 290.0, "greedy": {"table_ms": 0.15}, "likely": {"table_ms": 0.14},
            "supernet_top1": [*range(20)],
            "history": [{"op_probs": [[0.25, 0.75], [1.0]], "depth_probs": [],
                         "entropy": [0.56], "expected_ms": 0.13}],
        }  # fmt: skip
    top1 = 40.0
    if "random" in job.net:
        index = int(job.net.removeprefix("random-"))
        top1 += index / 2
        record["macs"] = 4e6 - index
    if job.source is not None:
        top1 = 49.0 + job.source.seed + 2 * job.seed + (job.derivation == "greedy")
    return record | {
        "net": job.net, "seed": job.seed, "top1": top1, "top1_by_epoch": [top1] * 20,
        "inherits": job.inherits, "resumed": False,
        "table_ms": 0.15 if job.derivation == "greedy" else 0.14,
    }  # fmt: skip


def test_tables_of_no_study_are_refused(tmp_path: Path) -> None:
    setting = tmp_path / "setting.json"
    with pytest.raises(ValueError, match="expected the --out of an earlier run"):
        check_group(tmp_path, "fashion_mnist", plan(0))
    for text, message in (("[]", "no setting"), ("{", "setting.json: "), ("{}", "no setting")):
        setting.write_text(text)
        with pytest.raises(ValueError, match=message):
            check_group(tmp_path, "fashion_mnist", plan(0))
    setting.write_text('{"data": "fashion_mnist"}')  # by an earlier version
    check_group(tmp_path, "fashion_mnist", plan(0))


@pytest.mark.parametrize("line", ["[1]", '{"x": 1}', "half", '"job"'])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps({"job": "a", "cpu_s": 1}) + f"\n{line}\n")
    with pytest.raises(ValueError, match="line 2: "):
        Results.load(file)


def test_results_are_lines(tmp_path: Path) -> None:
    assert Results.load(tmp_path / "absent") == {}
    (tmp_path / "r").write_text(json.dumps({"job": "a", "cpu_s": 1}) + "\n")
    assert Results.load(tmp_path / "r")["a"]["cpu_s"] == 1


@pytest.mark.parametrize(
    ("folder", "group", "comparisons"), [("fashion_1", 1, list(plan(0))), ("emoji_2", 2, ["pays"])]
)
def test_the_figures_that_are_told_are_those_that_were_measured(
    folder: str, group: int, comparisons: list[str]
) -> None:
    quality = TABLE.parent
    results = Results.load(quality / "results" / folder / "results.jsonl")
    assert results
    record = (quality.parent / "LOG.md").read_text()
    jobs = {name: plan(100 * group)[name] for name in comparisons}
    for row in tables(results, jobs).splitlines():
        if row.startswith("| "):
            assert row.replace(" --- ", "---") in record, row

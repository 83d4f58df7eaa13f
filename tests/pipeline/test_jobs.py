"""Trainings up to a cut: gone on with, stopped, side by side, and lost with their process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.finals import DATA, SPLIT, new_job, run_or_die
from tfnas.app.data import load_data
from tfnas.data.images import ArrayImages, stratified_split
from tfnas.pipeline import jobs
from tfnas.pipeline.jobs import check_backend, run_jobs
from tfnas.pipeline.rung import CURVE, read_curve, run_job, split_images
from tfnas.process.errors import StoppedError
from tfnas.training.loop import CHECKPOINT

LONG = 10_000  # epochs: no training ends before it is stopped


@pytest.mark.parametrize(
    ("searched", "trained", "expected"), [(400, 100, 100), (400, None, 11_920), (400, 800, 720)]
)
def test_judged_on_what_the_search_held_out(
    searched: int, trained: int | None, expected: int
) -> None:
    found = split_images(replace(SPLIT, searched=searched, trained=trained))
    search = load_data(DATA, searched)  # what `tfnas.pipeline.inputs` splits
    weights, arch = stratified_split(search.train.labels, 0.8, 0)
    assert isinstance(found.train, ArrayImages)
    assert isinstance(found.test, ArrayImages)
    assert isinstance(search.train, ArrayImages)
    np.testing.assert_array_equal(found.test.pixels, search.train.pixels[arch])
    assert len(found.train) == expected
    if trained == 100:
        mine = {image.tobytes() for image in search.train.pixels[weights]}
        assert all(image.tobytes() in mine for image in found.train.pixels)


def test_a_training_goes_on_from_its_cut_and_is_not_repeated(tmp_path: Path) -> None:
    first = run_job(new_job(tmp_path, "cut", until=1)).curve
    assert len(first.epochs) == 1
    checkpoint = (tmp_path / "cut" / CHECKPOINT).read_bytes()
    assert run_job(new_job(tmp_path, "cut", until=1)).curve == first
    assert (tmp_path / "cut" / CHECKPOINT).read_bytes() == checkpoint
    both = run_job(new_job(tmp_path, "cut", until=2)).curve
    assert both.epochs[0] == first.epochs[0]
    whole = run_job(new_job(tmp_path, "whole", until=2)).curve
    assert whole.top1 == both.top1
    assert [e.loss for e in whole.epochs] == [e.loss for e in both.epochs]


def test_a_stop_saves_and_ends_all(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run_jobs([new_job(tmp_path, "a"), new_job(tmp_path, "b")], 1, "loky", lambda: True)
    assert (tmp_path / "a" / CHECKPOINT).exists()
    assert not (tmp_path / "a" / CURVE).exists()
    assert not (tmp_path / "b" / CHECKPOINT).exists()


@pytest.mark.slow
def test_side_by_side_a_lost_process_costs_its_own_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("joblib")
    monkeypatch.setattr(jobs, "run_job", run_or_die)
    names = ("fine", "once", "always", "last")
    found = run_jobs([new_job(tmp_path, name) for name in names], 2, "loky", lambda: False)
    assert found.pop("always").error is not None
    assert all(outcome.error is None for outcome in found.values())
    alone = run_job(new_job(tmp_path / "alone", "fine")).curve
    for outcome in found.values():
        assert outcome.curve.top1 == alone.top1
    assert read_curve(tmp_path / "always").epochs == ()


@pytest.mark.slow
def test_a_stop_reaches_other_processes(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    long = [
        replace(job, recipe=replace(job.recipe, epochs=LONG), until=LONG)
        for job in (new_job(tmp_path, "a"), new_job(tmp_path, "b"))
    ]

    def both_run() -> bool:
        return all((tmp_path / job.name / CHECKPOINT).exists() for job in long)

    with pytest.raises(StoppedError):
        run_jobs(long, 2, "loky", both_run)
    assert not (tmp_path / "stop").exists()
    for job in long:
        assert (tmp_path / job.name / CHECKPOINT).exists()
        assert not (tmp_path / job.name / CURVE).exists()


@pytest.mark.parametrize("backend", ["threading", "no_such_engine"])
def test_an_engine_that_can_not_be_used_is_refused(backend: str) -> None:
    pytest.importorskip("joblib")
    with pytest.raises(ValueError, match=f"finals.backend={backend}"):
        check_backend(2, backend)

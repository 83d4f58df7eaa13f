"""Losses and scores of every task are their definitions; what isn't for a task is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tfnas
from tests.support.nets import few_images, tiny_subnet
from tests.training.test_accuracy import Fixed
from tfnas.app.values import load
from tfnas.data.images import ArrayImages, Dataset
from tfnas.process.errors import StoppedError
from tfnas.process.ranks import ALONE, Ranks
from tfnas.runs.teachers import load_teacher
from tfnas.runs.trained import check_finished, train
from tfnas.training.loop import Training, identity
from tfnas.training.task import TASKS, average_precision, check_task, class_weights

RECIPE = load("recipe", "test")
CPU = torch.device("cpu")
DATA = few_images(train=96, test=60)


def with_labels(data: Dataset, *names: str) -> Dataset:
    """Real images of ten classes, labelled by rows of numbers.

    Args:
        names: shirt, shoe, bag: whether it is one; bright: its mean pixel, about 0 and of about 1.
    """
    members = {"shirt": (0, 2, 4, 6), "shoe": (5, 7, 9), "bag": (8,)}
    parts = []
    for images in (data.train, data.test):
        assert isinstance(images, ArrayImages)
        bright = (images.pixels.mean(axis=(1, 2, 3)) - 73) / 40
        columns = [
            bright if name == "bright" else np.isin(images.labels, members[name]) for name in names
        ]
        parts.append(ArrayImages(images.pixels, np.stack(columns, axis=1).astype(np.float32)))
    return replace(data, classes=names, train=parts[0], test=parts[1])


# -- classification --------------------------------------------------------------------------------


def test_balanced_classes_weigh_the_same_together() -> None:
    kept = np.flatnonzero((DATA.train.labels != 3) | (np.arange(96) % 3 == 0))
    data = replace(DATA, train=DATA.train.take(kept))
    weights = class_weights(replace(RECIPE, class_weights="balanced"), data, CPU)
    assert weights is not None
    counts = np.bincount(data.train.labels, minlength=10)
    np.testing.assert_allclose(weights.numpy() * counts, len(kept) / 10, rtol=1e-6)
    assert weights[3] == weights.max()


def test_given_weights_are_one_for_each_class() -> None:
    assert class_weights(RECIPE, DATA, CPU) is None
    weights = class_weights(replace(RECIPE, class_weights=[1, 2.5] * 5), DATA, CPU)
    assert weights is not None
    assert weights.tolist() == [1, 2.5] * 5
    with pytest.raises(ValueError, match=r"recipe\.class_weights has 3 numbers: expected 10"):
        class_weights(replace(RECIPE, class_weights=[1, 2, 3]), DATA, CPU)


# -- losses and scores -----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_its_definition(rows: list[tuple[int, bool]]) -> None:
    """The precision at each threshold, weighed by the recall that it adds."""
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    if not labels.any():
        return
    expected = recall = 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = labels[scores >= threshold]
        expected += (above.sum() / labels.sum() - recall) * above.mean()
        recall = above.sum() / labels.sum()
    assert average_precision(scores.astype(float), labels.astype(float)) == pytest.approx(expected)


def test_average_precision_of_a_known_example() -> None:
    found = average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0, 1, 1]))
    assert found == pytest.approx(5 / 6)  # that of scikit-learn's documentation


def batches_of(outputs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield outputs[:3], labels[:3]
    yield outputs[3:], labels[3:]


def test_several_labels_are_scored_over_batches_of_different_size() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, generator=rng)
    labels = (torch.rand(20, 3, generator=rng) < 0.4).float()
    labels[:, 2] = 0  # of which there is none, and no precision
    model = Fixed().train()
    found = TASKS["multi_label"].test(model, batches_of(logits, labels), ALONE)
    (score,) = found.scores
    pairs = zip(logits.T[:2].numpy(), labels.T[:2].numpy(), strict=True)
    assert score.name == "mean average precision"
    assert score.value == pytest.approx(np.mean([average_precision(x, y) for x, y in pairs]))
    p = torch.sigmoid(logits)
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert (found.top1, found.top5) == (None, None)
    assert model.training
    smoothed = 0.9 * labels + 0.05
    expected = -(smoothed * p.log() + (1 - smoothed) * (1 - p).log()).mean()
    loss = TASKS["multi_label"].loss(logits, labels, 0.1, None)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_numbers_are_scored_over_batches_of_different_size() -> None:
    rng = np.random.default_rng(0)
    labels = rng.standard_normal((20, 2)).astype(np.float32)
    outputs = labels + 0.3 * rng.standard_normal((20, 2)).astype(np.float32)
    off = outputs - labels
    pair = torch.from_numpy(outputs), torch.from_numpy(labels)
    found = TASKS["regression"].test(Fixed(), batches_of(*pair), ALONE)
    expected = np.mean(1 - (off**2).sum(0) / ((labels - labels.mean(0)) ** 2).sum(0))
    assert [score.name for score in found.scores] == ["R2", "mean absolute error"]
    assert found.scores[0].value == pytest.approx(expected, rel=1e-5)
    assert found.scores[1].value == pytest.approx(np.abs(off).mean(), rel=1e-5)
    assert found.loss == pytest.approx((off**2).mean(), rel=1e-5)
    loss = TASKS["regression"].loss(*pair, 0.1, None)
    assert float(loss) == pytest.approx((off**2).mean(), rel=1e-5)


# -- what fits together ----------------------------------------------------------------------------


def changed(data: Dataset, part: str, value: float) -> Dataset:
    images = getattr(data, part)
    labels = images.labels.copy()
    labels[:, 0] = value
    return replace(data, **{part: replace(images, labels=labels)})


LABELLED = with_labels(DATA, "shirt", "shoe")
TWO = Ranks(0, 2, 0, 2)


@pytest.mark.parametrize(
    ("task", "data", "recipe", "ranks", "message"),
    [
        ("detection", DATA, RECIPE, ALONE, "task='detection': expected one of classific"),
        ("classification", LABELLED, RECIPE, ALONE, "2 numbers for each image.*tfnas.train alone"),
        ("multi_label", DATA, RECIPE, ALONE, "data fashion_mnist has one class"),
        ("regression", LABELLED, RECIPE, TWO, "several processes with task=regression"),
        ("multi_label", LABELLED, replace(RECIPE, class_weights=[1, 2]), ALONE, "class_weights"),
        ("multi_label", changed(LABELLED, "train", 1.5), RECIPE, ALONE, "the first 1.5 of image 0"),
        ("multi_label", changed(LABELLED, "test", 0.5), RECIPE, ALONE, "between 0 and 1, or none"),
        ("regression", changed(LABELLED, "test", 3.0), RECIPE, ALONE, "labels of shirt .*same"),
    ],
)  # fmt: skip
def test_what_is_not_for_a_task(
    task: str, data: Dataset, recipe: object, ranks: Ranks, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_task(task, data, recipe, ranks)  # type: ignore[arg-type]


def test_a_teacher_teaches_classes_alone(tmp_path: Path) -> None:
    teacher = load_teacher(nn.Flatten(), CPU)
    with pytest.raises(ValueError, match="teacher=Flatten with task=multi_label"):
        Training(
            tiny_subnet(classes=2), LABELLED, RECIPE, task="multi_label", teacher=teacher, seed=0,
            out=tmp_path,
        )  # fmt: skip


# -- trained ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "names", "least"),
    [("multi_label", ("shirt", "shoe", "bag"), 0.6), ("regression", ("bright",), 0.4)],
)
def test_it_is_learned(tmp_path: Path, task: str, names: tuple[str, ...], least: float) -> None:
    data = with_labels(few_images(train=600, test=200), *names)
    subnet = tiny_subnet(classes=len(names))
    recipe = replace(RECIPE, epochs=4, color_jitter=0.0, drop_connect=0.0)
    result = tfnas.train_net(
        subnet, data, recipe=recipe, task=task, out=tmp_path, threads=1, accelerator="cpu"
    )
    score = result.trained.scores[0]
    assert score.value > least  # chance: 0.3 of several labels, 0 of numbers
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    assert result.line.startswith(f"{score.name} {score.value:.3f}")
    network = tfnas.load(tmp_path)
    assert network.classes == names
    assert network.trained == result.trained
    assert network(network.preprocess(data.test.pixels[0])).shape == (1, len(names))


@pytest.mark.slow
def test_a_task_is_gone_on_with_as_itself_alone(tmp_path: Path) -> None:
    calls = iter([False, True])
    whole, part, subnet = tmp_path / "whole", tmp_path / "part", tiny_subnet(classes=2)
    train(subnet, LABELLED, RECIPE, task="multi_label", seed=0, out=whole)
    with pytest.raises(StoppedError):
        train(subnet, LABELLED, RECIPE, task="multi_label", seed=0, out=part,
              stop=lambda: next(calls))  # fmt: skip
    with pytest.raises(ValueError, match="task: 'multi_label' there, 'regression' now"):
        Training(subnet, LABELLED, RECIPE, task="regression", seed=0, out=part, resume=True)
    train(subnet, LABELLED, RECIPE, task="multi_label", seed=0, out=part, resume=True)
    files = [(out / "weights.safetensors").read_bytes() for out in (whole, part)]
    assert files[0] == files[1]
    who = identity(subnet, LABELLED, RECIPE, 0, task="multi_label")
    check_finished(whole, who)
    with pytest.raises(ValueError, match="task: 'multi_label' there, None now"):
        check_finished(whole, {k: v for k, v in who.items() if k != "task"})

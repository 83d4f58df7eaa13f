"""One way to end for all commands that work in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tfnas.app.job import ended, run_alone
from tfnas.process.errors import DisagreementError, DivergedError, LostError, StoppedError
from tfnas.process.exits import DONE, FAILED, INTERRUPTED, UNUSABLE_INPUT
from tfnas.process.stopping import locked


def raising(error: BaseException) -> Callable[..., int]:
    def work(*_: object) -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (StoppedError(), INTERRUPTED, "stopped and saved; go on with: again"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; go on with: again"),
        (DivergedError("nan"), FAILED, "error: nan; go on with: again"),
        (DisagreementError("other"), FAILED, "error: other; go on with: again"),
        (LostError("gone"), FAILED, "error: gone; go on with: again"),
        (OSError("full"), FAILED, "error: full; go on with: again"),
    ],
)
def test_how_work_ends(
    error: BaseException, status: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert ended(raising(error), lambda: "again") == status
    assert caplog.messages == [line]


def test_a_fault_of_ours_keeps_its_trace() -> None:
    with pytest.raises(ValueError, match="a bug"):
        ended(raising(ValueError("a bug")))


def test_nothing_is_said_of_going_on_where_nothing_is_saved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert ended(raising(OSError("full"))) == FAILED
    assert caplog.messages == ["error: full"]


def test_work_is_alone_in_its_folder_until_its_last_word(tmp_path: Path) -> None:
    folder, ends = tmp_path / "run", []

    def other() -> int:
        return run_alone(folder, lambda: None, lambda _: DONE, go_on=str)

    def end(status: int) -> None:
        ends.append((status, other()))

    assert run_alone(folder, lambda: 7, lambda begun: begun, go_on=str, end=end) == 7
    assert ends == [(7, UNUSABLE_INPUT)]
    with locked(folder):
        assert other() == UNUSABLE_INPUT


def test_what_cannot_begin_is_refused_before_work(tmp_path: Path) -> None:
    def begin() -> None:
        raise ValueError("used")

    work = raising(AssertionError("never called"))
    assert run_alone(tmp_path, begin, work, go_on=str) == UNUSABLE_INPUT

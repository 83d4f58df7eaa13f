"""Errors that end a run, whatever it runs."""

from __future__ import annotations


class LostError(ConnectionError):
    """Another rank ended, or can't be reached any more."""


class DisagreementError(RuntimeError):
    """The ranks no longer do the same."""


class StoppedError(RuntimeError):
    """The run was asked to stop, and has saved itself."""


class DivergedError(RuntimeError):
    """A loss that is no finite number: going on would train nothing."""


def as_text(error: BaseException) -> str:
    """One line, with the file first where it is about one."""
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)

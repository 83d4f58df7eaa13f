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

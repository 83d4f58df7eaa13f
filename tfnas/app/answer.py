"""A command's result as JSON: `json=-` on standard output, which has nothing else, or a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tfnas.files.atomic import write_atomically
from tfnas.process.bar import ConsoleHandler
from tfnas.process.checks import check_writable

STDOUT = "-"


def keep_stdout_free(json: str | None) -> None:
    """Have log lines go to standard error, where the result takes standard output."""
    if json == STDOUT:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, ConsoleHandler):
                handler.setStream(sys.stderr)


def answer_to(json: str | None, inputs: Iterable[Path] = ()) -> Callable[[str], None]:
    """What writes the result's text, where one is asked for.

    Args:
        inputs: files that it can't replace.

    Raises:
        ValueError: for a folder, or one of the inputs.
        OSError: if it can't be written.
    """
    if json is None:
        return lambda text: None
    if json == STDOUT:
        return partial(print, end="", flush=True)
    file = Path(json)
    if file.is_dir() or file.resolve() in {path.resolve() for path in inputs}:
        raise ValueError(f"json={json}: expected a file for the result, not a folder or an input")
    check_writable(file, "give another json=FILE, or json=- for standard output")
    return partial(write_atomically, file)

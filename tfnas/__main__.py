"""tfnas search target_ms=8

One name for all commands: `tfnas NAME ...` is `python -m MODULE ...`.
"""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: the module that runs it, and what it does in a line."""

    module: str
    does: str


COMMANDS = {
    "profile": Command("profilers", "measure a device into a latency table"),
    "search": Command("tfnas.search", "find the net that takes the milliseconds asked for"),
    "train": Command("tfnas.train", "train a found net"),
    "export": Command("tfnas.export", "write a net as ONNX, checked against torch"),
    "verify": Command(
        "profilers.verify", "measure an ONNX file against its target, or against others"
    ),
    "compare": Command("tfnas.compare", "train nets alike and compare their accuracies"),
    "report": Command("tfnas.report", "draw the page of a run, or of several"),
    "table": Command("tfnas.table", "show, draw, lint, compare or import latency tables"),
    "space": Command("tfnas.spaces", "make a space of a torch net of your own"),
    "card": Command("profilers.card", "measure whole nets against a table"),
}


def usage() -> str:
    """Lists the commands."""
    rows = [f"  {name:9}{command.does}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tfnas COMMAND [key=value ...]",
            "",
            *rows,
            "",
            "`tfnas COMMAND --help` lists its options.",
        ]
    )


def main() -> None:
    """Run a command as `python -m` would: the same arguments, output and status."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        try:
            print(usage(), flush=True)
        except BrokenPipeError:  # as in `tfnas --help | head`: nobody reads on
            os._exit(0)
        return
    if name == "--version":
        from tfnas.version import __version__

        print(f"tfnas {__version__}")
        return
    if name not in COMMANDS:
        print(f"error: no command {name!r}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"tfnas {name}", *arguments]
    runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

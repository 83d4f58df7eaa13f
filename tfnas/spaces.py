"""python -m tfnas.spaces from module:factory [--out FOLDER]

Makes a space of a torch net of one's own. A plain command line: exit 0 done, 2 unusable input, such
as a net with blocks that no space has. Each block is printed, with what it is or the reason why it
doesn't fit; nothing is written then.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tfnas.app.command_line import override
from tfnas.app.values import conf_path
from tfnas.files.bounded import printable
from tfnas.process.exits import DONE, exit_after
from tfnas.space.around import Candidates
from tfnas.space.size import size_given

if TYPE_CHECKING:
    from tfnas.tracing.blocks import Block
    from tfnas.tracing.own_net import OwnNet

SQUEEZE = {"yes": (True,), "no": (False,), "both": (False, True)}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse, run, and exit with the status."""
    args = _parser().parse_args(arguments)
    exit_after(lambda: _from(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tfnas.spaces", description="Search spaces.")
    commands = parser.add_subparsers(dest="command", required=True)
    from_ = commands.add_parser("from", help="make a space of a torch net of your own")
    from_.add_argument(
        "net", metavar="module:factory", help="a function without arguments that gives the net"
    )
    from_.add_argument("--out", type=Path, help="folder to write; named as the space if not given")
    from_.add_argument("--name", help="of the space; that of the factory if not given")
    from_.add_argument(
        "--resolution", type=int, nargs="+", default=[224], metavar="PX",
        help="of the deployed net: a side, or height and width",
    )  # fmt: skip
    from_.add_argument("--channels", type=int, default=3, help="of an image")
    from_.add_argument(
        "--kernels", type=int, nargs="+", help="of candidates; 3, 5 and the net's if not given"
    )
    from_.add_argument(
        "--expansions", type=float, nargs="+",
        help="mid width / input width of candidates; around the net's if not given",
    )  # fmt: skip
    from_.add_argument(
        "--squeeze-excite", choices=SQUEEZE,
        help="of candidates; both where the net has any, else no",
    )  # fmt: skip
    return parser


def _from(args: argparse.Namespace) -> int:
    name = args.name or args.net.rpartition(":")[2].rpartition(".")[2]
    out = args.out or Path(name)
    _check_name(name)
    _check_free(out, name)
    given = args.resolution[0] if len(args.resolution) == 1 else args.resolution
    resolution = size_given("resolution", given)
    candidates = Candidates(args.kernels, args.expansions, SQUEEZE.get(args.squeeze_excite))
    from tfnas.nets.factory import make_module
    from tfnas.tracing.own_net import UnfitError, own_net

    try:
        own = own_net(make_module(args.net), name, resolution, args.channels, candidates)
    except UnfitError as error:
        print("\n".join(_lines(error.blocks)), flush=True)
        unfit = sum(block.op is None for block in error.blocks)
        raise ValueError(
            f"{unfit} of {len(error.blocks)} blocks of {args.net} fit no space; nothing was written"
        ) from None
    print("\n".join([*_lines(own.blocks), *_told(own)]))
    command = ["python", "-m", "tfnas.search", f"--config-dir={out}", f"space={name}"]
    search = f"{shlex.join(command)} target_ms=8"
    own.save(
        out,
        [
            search,
            f"The space around {printable(args.net)}, which is subnet.json in the folder above.",
            f"That net has {own.subnet.classes} classes; a space takes those of the data.",
        ],
    )
    for path in own.files(out):
        print(f"wrote {path}")
    files = own.files(out)
    given = shlex.join([override("subnet", files[1]), override("weights", files[2])])
    print(f"next: {search}")
    print(f"  or: python -m tfnas.train {given}")
    return DONE


def _check_name(name: str) -> None:
    if not name.replace("-", "_").isidentifier():
        raise ValueError(f"name {name!r}: expected letters, digits, - and _; give one with --name")
    if (conf_path() / "space" / f"{name}.yaml").exists():
        raise ValueError(f"there is a space {name} already; give another name with --name")


def _check_free(out: Path, name: str) -> None:
    for path in (out / "space" / f"{name}.yaml", out / "subnet.json", out / "weights.safetensors"):
        if path.exists():
            raise ValueError(f"{path} exists; delete it or give another folder with --out")


def _lines(blocks: Iterable[Block]) -> list[str]:
    """What each block is, in columns."""
    rows = [(printable(block.path), block) for block in blocks]
    width = max(len(path) for path, _ in rows)
    return [
        f"  {path:{width}}  " + (f"ok  {block.op}" if block.op else f"NO  {block.reason}")
        for path, block in rows
    ]


def _told(own: OwnNet) -> list[str]:
    net, space = own.subnet, own.space.build()
    lines = [
        f"{net.params:,} parameters and {net.macs / 1e6:,.1f} M multiply-adds, as the module has",
        f"outputs differ by {own.difference:.1e} of the largest one: rounding",
        f"space {space.name}: {len(space.stages)} stages, {len(space.blocks)} blocks of "
        f"{min(map(len, space.blocks))} to {max(map(len, space.blocks))} candidates",
    ]
    if own.folded:
        lines.insert(1, f"{own.folded:,} biases in front of batch norms went into these")
    if own.unused:
        lines.insert(1, f"{own.unused:,} parameters of the module do nothing for its output")
    return lines


if __name__ == "__main__":
    main()

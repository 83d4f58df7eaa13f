"""compare.html: a finished comparison as one page, see `tfnas.pages.page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import cycle
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tfnas.comparison.record import Comparison, Method, Net
from tfnas.comparison.verdicts import (
    HEADER,
    cautions,
    cells,
    percent,
    points,
    verdicts,
    warnings,
)
from tfnas.pages import plots
from tfnas.pages.page import (
    code,
    details,
    document,
    element,
    figure,
    figures,
    key_values,
    note,
    paragraph,
    section,
    tile,
    tiles,
)
from tfnas.pages.page import table as page_table
from tfnas.process.progress import duration
from tfnas.runs.run import clean
from tfnas.space.ops import OpSpec
from tfnas.space.subnet import Subnet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfnas.intervals import Interval

PAGE = "compare.html"
LONGEST = 28  # characters of a name beside a plot
NOTHING = "–"


def page(comparison: Comparison, subnets: Mapping[str, Subnet]) -> str:
    """
    Args:
        subnets: by fingerprint.
    """
    c = comparison
    names = " and ".join(method.name for method in c.methods)
    return document(
        f"Accuracy at one latency: {names}",
        paragraph(
            f"{len(c.planned)} trainings by the recipe {c.recipe.name} on {c.data.name}, seeds "
            f"{', '.join(map(str, c.seeds))}; tfnas {c.versions['tfnas']}",
            kind="muted",
        ),
        tiles(*(_tile(c, method) for method in c.methods)),
        *(note(f"{line}.", kind="plain") for line in verdicts(c)),
        *(note(_sentence(line)) for line in warnings(c)),
        _accuracy(c),
        _curves(c),
        _compared(c, subnets),
        _how(c),
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _tile(c: Comparison, method: Method) -> Markup:
    first = method is c.methods[0]
    below = (
        "what the others are compared with"
        if first
        else f"{points(c.difference(method))} to {c.methods[0].name}"
    )
    return tile(method.name, percent(c.mean(method)), below)


def _accuracy(c: Comparison) -> Markup:
    unit = "a net, its mean over the seeds" if c.several else "a seed"
    kind = "differences of means" if c.several else "paired differences"
    return section(
        "Accuracy",
        figures(
            figure(
                _intervals(c),
                f"Left: top-1 on the test images; a dot is {unit}, a bar the mean with its 95 % "
                f"interval. Right: {kind} to {c.methods[0].name}, with 95 % intervals; where one "
                "includes zero, nothing is told apart.",
                wide=True,
            )
        ),
        page_table(HEADER, (cells(c, method) for method in c.methods), numeric=range(1, 5)),
        element("ul", *(element("li", _sentence(line)) for line in cautions(c))),
        details("All top-1 values", _values(c)),
        name="accuracies",
    )


def _intervals(c: Comparison) -> Markup:
    """Accuracies, and beside them differences to the first; a row each, the first on top."""
    first = c.values(c.methods[0])

    def paint(axes: Any) -> None:
        left, right = axes[0]
        right.axvline(0, color=plots.INK, linewidth=1, linestyle=(0, (4, 3)))
        for place, (method, colour) in enumerate(_coloured(c)):
            values = c.values(method)
            _plot_interval(left, place, values, c.mean(method), colour)
            if place:
                apart = [] if c.several else _less(values, first)
                _plot_interval(right, place, apart, c.difference(method), colour)
        left.set_yticks(range(len(c.methods)), [_short(method.name) for method in c.methods])
        left.set_ylim(len(c.methods) - 0.5, -0.5)
        left.set_xlabel("top-1, %")
        right.set_xlabel("difference in top-1, points")
        for each in (left, right):
            each.margins(x=0.08)
            each.tick_params(axis="y", length=0)
            each.grid(axis="y", visible=False)

    height = 0.8 + 0.5 * len(c.methods)
    label = "Top-1 accuracies and their differences"
    return plots.draw("accuracy", label, paint, size=(plots.WIDE, height), columns=2, sharey=True)


def _plot_interval(
    axes: Axes, place: float, values: Sequence[float], interval: Interval, colour: str
) -> None:
    """In percent: mean and interval, and the single values below."""
    ends = (100 * interval.low, 100 * interval.high)
    axes.plot(ends, (place, place), color=colour, linewidth=2.5)
    axes.plot([100 * interval.mean], [place], "|", color=colour, markersize=14, mew=2.5)
    single = [100 * value for value in values]
    axes.plot(single, [place + 0.24] * len(single), "o", color=colour, markersize=5, alpha=0.7)


def _coloured(c: Comparison) -> list[tuple[Method, str]]:
    return list(zip(c.methods, cycle(plots.SERIES), strict=False))


def _less(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def _short(name: str) -> str:
    name = clean(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _values(c: Comparison) -> Markup:
    nets = [(method, net) for method in c.methods for net in method.nets]
    rows = (
        (_title(method, net), *(f"{100 * c.trial(net, seed).top1:.2f}" for seed in c.seeds))
        for method, net in nets
    )
    header = ("top-1, %", *(f"seed {seed}" for seed in c.seeds))
    return page_table(header, rows, numeric=range(1, len(header)))


def _title(method: Method, net: Net) -> str:
    return method.name if len(method.nets) == 1 else f"{method.name}: {clean(net.path)}"


def _curves(c: Comparison) -> Markup:
    epochs = range(1, c.recipe.epochs + 1)

    def paint(axes: Any) -> None:
        for each, field, factor, y_label in (
            (axes[0][0], "top1", 100, "top-1, %"),
            (axes[0][1], "train_loss", 1, "training loss"),
        ):
            for method, colour in _coloured(c):
                runs = [
                    [factor * getattr(epoch, field) for epoch in c.trial(net, seed).epochs]
                    for net in method.nets
                    for seed in c.seeds
                ]
                for run in runs:
                    each.plot(epochs, run, color=colour, linewidth=0.7, alpha=0.6)
                mean = [sum(at) / len(at) for at in zip(*runs, strict=True)]
                plots.plot_line(each, plots.Line(_short(method.name), epochs, mean, colour))
            plots.count_x(each)
            if len(epochs) == 1:
                each.set_xlim(0.5, 1.5)
            each.set_xlabel("epoch")
            each.set_ylabel(y_label)
        plots.legend_above(axes[0][0], len(c.methods))

    label = "Top-1 and training loss by epoch"
    drawing = plots.draw("curves", label, paint, size=(plots.WIDE, 3.2), columns=2)
    return section(
        "Learning curves",
        figures(
            figure(
                drawing,
                "Left: on the test images; what is compared is the last epoch's. Right: on the "
                "training images, with augmentation and label smoothing. Thin lines are single "
                "trainings, thick ones their means.",
                wide=True,
            )
        ),
        name="curves-by-epoch",
    )


def _compared(c: Comparison, subnets: Mapping[str, Subnet]) -> Markup:
    nets = [(method, net) for method in c.methods for net in method.nets]
    header = ("net", "on the table, ms", "M multiply-adds", "blocks by stage", "file")
    rows = (
        (
            method.name,
            f"{net.table_ms:.4g}",
            f"{net.macs / 1e6:.4g}",
            " ".join(map(str, subnets[net.subnet].depths)),
            clean(net.path),
        )
        for method, net in nets
    )
    return section(
        "What was compared",
        paragraph(
            f"Latencies are those on the table {clean(c.table.file)} of {clean(c.table.device)}; "
            f"the nets differ by {100 * c.latency_gap:.2g} % "
            f"(latency_tolerance={c.latency_tolerance:g})."
        ),
        page_table(header, rows, numeric=(1, 2)),
        details(
            "Ops, block by block; bold where they aren't the first net's",
            _ops([(_title(method, net), subnets[net.subnet]) for method, net in nets]),
        ),
        name="compared",
    )


def _ops(nets: Sequence[tuple[str, Subnet]]) -> Markup:
    """A row for every block of any of the nets, by its place."""
    first = _placed(nets[0][1])
    placed = [_placed(subnet) for _, subnet in nets]
    places = sorted({place for ops in placed for place in ops})
    rows = []
    for stage, block in places:
        row: list[Markup | str] = [f"stage {stage + 1}, block {block + 1}"]
        for ops in placed:
            op = ops.get((stage, block))
            told = NOTHING if op is None else _told(op)
            row.append(told if op == first.get((stage, block)) else element("b", told))
        rows.append(row)
    return page_table(("block", *(_short(title) for title, _ in nets)), rows)


def _placed(subnet: Subnet) -> dict[tuple[int, int], OpSpec]:
    return {(s, b): op for s, stage in enumerate(subnet.stages) for b, op in enumerate(stage)}


def _told(op: OpSpec) -> str:
    se = f", se {op.c_se}" if op.c_se else ""
    return f"{op.kernel}×{op.kernel}, {op.c_in}·{op.c_mid}→{op.c_out}{se}"


def _how(c: Comparison) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in c.versions.items())
    return section(
        "How",
        paragraph(
            "The command, in the folder where it was given; run again it tells the same, with more "
            "seeds it trains those:"
        ),
        code(c.command),
        key_values(
            (
                ("data", f"{c.data.name}: {clean(c.data.origin)}"),
                ("seeds", ", ".join(map(str, c.seeds))),
                ("resolution", f"{c.resolution} px (latency: {c.deployed_resolution} px)"),
                ("trained on", f"{c.accelerator}, CPU threads: {c.threads}"),
                ("non-finite steps", c.on_nonfinite),
                ("table", f"{clean(c.table.file)} ({clean(c.table.fingerprint)})"),
                ("cost", f"{duration(c.cpu_seconds)} of CPU time"),
                ("versions", versions),
            )
        ),
        details(
            f"The recipe {c.recipe.name}",
            key_values((k, "null" if v is None else str(v)) for k, v in asdict(c.recipe).items()),
        ),
        name="how",
    )

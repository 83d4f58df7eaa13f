"""compare.html: a finished comparison as one page, see `tfnas.pages.page`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from markupsafe import Markup

from tfnas.comparison.record import Comparison, Method
from tfnas.comparison.verdicts import HEADER, cautions, cells, percent, points, verdicts, warnings
from tfnas.intervals import Interval
from tfnas.pages import page
from tfnas.pages.plots import SERIES, Chart, Level, Line, Point, draw, short
from tfnas.process.progress import duration
from tfnas.runs.run import clean
from tfnas.space.ops import OpSpec
from tfnas.space.subnet import Subnet

PAGE = "compare.html"


@dataclass(frozen=True)
class NetLine:
    """One net of a comparison.

    Attributes:
        title: of its method, with its file where the method has several.
        top1: of each seed, percent.
        ops: by (stage, block), from 0.
    """

    method: str
    title: str
    file: str
    table_ms: float
    macs: int
    top1: Sequence[float]
    depths: Sequence[int]
    ops: Mapping[tuple[int, int], OpSpec]


def gather_nets(c: Comparison, subnets: Mapping[str, Subnet]) -> list[NetLine]:
    found = []
    for method in c.methods:
        for net in method.nets:
            file, subnet = clean(net.path), subnets[net.subnet]
            title = method.name if len(method.nets) == 1 else f"{method.name}: {file}"
            top1 = [100 * c.trial(net, seed).top1 for seed in c.seeds]
            ops = {(s, b): op for s, row in enumerate(subnet.stages) for b, op in enumerate(row)}
            found.append(
                NetLine(method.name, title, file, net.table_ms, net.macs, top1, subnet.depths, ops)
            )
    return found


def compare_page(comparison: Comparison, subnets: Mapping[str, Subnet]) -> str:
    """
    Args:
        subnets: by fingerprint.
    """
    c = comparison
    nets = gather_nets(c, subnets)
    return page.document(
        f"Accuracy at one latency: {' and '.join(method.name for method in c.methods)}",
        page.paragraph(
            f"{len(c.planned)} trainings by the recipe {c.recipe.name} on {c.data.name}, seeds "
            f"{', '.join(map(str, c.seeds))}; tfnas {c.versions['tfnas']}",
            kind="muted",
        ),
        page.tiles(*(_tile(c, method) for method in c.methods)),
        *(page.note(f"{line}.", kind="plain") for line in verdicts(c)),
        *(page.note(_sentence(line)) for line in warnings(c)),
        _accuracy(c, nets),
        _curves(c),
        _compared(c, nets),
        _how(c),
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _tile(c: Comparison, method: Method) -> Markup:
    below = "what the others are compared with"
    if method is not c.methods[0]:
        below = f"{points(c.difference(method))} to {c.methods[0].name}"
    return page.tile(method.name, percent(c.mean(method)), below)


def _accuracy(c: Comparison, nets: Sequence[NetLine]) -> Markup:
    unit = "a net, its mean over the seeds" if c.several else "a seed"
    kind = "differences of means" if c.several else "paired differences"
    caption = (
        f"Left: top-1 on the test images; a dot is {unit}, a bar the mean with its 95 % interval. "
        f"Right: {kind} to {c.methods[0].name}, with 95 % intervals; where one includes zero, "
        "nothing is told apart."
    )
    header = ("top-1, %", *(f"seed {seed}" for seed in c.seeds))
    values = ((net.title, *(f"{top1:.2f}" for top1 in net.top1)) for net in nets)
    return page.section(
        "Accuracy",
        page.figures(_intervals(c, caption)),
        page.table(HEADER, (cells(c, method) for method in c.methods), numeric=range(1, 5)),
        page.element("ul", *(page.element("li", _sentence(line)) for line in cautions(c))),
        page.details("All top-1 values", page.table(header, values, numeric=range(1, len(header)))),
        name="accuracies",
    )


def _intervals(c: Comparison, caption: str) -> Markup:
    """Accuracies, and beside them differences to the first; a row each, the first on top."""
    first = c.values(c.methods[0])
    left: list[Point] = []
    right: list[Point] = []
    for place, method in enumerate(c.methods):
        values, colour = c.values(method), SERIES[place % len(SERIES)]
        left += _estimate(place, values, c.mean(method), colour)
        if place:
            apart = [] if c.several else [a - b for a, b in zip(values, first, strict=True)]
            right += _estimate(place, apart, c.difference(method), colour)
    rows = [method.name for method in c.methods]
    return draw(
        "accuracy", caption,
        Chart(x_label="top-1, %", points=left, rows=rows),
        Chart(x_label="difference in top-1, points", points=right, rows=rows, levels=[Level(0)]),
        label="Top-1 accuracies and their differences", height=0.8 + 0.5 * len(rows), wide=True,
        share_y=True,
    )  # fmt: skip


def _estimate(
    place: float, values: Sequence[float], interval: Interval, colour: str
) -> Iterator[Point]:
    """In percent: mean and interval, and the single values below."""
    ends = (100 * interval.low, 100 * interval.high)
    yield Point(100 * interval.mean, place, x_interval=ends, colour=colour, marker="D")
    for value in values:
        yield Point(100 * value, place + 0.24, colour=colour)


def _curves(c: Comparison) -> Markup:
    charts: list[Chart] = []
    for field, factor, y_label in (("top1", 100, "top-1, %"), ("train_loss", 1, "training loss")):
        lines = []
        for index, method in enumerate(c.methods):
            colour = SERIES[index % len(SERIES)]
            trials = [c.trial(net, seed) for net in method.nets for seed in c.seeds]
            runs = [[factor * getattr(epoch, field) for epoch in t.epochs] for t in trials]
            x = range(1, len(runs[0]) + 1)
            lines += [Line("", x, run, colour, width=0.7, markers=False) for run in runs]
            mean = [sum(at) / len(at) for at in zip(*runs, strict=True)]
            lines.append(Line("" if charts else method.name, x, mean, colour))
        charts.append(Chart(lines=lines, x_label="epoch", y_label=y_label, whole_x=True))
    caption = (
        "Left: on the test images; what is compared is the last epoch's. Right: on the training "
        "images, with augmentation and label smoothing. Thin lines are single trainings, thick "
        "ones their means."
    )
    label = "Top-1 and training loss by epoch"
    drawing = draw("curves", caption, *charts, label=label, height=3.2, wide=True)
    return page.section("Learning curves", page.figures(drawing), name="curves-by-epoch")


def _compared(c: Comparison, nets: Sequence[NetLine]) -> Markup:
    header = (
        "net",
        f"on the table, ms ({clean(c.table.precision)})",
        "M multiply-adds",
        "blocks by stage",
        "file",
    )
    rows = (
        (net.method, page.ms(net.table_ms), f"{net.macs / 1e6:.4g}",
         " ".join(map(str, net.depths)), net.file)
        for net in nets
    )  # fmt: skip
    return page.section(
        "What was compared",
        page.paragraph(
            f"Latencies are those on the table {clean(c.table.file)} of {clean(c.table.device)}; "
            f"the nets differ by {100 * c.latency_gap:.2g} % "
            f"(latency_tolerance={c.latency_tolerance:g})."
        ),
        page.table(header, rows, numeric=(1, 2)),
        page.details("Ops, block by block; bold where they aren't the first net's", _ops(nets)),
        name="compared",
    )


def _ops(nets: Sequence[NetLine]) -> Markup:
    """A row for every block of any of the nets, by its place."""
    rows = []
    for place in sorted({place for net in nets for place in net.ops}):
        row: list[page.Part] = ["stage {}, block {}".format(*(i + 1 for i in place))]
        for net in nets:
            name = _op_name(net.ops.get(place))
            same = net.ops.get(place) == nets[0].ops.get(place)
            row.append(name if same else page.element("b", name))
        rows.append(row)
    return page.table(("block", *(short(net.title) for net in nets)), rows)


def _op_name(op: OpSpec | None) -> str:
    if op is None:
        return page.NOTHING
    if not op.has_width:
        return str(op)
    se = f", se {op.c_se}" if op.c_se else ""
    return f"{op.kernel}×{op.kernel}, {op.c_in}·{op.c_mid}→{op.c_out}{se}"


def _how(c: Comparison) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in c.versions.items())
    recipe = ((k, "null" if v is None else str(v)) for k, v in asdict(c.recipe).items())
    return page.section(
        "How",
        page.paragraph(
            "The command, in the folder where it was given; run again it shows the same, with more "
            "seeds it trains those:"
        ),
        page.code(c.command),
        page.key_values(
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
        page.details(f"The recipe {c.recipe.name}", page.key_values(recipe)),
        name="how",
    )

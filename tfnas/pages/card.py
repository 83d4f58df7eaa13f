"""Whole nets on the page of a table: the calibration on them, and the calibration card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tfnas.latency.card import Card, CardNet
from tfnas.latency.table import Calibration, SpaceFit
from tfnas.pages import page
from tfnas.pages.plots import HEIGHT, MUTED, SERIES, Bars, Chart, Level, Point, draw, rows_height

MOST_NETS, MOST_STAGES = 500, 30  # that are shown


def space_section(index: int, key: str, fit: SpaceFit) -> Markup:
    """
    Args:
        index: of the space, unique in the page.
        key: see `SearchSpace.key`.
    """
    parts: list[Markup] = []
    if fit.calibration is not None:
        parts += _calibration(fit.calibration)
    if fit.held_out is not None:
        h = fit.held_out
        parts.append(
            page.paragraph(
                f"Interpolation, on {h.points} measured points predicted without them: mean error "
                f"{h.mean_pct:.2f} %, 95th percentile {h.p95_pct:.2f} %, worst {h.max_pct:.2f} %."
            )
        )
    if fit.card is None:
        parts.append(page.paragraph("No calibration card; python -m profilers.card makes one."))
    else:
        parts += _card(f"card-{index}", fit.card)
    return page.section(f"Whole nets of {key}", *parts, name=f"space-{index}")


def _calibration(c: Calibration) -> list[Markup]:
    # The largest input first; what isn't searched last.
    factors = sorted(c.factors, key=lambda f: (f[0] != "fixed", len(f[0]), f[0]), reverse=True)
    rows = [(group, f"{factor:.4f}", f"{c.scale * factor:.4f}") for group, factor in factors]
    return [
        page.paragraph(
            "An op costs more or less inside a net than alone. A net is the sum of its rows, each "
            f"times the scale {c.scale:.4f}, times the factor of where it stands: searched blocks "
            f"by the size of their input, all others (fixed) together. From {c.nets} whole nets; "
            f"each of them, predicted from the others, is {c.mape_pct:.2f} % off on average."
        ),
        page.table(("ops", "factor", "scale × factor"), rows, numeric=(1, 2)),
    ]


def _card(name: str, data: Mapping[str, Any]) -> list[Markup]:
    """What a table's header holds of it, checked only now."""
    try:
        card = Card.from_json(data)
    except ValueError as error:
        return [page.note(f"The calibration card can't be read: {error}")]
    nets = card.nets[:MOST_NETS]
    return [
        page.element("h3", f"Calibration card: {len(card.nets)} whole nets"),
        page.paragraph(
            "Random nets, none of those that the table was calibrated on, measured whole. Errors "
            "are the table's against the device's; bars are 95 % intervals of the measured side."
        ),
        _summary(card),
        page.figures(
            _agreement(f"{name}-nets", nets),
            _errors(f"{name}-errors", nets, card.bias_pct),
            _stages(f"{name}-stages", card.stages_pct),
        ),
        page.details("Nets", _nets(f"{name}-table", nets)),
        page.left_out(len(card.nets) - len(nets), "nets"),
    ]


def _summary(card: Card) -> Markup:
    shares = ", ".join(
        f"{share:.0f} % within ±{limit} %" for limit, share in card.within_pct.items()
    )
    worst = card.worst
    tiles = [
        page.tile("mean absolute error", f"{card.mape_pct:.2f} %", shares),
        page.tile("bias", f"{card.bias_pct:+.2f} %", "of the table"),
        page.tile("rank correlation", f"{card.spearman:.4f}", "Spearman"),
        page.tile(
            "worst net",
            f"{worst.error_pct:+.2f} %",
            f"table {worst.table_ms:.4g} ms, device {worst.measured_ms:.4g} ms",
        ),
    ]
    if card.noisy:
        tiles.append(
            page.tile("doubtful nets", str(card.noisy), "measured less precisely than asked")
        )
    return page.tiles(*tiles)


def _agreement(name: str, nets: Sequence[CardNet]) -> Markup:
    points = []
    for net in nets:
        half = net.measured_ms * net.half_width_pct / 100
        interval = net.measured_ms - half, net.measured_ms + half
        points.append(Point(net.measured_ms, net.table_ms, x_interval=interval))
    chart = Chart(points=points, x_label="device (ms)", y_label="table (ms)", diagonal=True)
    label = "Whole nets: table against device"
    return draw(name, "On the line the table is right.", chart, label=label)


def _errors(name: str, nets: Sequence[CardNet], bias_pct: float) -> Markup:
    points = []
    for net in nets:
        error, half = net.error_pct, net.half_width_pct
        interval = error - half, error + half
        points.append(Point(net.measured_ms, error, y_interval=interval, group="nets"))
    chart = Chart(
        points=points, levels=[Level(0, colour=MUTED), Level(bias_pct, "bias", SERIES[1])],
        x_label="device (ms)", y_label="table against device (%)",
    )  # fmt: skip
    label = "Errors of the table by latency"
    return draw(name, "How far off the table is.", chart, label=label)


def _stages(name: str, residuals_pct: Mapping[str, float]) -> Markup:
    stages = list(residuals_pct.items())[:MOST_STAGES]
    lengths = [pct for _, pct in stages]
    colours = [SERIES[0] if pct >= 0 else SERIES[1] for pct in lengths]
    chart = Chart(
        bars=[Bars("", lengths, colours)], rows=[stage for stage, _ in stages],
        levels=[Level(0, colour=MUTED)], x_label="device against table (%)",
    )  # fmt: skip
    return draw(
        name, "By how much more or less than the table says a stage costs inside whole nets.",
        chart, label="Residuals by stage", height=max(HEIGHT, rows_height(chart)),
    )  # fmt: skip


def _nets(name: str, nets: Sequence[CardNet]) -> Markup:
    rows = [
        (page.ms(net.table_ms), page.ms(net.measured_ms), f"±{net.half_width_pct:.2g} %",
         f"{net.error_pct:+.2f} %", f"{net.macs / 1e6:,.1f}")
        for net in nets
    ]  # fmt: skip
    header = ("table (ms)", "device (ms)", "95 % interval", "error", "million MACs")
    return page.table(header, rows, numeric=range(len(header)), name=name)

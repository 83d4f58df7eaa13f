"""Whole nets on the page of a table: the calibration on them, and the calibration card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tfnas.latency.card import Card, CardNet
from tfnas.latency.table import Calibration, SpaceFit
from tfnas.pages import page, plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NETS = 500
MOST_STAGES = MOST_GROUPS = 30


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
    rows = [
        (group, f"{factor:.4f}", f"{c.scale * factor:.4f}")
        for group, factor in factors[:MOST_GROUPS]
    ]
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
    return [
        page.element("h3", f"Calibration card: {len(card.nets)} whole nets"),
        page.paragraph(
            "Random nets, none of those that the table was calibrated on, measured whole. Errors "
            "are the table's against the device's; bars are 95 % intervals of the measured side."
        ),
        _summary(card),
        page.figures(
            page.figure(_agreement(f"{name}-nets", card), "On the line the table is right."),
            page.figure(_errors(f"{name}-errors", card), "How far off the table is."),
            page.figure(
                _stages(f"{name}-stages", card),
                "By how much more or less than the table says a stage costs inside whole nets.",
            ),
        ),
        page.details("Nets", _nets(name, card)),
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


def _agreement(name: str, card: Card) -> Markup:
    points = [
        plots.Point(net.measured_ms, net.table_ms, x_interval=_interval(net))
        for net in card.nets[:MOST_NETS]
    ]
    return plots.scatter(
        name, "Whole nets: table against device", points,
        x_label="device (ms)", y_label="table (ms)", diagonal=True,
    )  # fmt: skip


def _interval(net: CardNet) -> tuple[float, float]:
    half = net.measured_ms * net.half_width_pct / 100
    return net.measured_ms - half, net.measured_ms + half


def _errors(name: str, card: Card) -> Markup:
    nets = card.nets[:MOST_NETS]

    def paint(axes: Axes) -> None:
        x, y = [n.measured_ms for n in nets], [n.error_pct for n in nets]
        axes.axhline(0, color=plots.MUTED, linewidth=1)
        axes.axhline(
            card.bias_pct, color=plots.SERIES[1], linewidth=1.2, linestyle=(0, (4, 3)), label="bias"
        )
        axes.vlines(
            x, [e - n.half_width_pct for e, n in zip(y, nets, strict=True)],
            [e + n.half_width_pct for e, n in zip(y, nets, strict=True)],
            color=plots.SERIES[0], linewidth=1.2,
        )  # fmt: skip
        axes.plot(x, y, "o", color=plots.SERIES[0], markersize=5, label="nets")
        axes.set_xlabel("device (ms)")
        axes.set_ylabel("table against device (%)")
        plots.legend_above(axes, 2)

    return plots.draw(name, "Errors of the table by latency", paint)


def _stages(name: str, card: Card) -> Markup:
    stages = list(card.stages_pct.items())[:MOST_STAGES]

    def paint(axes: Axes) -> None:
        axes.barh(
            range(len(stages)), [pct for _, pct in stages], height=0.7,
            color=[plots.SERIES[0] if pct >= 0 else plots.SERIES[1] for _, pct in stages],
        )  # fmt: skip
        axes.axvline(0, color=plots.MUTED, linewidth=1)
        axes.set_yticks(range(len(stages)), [plots.short(stage) for stage, _ in stages])
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("device against table (%)")

    size = (plots.SIZE[0], max(plots.SIZE[1], 0.75 + 0.2 * len(stages)))
    return plots.draw(name, "Residuals by stage", paint, size=size)


def _nets(name: str, card: Card) -> Markup:
    rows = [
        (
            f"{net.table_ms:.4g}", f"{net.measured_ms:.4g}", f"±{net.half_width_pct:.2g} %",
            f"{net.error_pct:+.2f} %", f"{net.macs / 1e6:,.1f}",
        )
        for net in card.nets[:MOST_NETS]
    ]  # fmt: skip
    header = ("table (ms)", "device (ms)", "95 % interval", "error", "million MACs")
    return page.table(header, rows, numeric=range(len(header)), name=f"{name}-table")

"""report.html: the page of one run of `tfnas.search`, from its folder alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from tfnas.app.command_line import override
from tfnas.files.atomic import write_atomically
from tfnas.intervals import plus_minus
from tfnas.pages import page
from tfnas.pages.finals import finals_section
from tfnas.pages.front import front
from tfnas.pages.history import gather_history, history_figures
from tfnas.pages.latency import loop_section, scale, stages_section
from tfnas.pages.network import gather_network, network
from tfnas.pages.page import Part
from tfnas.runs.files import RunFiles, read_files
from tfnas.runs.finals import SEARCHED
from tfnas.runs.folder import RunFolder
from tfnas.runs.int8 import INT8
from tfnas.runs.nets import nets_of
from tfnas.runs.result import Result
from tfnas.runs.run import UNFINISHED, Run, clean


def write_report(folder: Path, status: str | None = None) -> Path:
    """Write report.html into a run's folder.

    Args:
        status: what becomes of the run, where its folder doesn't tell yet.

    Raises:
        OSError: if it can't be written.
    """
    file = RunFolder(folder).report
    write_atomically(file, run_page(read_files(folder), status))
    return file


def run_page(files: RunFiles, status: str | None = None) -> str:
    """The page; see `write_report`."""
    run, result = files.run, files.result
    parts: list[Part] = [_headline(run, result, status)]
    if result is not None:
        parts += [_tiles(run, result), scale(result), *_doubts(result)]
    else:
        parts += _unfinished(run, status)
    parts += [page.note(line) for line in files.warnings]
    if files.subnet is not None:
        parts.append(_network(files))
    if files.subnet is not None or files.stages is not None:
        parts.append(stages_section(files.subnet, files.table, files.stages))
    parts += [_search(files), front(nets_of(files))]
    if result is not None and result.finals is not None:
        parts.append(finals_section(result.finals, result.precision))
    if result is not None and result.loop:
        parts.append(loop_section(result.loop, result))
    parts.append(_origin(files))
    return page.document(_title(run), *parts)


def _title(run: Run) -> str:
    target = "" if run.target_ms is None else f" for {run.target_ms:.4g} ms"
    return f"{run.strategy or 'Search'}: a net{target} on {run.device or 'a device'}"


def verdict(result: Result) -> tuple[str, str]:
    """(kind of `page`, what to say) of a finished run."""
    which = "table's" if result.measured_ms is None else "measured"
    lower = ", any lower latency is fine" if result.at_most else ""
    distance = (
        f"the {which} latency is {page.off(result.last_ms, result.target_ms)} off the target "
        f"(tolerance {100 * result.tolerance:g} %{lower})."
    )
    if not result.within:
        return "bad", f"Missed: {distance}"
    if result.measured_ms is None:
        return "doubt", f"Met on the table only, not measured: {distance}"
    return "good", f"Met: {distance}"


def _headline(run: Run, result: Result | None, status: str | None) -> Markup:
    if result is None:
        badge = page.coloured((status or run.status).capitalize(), "badge doubt", id="status")
        why = f"; {run.reason}" if run.reason and status is None else ""
        return page.paragraph(badge, f": this search has no result{why}.")
    kind, sentence = verdict(result)
    head, _, tail = sentence.partition(":")
    return page.paragraph(page.coloured(head, f"badge {kind}", id="status"), f":{tail}")


def _tiles(run: Run, result: Result) -> Markup:
    at = "" if run.told_top1_alone else f", {clean(result.precision)}"
    tiles = [
        page.tile(
            f"target{at}", f"{result.target_ms:.4g} ms", "at most" if result.at_most else None,
            data_target_ms=result.target_ms,
        ),
        page.tile(
            f"table{at}", f"{result.table_ms:.4g} ms", page.off(result.table_ms, result.target_ms),
            data_table_ms=result.table_ms,
        ),
    ]  # fmt: skip
    if result.measured_ms is None or result.measured_ci_ms is None:
        tiles.append(page.tile(f"measured{at}", "–", "the device couldn't be reached"))
    else:
        low, high = result.measured_ci_ms
        tiles.append(
            page.tile(
                f"measured{at}, 95 % interval",
                f"{result.measured_ms:.4g} {plus_minus(low, high)} ms",
                f"{page.off(result.measured_ms, result.target_ms)}; {low:.4g} to {high:.4g} ms"
                + ("; doubtful" if result.noisy else ""),
                data_measured_ms=result.measured_ms, data_low_ms=low, data_high_ms=high,
            )
        )  # fmt: skip
    tiles.append(page.tile("multiply-adds", _short(result.macs), f"{result.resolution} px"))
    tiles += _accuracy_tiles(run, result)
    return page.tiles(*tiles)


def _accuracy_tiles(run: Run, result: Result) -> Iterator[Markup]:
    """The top-1; in float and int8 side by side wherever int8 is about."""
    if run.top1 is None:
        return
    px = f"at {run.top1_resolution} px"
    if run.told_top1_alone:
        yield page.tile("top-1, trained", f"{100 * run.top1:.1f} %", px, data_top1=run.top1)
        return
    if (top1 := run.top1_float) is None:
        yield page.tile("top-1, float", page.NOTHING, "trained for int8")
    else:
        yield page.tile("top-1, float", f"{100 * top1:.1f} %", px, data_top1=top1)
    if (top1 := run.top1_int8) is None:
        yield page.tile("top-1, int8", page.NOTHING, "tfnas export precision=int8 tells")
        return
    how = px if run.int8 is not None else f"{px}, simulated"
    if run.precision != INT8:
        how += f"; the latency is of {clean(result.precision)}"
    yield page.tile("top-1, int8", f"{100 * top1:.1f} %", how, data_top1_int8=top1)


def _short(number: int) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= 0.9995 * unit:  # what rounds to it
            return f"{number / unit:.3g} {name}"
    return str(number)


def _doubts(result: Result) -> Iterator[Markup]:
    if result.noisy:
        yield page.note("The measured interval is doubtful: ", clean(result.noisy), ".")
    if not result.verified:
        yield page.note(
            "Unverified: the device couldn't be reached from where the search ran, so all "
            "latencies are the table's."
        )
    if not result.reached:
        yield page.note("The derived net did not meet the target on the table.")
    if result.overhead_from_table:
        yield page.note(
            "Stem, head and classifier are one figure of the table, whatever their shapes here."
        )


def _unfinished(run: Run, status: str | None) -> Iterator[Markup]:
    if run.resume is not None and (status or run.status) in UNFINISHED:
        yield page.paragraph("What there is so far is shown. Go on with:")
        again = shlex.quote(override("resume", run.resume))
        yield page.code(f"{run.launcher} -m tfnas.search {again}")


def _network(files: RunFiles) -> Markup:
    subnet, table = files.subnet, files.table
    assert subnet is not None
    notes = []
    if files.result is None:
        notes.append("Not the search's last word: it isn't finished.")
    if table is None:
        notes.append("Latencies of single blocks aren't known: the table can't be read here.")
    elif table.overhead_ms is not None:
        notes.append(
            f"Stem and head take {table.fixed(subnet):.3g} ms together, of which the table has "
            "one figure."
        )
    if files.space is None or subnet not in files.space:
        notes.append("Bounds of widths aren't known: the space isn't.")
    else:
        notes.append("Bars beside widths: between their bounds.")
    if table is not None:
        notes.append(
            "Bars beside latencies: share of the net's on the table, the longest being the slowest "
            "block."
        )
    blocks = gather_network(subnet, files.space, table)
    drawing = network(blocks, None if table is None else table.total(subnet))
    below = page.paragraph(" ".join(notes), kind="muted")
    return page.section("Network", drawing, below, name="network")


def _search(files: RunFiles) -> Markup | None:
    """How it went, and how the net that was found follows from what the plots end with."""
    result = files.result
    if not files.records:
        unknown = page.paragraph("There is no history of it that can be shown.", kind="muted")
        return None if result is None else page.section("Search", unknown)
    history = gather_history(files.records, files.space, files.subnet)
    parts = [page.figures(*history_figures(history, files.run.target_ms))]
    found = history.departures
    if found is not None and result is not None and _is_own(result):
        where = page.count(len(found), "place") if found else "no op and no depth"
        moved = ", and then moved as far as the device asked" if result.loop else ""
        parts.append(page.paragraph(
            "Beside widths, the net differs from the most probable one of the last epoch in "
            f"{where}: it was chosen to meet {result.target_ms:.4g} ms on the table{moved}."
        ))  # fmt: skip
    if found and result is not None and _is_own(result):
        rows = [(d.place, d.found, d.probable) for d in found]
        header = ("place", "found (probability)", "most probable")
        parts.append(page.details("Where they differ", page.table(header, rows, name="departures")))
    return page.section("Search", *parts, name="search")


def _is_own(result: Result) -> bool:
    """Whether the run's net is the search's own: in finals another one may have won."""
    finals = result.finals
    return finals is None or any(
        row.name == finals.winner and row.source == SEARCHED for row in finals.rows
    )


def option(value: object) -> str:
    """An option's value as it is read."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _origin(files: RunFiles) -> Markup:
    """The command, and all that a result depends on."""
    result, run = files.result, files.run
    parts: list[Part] = [page.paragraph("The command isn't known.", kind="muted")]
    if files.arguments is not None:
        parts = [page.code(shlex.join(["python", "-m", "tfnas.search", *files.arguments]))]
    if result is None:
        known = (("strategy", run.strategy), ("space", run.space), ("seed", run.seed))
        parts.append(page.key_values((k, v) for k, v in known if v is not None))
    else:
        parts += [page.key_values(_facts(files, result)), _seconds(files, result)]
    if files.options:
        rows = [(clean(key), option(value)) for key, value in sorted(files.options.items())]
        options = page.table(("option", "value"), rows, name="options")
        parts.append(page.details("All options", options))
    return page.section("Run", *parts, name="run")


def _facts(files: RunFiles, result: Result) -> Iterator[tuple[Part, Part]]:
    low, high = result.feasible_ms
    yield "strategy", clean(result.strategy)
    yield "seed", result.seed
    yield "space", clean(result.space)
    yield "reachable", f"{low:.4g} to {high:.4g} ms"
    for other in result.beside or ():
        yield "beside", clean(str(other))
    yield "device", clean(result.device)
    runtime = f"batch {result.batch}, threads {result.threads}, {clean(result.precision)}"
    yield "measured with", runtime
    yield "table", clean(result.table)
    yield "data", clean(result.data)
    yield "input", f"{result.resolution} px, {result.classes} classes"
    if files.records and files.records[-1].op_probs:  # other strategies learn none
        most = result.argmax_log_prob
        yield "log-probability", f"{result.log_prob:.4g} nats; most probable net {most:.4g}"
    if (raw := result.measured_raw_ms) is not None:
        ms = f"minimum {raw.min:.4g} ms, median {raw.median:.4g} ms"
        yield "single runs", f"{ms}, as fast as the machine was"
    if (plan := result.plan) is not None:
        chosen = ", ".join(f"{clean(k)}={option(v)}" for k, v in plan.values.items())
        yield "minutes", f"{plan.minutes:g}; planned from steps measured here: {chosen}"
    for key, value in result.scores.items():
        yield clean(key).replace("_", " "), f"{value:,.6g}"
    yield "versions", ", ".join(f"{clean(k)} {clean(str(v))}" for k, v in result.versions.items())


def _seconds(files: RunFiles, result: Result) -> Markup:
    total = sum(result.seconds.values())
    # What is measured of stem and stages is so after the result.
    whole = "all" if files.stages is None else "all, before the parts were measured"
    rows: list[tuple[Part, ...]] = [
        (clean(stage), f"{s:,.1f}", page.bar(s / total if total > 0 else 0))
        for stage, s in result.seconds.items()
    ]
    rows.append((whole, f"{total:,.1f}", None))
    if (plan := result.plan) is None:
        return page.table(("stage", "seconds", ""), rows, numeric=(1,), name="seconds")
    wanted = [plan.seconds.get(stage) for stage in result.seconds]
    wanted.append(sum(s for s in wanted if s is not None))
    rows = [
        (stage, seconds, "" if planned is None else f"{planned:,.1f}", share)
        for (stage, seconds, share), planned in zip(rows, wanted, strict=True)
    ]
    return page.table(("stage", "seconds", "planned", ""), rows, numeric=(1, 2), name="seconds")

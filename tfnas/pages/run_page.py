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
from tfnas.pages.latency_sections import loop_section, off, scale, stages_section
from tfnas.pages.net_drawing import network
from tfnas.pages.page import Part
from tfnas.pages.trajectories import departures, trajectories
from tfnas.runs.files import RunFiles, read_files
from tfnas.runs.result import Result
from tfnas.runs.run import UNFINISHED, Run, clean

REPORT = "report.html"
MOST_OPTIONS = 1_000  # a page is to be read


def write_report(folder: Path, status: str | None = None) -> Path:
    """Write report.html into a run's folder.

    Args:
        status: what becomes of the run, where its folder doesn't tell yet.

    Raises:
        OSError: if it can't be written.
    """
    file = folder / REPORT
    write_atomically(file, run_page(read_files(folder), status))
    return file


def run_page(files: RunFiles, status: str | None = None) -> str:
    """The page; see `write_report`."""
    run, result = files.run, files.result
    parts: list[Part] = [_headline(run, result, status)]
    if result is not None:
        parts += [_tiles(run, result), scale(result), *_doubts(result)]
    else:
        parts += list(_unfinished(run, status))
    parts += [page.note(line) for line in files.warnings]
    if files.subnet is not None:
        parts.append(_network(files))
    if files.subnet is not None or files.stages is not None:
        parts.append(stages_section(files.subnet, files.table, files.stages))
    figures = list(trajectories(files.records, files.space, files.subnet, run.target_ms))
    if figures:
        shown = page.figures(*figures)
        parts.append(page.section("Search", shown, *_departures(files), name="search"))
    elif result is not None:
        told = "There is no history of it that can be shown."
        parts.append(page.section("Search", page.paragraph(told, kind="muted")))
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
    told = (
        f"the {which} latency is {off(result.last_ms, result.target_ms)} off the target "
        f"(tolerance {100 * result.tolerance:g} %{lower})."
    )
    if not result.within:
        return "bad", f"Missed: {told}"
    if result.measured_ms is None:
        return "doubt", f"Met on the table only, not measured: {told}"
    return "good", f"Met: {told}"


def _headline(run: Run, result: Result | None, status: str | None) -> Markup:
    if result is None:
        badge = page.element(
            "span", (status or run.status).capitalize(), class_="badge doubt", id="status"
        )
        why = f"; {run.reason}" if run.reason and status is None else ""
        return page.paragraph(badge, f": this search has no result{why}.")
    kind, told = verdict(result)
    head, _, tail = told.partition(":")
    badge = page.element("span", head, class_=f"badge {kind}", id="status")
    return page.paragraph(badge, f":{tail}")


def _tiles(run: Run, result: Result) -> Markup:
    tiles = [
        page.tile(
            "target", f"{result.target_ms:.4g} ms", "at most" if result.at_most else None,
            data_target_ms=result.target_ms,
        ),
        page.tile(
            "table", f"{result.table_ms:.4g} ms", off(result.table_ms, result.target_ms),
            data_table_ms=result.table_ms,
        ),
    ]  # fmt: skip
    if result.measured_ms is None or result.measured_ci_ms is None:
        tiles.append(page.tile("measured", "–", "the device couldn't be reached"))
    else:
        low, high = result.measured_ci_ms
        tiles.append(
            page.tile(
                "measured, 95 % interval",
                f"{result.measured_ms:.4g} {plus_minus(low, high)} ms",
                f"{off(result.measured_ms, result.target_ms)}; {low:.4g} to {high:.4g} ms"
                + ("; doubtful" if result.noisy else ""),
                data_measured_ms=result.measured_ms, data_low_ms=low, data_high_ms=high,
            )
        )  # fmt: skip
    tiles.append(page.tile("multiply-adds", _count(result.macs), f"{result.resolution} px"))
    if run.top1 is not None:
        tiles.append(
            page.tile(
                "top-1, trained", f"{100 * run.top1:.1f} %", f"at {run.top1_resolution} px",
                data_top1=run.top1,
            )
        )  # fmt: skip
    return page.tiles(*tiles)


def _count(number: int) -> str:
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
    subnet = files.subnet
    assert subnet is not None
    told = []
    if files.result is None:
        told.append("Not the search's last word: it isn't finished.")
    if files.table is None:
        told.append("Latencies of single blocks aren't told: the table can't be read here.")
    elif files.table.overhead_ms is not None:
        told.append(
            f"Stem and head take {files.table.fixed_ms(subnet):.3g} ms together, of which the "
            "table has one figure."
        )
    if files.space is None or subnet not in files.space:
        told.append("Bounds of widths aren't told: the space isn't known.")
    else:
        told.append("Bars beside widths: between their bounds.")
    if files.table is not None:
        told.append(
            "Bars beside latencies: share of the net's on the table, the longest being the slowest "
            "block."
        )
    drawing = network(subnet, files.space, files.table)
    return page.section(
        "Network", drawing, page.paragraph(" ".join(told), kind="muted"), name="network"
    )


def _departures(files: RunFiles) -> Iterator[Markup]:
    """How the net that was found follows from what the plots end with."""
    found = departures(files.records, files.space, files.subnet)
    if found is None or files.result is None:
        return
    result = files.result
    told = f"{len(found)} place{'s' if len(found) != 1 else ''}" if found else "no op and no depth"
    moved = ", and then moved as far as the device asked" if result.loop else ""
    yield page.paragraph(
        f"Beside widths, the net differs from the most probable one of the last epoch in {told}: "
        f"it was chosen to meet {result.target_ms:.4g} ms on the table{moved}."
    )
    if found:
        rows = [(d.place, d.found, d.probable) for d in found]
        header = ("place", "found (probability)", "most probable")
        yield page.details("Where they differ", page.table(header, rows, name="departures"))


def _options(files: RunFiles) -> Iterator[Markup]:
    if files.options:
        given = sorted(files.options.items())[:MOST_OPTIONS]
        rows = [(clean(key), option(value)) for key, value in given]
        yield page.details("All options", page.table(("option", "value"), rows, name="options"))


def option(value: object) -> str:
    """An option's value as it is read."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _origin(files: RunFiles) -> Markup:
    """The command, and all that a result depends on."""
    result, run = files.result, files.run
    parts: list[Part] = []
    if files.arguments is not None:
        parts.append(page.code(shlex.join(["python", "-m", "tfnas.search", *files.arguments])))
    else:
        parts.append(page.paragraph("The command isn't known.", kind="muted"))
    if result is None:
        known = (("strategy", run.strategy), ("space", run.space), ("seed", run.seed))
        parts.append(page.key_values((k, v) for k, v in known if v is not None))
        parts += _options(files)
        return page.section("Run", *parts, name="run")
    low, high = result.feasible_ms
    facts: list[tuple[Part, Part]] = [
        ("strategy", clean(result.strategy)),
        ("seed", result.seed),
        ("space", clean(result.space)),
        ("reachable", f"{low:.4g} to {high:.4g} ms"),
        ("device", clean(result.device)),
        ("measured with", f"batch {result.batch}, threads {result.threads}, "
                          f"{clean(result.precision)}"),
        ("table", clean(result.table)),
        ("data", clean(result.data)),
        ("input", f"{result.resolution} px, {result.classes} classes"),
    ]  # fmt: skip
    if files.records and files.records[-1].op_probs:  # other strategies learn none
        told = f"{result.log_prob:.4g} nats; most probable net {result.argmax_log_prob:.4g}"
        facts.append(("log-probability", told))
    if result.measured_raw_ms is not None:
        raw = result.measured_raw_ms
        told = f"minimum {raw.min:.4g} ms, median {raw.median:.4g} ms, as fast as the machine was"
        facts.append(("single runs", told))
    facts += [(clean(k).replace("_", " "), f"{v:,.6g}") for k, v in result.scores.items()]
    versions = ", ".join(f"{clean(k)} {clean(str(v))}" for k, v in result.versions.items())
    facts.append(("versions", versions))
    total = sum(result.seconds.values())
    seconds = [
        (clean(stage), f"{s:,.1f}", page.bar(s / total if total > 0 else 0))
        for stage, s in result.seconds.items()
    ]
    # What is measured of stem and stages is so after the result.
    whole = "all" if files.stages is None else "all, before the parts were measured"
    return page.section(
        "Run",
        *parts,
        page.key_values(facts),
        page.table(("stage", "seconds", ""), [*seconds, (whole, f"{total:,.1f}", None)],
                   numeric=(1,), name="seconds"),
        *_options(files),
        name="run",
    )  # fmt: skip

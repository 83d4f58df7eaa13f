"""Reports in a real browser: a run's page as `python -m tfnas.report` leaves it.

That of a real search is looked at in tests/test_search.py, which runs one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.browser import check_self_contained, render
from tests.support.run_folders import RESULT, saved_run, unfinished_run
from tfnas import report
from tfnas.process.exits import DONE

pytestmark = pytest.mark.slow

EVIL = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"


def written(*folders: Path) -> None:
    with pytest.raises(SystemExit) as end:
        report.main([str(folder) for folder in folders])
    assert end.value.code == DONE


def test_a_run_s_page(tmp_path: Path) -> None:
    folder, subnet = saved_run(tmp_path / "run")
    written(folder)
    file = folder / "report.html"
    check_self_contained(file.read_text())
    rendered = render(file, tmp_path)
    assert rendered.console == ()
    found = check_self_contained(rendered.dom)
    result = json.loads((folder / "result.json").read_text())
    for name in ("target_ms", "table_ms", "measured_ms"):
        (told,) = found.values(f"data-{name.replace('_', '-')}")
        assert float(told) == result[name]
    assert found.values("data-width") == [str(op.c_mid) for op in subnet.blocks]
    assert "Met: the measured latency is +0.00 % off the target" in found.text
    # Figures are drawn, their text is text.
    assert sum(tag == "svg" and attrs.get("class") == "plot" for tag, attrs in found.found) == 14
    assert "cross-entropy (nats)" in found.text


def test_hostile_files_stay_text(tmp_path: Path) -> None:
    folder, _ = saved_run(
        tmp_path / "run", device=EVIL, strategy=EVIL, data=EVIL, noisy=EVIL, precision=EVIL,
        versions={EVIL: EVIL}, scores={EVIL: 1.0}, seconds={EVIL: 1.0},
        options={**RESULT.options, EVIL: EVIL},
    )  # fmt: skip
    with (folder / "history.jsonl").open("a") as lines:
        lines.write(json.dumps({"epoch": EVIL}) + "\n")
    (folder / "stages.json").write_text(json.dumps({"format": EVIL}))
    (folder / "search_overrides.yaml").write_text(json.dumps([EVIL, "target_ms=8"]))
    written(folder)
    rendered = render(folder / "report.html", tmp_path)
    assert rendered.console == ()
    found = check_self_contained(rendered.dom)
    assert "<title>run</title>" not in rendered.dom
    assert found.text.count("<script>document.title = 'run'</script>") >= 10


def test_the_page_of_several_runs(tmp_path: Path) -> None:
    saved_run(tmp_path / "a", strategy=EVIL)
    saved_run(tmp_path / "b: c", seed=4)
    unfinished_run(tmp_path / "d")
    written(tmp_path)
    assert (tmp_path / "runs.csv").exists()
    assert (tmp_path / "a" / "report.html").exists()
    assert not (tmp_path / "d" / "report.html").exists()
    rendered = render(tmp_path / "report.html", tmp_path)
    assert rendered.console == ()
    found = check_self_contained(rendered.dom)
    assert found.values("href")[-2:] == ["./a/report.html", "./b%3A%20c/report.html"]
    assert "3 runs, 2 finished" in found.text

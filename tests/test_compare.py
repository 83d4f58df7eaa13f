"""Nets trained and compared, as a user does it."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import check_self_contained
from tests.support.entry import Entry, compose_config, environment, run_entry
from tests.support.nets import image_folder
from tests.support.spaces import load_space, macs_table
from tests.test_report import RESULT
from tfnas.app.schemas import CompareConfig
from tfnas.compare import prepare
from tfnas.comparison.contenders import gap_of
from tfnas.intervals import mean_interval, paired_difference
from tfnas.process.exits import DONE, INTERRUPTED, UNUSABLE_INPUT
from tfnas.process.versions import versions
from tfnas.space.subnet import Subnet

pytestmark = pytest.mark.slow

SPACE = load_space(classes=4)
TABLE = macs_table(SPACE)
FAST = ("data=folder", "recipe=test", "recipe.resolution=8", "accelerator=cpu", "threads=1")


def close_pair() -> tuple[Subnet, Subnet]:
    """Two nets of nearly one latency on the made-up table."""
    rng = random.Random(0)
    nets = sorted((SPACE.sample(rng) for _ in range(60)), key=TABLE.total)
    return next(
        (a, b) for a, b in pairwise(nets) if 1e-6 < gap_of([*map(TABLE.total, (a, b))]) < 0.01
    )


def save_runs(folder: Path, **nets: Subnet) -> None:
    TABLE.save(folder / "table.json")
    for name, subnet in nets.items():
        (folder / name).mkdir(parents=True)
        subnet.save(folder / name / "subnet.json")
        replace(RESULT, table=str(folder / "table.json")).save(folder / name / "result.json")


def values(file: Path) -> dict[str, Any]:
    """What a comparison found, without what it took and where it lies."""
    record = json.loads(file.read_text())
    for name in ("command", "costs", "cpu_seconds"):
        del record[name]
    for trial in record["trials"]:
        del trial["seconds"], trial["weights"]
        for epoch in trial["epochs"]:
            del epoch["seconds"]
    return record


@dataclass(frozen=True)
class Done:
    folder: Path  # with runs A and B, images and out
    text: str

    @property
    def command(self) -> list[str]:
        return ["A", "B", f"data.root={self.folder / 'images'}", *FAST]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("compare")
    image_folder(folder / "images")
    a, b = close_pair()
    save_runs(folder, A=a, B=b)
    started = Done(folder, "")
    ended = run_entry("tfnas.compare", *started.command, "out=out", cwd=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    return replace(started, text=ended.stdout)


def test_two_runs_are_compared(done: Done) -> None:
    record = json.loads((done.folder / "out" / "compare.json").read_text())
    assert record["status"] == "finished"
    by_net: dict[str, list[float]] = {}
    for trial in record["trials"]:
        by_net.setdefault(trial["subnet"], []).append(trial["top1"])
        weights = done.folder / trial["weights"]
        assert weights.is_file()
        assert json.loads((weights.parent / "train.json").read_text())["top1"] == trial["top1"]
    ours, theirs = (by_net[method["nets"][0]["subnet"]] for method in record["methods"])
    assert [trial["seed"] for trial in record["trials"]] == [0, 0, 1, 1, 2, 2]
    a, b = record["results"]
    assert (a["name"], b["name"], a["difference"]) == ("A", "B", None)
    assert a["top1"]["low"] == mean_interval(ours).low
    apart = paired_difference(theirs, ours)
    assert b["difference"]["mean"] == apart.mean
    assert b["difference"]["told_apart"] is apart.excludes_zero
    assert record["table"]["file"] == str(done.folder / "table.json")
    assert record["recipe"]["name"] == "test"
    assert str(done.folder / "images") in record["data"]["origin"]
    assert record["data"]["test_images"] == 80
    assert (
        0
        < record["cpu_seconds"]
        == pytest.approx(sum(cost["cpu_seconds"] for cost in record["costs"]))
    )
    assert set(record["versions"]) == {"torch", "tfnas"}  # the trainings' own files tell all


def test_what_is_printed(done: Done) -> None:
    assert "training 1 of 6: A (A/subnet.json), seed 0" in done.text
    assert "training 6 of 6: B (B/subnet.json), seed 2" in done.text
    assert "net  on the table" in done.text
    assert "with 3 seeds an interval is wide" in done.text
    assert "wrote out/compare.json and out/compare.html" in done.text
    assert "better" not in done.text
    page = (done.folder / "out" / "compare.html").read_text()
    assert "python -m tfnas.compare" in page
    assert "'nets=[A,B]' out=out" in page.replace("&#39;", "'")


def test_json_is_all_of_standard_output(done: Done) -> None:
    again = run_entry("tfnas.compare", *done.command, "out=out", "json=-", cwd=done.folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout == (done.folder / "out" / "compare.json").read_text()
    assert "json=" not in json.loads(again.stdout)["command"]
    assert "wrote out/compare.json and out/compare.html" in again.stderr
    nowhere = run_entry("tfnas.compare", "none", "none", "json=-", cwd=done.folder)
    assert (nowhere.returncode, nowhere.stdout) == (UNUSABLE_INPUT, "")
    folder = run_entry("tfnas.compare", *done.command, "out=out", "json=A", cwd=done.folder)
    assert folder.returncode == UNUSABLE_INPUT
    assert "json=A: expected a file for the result" in folder.stdout


def test_an_interrupted_comparison_goes_on_to_the_same_values(done: Done) -> None:
    with Entry("tfnas.compare", *done.command, "out=other", cwd=done.folder) as comparison:
        comparison.until(lambda line: "training 3 of 6" in line)
        comparison.until(lambda line: line.startswith("epoch 1/"))
        comparison.send_signal(signal.SIGINT)
        status, text = comparison.finish()
    assert status == INTERRUPTED, text
    assert "go on with: python -m tfnas.compare" in text
    file = done.folder / "other" / "compare.json"
    part = json.loads(file.read_text())
    assert (part["status"], part["results"]) == ("unfinished", None)
    assert 2 <= len(part["trials"]) < 6
    again = text.rpartition("go on with: python -m ")[2]
    went_on = subprocess.run(
        f"{sys.executable} -m {again}", shell=True, cwd=done.folder, env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert went_on.returncode == 0, went_on.stdout + went_on.stderr
    assert f"6 trainings, {len(part['trials'])} of them finished" in went_on.stdout
    assert "training 1 of 6" not in went_on.stdout
    assert values(file) == values(done.folder / "out" / "compare.json")
    spent = {(c["subnet"], c["seed"]): c["cpu_seconds"] for c in part["costs"]}
    for cost in json.loads(file.read_text())["costs"]:  # both starts count
        assert cost["cpu_seconds"] >= spent.get((cost["subnet"], cost["seed"]), 0.0)


def test_finished_trainings_are_kept_and_seeds_are_added(done: Done, tmp_path: Path) -> None:
    shutil.copytree(done.folder / "out", tmp_path / "out")
    (tmp_path / "out" / "compare.json").unlink()  # as if it was killed before it wrote it
    out = f"out={tmp_path / 'out'}"
    grown = run_entry("tfnas.compare", *done.command, out, "seeds=[0,1,2,7]", cwd=done.folder)
    assert grown.returncode == 0, grown.stdout + grown.stderr
    assert "8 trainings, 6 of them finished" in grown.stdout
    assert "training 7 of 8: A (A/subnet.json), seed 7" in grown.stdout
    before = values(done.folder / "out" / "compare.json")["trials"]
    after = values(tmp_path / "out" / "compare.json")
    assert after["trials"][:6] == before
    assert after["results"][0]["top1"]["n"] == 4


def test_several_nets_of_a_method_far_apart_in_latency(done: Done) -> None:
    small, large = (SPACE.sample(random.Random(seed)) for seed in (1, 2))
    save_runs(done.folder, C=small, D=large)
    shutil.copytree(done.folder / "out", done.folder / "several")
    command = ["nets.ours=[A,B]", "nets.theirs=[C,D]", *done.command[2:], "out=several"]
    refused = run_entry("tfnas.compare", *command, cwd=done.folder)
    assert refused.returncode == UNUSABLE_INPUT
    accept = re.findall(r"latency_tolerance=[\d.]+", refused.stdout)[-1]
    ended = run_entry("tfnas.compare", *command, accept, cwd=done.folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "12 trainings, 6 of them finished" in ended.stdout
    record = json.loads((done.folder / "several" / "compare.json").read_text())
    assert record["unit"] == "net"
    assert [row["top1"]["n"] for row in record["results"]] == [2, 2]
    page = (done.folder / "several" / "compare.html").read_text().replace("&#39;", "'")
    for told in (ended.stdout, page):
        assert f"allowed by {accept}" in told
    assert record["latency_gap"] > 0.01


def config_of(done: Done, *overrides: str, nets: str = "[A,B]") -> CompareConfig:
    inside = nets.replace("A", f"{done.folder}/A").replace("B", f"{done.folder}/B")
    return compose_config(
        CompareConfig, "compare", f"nets={inside}", f"data.root={done.folder / 'images'}", *FAST,
        f"out={done.folder / 'unused'}", *overrides,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["seeds=[0,1]"], "seeds=[0, 1]: expected 3 or more different ones"),
        (["seeds=[0,1,1]"], "expected 3 or more different ones"),
        (["seeds=[0,1,-1]"], "expected 0 to"),
        (["latency_tolerance=-1"], "latency_tolerance=-1"),
        (["latency_tolerance=nan"], "latency_tolerance=nan"),
        (["latency_tolerance=0"], "latency_tolerance="),
        (["table=none.json"], "none.json doesn't exist"),
        (["threads=0"], "threads=0: expected"),
        (["on_nonfinite=hope"], "on_nonfinite='hope'"),
        (["accelerator=tpu"], "accelerator='tpu'"),
        (["recipe.epochs=0"], "recipe.epochs=0"),
        (["recipe.batch_size=500"], "80 images make no batch of 500"),
        (["data.classes=5"], "data.classes=5"),
        (["data=fashion_mnist", "data.root=shipped"], "has 4 classes, the data 10"),
        (["nets=null"], "give two or more runs"),
    ],
)
def test_bad_input_is_refused_before_any_training(
    done: Done, overrides: list[str], told: str
) -> None:
    with pytest.raises((ValueError, LookupError, OSError)) as caught:
        prepare(config_of(done, *overrides))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (done.folder / "unused").exists()


def test_a_folder_holds_one_comparison(done: Done) -> None:
    out = f"out={done.folder / 'out'}"
    before = (done.folder / "out" / "compare.json").read_bytes()
    with pytest.raises(ValueError, match=r"recipe.lr: 0.05 there, 0.1 now.*another out=FOLDER"):
        prepare(config_of(done, out, "recipe.lr=0.1"))
    with pytest.raises(ValueError, match="holds a comparison with seeds 2, which would be lost"):
        prepare(config_of(done, out, "seeds=[0,1,3]"))
    other = SPACE.sample(random.Random(9))
    (done.folder / "B2").mkdir(exist_ok=True)
    other.save(done.folder / "B2" / "subnet.json")
    with pytest.raises(ValueError, match="holds a comparison with 1 other nets, which"):
        prepare(
            config_of(done, out, "latency_tolerance=100", f"table={done.folder / 'table.json'}",
                      nets="[A,B2]")
        )  # fmt: skip
    assert (done.folder / "out" / "compare.json").read_bytes() == before


def test_damaged_results_are_refused(done: Done, tmp_path: Path) -> None:
    shutil.copytree(done.folder / "out", tmp_path / "out")
    (train, *_) = sorted((tmp_path / "out").rglob("train.json"))
    record = json.loads(train.read_text())
    for change in ({"top1": 7}, {"epochs": []}, {"versions": {}}, {"epochs": [{"x": 1}]}):
        train.write_text(json.dumps({**record, **change}))
        with pytest.raises(ValueError, match="is no result of a training"):
            prepare(config_of(done, f"out={tmp_path / 'out'}"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "cuda"}, "accelerator: 'cuda' there, 'cpu' now"),
        ({"threads": 3}, "threads: 3 there, 1 now"),
        ({"versions": {**versions(), "torch": "1.13"}}, "torch: '1.13' there, '"),
        ({"versions": {**versions(), "tfnas": "0.0.9"}}, "tfnas: '0.0.9' there, '"),
        ({"skipped_steps": 1}, "on_nonfinite: 'skip' there, 'stop' now"),
    ],
)
def test_all_trainings_are_made_alike(
    done: Done, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    shutil.copytree(done.folder / "out", tmp_path / "out")
    for train in (tmp_path / "out").rglob("train.json"):
        train.write_text(json.dumps({**json.loads(train.read_text()), **change}))
    with pytest.raises(ValueError, match=re.escape(f"was trained otherwise ({told}")):
        prepare(config_of(done, f"out={tmp_path / 'out'}"))
    if "skipped_steps" in change:
        prepare(config_of(done, f"out={tmp_path / 'out'}", "on_nonfinite=skip"))


def test_what_another_process_finished_meanwhile_is_kept(
    done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tfnas.compare.overrides", list)
    out = tmp_path / "out"
    work = prepare(config_of(done, f"out={out}"))
    shutil.copytree(done.folder / "out", out, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    assert work() == DONE
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found, there = (values(each / "compare.json") for each in (out, done.folder / "out"))
    assert found["trials"] == there["trials"]


def test_without_out_the_same_command_has_the_same_folder(
    done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tfnas.compare.is_sweep", lambda: False)
    for overrides, count in (((), 1), (("seeds=[3,4,5]",), 1), (("recipe.lr=0.1",), 2)):
        prepare(config_of(done, "out=null", *overrides))
        assert len(list((tmp_path / "runs").glob("compare_*"))) == count


def test_the_command_line_ends_with_2(done: Done, tmp_path: Path) -> None:
    ended = run_entry("tfnas.compare", "nets.x=A", *done.command[2:], cwd=done.folder)
    assert ended.returncode == UNUSABLE_INPUT
    assert "names 1: give two or more runs" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    ended = run_entry("tfnas.compare", "A", "nets=[B]", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (UNUSABLE_INPUT, "")
    assert ended.stderr.startswith("error: A beside nets")


def test_hostile_names_stay_text(done: Done) -> None:
    names = ("<script>alert(1)<b>$x^2$", "b\x1b[2J it's")
    for given, name in zip("AB", names, strict=True):
        shutil.copytree(done.folder / given, done.folder / name)
    shutil.copytree(done.folder / "out", done.folder / "hostile")  # nothing is trained again
    command = [*names, *done.command[2:], "out=hostile"]
    ended = run_entry("tfnas.compare", *command, cwd=done.folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "6 trainings, 6 of them finished" in ended.stdout
    text = (done.folder / "hostile" / "compare.html").read_text()
    assert names[0] in check_self_contained(text).text
    for told in (ended.stdout, text):
        assert "\x1b" not in told

"""`resume=FOLDER` puts the options that a run or a sweep began with before the ones given."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tfnas.app.command_line import override
from tfnas.app.resume import resumed
from tfnas.runs.folder import SWEEP_OVERRIDES, RunFolder


def run_folder(folder: Path, *overrides: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(list(overrides)), RunFolder(folder).overrides)
    return folder


def test_without_it_nothing_changes() -> None:
    for arguments in (["target_ms=8"], ["resume=null"], ["subnet=x", "resume=true"], []):
        assert resumed("search", arguments) == arguments


def test_a_run_goes_on_with_its_options_and_those_given_on_top(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "a run", "target_ms=8", "strategy=spos", "seed=3", "resume=gone")
    found = resumed("search", [f"resume='{run}'", "verify=standard", "seed=4"])
    where = f"hydra.run.dir='{run}'"
    again = f"resume='{run}'"
    assert found == [where, "target_ms=8", "strategy=spos", "seed=4", "verify=standard", again]


@pytest.mark.parametrize("name", ["it's", 'a "b"', "a\\\\b", "{x} $HOME", "plain"])
def test_whatever_a_folder_is_called(name: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / name, "target_ms=8")
    found = resumed("search", [override("resume", run)])
    assert found == [override("hydra.run.dir", run), "target_ms=8", override("resume", run)]


def sweep_folder(folder: Path, *overrides: str) -> Path:
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / SWEEP_OVERRIDES)
    return folder


def test_a_sweep_goes_on_as_a_sweep(tmp_path: Path) -> None:
    """Its options keep their places, which number its members."""
    sweep_folder(tmp_path, "target_ms=8,10", "cores=1", "seed=0,1", "hydra/launcher=joblib")
    assert resumed("search", ["-m", f"resume={tmp_path}", "tolerance=0.1", "cores=2"]) == [
        "--multirun", f"hydra.sweep.dir={tmp_path}", "target_ms=8,10", "cores=2", "seed=0,1",
        "hydra/launcher=joblib", "tolerance=0.1", f"resume={tmp_path}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "option",
    [
        "seed=4", "+target_ms=0.07", "+tolerance=0.1", "hydra.sweep.dir=x", "tolerance=0.1,0.2",
        "hydra.sweeper.params=x", "table=c.json",
    ],
)  # fmt: skip
def test_a_sweep_takes_no_options_that_make_other_runs(option: str, tmp_path: Path) -> None:
    sweep_folder(tmp_path, "target_ms=8,10", "table=a.json,b.json")
    with pytest.raises(ValueError, match="would make other runs"):
        resumed("search", [f"resume={tmp_path}", option])


def test_a_sweep_from_elsewhere_names_no_code(tmp_path: Path) -> None:
    sweep_folder(tmp_path, "seed=0,1", "hydra.launcher.x={_target_:os.system}")
    with pytest.raises(ValueError, match="no list of options"):
        resumed("search", [f"resume={tmp_path}"])


def test_a_training_goes_on_in_its_folder(tmp_path: Path) -> None:
    OmegaConf.save(
        OmegaConf.create(["subnet=a.json", "out=here"]), RunFolder(tmp_path).train_overrides
    )
    assert resumed("train", [f"resume={tmp_path}"]) == [
        f"out={tmp_path}", "subnet=a.json", "resume=true"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="in its own folder"):
        resumed("train", [f"resume={tmp_path}", "out=there"])


@pytest.mark.parametrize(
    "text",
    [
        "- hydra.launcher._target_=os.system\n",  # of a run: where a sweep ran isn't its business
        "- hydra.run.dir=/\n",
        "- hydra/job_logging=x\n",
        "- --config-dir\n",
        "a: 1\n",
        "- 1\n",
        "- [a=1]\n",
        "- ${a}\n",
        "{",
        "\x00",
        "&a [*a]",
    ],
)
def test_what_is_no_list_of_options_is_refused(tmp_path: Path, text: str) -> None:
    run_folder(tmp_path)
    RunFolder(tmp_path).overrides.write_text(text)
    with pytest.raises(ValueError, match=r"options|YAML"):
        resumed("search", [f"resume={tmp_path}"])


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="expected the folder of a run"):
            resumed("search", [f"resume={folder}"])
    run_folder(tmp_path / "run", "target_ms=8")
    with pytest.raises(ValueError, match=RunFolder(tmp_path).train_overrides.name):
        resumed("train", [f"resume={tmp_path / 'run'}"])

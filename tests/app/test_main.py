"""Every YAML composes, and what is wrong in a command line is one line and exit 2."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tests.support.entry import run_entry
from tfnas.app.command_line import override
from tfnas.app.schemas import (
    CardConfig,
    CompareConfig,
    ExportConfig,
    ProfilersConfig,
    SearchConfig,
    TrainConfig,
    VerifierConfig,
)
from tfnas.app.sweep import BASIC_SWEEPER, BY_NUMBER, Watch
from tfnas.app.values import conf_path
from tfnas.process.exits import UNUSABLE_INPUT

pytestmark = pytest.mark.slow

SCHEMAS = {
    "search": SearchConfig,
    "profilers": ProfilersConfig,
    "verify": VerifierConfig,
    "card": CardConfig,
    "train": TrainConfig,
    "compare": CompareConfig,
    "export": ExportConfig,
}
GROUPS = {
    group: sorted(p.stem for p in (conf_path() / group).glob("*.yaml"))
    for group in (
        "space",
        "data",
        "strategy",
        "budget",
        "finals",
        "derive",
        "profile",
        "verify",
        "device",
    )
}
REQUIRED = ["target_ms=8", "onnx=model.onnx", "subnet=subnet.json"]


def composed(name: str, *overrides: str) -> object:
    ConfigStore.instance().store(name=f"{name}_schema", node=SCHEMAS[name])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_path()), version_base="1.3"):
        cfg = compose(name, overrides=list(overrides))
    return OmegaConf.to_object(cfg)


def required(name: str) -> list[str]:
    fields = SCHEMAS[name].__dataclass_fields__
    return [r for r in REQUIRED if r.partition("=")[0] in fields]


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_entry_point_composes_to_its_dataclass(name: str) -> None:
    assert isinstance(composed(name, *required(name)), SCHEMAS[name])


@pytest.mark.parametrize(
    ("group", "option"), [(group, name) for group, names in GROUPS.items() for name in names]
)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    cfg = composed("search", "target_ms=8", f"{group}={option}")
    assert isinstance(cfg, SearchConfig)


@pytest.mark.parametrize("recipe", sorted(p.stem for p in (conf_path() / "recipe").glob("*.yaml")))
def test_every_recipe_composes(recipe: str) -> None:
    cfg = composed("train", "subnet=x.json", f"recipe={recipe}")
    assert isinstance(cfg, TrainConfig)
    assert cfg.recipe.name == recipe


def hydra_config(name: str, *overrides: str) -> DictConfig:
    ConfigStore.instance().store(name=f"{name}_schema", node=SCHEMAS[name])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_path()), version_base="1.3"):
        cfg = compose(name, overrides=[*required(name), *overrides], return_hydra_config=True)
    return cfg.hydra


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_sweeps_are_watched_and_their_folders_stay_the_same(name: str) -> None:
    hydra = hydra_config(name)
    assert instantiate(hydra.callbacks.sweep).__class__ is Watch
    assert OmegaConf.to_container(hydra.sweep)["subdir"] == BY_NUMBER
    assert hydra.sweeper["_target_"] == BASIC_SWEEPER


def test_launchers_are_those_of_their_packages() -> None:
    launcher = hydra_config("search", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2").launcher
    assert launcher["_target_"].endswith("joblib_launcher.JoblibLauncher")
    assert launcher.n_jobs == 2


def test_every_folder_of_conf_is_installed() -> None:
    setup = ConfigParser()
    setup.read(conf_path().parent / "setup.cfg")
    for folder in {path.parent for path in conf_path().rglob("*.yaml")}:
        package = ".".join(["tfnas.conf", *folder.relative_to(conf_path()).parts])
        assert package in setup["options"]["packages"].split()
        assert setup["options.package_data"][package] == "*.yaml"


def test_first_line_of_every_yaml_is_a_comment() -> None:
    for path in conf_path().rglob("*.yaml"):
        assert path.read_text().startswith("#"), path


def test_an_impossible_folder_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, told in (("file", "hydra.run.dir=FOLDER"), ("'it's", "needs quotes")):
        command = ["target_ms=8", f"hydra.run.dir={folder}"]
        done = run_entry("tfnas.search", *command, cwd=tmp_path)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def search(*overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_entry("tfnas.search", *overrides, f"hydra.run.dir={cwd}/run", cwd=cwd)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["target_ms=8", "targt=3"], "targt: there is no such key; did you mean target_ms?"),
        (["target_ms=8", "budget.epohs=3"], "did you mean budget.epochs?"),
        (["target_ms=8", "nothing.like.it=3"], "there is no such key; --help lists them"),
        (["target_ms=fast"], "target_ms"),
        ([], "target_ms"),
        (["target_ms=8", "space=mars"], "space"),
        (["target_ms=-1"], "target_ms=-1"),
        ([f"target_ms={10**320}"], "(key target_ms)"),
        (["target_ms=8", "tolerance=0"], "tolerance=0"),
        (["target_ms=8", "strategy.clip=x"], "clip"),
        (["target_ms=8", "strategy=tfnas", "strategy.depth=deep"], "sink"),
        (["target_ms=8", "budget.batch_size=1"], "batch"),
        (["target_ms=8", "minutes=null", "budget.warmup_epochs=99"], "warmup_epochs=99"),
        (["target_ms=8", "derive.method=guess"], "constrained"),
        (["target_ms=8", "data=folder"], "root"),
        (["target_ms=8", "data=folder", "data.root=/nowhere"], "/nowhere"),
        (["target_ms=8", "data.root=shipped", "space.classes=7"], "classes=7"),
        (["target_ms=8", "table=/nowhere.json"], "/nowhere.json"),
        (["target_ms=8", "data.root=shipped", "accelerator=tpu"], "cuda"),
    ],
)
def test_unusable_input_is_one_line_and_exit_2(
    overrides: list[str], told: str, tmp_path: Path
) -> None:
    done = search(*overrides, cwd=tmp_path)
    text = done.stdout + done.stderr
    assert done.returncode == UNUSABLE_INPUT, text
    assert told in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_override_survives_hard_paths(tmp_path: Path) -> None:
    hard = tmp_path / "it's a = b, {c} $d"
    hard.mkdir()
    done = search("target_ms=8", override("table", hard / "none.json"), cwd=tmp_path)
    assert str(hard) in done.stdout + done.stderr
    assert done.returncode == UNUSABLE_INPUT


HELP = "sys.argv = ['tfnas', '--help']; from tfnas.__main__ import main; main()"
VENDORS = ("tensorrt", "tensorrt_rtx", "onnx", "onnxruntime", "pynvml", "matplotlib")


def test_library_works_without_vendor_packages() -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({VENDORS}));"
        "import tfnas, tfnas.space.ops, tfnas.table, tfnas.derive.methods, tfnas.nets.blocks;"
        "import tfnas.nets.supernet, tfnas.data.sets, tfnas.app.main, tfnas.training.loop;"
        "import tfnas.strategies as s; [s.strategy_class(name) for name in s.STRATEGIES];"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_space_table_and_derive_do_not_import_torch() -> None:
    code = (
        "import sys, tfnas, profilers, tfnas.space.spec, tfnas.latency.table, tfnas.derive.methods;"
        "import tfnas.app.main;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("code", ["import tfnas, profilers", HELP], ids=["import", "help"])
def test_what_all_wait_for_needs_the_standard_library_alone(code: str) -> None:
    """Torch takes seconds to import; whoever only asks what there is doesn't wait for it."""
    own = "set(name.partition('.')[0] for name in sys.modules)"
    code = f"import sys; before = {own}; {code}; print(*({own} - before - sys.stdlib_module_names))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()) <= {"tfnas", "profilers"}

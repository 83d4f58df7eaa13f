"""Dockerfile builds as far as it can without a daemon, and its wheel serves another user who may
write nowhere but into his own folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from tests.support import image
from tests.support.entry import REPOSITORY
from tests.support.nets import few_root
from tests.support.spaces import load_space, macs_table
from tfnas.derive.menu import feasible
from tfnas.process.exits import DONE, UNUSABLE_INPUT

PACKAGED = ("conf", "latency_tables", "profilers", "tfnas")
PLACES = {"conf": "tfnas/conf", "latency_tables": "tfnas/latency_tables"}  # inside of a wheel
KEPT = ("--cached", "--others", "--exclude-standard")  # and not ignored
STRANGER = 54321  # no user of this machine: no name, no home


def files(*arguments: str) -> set[str]:
    """Of what is packaged, as git knows them."""
    listed = ["git", "ls-files", "-z", *arguments, "--", *PACKAGED]
    done = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stdout.split("\0")) - {""}


# -- Dockerfile ------------------------------------------------------------------------------------


def test_all_that_is_copied_is_there_and_nothing_else_is_sent() -> None:
    wheel, last = image.stages()
    sent = image.context()
    for stage in (wheel, last):
        for copy in stage.of("COPY"):
            if copy.flags:
                assert copy.flags == (f"--from={wheel.name}",)
                continue
            for source in copy.words[:-1]:
                assert any(path.split("/")[0] == source for path in sent), source
    used = {source for stage in (wheel, last) for source, _ in image.copied(stage)}
    assert used == sent
    assert files(*KEPT) <= sent
    assert not files("--others", "--ignored", "--exclude-standard") & sent


def test_it_ends_as_a_command_of_a_user_without_rights() -> None:
    stages = image.stages()
    last = stages[-1]
    assert {stage.base for stage in stages} == {"python:3.11-slim"}
    assert last.of("USER")[-1].words == ("tfnas",)
    assert [each.name for each in last.instructions].index("USER") > max(
        place for place, each in enumerate(last.instructions) if each.name == "RUN"
    )
    ((entry,),) = (each.words for each in last.of("ENTRYPOINT"))
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert setup["options.entry_points"]["console_scripts"].split(" = ")[0].strip() == entry
    (volume,) = (each.words for each in last.of("VOLUME"))
    assert last.of("WORKDIR")[-1].words == volume  # where runs land
    assert last.of("ENV")[-1].words[:2] == ("XDG_DATA_HOME", *volume)  # and tables
    for run in (each for stage in stages for each in stage.of("RUN")):
        subprocess.run(["/bin/sh", "-n", "-c", *run.words], check=True)


# -- the wheel -------------------------------------------------------------------------------------


class Installed(NamedTuple):
    """The wheel in an environment of its own, which sees the packages of this one.

    Attributes:
        said: what pip printed.
    """

    root: Path
    wheel: Path
    commands: Path
    said: str


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    """By the commands of Dockerfile, without a network; read-only then."""
    with TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        building, last = image.stages()
        offline = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0",
        }  # fmt: skip
        image.lay(building, root)
        image.run(building, "pip", root, offline)
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
        commands = root / "venv" / "bin"
        remove = [commands / "pip", "uninstall", "--quiet", "--yes", "setuptools"]
        subprocess.run(remove, check=True, env=offline)  # that of Python 3.11, older than ours
        (packages,) = (root / "venv" / "lib").glob("python*/site-packages")
        here = [path for path in sys.path if Path(path).name == "site-packages"]
        (packages / "of_these_tests.pth").write_text("\n".join(here) + "\n")
        image.lay(last, root)
        said = image.run(last, "pip", root, {**offline, "PATH": f"{commands}:/usr/bin:/bin"})
        (wheel,) = (root / "wheels").glob("*.whl")
        for path in [packages, *packages.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
        yield Installed(root, wheel, commands, said)
        for path in [packages, *packages.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)


def differing() -> list[str]:
    """Packages that are here in another version than constraints.txt has."""
    found = []
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            try:
                fits = wanted.specifier.contains(version(wanted.name), prereleases=True)
            except PackageNotFoundError:
                continue
            if not fits:
                found.append(line)
    return found


pins = pytest.mark.skipif(bool(differing()), reason=f"here are others than {differing()[:3]}")


@pins
@pytest.mark.slow
def test_the_wheel_holds_all_that_is_packaged(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set()
    for path in files(*KEPT):
        top, _, rest = path.partition("/")
        wanted.add(f"{PLACES.get(top, top)}/{rest}")
    assert found == wanted
    assert "Successfully installed tfnas-" in installed.said


def as_stranger(
    installed: Installed, *command: str | Path, cwd: Path, user: int = STRANGER, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run as a user who may read everything and write to what is his, with few variables.

    Without root's rights it is this user, and what is installed is read-only for him, too.
    """
    cwd.mkdir(exist_ok=True)
    prefix: list[str] = []
    if os.getuid() == 0:
        os.chown(cwd, user, user)
        # A checkout or environment may lie in a folder that is root's alone.
        reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *reading]
    variables = {"PATH": f"{installed.commands}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*prefix, *map(str, command)], cwd=cwd, env={**variables, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


root_needs_setpriv = pytest.mark.skipif(
    os.getuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv (util-linux)"
)

MODELS = """
import sys, tfnas, torch
assert tfnas.__file__.startswith(sys.prefix), tfnas.__file__
for name in tfnas.list_models():
    network = tfnas.create_model(name, classes=3).eval()
    with torch.inference_mode():
        print(name, tuple(network(torch.zeros(1, 3, 32, 32)).shape))
tfnas.load_space("tfnas", 10), tfnas.load_preset("recipe", "quick")
print(len(tfnas.load_images("fashion_mnist", root="shipped").train))
from tfnas.app.values import shipped_tables_path
print([tfnas.load_table(path).device.name for path in shipped_tables_path().glob("*.json")])
"""


@pins
@pytest.mark.slow
@root_needs_setpriv
@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_a_stranger_makes_every_net_of_the_gallery(installed: Installed, home: str | None) -> None:
    cwd = installed.root / f"stranger{home is None}"
    environment = {} if home is None else {"HOME": home}
    done = as_stranger(installed, "tfnas", "--help", cwd=cwd, **environment)
    assert done.returncode == DONE, done.stderr
    assert "tfnas COMMAND" in done.stdout
    done = as_stranger(installed, "python", "-c", MODELS, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    gallery = {p.stem for p in (REPOSITORY / "tfnas/assets/gallery").glob("*.json")}
    *models, images, tables = done.stdout.splitlines()
    assert models == [f"{name} (1, 3)" for name in sorted(gallery)]
    assert images == "12000"
    assert tables.count("'") == 2 * len(list((REPOSITORY / "latency_tables").glob("cpu-*.json")))
    assert list(cwd.iterdir()) == []


@pins
@pytest.mark.slow
@root_needs_setpriv
def test_a_stranger_searches_trains_and_exports(installed: Installed) -> None:
    space, cwd = load_space("tiny"), installed.root / "searches"
    cwd.mkdir()
    table = macs_table(space)
    table.save(cwd / "table.json")
    shutil.copytree(few_root(), cwd / "images", copy_function=shutil.copy)
    target_ms = sum(feasible(space, table)) / 2
    locks = {"TFNAS_LOCKS": str(cwd)}
    done = as_stranger(
        installed, "tfnas", "search", "space=tiny", "budget=test", "cores=1", "data.root=images",
        "table=table.json", f"target_ms={target_ms:.4f}", "hydra.run.dir=run", cwd=cwd, **locks,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    assert (cwd / "run" / "report.html").is_file()
    done = as_stranger(
        installed, "tfnas", "train", "subnet=run/subnet.json", "recipe=test", "recipe.epochs=1",
        "data.root=images", "threads=1", cwd=cwd,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    done = as_stranger(
        installed, "tfnas", "export", "subnet=run/subnet.json", "weights=run/weights.safetensors",
        cwd=cwd,
    )  # fmt: skip
    assert done.returncode == DONE, done.stdout + done.stderr
    assert {path.name for path in cwd.iterdir()} == {"images", "run", "table.json"}


@pins
@pytest.mark.slow
@root_needs_setpriv
@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_a_stranger_measures_where_he_says(installed: Installed, home: str | None) -> None:
    cwd = installed.root / f"measures{home is None}"
    environment = {"TFNAS_LOCKS": str(cwd), **({} if home is None else {"HOME": home})}
    command = ["tfnas", "profile", "device=cpu", "space=tiny", "profile=test", "hydra.run.dir=run"]
    done = as_stranger(installed, *command, cwd=cwd, **environment)
    assert done.returncode == UNUSABLE_INPUT, done.stdout + done.stderr
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "can't write /nonexistent/" in line
    assert "table=FILE, or XDG_DATA_HOME=FOLDER in the environment, is another place" in line
    environment |= {"XDG_DATA_HOME": str(cwd / "data")}
    done = as_stranger(installed, *command, cwd=cwd, **environment)
    assert done.returncode == DONE, done.stdout + done.stderr
    assert len(list((cwd / "data" / "tfnas" / "latency_tables").glob("cpu-*.json"))) == 1

"""README.md and docs/ stay true: what they name exists, what they tell to type is accepted, and
what a page of docs/ doesn't mark `not-run` is run, in a checkout of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from profilers.devices import BACKENDS
from tests.app.test_main import GROUPS, SCHEMAS, required
from tests.support import pages
from tests.support.entry import REPOSITORY, compose_config
from tfnas.app.schemas import SearchConfig
from tfnas.app.several import as_sweep
from tfnas.comparison.contenders import as_overrides
from tfnas.pipeline.inputs import make_strategy
from tfnas.strategies import STRATEGIES

EVERY = pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
SESSIONS = [
    page
    for page in pages.PAGES
    if any((block.language, block.mark) == ("sh", "") for block in pages.blocks(page))
    and page.name != "README.md"
]
FOLDERS = r"(?:benchmarks|conf|docs|latency_tables|profilers|tests|tfnas)/[\w./*-]+"


def run(command: str, checkout: Path) -> None:
    """In a shell, as somebody who works there; no queueing for the machine's lock."""
    own = checkout.with_name(f"{checkout.name}_own")
    if not own.is_dir():
        own.mkdir()
        python = own / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
    environment = {
        "PATH": f"{own}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
        "TFNAS_LOCKS": str(own),
        "OMP_NUM_THREADS": "1",
    }
    for _ in range(4):
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=checkout,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        # Another test's work on the same core may leave no usable measurement.
        go_on = re.search("no usable measurement.*go on with: ([^\n]+)", done.stdout, re.DOTALL)
        if done.returncode == 0 or go_on is None:
            break
        command = go_on[1]
    assert done.returncode == 0, f"{command}{done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", SESSIONS, ids=pages.name)
def test_commands_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    checkout = pages.new_checkout(tmp_path / "checkout")
    pages.follow(page, checkout)
    for block in pages.blocks(page):
        if block.language == "sh" and not block.mark:
            run(block.text, checkout)


@EVERY
def test_blocks_have_a_known_mark(page: Path) -> None:
    assert {block.mark for block in pages.blocks(page)} <= {"", "not-run"}


@EVERY
def test_commands_are_accepted(page: Path, tmp_path: Path) -> None:
    checkout = pages.new_checkout(tmp_path / "checkout")
    if page in SESSIONS:
        pages.follow(page, checkout)
    found = pages.commands(page)
    for module, arguments in found:
        accept(module, arguments, checkout)
    assert found or page not in SESSIONS


def accept(module: str, arguments: Sequence[str], checkout: Path) -> None:
    """Raises whatever the entry point would say of its command line."""
    name = module.rpartition(".")[2]
    if module.startswith(("tfnas", "profilers")) and name in SCHEMAS:
        words = as_sweep(arguments) if name == "search" else list(arguments)
        overrides = list(single(as_overrides(arguments) if name == "compare" else words))
        given = {override.partition("=")[0] for override in overrides}
        if any(word.startswith("--config-dir") for word in arguments):  # commands before write it
            overrides = [o for o in overrides if not o.startswith("space=")]
        overrides += [r for r in required(name) if r.partition("=")[0] not in given]
        accept_options(compose_config(SCHEMAS[name], name, *overrides, conf=checkout / "conf"))
    elif module.startswith("tfnas"):
        if len(arguments) > 1:  # else it is only spoken of
            importlib.import_module(module)._parser().parse_args(arguments)
    else:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{module}.__main__")
        assert spec is not None, module
        assert spec.origin is not None
        for option in (a for a in arguments if a.startswith("--") and module != "pytest"):
            assert f'"{option}"' in Path(spec.origin).read_text(), f"{module} {option}"


def single(arguments: Sequence[str]) -> Iterator[str]:
    """The overrides among the arguments; of a sweep those of its first run.

    `resume=` is no override: the entry point makes others of it, before Hydra reads them.
    """
    others = ("-", "resume=")
    overrides = [word for word in arguments if not word.startswith(others) and word != "job"]
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            yield f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
        else:
            yield str(override.input_line)


def accept_options(config: Any) -> None:
    """What is checked against a class of its own; those that a page adds are checked by running."""
    if isinstance(config, SearchConfig) and config.strategy["name"] in STRATEGIES:
        make_strategy(config.strategy, config.derive.method)
    device = getattr(config, "device", {})
    if device.get("kind") in BACKENDS:
        module = importlib.import_module(BACKENDS[device["kind"]])
        OmegaConf.merge(OmegaConf.structured(module.Options), device)


@cache
def keys() -> frozenset[str]:
    """Every key that some entry point takes."""
    found = set(GROUPS) | {"recipe"}
    for name, schema in SCHEMAS.items():
        found |= set(flat(OmegaConf.structured(compose_config(schema, name, *required(name)))))
    for group in ("device", "strategy"):
        for option in GROUPS[group]:
            config = compose_config(SearchConfig, "search", "target_ms=8", f"{group}={option}")
            found |= {f"{group}.{key}" for key in getattr(config, group)}
    return frozenset(found)


def flat(config: Any, name: str = "") -> Iterator[str]:
    yield name
    if OmegaConf.is_dict(config):
        for key in config:
            value = None if OmegaConf.is_missing(config, key) else config[key]
            yield from flat(value, f"{name}.{key}" if name else str(key))


@EVERY
def test_keys_exist(page: Path) -> None:
    options = {f"conf/{g}/{o}.yaml" for g, names in GROUPS.items() for o in names}
    options |= {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "conf/recipe").iterdir()}
    options |= set(pages.files(page))
    for text in pages.inline(page):
        for key, value in re.findall(r"(?<![\w.$/-])([a-z][a-z_0-9.]*)=([^\s,;]*)", text):
            if key.startswith("hydra") or text == "key=value":
                continue
            assert re.sub(r"\.\d+\..*|(?<=^nets)\..*", "", key) in keys(), f"{key} in `{text}`"
            if key in GROUPS or key == "recipe":
                for option in re.findall(r"(?:^|\|)([a-z_0-9]+)(?=$|\|)", value):
                    assert f"conf/{key}/{option}.yaml" in options, text


@EVERY
def test_paths_exist(page: Path) -> None:
    """Those in capitals stand for others."""
    own = pages.files(page)
    text = page.read_text()
    for link, _, anchor in re.findall(r"\]\(([^)#]+)(#([^)]*))?\)", text):
        if not link.startswith("https://"):
            target = page.parent / link
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), f"{link}#{anchor}"
    for code in pages.inline(page):
        for path in re.findall(rf"(?<![\w./-]){FOLDERS}", code):
            if not re.search(r"[A-Z]{2}", Path(path).stem) or "/README" in path:
                assert path in own or list(REPOSITORY.glob(path.rstrip("/."))), path


def anchors(page: Path) -> list[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", pages.FENCE.sub("", page.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]

"""Whatever a folder is called: what is typed is read, and what is printed can be pasted."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tfnas.app.command_line import as_meant, override, value_of
from tfnas.app.schemas import CompareConfig, SearchConfig, TrainConfig

# What a folder can be called; of surrogates the UTF-8 of a shell knows nothing.
LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
NAMES = st.text(LETTERS | st.sampled_from("'\"\\$={},"), min_size=1)


def read(argument: str) -> object:
    """As Hydra and OmegaConf do."""
    (parsed,) = OverridesParser.create().parse_overrides([argument])
    return OmegaConf.to_container(OmegaConf.create([parsed.value()]), resolve=True)[0]


@settings(max_examples=100, deadline=None)
@given(NAMES)
@example("null")
@example(".")
@example("1e3")
@example("epoch=9, it's \\${x}\\")
def test_what_is_printed_can_be_pasted_into_a_shell(name: str) -> None:
    line = shlex.join(["printf", "%s\\0", override("subnet", name)])
    shell = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    (argument, _) = shell.stdout.decode().split("\0")
    assert value_of(argument) == name
    assert read(argument) == name
    assert as_meant([argument], TrainConfig) == [argument]


@pytest.mark.parametrize("name", ["epoch=9/x.json", "a,b", "it's", "[a", "{a:b", "x (1)", 'say "a'])
@pytest.mark.parametrize("sweeps", [False, True])
def test_texts_are_what_was_typed(name: str, sweeps: bool) -> None:
    if sweeps and name == "a,b":
        return  # two values
    more = ["--multirun"] if sweeps else []
    for key in ("subnet", "data.root", "resume"):
        *_, argument = as_meant([*more, f"{key}={name}"], TrainConfig)
        assert read(argument) == name


def test_what_hydra_reads_stays() -> None:
    given = ["subnet='a,b'", "subnet=null", "seed=3", "+x=1", "--multirun", "recipe=quick", "out="]
    assert as_meant(given, TrainConfig) == given
    for sweep in ("-m", "--multirun", "--multi", "hydra.mode=MULTIRUN"):
        swept = [sweep, "subnet=a,b", "seed=1,2"]
        assert as_meant(swept, TrainConfig) == swept


@pytest.mark.parametrize(
    ("schema", "argument", "said"),
    [
        (SearchConfig, "target_ms=1,5", "expected one value; .*with a point"),
        (SearchConfig, "target_ms=[", "not readable as a value of target_ms"),
        (CompareConfig, "seeds=1,2", r"expected a list, seeds=\[1,2\]"),
    ],
)
def test_numbers_are_refused_in_one_line(schema: type, argument: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        as_meant([argument], schema)

"""What makes a search the same as one that began before: its options, as they were then."""

from __future__ import annotations

import pytest

from tests.support.entry import compose_config
from tfnas.app.schemas import SearchConfig
from tfnas.pipeline.folder import options_of
from tfnas.training.recipe import options


@pytest.mark.parametrize("name", ["tfnas", "small", "tiny"])
def test_a_space_of_before_has_the_options_of_before(name: str) -> None:
    options = options_of(compose_config(SearchConfig, "search", "target_ms=8", f"space={name}"))
    of_space = {key for key in options if key.startswith("space.")}
    assert of_space == {
        f"space.{key}"
        for key in (
            "name", "resolution", "in_channels", "classes", "stem", "kernels", "expansions",
            "squeeze_excite", "stages", "head",
        )
    }  # fmt: skip
    for stage in options["space.stages"]:
        assert set(stage) == {"c_out", "depth", "min_depth", "stride", "act"}
    for expansion in options["space.expansions"]:
        assert set(expansion) == {"ratio", "min_ratio", "max_ratio", "se_ratio"}


def test_candidates_make_another_search() -> None:
    options = options_of(
        compose_config(SearchConfig, "search", "target_ms=8", "space=nas_bench_macro")
    )
    assert len(options["space.ops"]) == 3


def test_finals_of_before_have_the_options_of_before() -> None:
    config = compose_config(SearchConfig, "search", "target_ms=8", "finals=quick")
    kept = {key.removeprefix("finals.recipe.") for key in options_of(config) if ".recipe." in key}
    assert kept == set(options(config.finals.recipe))
    assert "mixup" not in kept

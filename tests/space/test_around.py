"""The space around a net has its skeleton, holds it, and is read again from its file."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from tests.support.spaces import load_space
from tfnas.nets.gallery import gallery_subnet, list_models
from tfnas.space.around import Candidates, space_around, staged, to_yaml
from tfnas.space.ops import OpSpec
from tfnas.space.size import Oblong
from tfnas.space.spec import CandidateSpec, ExpansionSpec, SpaceSpec
from tfnas.space.subnet import Subnet

CONV = OpSpec("conv", 32, 3, 0, 0, 16, 3, 2, "relu")
PLAIN = OpSpec("mbconv", 16, 16, 16, 0, 16, 3, 1, "relu")
STRIDED = OpSpec("mbconv", 16, 16, 96, 0, 24, 3, 2, "relu")
BLOCK = OpSpec("mbconv", 8, 24, 144, 0, 24, 3, 1, "relu")
LAST = OpSpec("conv", 8, 24, 0, 0, 64, 1, 1, "relu")
HEAD = OpSpec("classifier", 8, 64, 0, 0, 10, 1, 1, "none")
NET = staged("mine", [CONV, PLAIN, STRIDED, BLOCK, LAST, HEAD])


def read(text: str) -> SpaceSpec:
    """As Hydra reads a file of conf/space/."""
    values = OmegaConf.merge(
        OmegaConf.structured(SpaceSpec), {"classes": None},
        OmegaConf.create(text.replace("${data.classes}", "10")),
    )  # fmt: skip
    spec = OmegaConf.to_object(values)
    assert isinstance(spec, SpaceSpec)
    return spec


def test_stem_stages_and_head() -> None:
    assert Subnet("mine", (CONV, PLAIN), ((STRIDED, BLOCK),), (LAST, HEAD)) == NET
    identity = OpSpec("identity", 8, 24, 0, 0, 24, 1, 1, "none")
    assert staged("mine", [CONV, PLAIN, STRIDED, identity, BLOCK, LAST, HEAD]) == NET
    wider = replace(BLOCK, c_out=40)
    last = replace(LAST, c_in=40)
    found = staged("mine", [CONV, PLAIN, STRIDED, BLOCK, wider, last, HEAD])
    assert found.stages == ((STRIDED, BLOCK), (wider,))
    with pytest.raises(ValueError, match="no block to be searched"):
        staged("mine", [CONV, replace(HEAD, size=16, c_in=16)])


def test_convolutions_may_be_blocks() -> None:
    conv = OpSpec("conv", 16, 16, 0, 0, 24, 3, 2, "relu")
    net = staged("mine", [CONV, conv, replace(conv, size=8, c_in=24, stride=1), LAST, HEAD])
    assert net.depths == (2,)
    spec = space_around(net)
    assert net in spec.build(16)
    assert spec.ops == [CandidateSpec("conv", 3)]


@pytest.mark.parametrize("name", list_models())
def test_every_net_is_in_its_space_and_the_file_is_that_space(name: str) -> None:
    net = gallery_subnet(name, classes=10)
    net = staged("mine", net.ops)
    spec = space_around(net)
    for quantum in (1, 8, 16, 32):
        assert net in spec.build(quantum)
    again = read(to_yaml(spec, ["a line", "another"]))
    assert again.build(8) == spec.build(8)
    assert spec.build(8).sample(random.Random(0)) in again.build(8)


def test_candidates_stand_around_the_nets_own() -> None:
    spec = space_around(NET)
    assert spec.kernels == [3, 5]
    assert spec.expansions == [ExpansionSpec(3, 2, 4), ExpansionSpec(6, 4, 8)]
    assert spec.squeeze_excite == [False]
    assert spec.ops == [CandidateSpec("mbconv", 3, 6)]
    narrow = replace(NET, stages=((replace(STRIDED, c_mid=40), replace(BLOCK, c_mid=60)),))
    assert space_around(narrow).expansions == [
        ExpansionSpec(2.5, 1.67, 3.33), ExpansionSpec(5, 3.33, 6.67)
    ]  # fmt: skip
    seven = replace(NET, stages=((STRIDED, replace(BLOCK, kernel=7)),))
    assert space_around(seven).kernels == [3, 5, 7]


def test_candidates_may_be_given() -> None:
    spec = space_around(NET, Candidates([7], [4], [False, True]))
    assert spec.kernels == [7]
    assert spec.expansions == [ExpansionSpec(4, 2.67, 5.33, se_ratio=1, se_divisor=8)]
    assert spec.squeeze_excite == [False, True]
    assert NET in spec.build(16)
    for given, message in (
        (Candidates(kernels=[4]), "kernel=4: expected an odd size"),
        (Candidates(kernels=[3, 3]), "kernels holds .*, one twice"),
        (Candidates(expansions=[1.0]), "expansion 1: expected mid width / input width, above 1"),
        (Candidates(expansions=[float("nan")]), "expansion nan"),
        (Candidates(expansions=[float("inf")]), "expansion inf"),
    ):
        with pytest.raises(ValueError, match=message):
            space_around(NET, given)


@pytest.mark.parametrize(
    ("squeezed", "expected"),
    [
        # MobileNetV3: a quarter of the mid width, a multiple of 8.
        ((24, 40), {"se_ratio": 1.5, "se_divisor": 8}),
        # EfficientNet: a quarter of the input.
        ((4, 6), {"se_ratio": 0.25, "se_divisor": 1}),
        # TF-NAS: twice the input.
        ((32, 48), {"se_ratio": 2, "se_divisor": 1}),
    ],
)
def test_squeeze_excite_follows_the_nets_rule(
    squeezed: tuple[int, int], expected: dict[str, float]
) -> None:
    first, second = squeezed
    net = replace(NET, stages=((replace(STRIDED, c_se=first), replace(BLOCK, c_se=second)),))
    spec = space_around(net)
    assert spec.squeeze_excite == [False, True]
    largest = spec.expansions[-1]
    assert {name: getattr(largest, name) for name in expected} == expected
    assert spec.ops == [CandidateSpec("mbconv", 3, 6, **expected)]
    assert net in spec.build(16)


def test_the_file_reads_like_those_that_are_shipped() -> None:
    text = to_yaml(space_around(staged("mine", gallery_subnet("mobilenetv2_like_2m.tiny").ops)))
    stem = "  - {kind: conv, c_out: 16, kernel: 3, stride: 2, act: relu}\n"
    assert stem in text
    assert "  - {kind: classifier}\n" in text
    assert "classes: ${data.classes}\n" in text
    oblong = replace(CONV, size=Oblong(32, 64))
    ops = [oblong, replace(PLAIN, size=Oblong(16, 32)), replace(STRIDED, size=Oblong(16, 32))]
    ops += [replace(op, size=Oblong(8, 16)) for op in (BLOCK, LAST, HEAD)]
    assert "\nresolution: [32, 64]\n" in to_yaml(space_around(staged("mine", ops)))


def test_a_published_space_has_the_skeleton_of_its_nets() -> None:
    """The default candidates around MobileNetV2-like nets of e6 are those of the TF-NAS paper."""
    tfnas, depth = load_space("tfnas", quantum=8), [2, 3, 4, 4, 4, 1]
    widths = [max(c.op.c_mid for c in block) for block in tfnas.blocks]
    picks = [1] * len(widths)  # k3 e6 without squeeze-excite
    net = tfnas.subnet(depth, picks, widths)
    around = space_around(staged("mine", net.ops)).build(8)
    assert [len(stage.blocks) for stage in around.stages] == depth
    assert (around.stem, around.head) == (tfnas.stem, tfnas.head)
    for mine, theirs in zip(around.blocks, tfnas.blocks, strict=True):
        plain = {choice for choice in theirs if not choice.op.c_se}
        assert plain <= set(mine)

"""Which layers take few levels or balancing, and what becomes of a request elsewhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import onnx_ir as ir
import pytest

from calibrant.dialects import load_recipe
from calibrant.errors import ConfigValueError
from calibrant.plan import Plan, resolve
from calibrant.plan.fit import why_no_balance, why_no_levels
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Force,
    Layer,
    MappedLayers,
    Recipe,
    Rule,
    Settings,
    Where,
)
from tests.models import NETS, Model, Weights, build, normal
from tests.road import prepared

W = Weights(0)
NUQ = AlgorithmChoice.of("nuq", {"levels": 16})
BITS_8 = Settings(weight_bits=8)


def conv(attributes: str, *, kernel: int = 3, channels: int = 4, rank: int = 2) -> Model:
    w = W.conv(4, channels, kernel)
    if rank == 1:
        w = w[..., 0]
    if rank == 3:
        w = w[..., None]
    shape = ["N", "4", *["8"] * rank]
    y = ",".join(f"y{i}" for i in range(rank + 2))
    text = f"net (float[{','.join(shape)}] x) => (float[{y}] y) {{ y = Conv {attributes} (x, w) }}"
    return build(text, {"w": w}, normal(4, *[8] * rank))


def gemm(attributes: str, *, shape: str = "N,24") -> Model:
    return build(
        f"net (float[{shape}] x) => (float[M,8] y) {{ y = Gemm {attributes} (x, w, b) }}",
        {"w": W.dense(24, 8), "b": W.vector(8)},
        normal(24),
    )


def matmul(rank: int) -> Model:
    w = W.dense(24, 8)
    for _ in range(rank - 2):
        w = w[None]
    return build(
        "net (float[1,2,24] x) => (float[1,2,8] y) { y = MatMul (x, w) }", {"w": w}, normal(24)
    )


TRANSPOSED = build(
    "net (float[N,3,4,4] x) => (float[N,5,6,6] y) { y = ConvTranspose (x, w) }",
    {"w": W.conv(3, 5)},
    normal(3, 4, 4),
)
LEFT = build(
    "net (float[24,2] x) => (float[8,2] y) { y = MatMul (w, x) }",
    {"w": W.dense(24, 8).T.copy()},
    normal(2),
)
PRODUCT = build("net (float[N,4,4] x) => (float[N,4,4] y) { y = MatMul (x, x) }", {}, normal(4, 4))


def layer(model: Model) -> ir.Node:
    return prepared(model).graph.node("y")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (conv(""), ""),
        (conv("<strides = [2,2], pads = [1,1,1,1]>"), ""),
        (conv("<dilations = [1,1], group = 1>"), ""),
        (conv("<dilations = [1,2]>"), "its filter is dilated by 1 and 2"),
        (conv("<group = 2>", channels=2), "it has 2 groups"),
        (conv("", rank=1), "its filter has 3 dimensions, not 4"),
        (conv("", rank=3), "its filter has 5 dimensions, not 4"),
        (TRANSPOSED, "Conv, Gemm and MatMul alone"),
        (gemm(""), ""),
        (gemm("<alpha = 1.0, beta = 1.0>"), ""),
        (gemm("<transA = 1>", shape="24,N"), "its input is transposed"),
        (gemm("<alpha = 0.5>"), ""),
        (gemm("<beta = 2.0>"), ""),
        (matmul(2), ""),
        (matmul(3), "its weight has 3 dimensions, not 2"),
        (LEFT, "its second input is not a constant weight"),
        (PRODUCT, "its second input is not a constant weight"),
    ],
)
def test_layers_that_can_keep_a_few_levels(model: Model, why: str) -> None:
    said = why_no_levels(layer(model), BITS_8)
    assert (why in said) if why else said == ""


def test_levels_are_of_the_grid_of_eight_bits() -> None:
    assert "its weight has 6 bits" in why_no_levels(layer(conv("")), Settings(weight_bits=6))


@pytest.mark.parametrize(
    ("model", "can"),
    [
        (conv(""), True),
        (conv("<group = 2>", channels=2), True),
        (TRANSPOSED, True),
        (gemm(""), True),
        (gemm("<transA = 1>", shape="24,N"), False),
        (matmul(2), True),
        (LEFT, False),
        (PRODUCT, False),
    ],
)
def test_layers_that_can_be_balanced(model: Model, can: bool) -> None:
    assert (why_no_balance(layer(model)) == "") is can


def plan(name: str, *rules: Rule) -> Plan:
    return resolve(Recipe(rules=rules), prepared(NETS[name]()))


def nuq(where: Where, force: Force = "wished", **settings: int) -> Rule:
    return Rule(where, Settings(weight=NUQ, **settings), "file:7", force)  # type: ignore[arg-type]


def test_a_wish_gives_way_with_a_note_and_the_grid_that_levels_are_of() -> None:
    found = plan("grouped", nuq(AllNodes()))
    algorithms = {w.layer: w.algorithm for w in found.weights}
    assert NUQ in algorithms.values()
    uniform = [n for n, a in algorithms.items() if a == AlgorithmChoice("arq")]
    assert uniform
    assert set(algorithms.values()) == {NUQ, AlgorithmChoice("arq")}
    notes = {n.message for n in found.notes if n.where == "file:7"}
    assert len(notes) == len(uniform)
    for name in uniform:
        assert any(f"groups: layer '{name}' goes without" in m for m in notes)


def test_operators_without_a_weight_are_not_spoken_of() -> None:
    assert plan("pools", nuq(AllNodes())).notes == ()
    assert plan("attention_where", nuq(AllNodes())).notes == ()
    own = Recipe(rules=(nuq(Layer("avg1"), "required"),), target="layers-only")
    with pytest.raises(ConfigValueError, match=r"Conv, Gemm and MatMul alone.* in layer avg1$"):
        resolve(own, prepared(NETS["pools"]()))


def test_what_a_layer_requires_and_cannot_have_is_an_error() -> None:
    group = next(w.layer for w in plan("grouped", nuq(AllNodes())).weights if w.algorithm != NUQ)
    with pytest.raises(
        ConfigValueError,
        match=rf"^file:7: weight is nuq\(levels=16\) for a Conv, but it has \d+ groups in layer {group}$",
    ):
        plan("grouped", nuq(Layer(group), "required"))
    assert not plan("grouped", nuq(Layer(group), "implied")).notes


def test_levels_and_another_width_in_one_rule_are_an_error() -> None:
    with pytest.raises(
        ConfigValueError, match="levels are of the 8-bit grid, and its weight has 4"
    ):
        plan("residual", nuq(Layer("conv1"), weight_bits=4))
    # another rule's width is the later word
    later = Rule(Layer("conv1"), Settings(weight_bits=4), "later")
    found = plan("residual", nuq(AllNodes()), later)
    (w,) = [w for w in found.weights if w.layer == "conv1"]
    assert (w.algorithm, w.spec.bits) == (AlgorithmChoice("arq"), 4)
    assert any("its weight has 4 bits" in n.message for n in found.notes)


def test_layers_left_in_float_are_not_spoken_of() -> None:
    names = [w.layer for w in plan("grouped").weights]
    skip = [Rule(Layer(n), Settings(compute="float32"), "skip") for n in names[:-1]]
    assert plan("residual", nuq(AllNodes())).notes == ()
    found = plan("grouped", nuq(AllNodes()), *skip)
    assert all(names[-1] in n.message for n in found.notes if n.where == "file:7")


def test_balance_gives_way_where_there_is_no_weight() -> None:
    everywhere = Rule(AllNodes(), Settings(balance=0.5), "quant.cfg:3 common_config")
    found = plan("attention_where", everywhere)
    settings = {d.node: d.settings.balance for d in found.layers}
    assert settings["product"] is None
    assert settings["out"] == 0.5
    assert any("'product' goes without" in n.message for n in found.notes)
    own = Rule(Layer("product"), Settings(balance=0.5), "quant.cfg:9", "required")
    with pytest.raises(
        ConfigValueError, match=r"^quant.cfg:9: balance is 0\.5 for a MatMul.* in layer product$"
    ):
        plan("attention_where", own)


# ---------------------------------------------------------------------------------- mapping files


def test_a_mapping_file_that_names_no_layer_which_can_is_an_error() -> None:
    with pytest.raises(
        ConfigValueError, match=r"^file:7: the mapping file 'm' names 2 nodes .*none can"
    ):
        plan("residual", nuq(MappedLayers("m", ("relu0", "add1", "gone"))))
    found = plan("residual", nuq(MappedLayers("m", ("relu0", "conv2", "gone"))))
    assert [w.layer for w in found.weights if w.algorithm == NUQ] == ["conv2"]


def test_names_that_the_model_lacks_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="calibrant"):
        plan("residual", nuq(MappedLayers("m.json", ("conv2", "gone"))))
    assert "m.json names 'gone', which is not in the model" in caplog.text
    assert "'conv2', which" not in caplog.text


def test_a_native_recipe_reads_the_mapping_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"graph": {"op": [{"name": "conv2"}]}}))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "calibrant: 1\nrules:\n"
        "  - where: {mapped: {file: map.json}}\n"
        "    weight: {algorithm: nuq, levels: 16, rounds: 3, storage: indices}\n"
    )
    (rule,) = load_recipe(recipe).rules
    assert rule.where == MappedLayers("map.json", ("conv2",))
    options = {"levels": 16, "rounds": 3, "storage": "indices"}
    assert rule.settings.weight == AlgorithmChoice.of("nuq", options)
    found = resolve(load_recipe(recipe), prepared(NETS["residual"]()))
    assert [w.layer for w in found.weights if w.stores_indices] == ["conv2"]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            "{algorithm: nuq, levels: 20}",
            "'levels' of weight algorithm 'nuq' is 20; it is one of 16, 32",
        ),
        ("{algorithm: nuq, steps: 16}", "Unknown option 'steps'.*Known: levels, rounds, storage"),
        ("{algorithm: nuq, storage: indices}", "32 levels, whose indices have 5 bits"),
    ],
)
def test_options_are_checked_when_a_recipe_is_read(
    weight: str, message: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"calibrant: 1\nrules:\n  - where: all\n    weight: {weight}\n")
    with pytest.raises(ConfigValueError, match=rf"recipe\.yaml:4.*{message}"):
        load_recipe(recipe)

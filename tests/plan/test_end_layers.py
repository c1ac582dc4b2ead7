"""Rules for the first and the last layers of a network."""

from __future__ import annotations

import numpy as np
import pytest

import calibrant
from calibrant.errors import ConfigValueError
from calibrant.graph.load import load, prepare
from calibrant.plan import resolve
from calibrant.plan.ends import first_layers, last_layers
from calibrant.recipe import AllOf, EndLayers, InputOf, OpType, Recipe, Rule, Settings
from tests.models import NETS, Weights, build, normal

CASES = {
    "a chain": (
        """x, c1 = Conv <pads = [1,1,1,1]> (x, w)
           r = Relu (c1)
           c2 = Conv <pads = [1,1,1,1]> (r, w)
           y = Conv <pads = [1,1,1,1]> (c2, w)""",
        {"c1"},
        {"y"},
    ),
    "normalized before, reshaped behind": (
        """x, n = Mul (x, s)
           p = Pad (n, pads)
           c1 = Conv (p, w)
           c2 = Conv <pads = [1,1,1,1]> (c1, w)
           y = Relu (c2)""",
        {"c1"},
        {"c2"},
    ),
    "two branches": (
        """x, a = Conv <pads = [1,1,1,1]> (x, w)
           b = Conv <pads = [1,1,1,1]> (x, w)
           m = Add (a, b)
           c = Conv <pads = [1,1,1,1]> (m, w)
           d = Conv <pads = [1,1,1,1]> (m, w)
           y = Add (c, d)""",
        {"a", "b"},
        {"c", "d"},
    ),
    "the input once more, unmixed": (
        """x, a = Conv <pads = [1,1,1,1]> (x, w)
           b = Conv <pads = [1,1,1,1]> (a, w)
           both = Concat <axis = 1> (b, x)
           y = Conv <pads = [1,1,1,1]> (both, w2)""",
        {"a", "y"},
        {"y"},
    ),
    "the input once more, mixed": (
        """x, a = Conv <pads = [1,1,1,1]> (x, w)
           b = Add (a, x)
           y = Conv <pads = [1,1,1,1]> (b, w)""",
        {"a"},
        {"y"},
    ),
    "a shape leads nowhere": (
        """x, a = Conv <pads = [1,1,1,1]> (x, w)
           shape = Shape (x)
           r = Reshape (a, shape)
           y = Conv <pads = [1,1,1,1]> (r, w)""",
        {"a"},
        {"y"},
    ),
}


def net(text: str):
    w = Weights()
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    weights = {"w": w.conv(3, 3), "w2": w.conv(3, 6), "s": w.vector(1), "pads": pads}
    body = text.removeprefix("x, ")
    used = {k: v for k, v in weights.items() if f"{k})" in body or f"{k}," in body}
    model, _ = build(
        f"net (float[N,3,8,8] x) => (float[N,3,8,8] y) {{ {body} }}", used, normal(3, 8, 8)
    )
    return prepare(load(model))


@pytest.mark.parametrize("name", CASES)
def test_first_layers_read_an_input_and_last_ones_give_an_output(name):
    text, first, last = CASES[name]
    model = net(text)
    assert first_layers(model) == first
    assert last_layers(model) == last


def test_a_mask_makes_no_first_layer_of_every_block():
    model = prepare(load(NETS["attention_add"]()[0]))
    layers = {n.name for n in model.graph if n.op_type in ("MatMul", "Gemm")}
    assert first_layers(model)
    assert last_layers(model)
    assert not first_layers(model) & last_layers(model)
    assert len(first_layers(model) | last_layers(model)) < len(layers)


RECIPE = """
calibrant: 1
rules:
  - where: all
    precision: int4
  - where: first
    precision: int8
  - where: last
    precision: float32
  - where: {first: true, input: 0}
    activation: percentile
  - where: {all_of: [last, {op: Gemm}]}
    weight: mse
"""


def test_a_recipe_says_it_in_a_word():
    recipe = calibrant.load_recipe(RECIPE)
    assert [r.where for r in recipe.rules[1:]] == [
        EndLayers("first"),
        EndLayers("last"),
        InputOf(EndLayers("first"), 0),
        AllOf((EndLayers("last"), OpType("Gemm"))),
    ]
    text = calibrant.dump_recipe(recipe)
    assert "where: first\n" in text
    again = calibrant.load_recipe(text)
    assert [(r.where, r.settings) for r in again.rules] == [
        (r.where, r.settings) for r in recipe.rules
    ]
    plan = resolve(recipe, prepare(load(NETS["conv_bn_relu"]()[0])))
    assert {w.layer: w.spec.bits for w in plan.weights} == {"conv1": 8, "conv2": 4, "conv3": 4}
    read = plan.at(("conv1", 0))
    assert read is not None
    assert read.algorithm.name == "percentile"


def test_calibration_honours_it():
    model, feeds = NETS["conv_bn_relu"]()
    recipe = Recipe(
        rules=(Rule(EndLayers("last"), Settings(compute="float32"), "a test"),),
        bias_correction="off",
        equalize="off",
    )
    result = calibrant.quantize(model, feeds(batch=8, seed=0), recipe, latency=False)
    assert {w.layer for w in result.plan.weights} == {"conv1", "conv2", "conv3"}


def test_another_word_is_refused():
    with pytest.raises(ConfigValueError, match="one of all, first, last"):
        calibrant.load_recipe("calibrant: 1\nrules: [{where: second, precision: int8}]")

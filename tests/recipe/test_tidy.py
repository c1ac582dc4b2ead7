"""A tidy recipe says the same with fewer words, for every model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from calibrant.dialects import convert, dump_recipe, load_recipe
from calibrant.dialects.limits import named_limits
from calibrant.errors import ConfigError
from calibrant.graph.targets import get
from calibrant.plan.effective import Effective
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    InputOf,
    Layer,
    LayerInput,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
    Subgraph,
)
from calibrant.recipe import tidy as tidying
from calibrant.recipe.tidy import tidy
from tests.dialects._help import GOLDEN, prepared

FILES = sorted(p.name for p in GOLDEN.iterdir() if p.suffix in (".cfg", ".json"))
NETS = {name: prepared(name) for name in ("residual", "pools", "attention_add")}

choices = st.sampled_from(
    [
        AlgorithmChoice("min-max"),
        AlgorithmChoice("ifmr"),
        AlgorithmChoice.of("ifmr", {"search_range": (0.7, 1.3), "search_step": 0.01}),
        AlgorithmChoice.of("ifmr", {"search_range": (0.8, 1.3)}),
    ]
)
weights = st.sampled_from([AlgorithmChoice("arq"), AlgorithmChoice("nuq"), AlgorithmChoice("mse")])
flags = st.none() | st.booleans()
plain = st.builds(
    Settings,
    compute=st.sampled_from([None, "int", "int", "float32"]),
    activation=st.none() | choices,
    activation_bits=st.sampled_from([None, 8, 16]),
    activation_symmetric=flags,
    activation_per_channel=flags,
    weight=st.none() | weights,
    weight_bits=st.sampled_from([None, 8, 16]),
    weight_per_channel=flags,
    balance=st.sampled_from([None, 0.0, 0.5]),
    compensation=flags,
    bias_samples=st.sampled_from([None, 0, 1]),
)
tried = st.builds(
    Settings,
    activation=choices,
    activation_symmetric=flags,
    activation_bits=st.none() | st.just(8),
)
settings = plain | st.builds(replace, plain, candidates=st.lists(tried, max_size=2).map(tuple))
names = [n.name or "" for n in NETS["residual"].graph if n.name]
wheres = st.one_of(
    st.just(AllNodes()),
    st.sampled_from([OpType("Conv"), OpType("Add"), OpType("Gemm"), OpType("Softmax")]),
    st.sampled_from([Layer("conv0"), Layer("conv1"), Layer("conv*"), Layer(names[-1])]),
    st.sampled_from([LayerInput("conv1", 0), InputOf(OpType("Add"), 1)]),
    st.just(Subgraph("head", ("conv1",), ("conv3",), True)),
)
rules = st.builds(
    Rule, wheres, settings, st.just("r"), st.sampled_from(["implied", "wished", "required"])
)
recipes = st.builds(
    Recipe,
    rules=st.lists(rules, max_size=7).map(tuple),
    target=st.sampled_from(["generic", "horizon-like", "onnxruntime", "int8-only"]),
    limits=st.sampled_from([(), named_limits()["amct"]]),
)


def meaning(recipe: Recipe, model: ir.Model) -> Any:
    """Return all that a recipe means for a model, with each candidate taken in turn."""
    found = []
    for turn in (None, 0, -1):
        notes: list[Note] = []
        chosen = None if turn is None else lambda _node, _index, listed, n=turn: listed[n]
        try:
            effective = Effective(recipe, model, get(recipe.target), notes, chosen)
            held = [
                _words(effective.of(node, index)[0])
                for node in model.graph
                for index in (None, *range(len(node.inputs)))
            ]
        except ConfigError as e:
            return type(e)
        found.append((held, set(effective.extra_inputs()), {n.message for n in notes}))
    return found


def _words(settings: Settings) -> Settings:
    """Return settings so that what has one meaning is equal."""
    same = tidying._plain(settings)
    return replace(
        same,
        balance=same.balance or None,
        compensation=bool(same.compensation),
        candidates=same.candidates or None,
        bias_samples=same.bias_samples or None,
    )


@pytest.mark.slow
@given(recipes)
@effort(max_examples=200)
def test_a_tidy_recipe_means_the_same(recipe: Recipe) -> None:
    assert meaning(tidy(recipe), NETS["residual"]) == meaning(recipe, NETS["residual"])


@given(recipes)
@effort(max_examples=100)
def test_tidying_shortens_once(recipe: Recipe) -> None:
    once = tidy(recipe)
    assert tidy(once) == once
    assert len(dump_recipe(once)) <= len(dump_recipe(recipe))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", FILES)
def test_files_of_the_vendors_mean_the_same_as_recipes(name: str, net: str) -> None:
    recipe = load_recipe(GOLDEN / name)
    again = load_recipe(convert(recipe, "native"))
    assert meaning(again, NETS[net]) == meaning(recipe, NETS[net])


@pytest.mark.parametrize("name", [n for n in FILES if "lines" in n])
def test_a_recipe_is_about_as_long_as_the_file_it_is_from(name: str) -> None:
    lines = (GOLDEN / name).read_text(encoding="utf-8").count("\n")
    assert convert(GOLDEN / name, "native").count("\n") <= lines + 12


def test_layers_that_are_alike_are_one_rule() -> None:
    layers = [Rule(Layer(f"conv{i}"), Settings(compute="float32")) for i in range(40)]
    text = dump_recipe(Recipe(rules=tuple(layers)))
    assert text.count("where") == 1
    assert [(r.where, r.settings) for r in load_recipe(text).rules] == [
        (r.where, r.settings) for r in layers
    ]


def test_remarks_on_reading_go_and_what_is_not_done_stays() -> None:
    kept = Note("a.cfg:3", "Pruning is not done.")
    read = Note("a.cfg:1", "The line breaks are lost.", honoured=True)
    assert tidy(Recipe(notes=(read, kept))).notes == (kept,)


@pytest.mark.parametrize("name", named_limits())
def test_limits_with_a_name_are_written_by_it(name: str) -> None:
    recipe = Recipe(limits=named_limits()[name])
    assert f"limits: [{name}]" in dump_recipe(recipe)
    assert load_recipe(dump_recipe(recipe)) == recipe


def test_limits_without_that_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"limits\[0\] is 'amtc'.*amct.*Did you mean 'amct'"):
        load_recipe("calibrant: 1\nlimits: [amtc]\n")

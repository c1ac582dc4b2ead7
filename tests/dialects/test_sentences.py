"""What a conversion loses and notes is told in sentences, not in Python."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest

from calibrant.dialects import convert, dialects, load_recipe
from calibrant.errors import UnsupportedError
from calibrant.plan import explain
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Calibration,
    Fusion,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
)
from calibrant.recipe.words import choice_words, setting_words, wish_words
from tests.dialects._help import GOLDEN, prepared
from tests.models import NETS

FILES = sorted(p.name for p in GOLDEN.iterdir() if p.suffix in (".cfg", ".json"))
WRITTEN = [name for name, d in dialects().items() if d.dump is not None]

#: What no sentence for a person has in it.
PYTHON = re.compile(r"\w=|\bNone\b|\bTrue\b|\bFalse\b|\w+\(\w*=|[(\[]'|object at 0x")

SETTINGS = Settings(
    compute="int",
    activation=AlgorithmChoice.of("ifmr", {"search_range": (0.8, 1.2)}),
    activation_bits=16,
    activation_symmetric=False,
    activation_per_channel=True,
    weight=AlgorithmChoice("nuq"),
    weight_bits=8,
    weight_per_channel=False,
    balance=0.5,
    compensation=True,
    candidates=(Settings(activation_bits=8),),
    bias_samples=1,
    bias_metric="mse",
)
RECIPE = Recipe(
    rules=(Rule(AllNodes(), SETTINGS, "recipe"),),
    calibration=Calibration(8, 2, True, True, (), 3, "weights"),
    fusion=Fusion(skip=("a", "b")),
    bias_correction="on",
    equalize="on",
    joint=True,
    scale_format="float16",
    output_precision="int16",
    search=Search(scope="layer"),
    promote=Promotion(count=20),
    training=True,
)

WISHES = {f.name for f in (*fields(Recipe), *fields(Calibration))}
TOLD_ELSEWHERE = {"rules", "limits", "notes", "calibration", "target"}


@pytest.mark.parametrize("dialect", WRITTEN)
@pytest.mark.parametrize("name", [*FILES, "everything"])
def test_a_conversion_tells_what_is_lost_in_sentences(name: str, dialect: str) -> None:
    recipe = RECIPE if name == "everything" else load_recipe(GOLDEN / name)
    lost: list[str] = []
    try:
        convert(recipe, dialect, lost=lost)
    except UnsupportedError as e:
        lost.append(str(e))
    for sentence in (*lost, *(n.message for n in recipe.notes)):
        assert not PYTHON.search(sentence), sentence
        assert sentence.endswith("."), sentence
    if name == "everything" and dialect != "native":
        assert lost


@pytest.mark.parametrize("net", ["residual", "attention_add"])
@pytest.mark.parametrize("name", [n for n in FILES if "uniform" not in n and "retrain" not in n])
def test_an_explanation_notes_in_sentences(name: str, net: str) -> None:
    recipe = load_recipe(GOLDEN / name)
    wide = tuple(r for r in recipe.rules if isinstance(r.where, AllNodes))
    every = Recipe(rules=wide, target=recipe.target, limits=recipe.limits)
    for rule in wide:  # so that limits have something to say
        said = replace(rule.settings, weight_per_channel=True, activation_bits=16, balance=0.5)
        every = every.with_rules(replace(rule, settings=said, force="wished"))
    notes = explain(every, prepared(net)).notes
    assert notes or not recipe.limits
    for note in notes:
        assert not PYTHON.search(note.message), note.message
        assert note.message.endswith("."), note.message


@pytest.mark.parametrize("field", [f.name for f in fields(Settings)])
def test_every_setting_has_words(field: str) -> None:
    text = setting_words(field, getattr(SETTINGS, field))
    assert not PYTHON.search(text)
    assert "_" not in text.replace("search_range", "")


@pytest.mark.parametrize("field", sorted(WISHES - TOLD_ELSEWHERE))
def test_every_wish_has_words(field: str) -> None:
    text = wish_words(RECIPE, field)
    assert not PYTHON.search(text)
    assert "_" not in text


def test_options_at_their_defaults_are_not_told() -> None:
    same = AlgorithmChoice.of("ifmr", {"search_range": (0.7, 1.3), "search_step": 0.02})
    assert choice_words("activation", same) == "ifmr with search_step 0.02"
    assert choice_words("activation", AlgorithmChoice("ulq")) == "ulq"


def test_an_algorithm_without_options_is_written_with_its_defaults() -> None:
    text = "calibrant: 1\nrules:\n  - where: {layer: conv1}\n    weight: ada\n"
    written = convert(text, "amct", model=NETS["residual"]()[0], lost=[])
    again = load_recipe(written)
    ada = next(r.settings.weight for r in again.rules if r.settings.weight == ADA)
    assert dict(ada.options)["iterations"] == 10000


ADA = AlgorithmChoice.of(
    "ada",
    {"iterations": 10000, "regularization": 0.01, "beta_range": (20.0, 2.0), "warm_start": 0.2},
)

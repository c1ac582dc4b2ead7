from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from calibrant import algorithms
from calibrant.dialects import dialects, dump_recipe, load_recipe
from calibrant.dialects.native import recipe_yaml as native
from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError, UnsupportedError
from calibrant.numerics.dtype import INT_BITS
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    AllOf,
    Calibration,
    EndLayers,
    Fusion,
    InputOf,
    Layer,
    LayerInput,
    Limit,
    MappedLayers,
    Note,
    OpType,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
    Source,
    Subgraph,
)
from calibrant.text import yaml_text as _yaml

# ---------------------------------------------------------------------------------------- strategies

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    [
        "on",
        "123",
        "0123",
        "1e3",
        "null",
        "~",
        "a: b",
        "# x",
        "/layer1/conv[0]",
        "yes",
        "12:30",
        "=",
        "<<",
        "é",
    ]
)
name_tuples = st.lists(texts, min_size=1, max_size=3).map(tuple)
graphs = st.builds(Subgraph, texts, name_tuples, name_tuples, st.booleans())
op_types, layer_names = st.builds(OpType, texts), st.builds(Layer, texts)
indices = st.integers(0, 5)
wheres = st.one_of(
    st.just(AllNodes()),
    op_types,
    layer_names,
    st.builds(LayerInput, texts, indices, st.just(()) | name_tuples),
    graphs,
    st.builds(InputOf, op_types | graphs, indices),
    st.builds(EndLayers, st.sampled_from(["first", "last"])),
    st.builds(AllOf, st.tuples(op_types, layer_names) | st.tuples(graphs)),
    st.builds(MappedLayers, texts, st.none() | name_tuples),
)
activations = st.sampled_from(
    [AlgorithmChoice(n) for n in ["auto", *algorithms.names()["activation"]] if n != "fixed"]
) | st.floats(0.6, 1.0).map(lambda p: AlgorithmChoice.of("percentile", {"percentile": p}))
weights = st.sampled_from(
    [AlgorithmChoice(n) for n in ["auto", *algorithms.names()["weight"]]]
    + [AlgorithmChoice.of("nuq", {"levels": 16})]
)
flags = st.none() | st.booleans()
partial_settings = st.builds(
    Settings,
    compute=st.sampled_from([None, "int", "float16", "float32"]),
    activation=st.none() | activations,
    activation_bits=st.sampled_from([None, 4, 8, 16]),
    activation_symmetric=flags,
    activation_per_channel=flags,
    weight=st.none() | weights,
    weight_bits=st.sampled_from([None, *INT_BITS]),
    weight_per_channel=flags,
    balance=st.none() | st.just(0.0) | st.floats(0.2, 0.8),
    compensation=flags,
    bias_samples=st.none() | st.integers(0, 9),
    bias_metric=st.sampled_from([None, "mse", "cosine-similarity"]),
)
settings = st.builds(
    replace,
    partial_settings,
    candidates=st.none() | st.lists(partial_settings, max_size=2).map(tuple),
)
metrics = st.sampled_from(["cosine-similarity", "sqnr"])
searches = st.builds(
    Search,
    scope=st.sampled_from(["model", "layer"]),
    metric=metrics,
    samples=st.integers(1, 9),
    aggregate=st.sampled_from(["worst", "mean"]),
    good_enough=st.none() | st.floats(0, 1),
    then_per_channel=st.booleans(),
)
promotions = st.builds(
    Promotion,
    precision=st.sampled_from(["int16", "float32"]),
    metric=metrics,
    count=st.integers(1, 9),
) | st.builds(Promotion, threshold=st.floats(0, 1))
limits = st.builds(
    Limit,
    st.just(AllNodes()) | op_types | st.builds(InputOf, op_types, indices),
    st.just("weight_bits"),
    st.sampled_from([(8,), (4, 8)]),
    texts,
    st.sampled_from(["always", "no bias"]),
) | st.builds(Limit, op_types, st.just("compute"), st.just(("float32",)), texts)
sources = st.builds(
    Source,
    path=texts,
    kind=st.sampled_from(["images", "numbers"]),
    color=st.sampled_from([None, "BGR"]),
    mean=st.sampled_from([(), (1.0, 2.5)]),
    std=st.sampled_from([(), (2.0,)]),
)
counts = st.none() | st.integers(1, 1000)
switches = st.sampled_from(["auto", "on", "off"])
recipes = st.builds(
    Recipe,
    rules=st.lists(
        st.builds(
            Rule, wheres, settings, st.just(""), st.sampled_from(["implied", "wished", "required"])
        ),
        max_size=4,
    ).map(tuple),
    target=texts,
    limits=st.lists(limits, max_size=2).map(tuple),
    calibration=st.builds(
        Calibration,
        counts,
        counts,
        st.booleans(),
        st.booleans(),
        st.lists(sources, max_size=2).map(tuple),
        counts,
        st.sampled_from(["float", "weights"]),
    ),
    joint=st.booleans(),
    scale_format=st.sampled_from(["float32", "float16"]),
    tiny_scales=st.sampled_from(["kept", "one"]),
    output_precision=st.sampled_from(["float32", "int16"]),
    search=st.none() | searches,
    promote=st.none() | promotions,
    training=st.booleans(),
    fusion=st.builds(Fusion, st.booleans(), st.lists(texts, max_size=3).map(tuple)),
    bias_correction=switches,
    equalize=switches,
    notes=st.lists(st.builds(Note, texts, texts, st.booleans()), max_size=2).map(tuple),
)


def without_origins(recipe: Recipe) -> Recipe:
    return replace(recipe, rules=tuple(replace(r, origin="") for r in recipe.rules))


def load(text: str) -> Recipe:
    return load_recipe("calibrant: 1\n" + text)


# ---------------------------------------------------------------------------------------- round trip


@given(recipes)
@effort(max_examples=40)
def test_a_recipe_survives_being_written_and_read(recipe: Recipe) -> None:
    assert without_origins(load_recipe(dump_recipe(recipe))) == recipe


@given(recipes)
@effort(max_examples=40)
def test_other_yaml_readers_see_the_same_values(recipe: Recipe) -> None:
    """What is written means the same in YAML 1.1, so that no editor or script reads `on` as true."""
    text = dump_recipe(recipe)
    assert yaml.safe_load(text) == _yaml.read(text, None).content


@given(recipes)
@effort(max_examples=40)
def test_a_mapping_is_read_like_its_text(recipe: Recipe) -> None:
    content = yaml.safe_load(dump_recipe(recipe))
    assert without_origins(load_recipe(content)) == recipe


def test_the_documented_form_loads() -> None:
    doc = inspect.getdoc(native)
    assert doc is not None
    text = doc.split("\n\n")[1]
    recipe = load_recipe(inspect.cleandoc(text) + "\n")
    assert len(recipe.rules) == 6
    assert recipe.calibration == Calibration(8, 16)
    assert recipe.rules[0].settings == Settings(
        compute="int",
        activation=AlgorithmChoice("mse"),
        activation_bits=8,
        activation_symmetric=False,
        activation_per_channel=False,
        weight=AlgorithmChoice("arq"),
        weight_bits=8,
        weight_per_channel=True,
    )


# -------------------------------------------------------------------------------------------- meaning


def test_rules_carry_their_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# mine\ncalibrant: 1\nrules:\n- where: all\n\n- where: {layer: [a, b]}\n")
    assert [r.origin for r in load_recipe(path).rules] == [
        "recipe.yaml:4 rules[0]",
        "recipe.yaml:6 rules[1]",
        "recipe.yaml:6 rules[1]",
    ]
    assert [r.where for r in load_recipe(str(path)).rules[1:]] == [Layer("a"), Layer("b")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("true", "on"),
        ("false", "off"),
        ("On", "on"),
        ("auto", "auto"),
    ],
)
def test_switches_take_both_spellings(text: str, value: str) -> None:
    recipe = load(f"bias_correction: {text}\nequalize: {text}\n")
    assert (recipe.bias_correction, recipe.equalize) == (value, value)


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("on", True), ("no", False), ("False", False)]
)
def test_flags_take_every_spelling(text: str, value: bool) -> None:
    assert load(f"calibration: {{exact: {text}}}\n").calibration.exact is value


def test_names_stay_as_written() -> None:
    recipe = load("fusion: {skip: [0123, on]}\nrules:\n- where: {layer: [123, 1e5, true]}\n")
    assert recipe.fusion.skip == ("0123", "on")
    assert [r.where for r in recipe.rules] == [Layer("123"), Layer("1e5"), Layer("true")]


def test_precision_sets_widths_and_explicit_bits_win() -> None:
    (rule,) = load("rules: [{where: all, precision: int16, weight: {bits: 8}}]").rules
    assert (rule.settings.activation_bits, rule.settings.weight_bits) == (16, 8)
    (rule,) = load("rules: [{where: all, precision: int}]").rules
    assert rule.settings == Settings(compute="int")


def test_empty_sections_mean_nothing() -> None:
    assert load("rules:\n# - where: all\ncalibration:\n") == Recipe()


def test_options_are_kept_as_tuples() -> None:
    (rule,) = load(
        "rules: [{where: all, activation: {algorithm: ifmr, search_range: [0.5, 1.5]}}]"
    ).rules
    assert rule.settings.activation == AlgorithmChoice("ifmr", (("search_range", (0.5, 1.5)),))


# --------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("rulez: []", ConfigValueError, r"recipe:2: rulez is not known.*Did you mean 'rules'"),
        ("rules: 3", ConfigTypeError, r"recipe:2: rules is 3; it is a list"),
        ("rules:\n- where: al", ConfigValueError, r"recipe:3: rules\[0\].where is 'al'; it is one of all"),
        ("rules:\n- precision: int8", ConfigValueError, r"recipe:3: rules\[0\].where is missing"),
        ("rules:\n- where: {layr: a}", ConfigValueError, r"where.layr is not known.*'layer'"),
        ("rules:\n- where: {layer: a, op: b}", ConfigValueError, "with layer, op; it is one of"),
        ("rules:\n- where: {layer: a, types: [Add]}", ConfigValueError, "it is one of"),
        ("rules:\n- where: {all_of: []}", ConfigValueError, "all_of"),
        ("rules:\n- {where: all, balance: 0.1}", ConfigValueError, "it lies in"),
        ("rules:\n- {where: all, bias: {samples: -1}}", ConfigValueError, "samples"),
        ("rules:\n- {where: all, bias: {metric: cos}}", ConfigValueError, "it is cosine-similarity"),
        ("rules:\n- {where: all, candidates: [{activation: ifrm}]}", ConfigValueError, "Did you mean 'ifmr'"),
        ("rules:\n- {where: all, force: must}", ConfigValueError, "'implied', 'wished', 'required' or 'granted'"),
        ("search: {scope: node}", ConfigValueError, "'model' or 'layer'"),
        ("search: {metric: msee}", ConfigValueError, "Did you mean 'mse'"),
        ("promote: {}", ConfigValueError, "one of count, threshold and budget"),
        ("promote: {count: 1, budget: 0.5}", ConfigValueError, "one of count, threshold and budget"),
        ("scale_format: float8", ConfigValueError, "scale_format"),
        ("limits: [{where: {layer: a}, setting: balance, allowed: [0], reason: r}]", ConfigValueError, "where of a limit"),
        ("limits: [{where: all, setting: balanc, allowed: [0], reason: r}]", ConfigValueError, "Did you mean 'balance'"),
        ("calibration: {sources: [{path: a, kind: video}]}", ConfigValueError, "'images' or 'numbers'"),
        ("rules:\n- where: {mapped: {file: b}, input: 1}", ConfigValueError, "it is one of"),
        ("rules:\n- where: {layer: a, input: -1}", ConfigValueError, "input is -1"),
        ("rules:\n- where: all\n\n  precision: int88", ConfigValueError, r"recipe:5: .*Did you mean 'int8'"),
        ("rules:\n- where: all\n  weight: {bits: 5}", ConfigValueError, r"recipe:4: .*bits is 5; .*4, 6, 7, 8 or 16"),
        ("rules:\n- where: all\n  activation: {algorithm: msee}", ConfigValueError, r"recipe:4: .*Did you mean 'mse'"),
        (
            "rules:\n- where: all\n  activation:\n    algorithm: percentile\n    percentil: 1",
            ConfigValueError,
            r"recipe:6: rules\[0\].activation: Unknown option 'percentil'.*Did you mean 'percentile'",
        ),
        (
            "rules:\n- where: all\n  activation: {algorithm: percentile, percentile: 0.3}",
            ConfigValueError,
            r"recipe:4: .*percentile.* is 0.3",
        ),
        ("rules:\n- where: all\n  activation: {algoritm: mse}", ConfigValueError, "algoritm is neither.*'algorithm'"),
        ("rules:\n- where: all\n  activation: {algorithm: auto, x: 1}", ConfigValueError, "auto has none"),
        ("rules:\n- where: all\n  balance: 0.9", ConfigValueError, "balance is 0.9; it has to be less"),
        ("rules:\n- where: all\n  balance: high", ConfigTypeError, "balance is 'high'; it is a number"),
        ("calibration: {batch_size: 0}", ConfigValueError, "batch_size is 0"),
        ("calibration: {batch_size: true}", ConfigTypeError, "batch_size is true; it is a whole number"),
        ("calibration: {behind: rounded}", ConfigValueError, "behind is 'rounded'; it has to be 'auto', 'float' or 'weights'"),
        ("calibration: {exact: maybe}", ConfigTypeError, "exact is 'maybe'; it is true or false"),
        ("bias_correction: maybe", ConfigValueError, "bias_correction is 'maybe'.*'auto', 'on' or 'off'"),
        ("target: a\ntarget: b", ConfigValueError, r"recipe:3: 'target' stands here and in line 2"),
        ("target: &x a\nrules: *x", ConfigValueError, "alias"),
        ("target: !!python/name:os.system a", ConfigValueError, "recipe:2: .*tag"),
        ("target: [", ConfigValueError, "recipe:.*not valid YAML"),
        ("? [a]\n: b", ConfigValueError, "recipe:2: a key has to be a text"),
        ("x: " + "[" * 5000, ConfigValueError, "too deeply|not valid"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    text: str, error: type[ConfigError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(text + "\n")


def test_another_version_is_refused() -> None:
    with pytest.raises(ConfigValueError, match="calibrant is 2; it has to be 1"):
        load_recipe("calibrant: 2\n")


def test_a_mapping_without_lines_is_told_by_its_key_path() -> None:
    with pytest.raises(ConfigValueError, match=r"^recipe: rules\[0\].precision is 'x'"):
        load_recipe({"calibrant": 1, "rules": [{"where": "all", "precision": "x"}]})
    assert (
        load_recipe({"calibrant": 1, "rules": [{"where": "all"}]}).rules[0].origin
        == "recipe rules[0]"
    )


# ------------------------------------------------------------------------------------------- dialects


def test_a_json_file_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"calibrant": 1, "target": "onnxruntime"}, indent=1))
    assert load_recipe(path).target == "onnxruntime"


def test_a_recipe_is_returned_as_it_is() -> None:
    recipe = Recipe(target="x")
    assert load_recipe(recipe) is recipe


@pytest.mark.parametrize("text", ["foo: 1\n", "just words\n", "[1, 2]\n"])
def test_an_unknown_text_lists_the_dialects(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.txt").write_text(text)
    with pytest.raises(
        ConfigValueError, match=r"r\.txt is in no dialect that is known\. Known: .*native \(YAML"
    ):
        load_recipe(tmp_path / "r.txt")


def test_a_missing_file_offers_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("calibrant: 1\n")
    with pytest.raises(
        ConfigValueError, match=r"cannot be read: No such file.*Did you mean 'recipe\.yaml'"
    ):
        load_recipe(tmp_path / "recip.yaml")


def test_a_binary_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigValueError, match="not a text file"):
        load_recipe(tmp_path / "r.yaml")


def test_writing_needs_a_dialect_that_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigValueError, match=r"Unknown dialect 'nativ'.*Did you mean 'native'"):
        dump_recipe(Recipe(), "nativ")
    read_only = replace(dialects()["native"], name="other", dump=None)
    monkeypatch.setitem(dialects(), "other", read_only)
    with pytest.raises(UnsupportedError, match="'other' is read, not written"):
        dump_recipe(Recipe(), "other")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts, st.lists
    )
)
def test_yaml_is_written_so_that_it_reads_the_same(content: Any) -> None:
    assert _yaml.read(_yaml.write({"x": content}), None).content == {"x": content}


def test_numbers_follow_yaml_1_2() -> None:
    content = _yaml.read(
        "[1e-3, 0x1f, 0o17, 010, -.5, .inf, .NaN, 12:30, 2024-01-01, 1_000]", None
    ).content
    assert content[:6] == [1e-3, 31, 15, 10, -0.5, math.inf]
    assert math.isnan(content[6])
    assert content[7:] == ["12:30", "2024-01-01", "1_000"]

"""Horizon's quant_config, field by field (docs/reference/horizon-configurations.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calibrant import load_recipe
from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError, UnsupportedError
from calibrant.graph.targets import get
from calibrant.plan.effective import Effective
from tests.dialects.conformance._case import accept, refuse, resolved
from tests.dialects.conformance._zoo import explained, prepared

T, V = ConfigTypeError, ConfigValueError
Doc = dict[str, Any]


def model(**said: Any) -> Doc:
    return {"model_config": said}


def act(**said: Any) -> Doc:
    return {"model_config": {"activation": said}}


def node(name: str, **said: Any) -> Doc:
    return {"node_config": {name: said}}


def candidates(source: Doc, layer: str = "conv") -> list[tuple[str, bool, bool]]:
    """Return (algorithm, symmetric, per channel) of each candidate, in order."""
    found = resolved(source, layer)
    tried = found["candidates"] or ()
    return [
        (str(c.activation), bool(c.activation_symmetric), bool(c.activation_per_channel))
        for c in tried
    ]


# -------------------------------------------------------------------------------------- types of nodes


@pytest.mark.parametrize(
    ("qtype", "wanted"),
    [
        ("int8", {"compute": "int", "activation_bits": 8, "weight_bits": 8}),
        ("int16", {"compute": "int", "activation_bits": 16}),
        ("float16", {"compute": "float16"}),
        ("float32", {"compute": "float32"}),
        ("fp16", {"compute": "float16"}),
        ("fp32", {"compute": "float32"}),
        ("float", {"compute": "float32"}),
    ],
)
def test_a_type_means_the_same_at_every_level(qtype: str, wanted: Doc) -> None:
    accept(model(all_node_type=qtype), {"conv": wanted, "fc": wanted})
    accept(
        {"op_config": {"Conv": {"qtype": qtype}}}, {"conv": wanted, "fc": {"activation_bits": 8}}
    )
    accept(node("conv", qtype=qtype), {"conv": wanted, "dw": {"compute": "int"}})
    graph = {"inputs": ["conv"], "outputs": ["dw"], "qtype": qtype}
    accept(
        {"subgraph_config": {"g": graph}},
        {"conv": wanted, "dw": wanted, "grouped": {"compute": "int"}},
    )


@pytest.mark.parametrize("qtype", ["int8", "int16", "float16", "float32"])
def test_the_type_of_the_outputs(qtype: str) -> None:
    assert load_recipe(model(model_output_type=qtype)).output_precision == qtype
    assert load_recipe(model()).output_precision == "float32"


def test_the_finer_level_wins_field_by_field() -> None:
    document = {
        "model_config": {"all_node_type": "int16", "activation": {"calibration_type": "max", "asymmetric": True}},
        "op_config": {"Conv": {"qtype": "int8", "activation": {"calibration_type": "kl", "num_bin": 2048}}},
        "subgraph_config": {"g": {"inputs": ["dw"], "outputs": ["dilated"], "qtype": "int16"}},
        "node_config": {"grouped": {"activation": {"num_bin": 512}}, "dilated": {"qtype": "float16"}},
    }  # fmt: skip
    kl = {"activation": "kl-merge", "bins": 2048, "activation_symmetric": False}
    accept(
        document,
        {
            "fc": {"activation_bits": 16, "activation": "max", "activation_symmetric": False},
            "conv": {"activation_bits": 8, **kl},
            "dw": {"activation_bits": 16, **kl},
            "grouped": {"activation_bits": 16, **kl, "bins": 512},
            "dilated": {"compute": "float16"},
        },
    )


def test_the_type_of_one_input_beats_that_of_its_node_wherever_it_stands() -> None:
    document = {
        "op_config": {"MatMul": {"input0": "int16"}},
        "node_config": {"big": {"qtype": "int8", "input1": "ec"}},
    }

    recipe = load_recipe(document)
    graph = prepared(recipe)
    effective = Effective(recipe, graph, get(recipe.target), [])
    big = next(n for n in graph.graph if n.name == "big")
    first, second = (effective.of(big, i)[0] for i in (0, 1))
    assert (first.activation_bits, bool(first.compensation)) == (16, False)
    assert (second.activation_bits, second.compensation) == (8, True)


@pytest.mark.parametrize(
    "graph",
    [
        {"inputs": ["conv"], "outputs": ["grouped"]},
        {"inputs": ["x"], "outputs": ["grouped"]},
        {"inputs": ["conv"], "outputs": ["grouped", "dw"]},
    ],
)
def test_a_subgraph_is_all_paths_with_both_ends(graph: Doc) -> None:
    found = {n: {"activation_bits": 16} for n in ("conv", "dw", "grouped")}
    others = {n: {"activation_bits": 8} for n in ("dilated", "point", "fc")}
    accept({"subgraph_config": {"g": {**graph, "qtype": "int16"}}}, {**found, **others})


@pytest.mark.parametrize(
    "said",
    [{"ON": "int16"}, {"InputType": "int16"}, {"InputType": "int16", "OutputType": "int16"}],
)
def test_names_of_the_old_chain_are_read_with_a_remark(said: Doc) -> None:
    accept(node("conv", **said), {"conv": {"activation_bits": 16}})
    assert all(n.honoured for n in load_recipe(node("conv", **said)).notes)
    assert len(load_recipe(node("conv", **said)).notes) == len(said)


def test_sections_at_the_top_and_a_name_in_between_are_read_alike() -> None:
    inside = model(activation={"calibration_type": "kl"}, layerwise_search={"metric": "mse"})
    outside = {"activation": {"calibration_type": "kl"}, "layerwise_search": {"metric": "mse"}}
    accept(inside, {"conv": {"activation": "kl-merge"}})
    assert load_recipe(inside).rules == load_recipe(outside).rules
    both = {**outside, **inside}
    assert load_recipe(both).rules == load_recipe(inside).rules
    refuse({**outside, **act(calibration_type="max")}, V, "the two are different")
    nested = {"model_config": {"default": {"all_node_type": "int16"}}}
    accept(nested, {"conv": {"activation_bits": 16}})
    assert any("model_config.default" in n.message for n in load_recipe(nested).notes)


# ----------------------------------------------------------------------------------------- calibration

MAX, P5 = "max(max_percentile=1.0)", "max(max_percentile=0.99995)"
KL = "kl-merge(bins=1024, max_bins=16384)"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"calibration_type": "max"}, {"activation": "max", "max_percentile": 1.0}),
        ({"calibration_type": "max", "max_percentile": 0.5}, {"max_percentile": 0.5}),
        ({"calibration_type": "percentile"}, {"activation": "max", "max_percentile": 0.99995}),
        ({"calibration_type": "percentile", "max_percentile": 0.9}, {"max_percentile": 0.9}),
        ({"calibration_type": "kl"}, {"activation": "kl-merge", "bins": 1024, "max_bins": 16384}),
        ({"calibration_type": "kl", "num_bin": 64}, {"bins": 129}),
        ({"calibration_type": "kl", "num_bin": 129}, {"bins": 129}),
        ({"calibration_type": "kl", "num_bin": 129, "max_num_bin": 100}, {"bins": 129, "max_bins": 258}),
        ({"calibration_type": "kl", "max_num_bin": 100}, {"bins": 1024, "max_bins": 1024}),
        ({"calibration_type": "min-max", "asymmetric": True}, {"activation": "min-max", "activation_symmetric": False}),
        ({"calibration_type": "mse"}, {"activation": "mse"}),
        ({"calibration_type": "max", "asymmetric": True}, {"activation_symmetric": False}),
        ({"calibration_type": "max", "per_channel": True}, {"activation_per_channel": True}),
        ({"calibration_type": "skip"}, {"activation": "max"}),
        ({"calibration_type": ["max", "max"]}, {"activation": "max", "candidates": ()}),
    ],
)  # fmt: skip
def test_a_method_and_its_parameters(said: Doc, wanted: Doc) -> None:
    base = {"activation_symmetric": True, "activation_per_channel": False, "candidates": ()}
    base |= {"weight": "max", "weight_per_channel": True, "weight_bits": 8}
    accept(act(**said), {"conv": base | wanted})
    accept(node("conv", activation=said) if said["calibration_type"] != "skip" else act(**said),
           {"conv": base | wanted})  # fmt: skip


@pytest.mark.parametrize(
    ("said", "tried"),
    [
        ({}, [(MAX, True, False), (P5, True, False), (KL, True, False)]),
        ({"calibration_type": "default"}, [(MAX, True, False), (P5, True, False), (KL, True, False)]),
        ({"calibration_type": "mix"}, [(MAX, True, False), (P5, True, False), (KL, True, False)]),
        ({"calibration_type": ["kl", "max"]}, [(MAX, True, False), (KL, True, False)]),
        ({"calibration_type": "max", "asymmetric": [True, False]}, [(MAX, True, False), (MAX, False, False)]),
        ({"calibration_type": "max", "per_channel": [True, False]}, [(MAX, True, False), (MAX, True, True)]),
        ({"calibration_type": "max", "max_percentile": [0.99995, 1.0]}, [(MAX, True, False), (P5, True, False)]),
    ],
)  # fmt: skip
def test_lists_make_candidates_cheap_ones_first(
    said: Doc, tried: list[tuple[str, bool, bool]]
) -> None:
    assert candidates(act(**said)) == tried


def test_the_size_of_the_grid() -> None:
    """2 methods x 2 percentiles x 2 x 2: 8 of max and 4 of kl."""
    lists = {"per_channel": [True, False], "asymmetric": [True, False]}
    found = candidates(act(calibration_type=["max", "kl"], max_percentile=[0.99995, 1.0], **lists))
    assert [sum(a.startswith(m) for a, *_ in found) for m in ("max", "kl")] == [8, 4]
    many = [1 - i / 1000 for i in range(20)]
    refuse(
        act(calibration_type=["max", "kl"], max_percentile=many, **lists),
        V,
        "84 candidates",
        "at most 64",
    )


@pytest.mark.parametrize(
    ("said", "scope", "metric"),
    [
        ({}, "model", "cosine-similarity"),
        ({"modelwise_search": {"metric": "mse"}}, "model", "mse"),
        ({"layerwise_search": {"metric": "sqnr"}}, "layer", "sqnr"),
        (
            {"modelwise_search": {"metric": "mse"}, "layerwise_search": {}},
            "layer",
            "cosine-similarity",
        ),
    ],
)
def test_which_search_runs(said: Doc, scope: str, metric: str) -> None:
    search = load_recipe(model(activation={"calibration_type": ["max", "kl"]}, **said)).search
    assert search is not None
    assert (search.scope, search.metric, search.samples, search.aggregate) == (
        scope,
        metric,
        1,
        "worst",
    )
    one = load_recipe(model(activation={"calibration_type": "max"}, **said))
    assert one.search is None


@pytest.mark.parametrize("metric", ["cosine-similarity", "mse", "mae", "mre", "sqnr", "chebyshev"])
def test_the_six_metrics(metric: str) -> None:
    bias = {"bias_correction": {"num_sample": 4, "metric": metric}}
    search = {"metric": metric, "num_sample": 8, "aggregate": "mean", "early_stop": 0.5}
    promote = {"layer": {"topk": 3, "qtype": "float16", "metric": metric}}
    recipe = load_recipe(model(weight=bias, modelwise_search=search, search=promote))
    assert recipe.search is not None
    assert recipe.promote is not None
    s, p = recipe.search, recipe.promote
    assert (s.metric, s.samples, s.aggregate, s.good_enough) == (metric, 8, "mean", 0.5)
    assert (p.metric, p.count, p.precision, p.threshold, p.budget) == (
        metric,
        3,
        "float16",
        None,
        None,
    )
    accept(model(weight=bias), {"conv": {"bias_samples": 4, "bias_metric": metric}})
    accept(node("conv", weight=bias), {"conv": {"bias_samples": 4}, "dw": {"bias_samples": None}})


def test_defaults_of_searches_and_bias_correction() -> None:
    recipe = load_recipe(model(weight={"bias_correction": {}}, search={"layer": {"topk": 5}}))
    assert recipe.promote is not None
    assert (recipe.promote.precision, recipe.promote.metric) == ("int16", "cosine-similarity")
    accept(
        model(weight={"bias_correction": {}}),
        {"conv": {"bias_samples": 1, "bias_metric": "cosine-similarity"}},
    )
    accept(model(), {"conv": {"bias_samples": None}})


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (act(calibration_type="kl", num_bin=64), "129 is the least and is taken"),
        (act(calibration_type="kl", max_num_bin=100), "1024 is the least and is taken"),
        (act(calibration_type="max", num_bin=2048), "num_bin is for kl"),
        (act(calibration_type="max", max_num_bin=2048), "max_num_bin is for kl"),
        (act(calibration_type="kl", max_percentile=0.9), "max_percentile is for max"),
        (act(calibration_type="mix"), "mix is deprecated"),
        (act(calibration_type="skip"), "not for accuracy"),
        (model(all_node_type="fp16"), "read as float16"),
        ({"op_config": {"Gelu": {"qtype": "int16"}}}, "no operator of type 'Gelu'"),
    ],
)
def test_a_remark(document: Doc, says: str) -> None:
    assert any(says in n.message for n in explained(load_recipe(document)).notes)


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        ({"model_conf": {}, "node_config": {}}, V, "Did you mean 'model_config'"),
        (model(all_node_types="int8"), V, "Did you mean 'all_node_type'?"),
        (model(all_node_type="int32"), V, "all_node_type is 'int32'; it is int8, int16, float16 or float32. Did"),
        (model(all_node_type="ec"), V, "all_node_type is 'ec'"),
        (model(all_node_type=8), T, "all_node_type is 8; it is a text"),
        (model(all_node_type=["int8"]), T, "all_node_type is ['int8']"),
        (model(model_output_type="uint8"), V, "model_output_type is 'uint8'"),
        (model(all_node_type="int4"), UnsupportedError, "reserved, not implemented"),
        (node("conv", qtype="mxfp8"), UnsupportedError, "reserved, not implemented"),
        (act(calibration_type="histogram"), V, "calibration_type is 'histogram'; it is max, kl, min-max"),
        (act(calibration_type="kll"), V, "Did you mean 'kl'"),
        (act(calibration_type=[]), V, "calibration_type is []; it has at least 1 element"),
        (act(calibration_type=["max", "skip"]), V, "skip stands alone, not in a list"),
        (act(calibration_type=["max", 1]), T, "calibration_type[1] is 1"),
        (act(calibration_type="kl", num_bin=0), V, "num_bin is 0"),
        (act(calibration_type="kl", num_bin=1024.5), T, "num_bin is 1024.5"),
        (act(calibration_type="kl", num_bin="many"), T, "num_bin is 'many'"),
        (act(calibration_type="kl", max_num_bin=[258, 512]), T, "max_num_bin is [258, 512]; it is a whole number"),
        (act(max_percentile=0.4), V, "max_percentile is 0.4; it lies in [0.5, 1]"),
        (act(max_percentile=1.01), V, "max_percentile is 1.01"),
        (act(max_percentile=[]), V, "max_percentile is []"),
        (act(per_channel="yes"), T, "per_channel is 'yes'; it is true or false"),
        (act(asymmetric=1), T, "asymmetric is 1"),
        (act(bins=3), V, "activation.bins is not known"),
        (model(weight={"bias_correction": True}), T, "bias_correction is true; it is a mapping"),
        (model(weight={"bias_correction": {"num_sample": 0}}), V, "num_sample is 0; it is 1 or more"),
        (model(weight={"bias_correction": {"metric": "cosine"}}), V, "Did you mean 'cosine-similarity'"),
        (model(weight={"bias": {}}), V, "weight.bias is not known"),
        (model(modelwise_search={"metric": "psnr"}), V, "Did you mean 'sqnr'"),
        (model(modelwise_search={"num_sample": 1.5}), T, "num_sample is 1.5"),
        (model(layerwise_search={"aggregate": "best"}), V, "aggregate is 'best'; it is worst or mean"),
        (model(layerwise_search=True), T, "layerwise_search is true"),
        (model(search={}), V, "search.layer is missing"),
        (model(search={"layer": {}}), V, "has one of topk, threshold and budget, not none of them"),
        (model(search={"layer": {"topk": 1, "budget": 0.5}}), V, "not topk and budget"),
        (model(search={"layer": {"topk": 0}}), V, "topk is 0; it is 1 or more"),
        (model(search={"layer": {"topk": 5, "qtype": "int8"}}), V, "qtype is 'int8'; it is int16, float16"),
        ({"op_config": {"softmax": {"qtype": "int16"}}}, V, "Did you mean 'Softmax'"),
        ({"op_config": {"Softmx": {"qtype": "int16"}}}, V, "Did you mean 'Softmax'"),
        ({"op_config": {"Zzzz": {"qtype": "int16"}}}, V, "Unknown operator type 'Zzzz'"),
        ({"op_config": {"Conv": {"qtyp": "int16"}}}, V, "Did you mean 'qtype'?"),
        ({"op_config": {"Conv": {"qtype": "int32"}}}, V, "op_config.Conv.qtype is 'int32'"),
        ({"op_config": {"Conv": "int16"}}, T, "op_config.Conv is 'int16'; it is a mapping"),
        ({"op_config": {"Softmax": {"qtype": "dual-int16"}}}, V, "is for Conv, ConvTranspose, Gemm, MatMul alone"),
        (node("cnov", qtype="int16"), V, "Did you mean 'conv'?"),
        (node("conv", qtype="int32"), V, "node_config.conv.qtype is 'int32'"),
        (node("conv", qtype=["int8", "int16"]), T, "qtype is ['int8', 'int16']"),
        (node("conv", ON="int16", qtype="int8"), V, "another key says that qtype is 'int16'"),
        (node("conv", input9="int16"), V, "'conv' has no input 9"),
        (node("conv", input0="float16"), V, "input0 is 'float16'; it is one of int8, int16, ec"),
        (node("conv", input0="ec"), V, "has no place for error compensation"),
        (node("soft", qtype="ec"), V, "has no place for error compensation"),
        (node("soft", qtype="dual-int16"), V, "'soft' is a Softmax"),
        (node("conv", activation={"calibration_type": "load"}), V, "it belongs into model_config"),
        (node("conv", activation={"calibration_type": "skip"}), V, "it belongs into model_config"),
        ({"subgraph_config": {"g": {"inputs": ["conv"], "qtype": "int16"}}}, V, "g.outputs is missing"),
        ({"subgraph_config": {"g": {"outputs": ["conv"], "qtype": "int16"}}}, V, "g.inputs is missing"),
        ({"subgraph_config": {"g": {"inputs": [], "outputs": ["conv"]}}}, V, "inputs is []"),
        ({"subgraph_config": {"g": {"inputs": "conv", "outputs": ["dw"]}}}, T, "inputs is 'conv'; it is a list"),
        ({"subgraph_config": {"g": {"inputs": ["dw"], "outputs": ["conv"], "qtype": "int16"}}}, V, "is empty"),
        ({"subgraph_config": {"g": {"inputs": ["cnov"], "outputs": ["dw"], "qtype": "int16"}}}, V,
         "Did you mean 'conv'"),
        ({"subgraph_config": {"a": {"inputs": ["conv"], "outputs": ["dw"], "qtype": "int16"},
                              "b": {"inputs": ["dw"], "outputs": ["grouped"], "qtype": "float16"}}}, V,
         "node 'dw' is in subgraph 'b'"),
    ],
)  # fmt: skip
def test_what_is_refused(document: Doc, error: type[ConfigError], says: str) -> None:
    refuse(document, error, says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"model_config": {"all_node_type": "int8" // all\n}}',
            ":1:43: this is not valid JSON: comments",
        ),
        (
            '{"model_config": {"all_node_type": "int8",\n}}',
            ":1:42: this is not valid JSON: a comma before",
        ),
        (
            '{"model_config": {},\n "model_config": {}}',
            ":2:2: this is not valid JSON: 'model_config' stands",
        ),
    ],
)
def test_what_is_no_json_is_told_with_line_and_column(text: str, says: str) -> None:
    refuse(text, V, *[])
    with pytest.raises(ConfigValueError) as raised:
        load_recipe(text)
    assert says in str(raised.value)


# --------------------------------------------------------------------------------------- the old chain


def old(*lines: str) -> str:
    return "calibration_parameters:\n" + "".join(f"  {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (("calibration_type: max", "max_percentile: 0.9999"), {"max_percentile": 0.9999}),
        (("calibration_type: kl", "per_channel: true"), {"activation": "kl-merge", "activation_per_channel": True}),
        (("calibration_type: default", "max_percentile: 0.9999", "per_channel: true"),
         {"activation": "max", "max_percentile": 1.0, "activation_per_channel": False}),
        (("calibration_type: max", "optimization: set_all_nodes_int16"), {"activation_bits": 16}),
        (("calibration_type: max", "optimization: set_Conv_input_int16,set_Conv_output_int16"), {"activation_bits": 16}),
        (("calibration_type: max", "optimization: set_Conv_input_int8"), {"activation_bits": 8}),
        (("calibration_type: max", "run_on_cpu: conv;dw"), {"compute": "float32"}),
        (("calibration_type: max", "run_on_cpu: conv", "node_info: {conv: {ON: BPU, InputType: int16, OutputType: int16}}"),
         {"compute": "int", "activation_bits": 16}),
        (("quant_config: {model_config: {all_node_type: int16}}",), {"activation_bits": 16}),
    ],
)  # fmt: skip
def test_keys_of_the_old_chain(lines: tuple[str, ...], wanted: Doc) -> None:
    accept(old(*lines), {"conv": wanted})


def test_outputs_and_data_of_the_old_chain() -> None:
    text = old(
        "calibration_type: max", "optimization: set_model_output_int16", "cal_data_dir: a;b;c;d"
    )
    recipe = load_recipe(text)
    assert recipe.output_precision == "int16"
    assert [Path(s.path).name for s in recipe.calibration.sources] == ["a", "b", "c", "d"]
    assert load_recipe(old("calibration_type: max", "cal_data_dir: ''")).calibration.random
    refuse(
        old("calibration_type: max", "cal_data_dir: a;b"),
        V,
        "data for 2 inputs, and the model has 4",
    )


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("calibration_type: histogram", V, "it is max, kl, min-max"),
        ("calib_type: max", V, "Did you mean 'calibration_type'"),
        ("optimization: set_everything_int16", V, "set_all_nodes_int16"),
        ("max_percentile: 0.4\n  calibration_type: max", V, "max_percentile is 0.4"),
        ("run_on_cpu: cnov", V, "Did you mean 'conv'?"),
        ("run_on_cpu: 3", T, "run_on_cpu is 3"),
        ("node_info: {conv: {InputTypes: int16}}", V, "InputTypes is not known"),
        ("quant_config: gone.json", V, "'gone.json', which does not exist"),
        ("quant_config: 3", T, "it is a mapping, or the path of a JSON file"),
    ],
)
def test_keys_of_the_old_chain_are_refused(line: str, error: type[ConfigError], says: str) -> None:
    refuse(old(line), error, says)


def test_a_quant_config_in_yaml_and_in_a_file_of_its_own(tmp_path: Path) -> None:
    inline = "model_config:\n  all_node_type: int16\nnode_config:\n  dw: {qtype: int8}\n"
    wanted = {"conv": {"activation_bits": 16}, "dw": {"activation_bits": 8}}
    accept(inline, wanted)
    content = {
        "model_config": {"all_node_type": "int16"},
        "node_config": {"dw": {"qtype": "int8"}},
    }
    (tmp_path / "quant_config.json").write_text(json.dumps(content))
    (tmp_path / "old.yaml").write_text(old("quant_config: ./quant_config.json"))
    recipe = load_recipe(tmp_path / "old.yaml")
    found = {d.node: d.settings.activation_bits for d in explained(recipe).layers}
    assert (found["conv"], found["dw"]) == (16, 8)


def test_a_node_that_was_folded_stands_for_the_one_it_was_folded_into() -> None:
    """Names are those of the optimised model; an original one is taken where it belongs to one node."""
    accept(
        node("bn", qtype="int16"), {"conv": {"activation_bits": 16}, "dw": {"activation_bits": 8}}
    )
    notes = explained(load_recipe(node("bn", qtype="int16"))).notes
    assert [n.honoured for n in notes if "folded into 'conv'" in n.message] == [True]
    refuse({"bn": {"quant_enable": True}}, V, "'bn' is not in the model")

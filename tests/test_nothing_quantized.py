"""A recipe that asks for float everywhere writes that model; what cannot be quantized at all stays an error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant import load_recipe, quantize_from_record
from calibrant.cli import main
from calibrant.errors import ConfigRuntimeError, ConfigValueError
from calibrant.plan import resolve
from calibrant.recipe import AllNodes, OpType, Recipe, Rule, Settings
from tests.models import NETS
from tests.road import batches, op_types, outputs, prepared, quantize, sqnr_db

#: Recipe -> the least SQNR it reaches [dB].
FLOAT = {
    '{"model_config": {"all_node_type": "float16"}}': 45,
    '{"model_config": {"all_node_type": "float32"}}': 90,
    '{"model_config": {"all_node_type": "float16", "layerwise_search": {}}}': 45,
    '{"model_config": {"search": {"layer": {"topk": 99, "qtype": "float16"}}}}': 45,
    '{"model_config": {"search": {"layer": {"topk": 99, "qtype": "float32"}}}}': 90,
    "calibrant: 1\nrules: [{where: all, precision: float16}]\n": 45,
    "calibrant: 1\nrules: [{where: all, precision: float32}]\nequalize: on\nbias_correction: on\n": 90,
    "calibrant: 1\nrules: [{where: {layer: '*'}, precision: float32}]\n": 90,
    "calibrant: 1\npromote: {count: 99, precision: float32}\n": 90,
    "calibrant: 1\npromote: {threshold: 1.0, precision: float16}\n": 45,
}


@pytest.mark.parametrize("target", ["generic", "onnxruntime", "horizon-like"])
@pytest.mark.parametrize("text", FLOAT)
def test_float_everywhere_is_written_as_asked(text: str, target: str, tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    recipe = replace(load_recipe(text), target=target)
    result = quantize(model, batches(feeds), recipe)
    assert result.summary["layers"]["quantized"] == 0
    assert "QuantizeLinear" not in op_types(result.deploy)
    feed = feeds(batch=16, seed=9)
    assert sqnr_db(outputs(model, feed), outputs(result.deploy, feed)) > FLOAT[text]
    said = [n["message"] for n in result.summary["notes"]]
    assert said.count("Every layer stays in float, as asked: nothing is quantized.") == 1
    assert not any("(Cast)" in text for text in said)
    result.save(tmp_path / "run")
    quantize_from_record(model, tmp_path / "run" / "record.txt").save(tmp_path / "again")
    runs = [(tmp_path / name / "deploy.onnx").read_bytes() for name in ("run", "again")]
    assert runs[0] == runs[1]


def test_float16_everywhere_leaves_no_weight_in_float32() -> None:
    model, feeds = NETS["residual"]()
    result = quantize(
        model, batches(feeds), load_recipe({"model_config": {"all_node_type": "float16"}})
    )
    weights = [v.const_value for v in result.deploy.graph.initializers.values()]
    types = {w.dtype.name for w in weights if w is not None and len(w.shape) > 1}
    assert types == {"FLOAT16"}


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
def test_outputs_in_integers_survive_the_record_where_their_layer_is_in_float(
    target: str, tmp_path: Path
) -> None:
    model, feeds = NETS["residual"]()
    rule = Rule(AllNodes(), Settings(compute="float32"))
    result = quantize(
        model, batches(feeds), Recipe(rules=(rule,), target=target, output_precision="int8")
    )
    assert op_types(result.deploy).count("QuantizeLinear") == 1
    result.save(tmp_path / "run")
    again = quantize_from_record(model, tmp_path / "run" / "record.txt")
    assert op_types(again.deploy) == op_types(result.deploy)


def test_who_did_not_ask_gets_an_error() -> None:
    model = prepared(NETS["residual"]()[0])
    implied = Rule(AllNodes(), Settings(compute="float32"), "quant.cfg: not asked for", "implied")
    with pytest.raises(ConfigRuntimeError, match="Nothing is left to quantize"):
        resolve(Recipe(rules=(implied,)), model)
    some = Rule(OpType("Conv"), Settings(compute="float32"))
    rest = replace(implied, where=OpType("Gemm"))
    with pytest.raises(ConfigRuntimeError, match="Nothing is left to quantize"):
        resolve(Recipe(rules=(some, rest)), prepared(NETS["pools"]()[0]))
    required = Rule(AllNodes(), Settings(compute="float32"), "quant.cfg:3", "required")
    with pytest.raises(ConfigValueError, match="Nothing is left to quantize"):
        resolve(Recipe(rules=(required,)), model)


def test_the_command_line_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = NETS["residual"]()
    onnx.save(model, tmp_path / "net.onnx")
    np.savez(tmp_path / "calib.npz", **feeds(batch=16, seed=0))  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    call = ["quantize", "net.onnx", "--data", "calib.npz", "--skip", "*", "--out", "run"]
    assert main(call) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["layers"]["quantized"] == 0


def test_layers_that_a_runtime_fused_are_named_with_the_way_out(tmp_path: Path) -> None:
    node = onnx.helper.make_node(
        "FusedMatMul", ["x", "w"], ["y"], name="fused", domain="com.microsoft", alpha=0.5
    )
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", 4])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", 3])],
        [onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(ConfigRuntimeError, match=r"'fused'.*as it was before"):
        quantize(model, batches(lambda batch, seed: {"x": np.ones((batch, 4), np.float32)}))

"""The graphs and the info file of the Ascend tools (docs/reference/artefacts.md)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.errors import ConfigValueError, ModelError, UnsupportedError
from calibrant.formats.ascend.deploy import dequant_param, emit_ascend_deploy, packed_int4
from calibrant.formats.ascend.fake_quant import emit_ascend_fake_quant
from calibrant.plan.parameters import LayerParameters
from calibrant.recipe import Recipe, Rule
from calibrant.recipe.settings import Settings
from calibrant.recipe.where import AllNodes
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import TARGETS, batches, every_net, outputs, quantize, quantized, sqnr_db

FILES = {"fake_quant_model.onnx", "deploy_model.onnx", "quant_info.json"}


def fake_quant(result: QuantizedModel) -> ir.Model:
    assert result.float_model is not None
    return emit_ascend_fake_quant(result.float_model, result.plan, result.params).model


def deploy(result: QuantizedModel) -> ir.Model:
    assert result.float_model is not None
    return emit_ascend_deploy(result.float_model, result.plan, result.params).model


def constant(model: ir.Model, value: ir.Value | None) -> np.ndarray:
    assert value is not None
    const = model.graph.initializers[value.name or ""].const_value
    assert const is not None
    return const.numpy()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", every_net())
def test_the_fake_quant_graph_computes_what_our_models_do(name: str, target: str) -> None:
    """They differ by the rounding of biases, of the reciprocal, and values between two steps."""
    model, feeds = NETS[name]()
    result, feed = quantized(name, target), feeds(batch=4, seed=99)
    graph = fake_quant(result)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    found = outputs(graph, feed, optimize=False)
    assert sqnr_db(outputs(result.fake_quant, feed, optimize=False), found) > 40
    reference = outputs(model, feed)
    ours = sqnr_db(reference, outputs(result.fake_quant, feed, optimize=False))
    assert sqnr_db(reference, found) > ours - 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", every_net())
def test_weights_and_biases_are_integers(name: str, target: str) -> None:
    result = quantized(name, target)
    simulated, deployed = fake_quant(result), deploy(result)
    nodes = {n.name: n for n in deployed.graph}
    for w in result.plan.weights:
        floats = constant(simulated, simulated.graph.node(w.layer).inputs[w.input_index])
        assert floats.dtype == np.float32
        np.testing.assert_array_equal(floats, result.params.layers[w.layer].values)
        stored = constant(deployed, nodes[w.layer].inputs[w.input_index])
        assert stored.dtype == np.int8
        np.testing.assert_array_equal(stored, floats)
        if nodes[w.layer].op_type in ("Conv", "Gemm") and len(nodes[w.layer].inputs) > 2:
            bias = constant(deployed, nodes[w.layer].inputs[2])
            assert bias.dtype == np.int32
            own = constant(simulated, simulated.graph.node(w.layer).inputs[2])
            np.testing.assert_array_equal(own, bias.astype(np.float32))


def test_names_and_operators_of_the_fake_quant_graph() -> None:
    graph = fake_quant(quantized("conv_bn_relu", "layers-only"))
    layer = quantized("conv_bn_relu", "layers-only").plan.weights[0].layer
    before = [n for n in graph.graph if (n.name or "").startswith(f"{layer}.quant.fakequant.")]
    assert [n.op_type for n in before] == ["Mul", "Round", "Add", "Clip", "Sub"]
    behind = [n for n in graph.graph if (n.name or "").startswith(f"{layer}.fakedequant.")]
    assert [n.op_type for n in behind] == ["Mul"]
    scale = constant(graph, behind[0].inputs[1])
    channels = quantized("conv_bn_relu", "layers-only").params.layers[layer].weight.scale.size
    assert scale.shape == (1, channels, 1, 1)


def test_parameters_of_the_deploy_graph() -> None:
    result = quantized("conv_bn_relu", "layers-only")
    graph = deploy(result)
    for w in result.plan.weights:
        node = graph.graph.node(w.layer)
        source = node.inputs[1 - w.input_index]
        assert source is not None
        quantizer = source.producer()
        assert quantizer is not None
        assert quantizer.op_type == "AscendQuant"
        (d,) = [d for d in result.plan.activations if (w.layer, 0) in d.users]
        p = result.params.activations[d.id]
        attributes = quantizer.attributes
        assert attributes["scale"].as_float() == pytest.approx(1 / float(p.scale), rel=1e-6)
        assert attributes["offset"].as_float() == int(p.zero_point)
        assert attributes["dst_type"].as_string() == "INT8"
        dequant = graph.graph.node(f"{w.layer}.dequant")
        assert dequant.op_type == "AscendDequant"
        param = constant(graph, dequant.inputs[1])
        assert param.dtype == np.uint64
        scale = (param & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
        own = result.params.layers[w.layer].weight.scale
        np.testing.assert_array_equal(scale, (p.scale * own).astype(np.float32))
        assert not (param >> np.uint64(32)).any()


def test_bits_of_the_dequant_parameter() -> None:
    (found,) = dequant_param(np.array(0.5, np.float32), shift=5, offset_w=-1)
    assert int(found) & 0xFFFFFFFF == 0x3F000000
    assert int(found) >> 32 & 0xFF == 5
    assert int(found) >> 40 == 0xFF


def test_equal_quantizers_on_a_tensor_are_one() -> None:
    result = quantized("concat_branches", "layers-only")
    edges = [e for d in result.plan.activations for e in d.users]
    quantizers = [n for n in deploy(result).graph if n.op_type == "AscendQuant"]
    assert len(quantizers) < len(edges)
    read = [(n.inputs[0].name, str(n.attributes)) for n in quantizers if n.inputs[0] is not None]
    assert len(set(read)) == len(read)


def test_an_average_pooling_runs_on_integers() -> None:
    result = quantized("pools", "layers-only")
    pools = [d.node for d in result.plan.layers if "AveragePool" in d.op_type and d.quantized]
    assert pools
    simulated, deployed = fake_quant(result), deploy(result)
    for pool in pools:
        (d,) = [d for d in result.plan.activations if (pool, 0) in d.users]
        scale = result.params.activations[d.id].scale
        mul = simulated.graph.node(f"{pool}.fakedequant.mul")
        assert constant(simulated, mul.inputs[1]) == scale
        assert deployed.graph.node(f"{pool}.dequant").op_type == "AscendDequant"


def test_other_readers_get_floats_back() -> None:
    result = quantized("residual", "onnxruntime")
    graph = deploy(result)
    readers = {use.node.op_type for n in graph.graph if n.op_type == "AscendAntiQuant"
               for use in n.outputs[0].uses()}  # fmt: skip
    assert "Add" in readers
    for node in graph.graph:
        if node.op_type == "AscendAntiQuant":
            quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
            assert quantizer is not None
            product = (
                node.attributes["scale"].as_float() * quantizer.attributes["scale"].as_float()
            )
            assert product == pytest.approx(1, rel=1e-6)
            both = node.attributes["offset"].as_float() + quantizer.attributes["offset"].as_float()
            assert both == 0


def test_four_bits_are_packed_along_the_input_channels() -> None:
    values = np.arange(-8, 7).reshape(5, 3).astype(np.int32)
    packed = packed_int4(values, 0).view(np.uint8)
    assert packed.shape == (3, 3)
    low, high = (packed & 0xF).astype(np.int8), (packed >> 4).astype(np.int8)
    back = np.empty((6, 3), dtype=np.int8)
    back[0::2], back[1::2] = low, high
    back = np.where(back > 7, back - 16, back)
    np.testing.assert_array_equal(back[:5], values)
    assert not back[5].any()


def test_a_weight_of_four_bits_takes_half_the_bytes() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    rule = Rule(AllNodes(), Settings(weight_bits=4))
    result = quantize(model, batches(feeds), Recipe(rules=(rule,)))
    graph = deploy(result)
    for w in result.plan.weights:
        stored = constant(graph, graph.graph.node(w.layer).inputs[w.input_index])
        values = result.params.layers[w.layer].values
        assert stored.dtype == np.int8
        assert stored.size < values.size


def test_a_bias_that_does_not_fit_names_the_layer() -> None:
    result = quantized("conv_bn_relu", "layers-only")
    layer = result.plan.weights[0].layer
    chosen = result.params.layers[layer]
    size = chosen.weight.scale.size
    huge = LayerParameters(chosen.weight, chosen.values, np.full(size, 1e9, dtype=np.float32))
    params = replace(result.params, layers={**result.params.layers, layer: huge})
    with pytest.raises(ModelError, match=f"{layer}.*--skip"):
        fake_quant(replace(result, solution=replace(result.solution, params=params)))


def test_scales_by_channel_are_refused() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    rule = Rule(AllNodes(), Settings(activation_per_channel=True))
    result = quantize(model, batches(feeds), Recipe(rules=(rule,)))
    with pytest.raises(UnsupportedError, match="a scale for each channel"):
        deploy(result)


@pytest.mark.parametrize("prefix", ["", "net"])
def test_files(tmp_path: Path, prefix: str) -> None:
    result = quantized("conv_bn_relu", "generic")
    own = {p.name for p in result.save(tmp_path / "own")}
    names = {p.name for p in result.save(tmp_path / "both", formats=("ascend",), prefix=prefix)}
    assert names - own == {f"{prefix}_{f}" if prefix else f for f in FILES}
    assert own < names
    for name in names:
        if name.endswith(".onnx"):
            onnx.load(tmp_path / "both" / name)


def test_info(tmp_path: Path) -> None:
    result = quantized("conv_bn_relu", "generic")
    result.save(tmp_path, formats=("ascend",))
    info = json.loads((tmp_path / "quant_info.json").read_text(encoding="utf-8"))
    assert info["version"] == 1
    edges = [e for d in result.plan.activations for e in d.users]
    assert sorted((x["name"], x["input"]) for x in info["layers"]) == sorted(edges)
    nodes = set()
    for file in ("deploy_model.onnx", "fake_quant_model.onnx"):
        nodes |= {n.name for n in onnx.load(tmp_path / file).graph.node}
    weighted = {w.layer for w in result.plan.weights}
    folded = {f["layer"]: f["batch_norm"] for f in result.summary["passes"]["folded"]}
    assert folded
    for x in info["layers"]:
        assert x["quant_nodes"]
        assert x["dequant_nodes"]
        assert set(x["quant_nodes"] + x["dequant_nodes"]) <= nodes
        assert x["act_bits"] == 8
        assert x["wts_bits"] == (8 if x["name"] in weighted else None)
        assert x["channel_wise"] == (x["name"] in weighted)
        assert x["fused_from"][0] == x["name"]
        if x["name"] in folded:
            assert folded[x["name"]] in x["fused_from"]


def test_what_is_no_format_or_prefix_is_refused(tmp_path: Path) -> None:
    result = quantized("conv_bn_relu", "generic")
    with pytest.raises(ConfigValueError, match="ascend"):
        result.save(tmp_path / "a", formats=("ascand",))
    with pytest.raises(ConfigValueError, match="prefix"):
        result.save(tmp_path / "a", formats=("ascend",), prefix="a/b")
    assert not (tmp_path / "a").exists()


def test_two_formats_share_one_info_file(tmp_path: Path) -> None:
    result = quantized("conv_bn_relu", "generic")
    for name in ("ascend", "horizon"):
        result.save(tmp_path / name, formats=(name,))
    result.save(tmp_path / "both", formats=("ascend", "horizon"))
    both, ascend, horizon = (
        json.loads((tmp_path / name / "quant_info.json").read_text(encoding="utf-8"))
        for name in ("both", "ascend", "horizon")
    )
    assert both == horizon | ascend
    assert set(ascend) & set(horizon) == {"version"}

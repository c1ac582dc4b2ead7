"""The Ascend graphs: one runs anywhere and agrees with ours, the other says the same in the vendor's operators."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibrant.errors import ModelError, UnsupportedError
from calibrant.formats.ascend.deploy import dequant_param, packed_int4
from calibrant.recipe import AlgorithmChoice, AllNodes, LayerInput, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import batches, every_net, outputs, quantize, quantized, sqnr_db


def run(name: str, *rules: Rule, target: str = "layers-only", **options: object) -> QuantizedModel:
    model, feeds = NETS[name]()
    plain = {"equalize": "off", "bias_correction": "off"}
    return quantize(model, batches(feeds), Recipe(rules, target, **{**plain, **options}))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["generic", "layers-only", "onnxruntime"])
@pytest.mark.parametrize("name", every_net())
def test_the_fake_quant_graph_agrees_with_the_deployable_model(
    name: str, target: str, tmp_path: Path
) -> None:
    result = quantized(name, target)
    result.save(tmp_path, formats=["ascend"], prefix="net")
    _, feeds = NETS[name]()
    feed = feeds(batch=8, seed=5)
    mine = outputs(tmp_path / "net_fake_quant_model.onnx", feed, optimize=False)
    for a, b in zip(outputs(result.deploy, feed, optimize=False), mine, strict=True):
        if np.asarray(a).dtype == np.float32:
            assert sqnr_db(a, b) > 35  # rounding of biases, and steps that flip at ties
    onnx.checker.check_model(onnx.load(tmp_path / "net_fake_quant_model.onnx"))


def test_names_of_nodes_and_files(tmp_path: Path) -> None:
    run("conv_bn_relu").save(tmp_path, formats=["ascend"])
    made = {p.name for p in tmp_path.iterdir()}
    assert {"fake_quant_model.onnx", "deploy_model.onnx", "quant_info.json"} <= made
    fake = onnx.load(tmp_path / "fake_quant_model.onnx")
    names = [n.name for n in fake.graph.node if n.name.startswith("conv1")]
    assert names == [
        "conv1.quant.fakequant.mul",
        "conv1.quant.fakequant.round",
        "conv1.quant.fakequant.add",
        "conv1.quant.fakequant.clip",
        "conv1.quant.fakequant.sub",
        "conv1",
        "conv1.fakedequant.mul",
    ]
    weights = {t.name: numpy_helper.to_array(t) for t in fake.graph.initializer}
    for key in ("conv1.weight", "conv1.bias"):
        assert weights[key].dtype == np.float32
        np.testing.assert_array_equal(weights[key], np.rint(weights[key]))


def test_the_deploy_graph_says_the_same_in_the_vendors_operators(tmp_path: Path) -> None:
    result = run("conv_bn_relu")
    result.save(tmp_path, formats=["ascend"])
    graph = onnx.load(tmp_path / "deploy_model.onnx").graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes = {n.name: n for n in graph.node}
    by_edge = {e: d for d in result.plan.activations for e in d.users}
    for w in result.plan.weights:
        layer, p = result.params.layers[w.layer], result.params.activations[by_edge[w.layer, 0].id]
        quant = nodes[f"{w.layer}.quant"]
        said = {a.name: onnx.helper.get_attribute_value(a) for a in quant.attribute}
        assert quant.op_type == "AscendQuant"
        assert said["scale"] == pytest.approx(1 / float(p.scale))
        assert (said["offset"], said["dst_type"]) == (float(p.zero_point), b"INT8")
        node = nodes[w.layer]
        np.testing.assert_array_equal(constants[node.input[1]], layer.values.astype(np.int8))
        assert constants[node.input[1]].dtype == np.int8
        assert constants[node.input[2]].dtype == np.int32
        param = constants[nodes[f"{w.layer}.dequant"].input[1]]
        assert param.dtype == np.uint64
        low = (param & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
        np.testing.assert_array_equal(low, np.atleast_1d(p.scale * layer.weight.scale))
        assert not (param >> np.uint64(32)).any()  # no shift, no offset of the weight


def test_what_a_dequantizer_reads() -> None:
    packed = int(dequant_param(np.array([0.5], np.float32), shift=5, offset_w=-1)[0])
    assert packed & 0xFFFFFFFF == int(np.float32(0.5).view(np.uint32))
    assert (packed >> 32) & 0xFF == 5
    assert (packed >> 40) & 0xFF == 0xFF


def test_four_bits_are_packed_in_pairs_along_the_input_channels(tmp_path: Path) -> None:
    values = np.array([[1, -2], [3, 4]], np.int32)
    assert packed_int4(values, 1).tolist() == [[-31], [67]]
    result = run("conv_bn_relu", Rule(AllNodes(), Settings(weight_bits=4)))
    result.save(tmp_path, formats=["ascend"])
    graph = onnx.load(tmp_path / "deploy_model.onnx").graph
    node = next(n for n in graph.node if n.name == "conv2")
    stored = next(numpy_helper.to_array(t) for t in graph.initializer if t.name == node.input[1])
    values = result.params.layers["conv2"].values
    assert stored.shape[1] == -(-values.shape[1] // 2)
    low = (stored.view(np.uint8) & 15).astype(np.int32)
    np.testing.assert_array_equal(np.where(low > 7, low - 16, low), values[:, 0::2])


def test_equal_quantizers_of_a_tensor_are_one_and_tensors_of_their_own_come_back(
    tmp_path: Path,
) -> None:
    model, _ = NETS["residual"]()
    add = next(n for n in model.graph.node if n.op_type == "Add")
    result = run("residual", Rule(LayerInput(add.name, 0), Settings(compute="int")))
    result.save(tmp_path, formats=["ascend"])
    graph = onnx.load(tmp_path / "deploy_model.onnx").graph
    assert any(n.op_type == "AscendAntiQuant" for n in graph.node)
    seen = [(n.input[0], str(n.attribute)) for n in graph.node if n.op_type == "AscendQuant"]
    assert len(seen) == len(set(seen))


def test_scales_through_float16_are_cut_to_nineteen_bits(tmp_path: Path) -> None:
    result = run("conv_bn_relu", scale_format="float16")
    result.save(tmp_path, formats=["ascend"])
    graph = onnx.load(tmp_path / "deploy_model.onnx").graph
    params = [
        numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("dequant.param")
    ]
    assert params
    assert all(not (p & np.uint64(0x1FFF)).any() for p in params)


def test_the_info_file_names_the_nodes_of_each_layer(tmp_path: Path) -> None:
    run("conv_bn_relu").save(tmp_path, formats=["ascend"], prefix="net")
    info = json.loads((tmp_path / "net_quant_info.json").read_text())
    assert info["version"] == 1
    first = info["layers"][0]
    assert first.keys() == {
        "name",
        "type",
        "input",
        "fused_from",
        "quant_nodes",
        "dequant_nodes",
        "scale_d",
        "offset_d",
        "act_bits",
        "wts_bits",
        "channel_wise",
    }
    assert first["name"] == "conv1"
    assert len(first["fused_from"]) == 2  # the batch normalization is in it
    assert "conv1.quant" in first["quant_nodes"]
    assert "conv1.dequant" in first["dequant_nodes"]


def test_what_the_graphs_cannot_say_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    result = run("conv_bn_relu", Rule(AllNodes(), Settings(activation_per_channel=True)))
    with pytest.raises(UnsupportedError, match="a scale for each channel"):
        result.save(tmp_path / "run", formats=["ascend"])
    assert not (tmp_path / "run").exists()


def test_a_bias_beyond_32_bits_is_an_error(tmp_path: Path) -> None:
    model, feeds = NETS["gemm_mlp"]()
    for t in model.graph.initializer:
        x = numpy_helper.to_array(t)
        if x.ndim == 1:
            t.CopyFrom(numpy_helper.from_array(np.full_like(x, 1e9), t.name))
    fixed = Rule(AllNodes(), Settings(activation=AlgorithmChoice("min-max")))
    data = [{n: x * np.float32(1e-3) for n, x in f.items()} for f in batches(feeds)]
    result = quantize(
        model, data, Recipe((fixed,), equalize="off", bias_correction="off", tiny_scales="one")
    )
    with pytest.raises(
        ModelError, match=r"The bias of layer .* 32 bits. Leave the layer in float"
    ):
        result.save(tmp_path / "run", formats=["ascend"])

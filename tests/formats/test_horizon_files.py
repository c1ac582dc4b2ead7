"""`--format horizon`: stage models, names of calibration nodes, quant_info.json (docs/reference/artefacts.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibrant import load_recipe
from calibrant.errors import ConfigValueError
from calibrant.formats.horizon.files import origins
from calibrant.recipe import Limit, Recipe, Rule
from calibrant.recipe.settings import AlgorithmChoice, Settings
from calibrant.recipe.where import AllNodes, Layer, LayerInput, OpType
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import TARGETS, batches, every_net, outputs, quantize, quantized, sqnr_db

MODELS = (
    "original_float_model.onnx",
    "optimized_float_model.onnx",
    "calibrated_model.onnx",
    "ptq_model.onnx",
    "quantized_model.onnx",
)


def saved(result: QuantizedModel, folder: Path, prefix: str = "") -> dict[str, Any]:
    result.save(folder, formats=["horizon"], prefix=prefix)
    start = f"{prefix}_" if prefix else ""
    info: dict[str, Any] = json.loads((folder / f"{start}quant_info.json").read_text())
    return info


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", every_net())
def test_every_stage_model_of_every_network_means_what_it_should(
    name: str, target: str, tmp_path: Path
) -> None:
    model, feeds = NETS[name]()
    result, feed = quantized(name, target), feeds(batch=4, seed=99)
    info = saved(result, tmp_path, "net")
    for file in MODELS:
        onnx.checker.check_model(onnx.load(tmp_path / f"net_{file}"), full_check=True)
    reference = outputs(model, feed, optimize=False)
    for file in MODELS[:2]:
        assert sqnr_db(reference, outputs(tmp_path / f"net_{file}", feed, optimize=False)) > 80
    calibrated = tmp_path / "net_calibrated_model.onnx"
    meant = outputs(result.fake_quant, feed, optimize=False)
    assert sqnr_db(meant, outputs(calibrated, feed, optimize=False)) > 42
    deployed = outputs(tmp_path / "net_ptq_model.onnx", feed)
    for a, b in zip(deployed, outputs(result.deploy, feed), strict=True):
        np.testing.assert_array_equal(a, b)
    _check_info(info, onnx.load(calibrated), result)


def _check_info(info: dict[str, Any], model: onnx.ModelProto, result: QuantizedModel) -> None:
    """The file and the model say the same, node by node."""
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = {n.name: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    found = {n for n in nodes if not n.endswith("__residual")}
    assert found == set(info["calibration_nodes"])
    float_names = {n.name for n in (result.float_model.graph if result.float_model else ())}
    assert set(info["nodes"]) == float_names
    for name, entry in info["calibration_nodes"].items():
        assert name.startswith(f"{entry['tensor']}__calib")
        scale = np.atleast_1d(constants[nodes[name].input[1]])
        np.testing.assert_allclose(scale, np.float32(entry["scales"]), rtol=0)
        assert len(entry["thresholds"]) == len(entry["zero_points"]) == len(entry["scales"])
        assert entry["qtype"] == "int8"
        assert entry["consumers"] or entry["kind"] == "activation"
    for entry in info["nodes"].values():
        for read in entry["inputs"].values():
            assert read["calibration_node"] in found


def test_names_without_a_prefix_have_no_underscore_and_stand_beside_ours(tmp_path: Path) -> None:
    result = quantized("conv_bn_relu", "generic")
    written = {p.name for p in result.save(tmp_path, formats=["horizon"])}
    assert written >= {*MODELS, "quant_info.json", "deploy.onnx", "summary.json"}
    assert {p.name for p in tmp_path.iterdir()} == written
    assert not any("float" in p.name for p in result.save(tmp_path / "plain"))


def configured(tmp_path: Path, config: dict[str, Any]) -> dict[str, Any]:
    model, feeds = NETS["residual"]()
    (tmp_path / "quant_config.json").write_text(json.dumps(config))
    recipe = load_recipe(tmp_path / "quant_config.json")
    return saved(quantize(model, batches(feeds), recipe, per_node=True), tmp_path / "out")


def test_quant_info_says_which_level_decided(tmp_path: Path) -> None:
    info = configured(
        tmp_path,
        {
            "model_config": {"activation": {"calibration_type": "max", "max_percentile": 0.9}},
            "op_config": {"Conv": {"activation": {"asymmetric": True}}},
            "node_config": {"conv1": {"qtype": "int16"}, "conv2": {"input0": "int16"}},
        },
    )
    nodes = info["nodes"]
    assert (nodes["conv1"]["qtype"], nodes["conv1"]["from"]) == ("int16", "node_config")
    assert (nodes["conv3"]["qtype"], nodes["conv3"]["from"]) == ("int8", "default")
    read = nodes["conv2"]["inputs"]["input0"]
    assert (read["qtype"], read["from"]) == ("int16", "node_config")
    settings = nodes["conv0"]["settings"]
    assert settings["activation"]["value"] == "max(max_percentile=0.9)"
    assert settings["activation_symmetric"]["value"] is False
    assert settings["activation_symmetric"]["from"] == "op_config"
    node = info["calibration_nodes"][read["calibration_node"]]
    assert (node["qtype"], node["from"]) == ("int16", "node_config")
    assert node["thresholds"] == [pytest.approx(read["threshold"])]
    assert 0.9 < nodes["conv0"]["cosine"] <= 1
    model = {"calibration_type": "max", "max_percentile": 0.9}
    coarse = configured(tmp_path, {"model_config": {"activation": model}})["nodes"]["conv0"]
    assert coarse["settings"]["activation"]["from"] == "model_config"
    assert coarse["settings"]["activation_symmetric"]["value"] is True
    (output,) = info["outputs"]
    assert output["name"] == "y"


@pytest.mark.parametrize("place", [3, 17])
def test_the_worst_sample_is_the_one_that_the_ranges_do_not_hold(
    place: int, tmp_path: Path
) -> None:
    """Ranges hold all samples but one, which is 40 times as large as the others."""
    model, feeds = NETS["residual"]()
    data = batches(feeds)
    data[place // 8]["x"] = data[place // 8]["x"].copy()
    data[place // 8]["x"][place % 8] *= 40
    narrow = AlgorithmChoice.of("percentile", {"percentile": 0.9})
    rule = Rule(AllNodes(), Settings(activation=narrow))
    (output,) = saved(quantize(model, data, Recipe((rule,)), per_node=True), tmp_path)["outputs"]
    assert output["worst_sample"] == place


def test_a_request_that_is_not_met_is_there_with_its_reason(tmp_path: Path) -> None:
    met = configured(tmp_path, {"node_config": {"conv1": {"input0": "int16"}}})
    assert not any("conv1" in n["reason"] for n in met["not_honoured"])
    model, feeds = NETS["residual"]()
    limit = Limit(OpType("Conv"), "activation_bits", (8,), "the device has no such kernel")
    wide = Rule(Layer("conv1"), Settings(activation_bits=16), "node_config.conv1")
    result = quantize(model, batches(feeds), Recipe(rules=(wide,), limits=(limit,)))
    info = saved(result, tmp_path / "limited")
    assert info["nodes"]["conv1"]["qtype"] == "int8"
    (note,) = info["not_honoured"]
    assert note["where"] == "node_config.conv1"
    assert "no such kernel" in note["reason"]


def test_a_calibration_node_of_one_reader_is_called_after_it(tmp_path: Path) -> None:
    """`relu0` is read by conv1 and, in 16 bits, by add1: one node for each type (7.4)."""
    model, feeds = NETS["residual"]()
    wide = Rule(LayerInput("add1", 0), Settings(compute="int", activation_bits=16))
    shared = saved(quantize(model, batches(feeds), Recipe(target="generic")), tmp_path / "a")
    apart = saved(quantize(model, batches(feeds), Recipe(rules=(wide,))), tmp_path / "b")

    def of_relu0(info: dict[str, Any]) -> dict[str, str]:
        nodes = info["calibration_nodes"].items()
        return {n: e["qtype"] for n, e in nodes if e["tensor"] == "relu0"}

    assert of_relu0(shared) == {"relu0__calib": "int8"}
    assert of_relu0(apart) == {"relu0__calib__conv1": "int8", "relu0__calib__add1": "int16"}
    names = {n.name for n in onnx.load(tmp_path / "b" / "calibrated_model.onnx").graph.node}
    assert names >= set(of_relu0(apart))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (Settings(), True),
        (Settings(weight_bits=4), True),
        (Settings(weight_bits=16), True),
        (Settings(weight=AlgorithmChoice("nuq")), False),
        pytest.param(Settings(weight=AlgorithmChoice("ada")), False, marks=pytest.mark.slow),
        (Settings(compensation=True), False),
        (Settings(activation_per_channel=True), False),
    ],
    ids=["int8", "int4", "int16", "nuq", "ada", "ec", "per channel"],
)
def test_weights_are_the_trained_ones_where_a_pair_makes_the_integers_of_them(
    settings: Settings, kept: bool, tmp_path: Path
) -> None:
    model, feeds = NETS["residual"]()
    rule = Rule(OpType("Conv"), settings)
    recipe = Recipe(rules=(rule,), equalize="off", bias_correction="off")
    result = quantize(model, batches(feeds), recipe)
    saved(result, tmp_path)
    calibrated = onnx.load(tmp_path / "calibrated_model.onnx")
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in calibrated.graph.initializer}
    trained = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    first = {n.name: n for n in calibrated.graph.node}["w1__calib__quantize"]
    found = constants[first.input[0]]
    assert found.dtype == np.float32
    assert np.array_equal(found, trained["w1"]) == kept
    feed = feeds(batch=4, seed=99)
    meant = outputs(result.fake_quant, feed, optimize=False)
    got = outputs(tmp_path / "calibrated_model.onnx", feed, optimize=False)
    assert sqnr_db(meant, got) > 42


def test_origins_name_what_was_folded_into_a_node() -> None:
    result = quantized("conv_bn_relu", "generic")
    assert result.original is not None
    assert result.float_model is not None
    found = origins(result.original, result.float_model)
    assert found["conv1"] == ["conv1", "bn1"]
    assert found["relu1"] == ["relu1"]
    assert found["y"] == ["y"]


def test_the_optimized_model_has_its_origins_and_no_numbers_of_calibration(tmp_path: Path) -> None:
    """A Mul that balancing puts in is not there: it belongs to calibration."""
    model, feeds = NETS["conv_bn_relu"]()
    rules = (Rule(AllNodes(), Settings(balance=0.5)),)
    result = quantize(model, batches(feeds), Recipe(rules=rules))
    saved(result, tmp_path)
    optimized = onnx.load(tmp_path / "optimized_float_model.onnx")
    names = [n.name for n in optimized.graph.node]
    metadata = {p.key: p.value for p in optimized.metadata_props}
    assert list(json.loads(metadata["origin"])) == names
    assert "BatchNormalization" not in {n.op_type for n in optimized.graph.node}
    calibrated = onnx.load(tmp_path / "calibrated_model.onnx")
    assert "Mul" in {n.op_type for n in calibrated.graph.node}
    assert "Mul" not in {n.op_type for n in optimized.graph.node}


def test_a_wrong_format_or_prefix_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    result = quantized("conv_bn_relu", "generic")
    with pytest.raises(ConfigValueError, match=r"no format 'horizn'.*'horizon'"):
        result.save(tmp_path, formats=["horizn"])
    with pytest.raises(ConfigValueError, match="'a/b' has a character"):
        result.save(tmp_path, formats=["horizon"], prefix="a/b")
    with pytest.raises(ConfigValueError, match="no format is given"):
        result.save(tmp_path, prefix="a")
    assert not list(tmp_path.iterdir())

"""A model that comes with scales keeps them: where they stand, what they are, what it computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant.dialects import load_recipe
from calibrant.errors import ConfigRuntimeError, ConfigValueError, ModelError
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, Recipe, Rule, Settings
from calibrant.recipe.settings import FROM_MODEL
from tests.models import NETS
from tests.road import TARGETS, batches, every_net, outputs, quantize, quantized

KEEP = Rule(AllNodes(), Settings(activation=AlgorithmChoice(FROM_MODEL)), "recipe")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", every_net())
def test_a_quantized_model_comes_out_as_it_went_in(name: str, target: str) -> None:
    _, feeds = NETS[name]()
    before = quantized(name, target)
    after = quantize(before.deploy, None, Recipe((KEEP,), target))
    feed = feeds(batch=8, seed=77)
    for a, b in zip(
        outputs(before.deploy, feed, optimize=False),
        outputs(after.deploy, feed, optimize=False),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    scales = sorted(float(p.scale) for p in before.params.activations.values())
    assert {float(p.scale) for p in after.params.activations.values()} == set(scales)


def trained(*, transposed: bool = False, weight_zero: int = 0) -> onnx.ModelProto:
    """Quantizers as PyTorch exports them: uint8 with a zero point, and QuantizeLinear on the float weight."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3) if transposed else (3, 4)).astype(np.float32)
    scales = (np.abs(weight).max(axis=0 if not transposed else 1) / 127).astype(np.float32)
    constants = {
        "scale": np.float32(0.02),
        "zero": np.uint8(131),
        "w": weight,
        "w_scale": scales,
        "w_zero": np.full(4, weight_zero, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"], name="q"),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_d"], name="d"),
        helper.make_node(
            "QuantizeLinear",
            ["w", "w_scale", "w_zero"],
            ["w_q"],
            name="wq",
            axis=0 if transposed else 1,
        ),
        helper.make_node(
            "DequantizeLinear",
            ["w_q", "w_scale", "w_zero"],
            ["w_d"],
            name="wd",
            axis=0 if transposed else 1,
        ),
        *(
            [helper.make_node("Transpose", ["w_d"], ["w_t"], name="t", perm=[1, 0])]
            if transposed
            else []
        ),
        helper.make_node("MatMul", ["x_d", "w_t" if transposed else "w_d"], ["y"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "trained",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def keep(*more: Rule) -> Recipe:
    return Recipe((KEEP, *more))


@pytest.mark.parametrize("transposed", [False, True])
def test_scales_and_zero_points_of_a_trained_model_are_kept(transposed: bool) -> None:
    model = trained(transposed=transposed)
    result = quantize(model, None, keep())
    (p,) = result.params.activations.values()
    assert float(p.scale) == pytest.approx(0.02)
    assert int(p.zero_point) == 131 - 128
    layer = result.params.layers["fc"].weight
    assert layer.scale.shape == (4,)
    assert layer.axis == 1
    x = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    (a,), (b,) = (outputs(m, {"x": x}, optimize=False) for m in (model, result.deploy))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert result.plan.activations[0].origin == {"activation": "the model's own quantizer"}


def test_data_shows_how_good_the_result_is() -> None:
    x = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    result = quantize(trained(), {"x": x}, keep())
    assert 20 < result.summary["quality"]["outputs"]["y"]["sqnr_db"] < 60
    assert quantize(trained(), None, keep()).summary["quality"]["outputs"] == {}


def test_a_layer_may_be_left_in_float() -> None:
    skip = Rule(Layer("fc"), Settings(compute="float32"), "line 3")
    with pytest.raises(ConfigRuntimeError, match=r"Nothing is left|no quantizer"):
        quantize(trained(), None, keep(skip))


def test_another_width_than_the_trained_one_is_refused() -> None:
    wide = Rule(Layer("fc"), Settings(activation_bits=16), "quant_config.json:4")
    with pytest.raises(ConfigValueError, match=r"quant_config.json:4.*16 bits.*scale for 8"):
        quantize(trained(), None, keep(wide))
    same = Rule(Layer("fc"), Settings(activation_bits=8), "quant_config.json:4")
    quantize(trained(), None, keep(same))


def test_what_would_change_the_model_is_refused() -> None:
    with pytest.raises(ConfigValueError, match="asks for equalize"):
        quantize(trained(), None, Recipe((KEEP,), equalize="on"))


def test_part_of_a_model_cannot_be_calibrated_beside() -> None:
    kl = Rule(Layer("fc"), Settings(activation=AlgorithmChoice("kl")), "line 9")
    with pytest.raises(ConfigValueError, match=r"line 9.*'kl'.*not calibrated"):
        quantize(trained(), None, keep(kl))


def test_weights_with_a_zero_point_are_refused() -> None:
    with pytest.raises(ModelError, match="layer 'fc' has zero point 3"):
        quantize(trained(weight_zero=3), None, keep())


def test_a_float_model_has_no_scales_to_keep() -> None:
    model, feeds = NETS["gemm_mlp"]()
    with pytest.raises(ConfigRuntimeError, match="holds no quantizer"):
        quantize(model, batches(feeds), keep())


def test_without_the_option_a_quantized_model_is_refused_and_the_option_named() -> None:
    with pytest.raises(ModelError, match=r"already quantized.*from-model"):
        quantize(trained(), {"x": np.zeros((2, 3), np.float32)})


def test_a_computed_scale_is_refused() -> None:
    model = trained()
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "scale"))
    with pytest.raises(ModelError, match="scale of quantizer 'q' is computed"):
        quantize(model, None, keep())


def test_the_vendors_load_does_it(tmp_path: Path) -> None:
    path = tmp_path / "quant_config.json"
    path.write_text('{"model_config": {"activation": {"calibration_type": "load"}}}')
    result = quantize(trained(), None, load_recipe(path))
    (p,) = result.params.activations.values()
    assert float(p.scale) == pytest.approx(0.02)
    values = {v.name for v in ir.from_proto(ir.to_proto(result.deploy)).graph.inputs}
    assert values == {"x"}


def test_the_command_line_does_without_data_where_nothing_is_calibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from calibrant.cli import main

    onnx.save(trained(), tmp_path / "trained.onnx")
    recipe = tmp_path / "quant_config.json"
    recipe.write_text('{"model_config": {"activation": {"calibration_type": "load"}}}')
    model = str(tmp_path / "trained.onnx")
    out = str(tmp_path / "run")
    assert main(["quantize", model, "--recipe", str(recipe), "--out", out]) == 0
    assert "Not measured" in capsys.readouterr().out
    assert (tmp_path / "run" / "deploy.onnx").exists()
    float_model, _ = NETS["gemm_mlp"]()
    onnx.save(float_model, tmp_path / "float.onnx")
    assert main(["quantize", str(tmp_path / "float.onnx"), "--out", out]) == 4
    assert "no calibration data" in capsys.readouterr().err

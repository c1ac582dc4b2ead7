"""8-bit kernels that saturate: seen on this CPU, passed by where figures are taken, and said in one warning."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from calibrant.analysis.evaluate import evaluate
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.runtime.measure import run
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_saturate, saturation_note
from calibrant.runtime.session import open_session
from tests.models import Array, Model, build, normal
from tests.road import batches, outputs, quantize

saturating_cpu = pytest.mark.skipif(
    not kernels_saturate(), reason="the 8-bit kernels of this CPU do not saturate"
)

OPERATORS = {
    "MatMul": ("1,16", "16,2", "MatMul (read, w)"),
    "Gemm": ("1,16", "16,2", "Gemm (read, w)"),
    "Conv": ("1,16,4,4", "2,16,3,3", "Conv (read, w)"),
    "Conv of groups": ("1,16,4,4", "2,8,3,3", "Conv <group = 2> (read, w)"),
}


def full(operator: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a layer in uint8 by int8 whose operands are as large as they can be, and its input."""
    shape, of_weight, call = OPERATORS[operator]
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 13]>
        layer (float[{shape}] x) => (float y) <float one = {{1.0}}, float step = {{20000.0}},
                uint8 zero = {{0}}, int8 signed_zero = {{0}}> {{
            quantized = QuantizeLinear (x, one, zero)
            read = DequantizeLinear (quantized, one, zero)
            w = DequantizeLinear (weight, one, signed_zero)
            product = {call}
            stored = QuantizeLinear (product, step, zero)
            y = DequantizeLinear (stored, step, zero)
        }}"""
    )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    weight = np.full([int(n) for n in of_weight.split(",")], 127, np.int8)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    return model, {"x": np.full([int(n) for n in shape.split(",")], 255, np.float32)}


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_figures_are_taken_from_is_what_the_graph_says_on_every_cpu(operator: str) -> None:
    model, feed = full(operator)
    (found,) = outputs(model, feed)
    (meant,) = outputs(model, feed, optimize=False)
    np.testing.assert_array_equal(found, meant)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_probe_tells_what_plain_sessions_do(operator: str) -> None:
    model, feed = full(operator)
    (meant,) = outputs(model, feed, optimize=False)
    (found,) = open_session(model, runtime=Runtime(threads=1)).run(None, feed)
    assert np.array_equal(found, meant) is not kernels_saturate()


def wide(columns: int = 64) -> Model:
    """Two dense layers of weights of one sign and inputs of one sign: the sums are as large as they can be."""
    rng = np.random.default_rng(5)

    def feeds(batch: int = 4, seed: int = 0) -> dict[str, Array]:
        draw = np.random.default_rng(seed)
        return {"x": draw.uniform(0, 1, (batch, columns)).astype(np.float32)}

    w1, w2 = (rng.uniform(0.5, 1, shape).astype(np.float32) for shape in ((columns, 32), (32, 6)))
    model, _ = build(
        f"""net (float[N,{columns}] x) => (float[N,6] y) {{
            hidden = Gemm (x, w1)
            y = Gemm (hidden, w2)
        }}""",
        {"w1": w1, "w2": w2},
        normal(columns),
    )
    return model, feeds


def warned(result: object) -> list[str]:
    return [w for w in result.summary["warnings"] if "saturate" in w]  # type: ignore[attr-defined]


@saturating_cpu
def test_a_figure_that_the_cpu_spoils_is_said_beside_the_one_of_the_model() -> None:
    model, feeds = wide()
    result = quantize(model, batches(feeds), Recipe(target="int8-only"))
    quality = result.summary["quality"]
    here, model_itself = quality["saturated_here"]["y"], quality["outputs"]["y"]["sqnr_db"]
    assert here < 20 < 30 < model_itself
    (warning,) = warned(result)
    assert f"{here:.1f} dB here, and" in warning
    assert "on 8 samples" in warning  # that is enough to see it; the figure of the model is of all
    assert "session.x64quantprecision" in warning


def test_a_file_for_this_runtime_is_not_spoilt() -> None:
    model, feeds = wide()
    result = quantize(model, batches(feeds), Recipe(target="onnxruntime"))
    assert result.summary["quality"]["saturated_here"] == {}
    assert not warned(result)


def test_weights_of_7_bits_saturate_nowhere() -> None:
    model, feeds = wide()
    recipe = Recipe((Rule(AllNodes(), Settings(weight_bits=7)),), "onnxruntime")
    result = quantize(model, batches(feeds), recipe)
    feed = feeds(batch=8, seed=9)
    (plain,) = run(result.deploy, [feed])
    np.testing.assert_allclose(plain["y"], outputs(result.deploy, feed)[0], rtol=1e-5)
    assert not warned(result)
    assert result.summary["quality"]["saturated_here"] == {}


@saturating_cpu
def test_an_evaluation_takes_the_model_and_notes_the_cpu() -> None:
    model, feeds = wide()
    result = quantize(model, batches(feeds), Recipe(target="int8-only"))
    feed = feeds(batch=8, seed=9)
    data = {"x": feed["x"], "y": outputs(result.deploy, feed)[0]}
    found = evaluate(result.deploy, data, "mse", batch_size=8)
    assert found.value < 1e-6
    assert any("session.x64quantprecision" in note for note in found.notes)
    assert not evaluate(model, data, "mse", batch_size=8).notes


def test_a_float_model_gets_no_note() -> None:
    model, feeds = wide()
    feed = feeds()
    assert saturation_note(model, feed, {"y": outputs(model, feed)[0]}) is None

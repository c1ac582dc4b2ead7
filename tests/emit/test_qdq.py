"""The deployable model: how numbers are stored, and the odd forms that layers come in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.graph.opset import main_opset
from calibrant.numerics import dequantize
from calibrant.recipe import AllNodes, Layer, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS, OPSETS, Array, Feeds, Model, Weights, build, normal, structure
from tests.models.convolution import IMAGE
from tests.road import TARGETS, batches, outputs, quantize, sqnr_db

W = Weights(0)
PLAIN = Recipe(equalize="off", bias_correction="off")


def recipe(target: str = "generic", **settings: object) -> Recipe:
    """A recipe of one rule, without passes that change the model."""
    rule = Rule(AllNodes(), Settings(**settings))  # type: ignore[arg-type]
    return Recipe(rules=(rule,), target=target, equalize="off", bias_correction="off")


def made(
    model: onnx.ModelProto, feeds: Feeds, wanted: Recipe = PLAIN, *, at_least: float = 25
) -> QuantizedModel:
    """Quantize, check the result, and compare all its forms with the float model."""
    result = quantize(model, batches(feeds, count=3), wanted)
    onnx.checker.check_model(ir.to_proto(result.deploy), full_check=True)
    feed = feeds(batch=4, seed=0)  # seen in calibration, so nothing is clipped
    reference = outputs(model, feed)
    for form, optimize in (
        (result.deploy, True),
        (result.deploy, False),
        (result.fake_quant, False),
    ):
        assert sqnr_db(reference, outputs(form, feed, optimize=optimize)) > at_least
    return result


def constants(model: ir.Model) -> dict[str, Array]:
    """Initializers by name."""
    return {
        n: v.const_value.numpy()
        for n, v in model.graph.initializers.items()
        if v.const_value is not None
    }


def dequantizer(model: ir.Model, layer: str, index: int) -> ir.Node | None:
    """The node in front of a layer's input."""
    value = model.graph.node(layer).inputs[index]
    return value.producer() if value is not None else None


# ---------------------------------------------------------------------------------------------- widths


@pytest.mark.parametrize(("bits", "at_least"), [(4, 12), (6, 25), (7, 28), (8, 30), (16, 60)])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_width_of_weights_runs_from_every_opset(
    opset: int, bits: int, at_least: float
) -> None:
    model, feeds = structure.of_opset(opset)
    result = made(
        model,
        feeds,
        recipe(weight_bits=bits, activation_bits=16 if bits == 16 else 8),
        at_least=at_least,
    )
    needed = 21 if bits in (4, 16) else 13
    assert main_opset(result.deploy) == max(opset, needed)
    node = dequantizer(result.deploy, "conv1", 1)
    assert node is not None
    assert node.inputs[0] is not None
    stored = {4: ir.DataType.INT4, 16: ir.DataType.INT16}.get(bits, ir.DataType.INT8)
    assert node.inputs[0].dtype == stored
    used = result.params.layers["conv1"].values
    assert -(2 ** (bits - 1)) <= used.min() < 0 < used.max() < 2 ** (bits - 1)


@pytest.mark.parametrize(
    "net", ["conv_transpose", "grouped", "gemm_mlp", "matmul_mlp", "attention_add"]
)
@pytest.mark.parametrize(("weight", "activation"), [(4, 8), (8, 16), (16, 8), (16, 16)])
@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
def test_widths_mix_on_every_kind_of_layer(
    net: str, weight: int, activation: int, target: str
) -> None:
    wanted = recipe(target, weight_bits=weight, activation_bits=activation)
    made(*NETS[net](), wanted, at_least=12 if weight == 4 else 25)


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
@pytest.mark.parametrize("bits", [8, 16])
def test_activations_are_stored_in_the_type_of_the_target(target: str, bits: int) -> None:
    result = made(*NETS["residual"](), recipe(target, activation_bits=bits))
    unsigned = target == "onnxruntime"
    wanted = {
        (False, 8): ir.DataType.INT8,
        (False, 16): ir.DataType.INT16,
        (True, 8): ir.DataType.UINT8,
        (True, 16): ir.DataType.UINT16,
    }[unsigned, bits]
    pairs = [n for n in result.deploy.graph if n.op_type == "QuantizeLinear"]
    assert pairs
    for node in pairs:
        tensor = node.inputs[0]
        assert node.inputs[2] is not None
        assert node.inputs[2].dtype == wanted
        assert node.inputs[2].const_value is not None
        zero = int(node.inputs[2].const_value.numpy())
        named = {d.tensor: result.params.activations[d.id] for d in result.plan.activations}
        assert tensor is not None
        p = named[(tensor.name or "").removesuffix("__float")]
        assert zero == int(p.zero_point) + (2 ** (bits - 1) if unsigned else 0)


def test_symmetric_activations_have_zero_point_0() -> None:
    result = made(*NETS["residual"](), recipe(activation_symmetric=True))
    assert all(p.zero_point == 0 for p in result.params.activations.values())


def test_one_scale_for_a_whole_weight() -> None:
    result = made(*NETS["residual"](), recipe(weight_per_channel=False))
    assert all(p.weight.scale.shape == () for p in result.params.layers.values())
    node = dequantizer(result.deploy, "conv1", 1)
    assert node is not None
    assert "axis" not in node.attributes


# --------------------------------------------------------------------------------------- weights, axes


@pytest.mark.parametrize(
    ("net", "layer", "axis", "channels"),
    [
        ("residual", "conv1", 0, 8),
        ("conv_transpose", "up1", 1, 6),
        ("conv_transpose", "y", 1, 2),
        ("gemm_mlp", "fc1", 0, 32),
        ("gemm_mlp", "fc2", 1, 16),
        ("matmul_mlp", "fc1", 1, 32),
    ],
)
def test_scales_lie_on_the_axis_of_the_output_channels(
    net: str, layer: str, axis: int, channels: int
) -> None:
    result = made(*NETS[net](), PLAIN)
    node = dequantizer(result.deploy, layer, 1)
    assert node is not None
    assert node.attributes["axis"].as_int() == axis
    assert node.inputs[1] is not None
    assert node.inputs[1].const_value is not None
    assert node.inputs[1].const_value.numpy().shape == (channels,)


def test_the_integers_in_the_file_are_those_of_the_parameters() -> None:
    result = made(*NETS["residual"](), PLAIN)
    stored = constants(result.deploy)
    for layer, p in result.params.layers.items():
        np.testing.assert_array_equal(stored[f"{layer}__weight_quantized"], p.values)
        np.testing.assert_array_equal(stored[f"{layer}__weight_scale"], p.weight.scale)
    assert not any(v.dtype == np.float32 and v.ndim > 1 for v in stored.values())


@pytest.mark.parametrize(
    "network",
    [
        ("y = MatMul (w, x)", {"w": W.dense(6, 8)}),
        ("y = MatMul (x, w)", {"w": W.dense(8, 6)}),
        ("y = MatMul (x, w)", {"w": W.dense(8, 6)[None]}),
        ("y = MatMul (x, w)", {"w": W.vector(8)}),
    ],
    ids=["left", "right", "stack", "vector"],
)
@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
def test_products_with_a_constant_of_every_form(
    network: tuple[str, dict[str, Array]], target: str
) -> None:
    text, weights = network
    rank = "N,A" if weights["w"].ndim == 1 else "N,A,B"
    model = build(f"net (float[N,8,8] x) => (float[{rank}] y) {{ {text} }}", weights, normal(8, 8))
    made(*model, Recipe(target=target))


def test_layers_that_share_a_weight_have_each_their_own() -> None:
    rules = (Rule(Layer("conv1"), Settings(weight_bits=6)),)
    model, feeds = NETS["shared_weight"]()
    result = made(model, feeds, Recipe(rules=rules, equalize="off"))
    first, second = (result.params.layers[n] for n in ("conv1", "conv2"))
    assert (first.weight.dtype.bits, second.weight.dtype.bits) == (6, 8)
    stored = constants(result.deploy)
    np.testing.assert_array_equal(stored["conv1__weight_quantized"], first.values)
    np.testing.assert_array_equal(stored["conv2__weight_quantized"], second.values)


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
def test_a_convolution_whose_weight_is_computed(target: str) -> None:
    model = build(
        """net (float[N,3,16,16] x) => (float[N,4,14,14] y) {
            m = ReduceMax <keepdims = 0> (x) v = Mul (w, m) y = Conv (x, v)
        }""",
        {"w": W.conv(4, 3)},
        IMAGE,
    )
    result = made(*model, Recipe(target=target))
    assert {d.tensor for d in result.plan.activations} >= {"x", "v"}


def test_weights_of_zeros() -> None:
    model, feeds = build(
        "net (float[N,24] x) => (float[N,4] y) { a = MatMul (x, w) y = Add (a, b) }",
        {"w": np.zeros((24, 4), dtype=np.float32), "b": W.vector(4)},
        normal(24),
    )
    made(model, feeds, at_least=100)


def test_tensors_of_zeros() -> None:
    model, feeds = build(
        """net (float[N,24] x) => (float[N,4] y) {
            a = Mul (x, zero) b = MatMul (a, w) y = Add (b, c)
        }""",
        {"zero": np.array(0, dtype=np.float32), "w": W.dense(24, 4), "c": W.vector(4)},
        normal(24),
    )
    made(model, feeds, at_least=100)


# ---------------------------------------------------------------------------------------------- biases


def stored_bias(result: QuantizedModel, layer: str) -> tuple[str, Array, Array]:
    """The type of a bias in the model, its integers and its scale."""
    node = dequantizer(result.deploy, layer, 2)
    assert node is not None
    assert node.op_type == "DequantizeLinear"
    q, s = (v.const_value.numpy() for v in node.inputs[:2])  # type: ignore[union-attr]
    return str(q.dtype), q, s


def scale_in_front(result: QuantizedModel, layer: str) -> float:
    (decision,) = [d for d in result.plan.activations if (layer, 0) in d.users]
    return float(result.params.activations[decision.id].scale)


@pytest.mark.parametrize("net", ["residual", "gemm_mlp", "conv_transpose"])
def test_a_bias_is_int32_with_the_scale_of_the_product(net: str) -> None:
    model, feeds = NETS[net]()
    result = made(model, feeds, PLAIN)
    layer = {"residual": "conv1", "gemm_mlp": "fc1", "conv_transpose": "up1"}[net]
    dtype, q, scale = stored_bias(result, layer)
    weight = result.params.layers[layer].weight
    assert dtype == "int32"
    expected = np.broadcast_to(
        np.float32(scale_in_front(result, layer)) * weight.scale, scale.shape
    )
    np.testing.assert_allclose(scale, expected, rtol=1e-6)
    assert np.abs(q).max() > 100


def test_a_bias_of_a_grouped_transposed_convolution_has_the_scales_of_each_group() -> None:
    """Its weight has a scale for each channel of a group, its bias one value for each channel."""
    result = made(*NETS["conv_transpose"](), PLAIN)
    dtype, q, scale = stored_bias(result, "y")
    of_weight = result.params.layers["y"].weight.scale
    expected = np.tile(scale_in_front(result, "y") * of_weight, q.size // of_weight.size)
    assert dtype == "int32"
    np.testing.assert_allclose(scale, expected, rtol=1e-6)


def test_a_bias_beyond_int32_raises_the_scale_of_its_weight() -> None:
    weights = {"w": 1e-4 * W.dense(24, 8), "b": 1e6 * W.vector(8)}
    model = build(
        "net (float[N,24] x) => (float[N,8] y) { y = Gemm (x, w, b) }", weights, normal(24)
    )
    result = made(*model, PLAIN, at_least=100)
    dtype, q, scale = stored_bias(result, "y")
    assert dtype == "int32"
    np.testing.assert_allclose(q * scale, weights["b"], rtol=1e-6)
    assert np.abs(q).max() < 2**31 - 1


@pytest.mark.parametrize("target", TARGETS)
def test_a_bias_beside_16_bits_is_int32_at_a_scale_that_it_fits(target: str) -> None:
    """ONNX Runtime would make int32 of a float one, at the product of the scales, which overflows."""
    model, feeds = build(
        """net (float[N,6,9,9] x) => (float[N,8,9,9] y) {
            y = Conv <pads = [1,1,1,1]> (x, w, b)
        }""",
        {"w": 0.02 * W.conv(8, 6), "b": 20 * W.vector(8)},
        normal(6, 9, 9),
    )
    wide = Rule(AllNodes(), Settings(activation_bits=16, weight_bits=16))
    recipe = Recipe(rules=(wide,), target=target, bias_correction="off", equalize="off")
    result = quantize(model, batches(feeds), recipe)
    _, q, scale = stored_bias(result, "y")
    product = scale_in_front(result, "y") * result.params.layers["y"].weight.scale
    assert (scale > 1.5 * product).any()  # it would not have fit
    assert np.abs(q.astype(np.int64)).max() < 2**31
    feed = feeds(batch=4, seed=3)
    want = outputs(model, feed)
    assert sqnr_db(want, outputs(result.deploy, feed)) > 60


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1,), ()])
@pytest.mark.parametrize("correction", ["on", "off"])
def test_a_gemm_takes_biases_of_every_shape(shape: tuple[int, ...], correction: str) -> None:
    bias = 3 + W.vector(int(np.prod(shape))).reshape(shape)
    model = build(
        "net (float[N,24] x) => (float[N,8] y) { y = Gemm (x, w, b) }",
        {"w": W.dense(24, 8), "b": bias},
        normal(24),
    )
    made(*model, Recipe(bias_correction=correction))  # type: ignore[arg-type]


@pytest.mark.parametrize("correction", ["on", "off"])
def test_a_bias_that_is_computed_stays_as_it_is(correction: str) -> None:
    model = build(
        """net (float[N,24] x) => (float[N,8] y) {
            c = MatMul (x, v) y = Gemm (x, w, c)
        }""",
        {"w": W.dense(24, 8), "v": 5 * W.dense(24, 8)},
        normal(24),
    )
    made(*model, Recipe(bias_correction=correction))  # type: ignore[arg-type]


def test_layers_that_share_a_bias_have_each_their_own() -> None:
    model = build(
        """net (float[N,24] x) => (float[N,8] y) {
            a = Gemm (x, w, b) r = Relu (a) y = Gemm (r, v, b)
        }""",
        {"w": W.dense(24, 8), "v": 10 * W.dense(8, 8), "b": W.vector(8)},
        normal(24),
    )
    result = made(*model, PLAIN)
    (_, q1, s1), (_, q2, s2) = (stored_bias(result, n) for n in ("a", "y"))
    np.testing.assert_allclose(q1 * s1, q2 * s2, atol=float(max(s1.max(), s2.max())))
    assert not np.array_equal(q1, q2)


def test_a_layer_without_a_bias_gets_none() -> None:
    model, feeds = NETS["shared_weight"]()
    result = made(model, feeds, PLAIN)
    assert len(result.deploy.graph.node("conv1").inputs) == 2


# ----------------------------------------------------------------------------------------------- names


def test_new_names_avoid_those_of_the_model() -> None:
    model = build(
        """net (float[N,24] x) => (float[N,8] y) {
            a__weight = Gemm (x, w, y__float)
            x__quantize = Relu (a__weight)
            y = Gemm (x__quantize, a__weight_quantized)
        }""",
        {"w": W.dense(24, 8), "y__float": W.vector(8), "a__weight_quantized": W.dense(8, 8)},
        normal(24),
    )
    for target in ("generic", "onnxruntime"):
        made(*model, Recipe(target=target))


CASES: dict[str, Model] = {
    "an output that layers read": build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y, float[N,4,16,16] z) {
            a = Conv (x, w) y = Relu (a) z = Conv (y, v)
        }""",
        {"w": W.conv(4, 3, 1), "v": W.conv(4, 4, 1)},
        IMAGE,
    ),
    "a layer's output before its activation": build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] a, float[N,4,16,16] y) {
            a = Conv (x, w) r = Relu (a) y = Conv (r, v)
        }""",
        {"w": W.conv(4, 3, 1), "v": W.conv(4, 4, 1)},
        IMAGE,
    ),
    "an input that is an output": build(
        """net (float[N,24] x) => (float[N,24] z, float[N,8] y) {
            z = Identity (x) y = MatMul (x, w)
        }""",
        {"w": W.dense(24, 8)},
        normal(24),
    ),
    "an input that is left out": build(
        "net (float[N,24] x) => (float[N,8] y) { a = Clip (x, , high) y = MatMul (a, w) }",
        {"w": W.dense(24, 8), "high": np.array(1, dtype=np.float32)},
        normal(24),
    ),
    "a bias that is left out": build(
        "net (float[N,3,16,16] x) => (float[N,4,16,16] y) { y = Conv (x, w, ) }",
        {"w": W.conv(4, 3, 1)},
        IMAGE,
    ),
    "one dimension": build(
        "net (float[N,3,16] x) => (float[N,4,14] y) { a = Conv (x, w) y = LeakyRelu (a) }",
        {"w": W.conv(4, 3)[:, :, 0]},
        normal(3, 16),
    ),
    "three dimensions": build(
        "net (float[N,3,6,6,6] x) => (float[N,4,4,4,4] y) { y = Conv (x, w) }",
        {"w": np.stack([W.conv(4, 3)] * 3, axis=2)},
        normal(3, 6, 6, 6),
    ),
    "rows that the data decides": build(
        """net (float[N,24] x) => (float[N,8] y, float[M,8] k) {
            a = MatMul (x, w)
            r = Relu (a)
            y = MatMul (r, v)
            n = NonZero (r)
            t = Transpose <perm = [1,0]> (n)
            i = Gather <axis = 1> (t, zero)
            g = Gather <axis = 0> (r, i)
            k = MatMul (g, v)
        }""",
        {"w": W.dense(24, 8), "v": W.dense(8, 8), "zero": np.array(0)},
        normal(24),
    ),
    "a loop": build(
        """net (float[N,8] x) => (float[N,8] y) {
            a = MatMul (x, w)
            c = Relu (a)
            y = Loop (trips, go, c) <
                body = step (int64 i, bool more, float[N,8] v) => (bool on, float[N,8] u) {
                    on = Identity (more) t = MatMul (v, w) s = Add (t, c) u = Tanh (s)
                }
            >
        }""",
        {"w": W.dense(8, 8), "trips": np.array(3), "go": np.array(True)},
        normal(8),
    ),
}


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
@pytest.mark.parametrize("name", CASES)
def test_graphs_of_odd_forms(name: str, target: str) -> None:
    model, feeds = CASES[name]
    result = quantize(model, batches(feeds, count=3), Recipe(target=target))
    onnx.checker.check_model(ir.to_proto(result.deploy), full_check=True)
    feed = feeds(batch=4, seed=0)  # seen in calibration, so nothing is clipped
    reference = outputs(model, feed)
    for form, optimize in (
        (result.deploy, True),
        (result.deploy, False),
        (result.fake_quant, False),
    ):
        assert sqnr_db(reference, outputs(form, feed, optimize=optimize)) > 25


def test_the_dequantized_weight_is_the_nearest_on_its_grid() -> None:
    model, feeds = NETS["residual"]()
    result = made(model, feeds, PLAIN)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    p = result.params.layers["conv1"]
    step = p.weight.scale.reshape(-1, 1, 1, 1)
    error = np.abs(dequantize(p.values, p.weight) - weights["w1"])
    inside = np.abs(weights["w1"]) < 127 * step
    assert (error[inside] <= 0.5001 * np.broadcast_to(step, error.shape)[inside]).all()
    assert inside.mean() > 0.9

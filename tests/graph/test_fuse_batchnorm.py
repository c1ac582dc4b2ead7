"""Folding batch normalization changes no output, and says why where it does not fold."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.errors import ConfigValueError
from calibrant.graph.passes.fuse_batchnorm import Folded, fuse_batchnorm
from tests.models import NETS, Array, Feeds, Model, Weights, build, normal
from tests.models.convolution import IMAGE
from tests.road import op_types, outputs, prepared, sqnr_db

W = Weights(0)
BEHIND = "y = BatchNormalization (a, n_g, n_b, n_m, n_v)"
CHANNELS = 4


def network(layer: str, weights: dict[str, Array], shape: str = "N,4,16,16") -> Model:
    """A layer (x) -> (a) with a normalization behind it."""
    values = weights | W.batch_norm("n", CHANNELS)
    text = f"net (float[N,3,16,16] x) => (float[{shape}] y) {{ {layer} {BEHIND} }}"
    return build(text, values, IMAGE)


def folded(model: Model, **options: tuple[str, ...]) -> tuple[ir.Model, list[Folded]]:
    """Fold, and check that no output moved."""
    made = prepared(model)
    report = fuse_batchnorm(made, skip=options.get("skip", ()))
    feed = model[1](batch=3, seed=5)
    assert sqnr_db(outputs(model[0], feed), outputs(made, feed)) > 100
    return made, report


LAYERS: dict[str, Model] = {
    "conv": network("a = Conv <pads = [1,1,1,1]> (x, w)", {"w": W.conv(4, 3)}),
    "conv with bias": network(
        "a = Conv <pads = [1,1,1,1]> (x, w, b)", {"w": W.conv(4, 3), "b": W.vector(4)}
    ),
    "transposed": network("a = ConvTranspose (x, w)", {"w": W.conv(3, 4, 1)}),
    "grouped": build(
        f"""net (float[N,6,8,8] x) => (float[N,4,16,16] y) {{
            a = ConvTranspose <group = 2, strides = [2,2]> (x, w, b) {BEHIND}
        }}""",
        {"w": W.conv(6, 2, 2), "b": W.vector(4)} | W.batch_norm("n", 4),
        normal(6, 8, 8),
    ),
    "depthwise": build(
        f"""net (float[N,4,8,8] x) => (float[N,4,6,6] y) {{
            a = Conv <group = 4> (x, w) {BEHIND}
        }}""",
        {"w": W.conv(4, 1)} | W.batch_norm("n", 4),
        normal(4, 8, 8),
    ),
    "gemm": build(
        f"net (float[N,24] x) => (float[N,4] y) {{ a = Gemm (x, w, b) {BEHIND} }}",
        {"w": W.dense(24, 4), "b": W.vector(4)} | W.batch_norm("n", 4),
        normal(24),
    ),
    "gemm transposed": build(
        f"net (float[N,24] x) => (float[N,4] y) {{ a = Gemm <transB = 1> (x, w) {BEHIND} }}",
        {"w": W.dense(4, 24, 24)} | W.batch_norm("n", 4),
        normal(24),
    ),
    "gemm with factors": build(
        f"""net (float[N,24] x) => (float[N,4] y) {{
            a = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) {BEHIND}
        }}""",
        {"w": W.dense(24, 4), "b": W.vector(4)} | W.batch_norm("n", 4),
        normal(24),
    ),
    "gemm with a bias of one row": build(
        f"net (float[N,24] x) => (float[N,4] y) {{ a = Gemm (x, w, b) {BEHIND} }}",
        {"w": W.dense(24, 4), "b": W.vector(4)[None]} | W.batch_norm("n", 4),
        normal(24),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_folding_removes_the_normalization_and_keeps_the_outputs(name: str) -> None:
    made, report = folded(LAYERS[name])
    assert report == [Folded("a", "y")]
    assert "BatchNormalization" not in op_types(made)
    assert [v.name for v in made.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    "name", ["conv_bn_relu", "conv_transpose", "grouped", "gemm_mlp", "opset9"]
)
def test_whole_networks_are_folded(name: str) -> None:
    made, report = folded(NETS[name]())
    assert report
    assert all(f.done for f in report)
    assert "BatchNormalization" not in op_types(made)


def test_a_layer_in_the_skip_list_keeps_its_normalization() -> None:
    made, report = folded(NETS["conv_bn_relu"](), skip=("conv2",))
    assert [(f.layer, f.reason) for f in report if not f.done] == [("conv2", "in the skip list")]
    assert op_types(made).count("BatchNormalization") == 1


def test_a_skipped_layer_that_does_not_exist_is_an_error_with_a_near_name() -> None:
    with pytest.raises(ConfigValueError, match=r"'conv_2'.*Did you mean 'conv2'"):
        fuse_batchnorm(prepared(NETS["conv_bn_relu"]()), skip=("conv_2",))


def reason(text: str, weights: dict[str, Array], feeds: Feeds = IMAGE, opset: int = 17) -> str:
    """Return why the only pair of a network is not folded; its outputs stay as they were."""
    used = {n: v for n, v in (weights | W.batch_norm("n", 4)).items() if n in text}
    _, report = folded(build(f"net {text}", used, feeds, opset=opset))
    (found,) = report
    return found.reason


CONV = {"w": W.conv(4, 3, 1)}


def test_another_reader_of_the_layer_is_a_reason() -> None:
    head = "(float[N,3,16,16] x) => (float[N,4,16,16] y, float[N,4,16,16] "
    other = "the layer's output has other readers"
    assert reason(head + f"a) {{ a = Conv (x, w) {BEHIND} }}", CONV) == other
    assert reason(head + f"z) {{ a = Conv (x, w) {BEHIND} z = Relu (a) }}", CONV) == other


def test_parameters_that_are_computed_are_a_reason() -> None:
    text = f"""(float[N,3,16,16] x) => (float[N,4,16,16] y) {{
        most = ReduceMax <keepdims = 0> (x) v = Mul (w, most) a = Conv (x, v) {BEHIND}
    }}"""
    assert reason(text, CONV) == "a parameter is not constant"


def test_training_mode_is_a_reason() -> None:
    text = """(float[N,3,16,16] x) => (float[N,4,16,16] y, float[4] mean) {
        a = Conv (x, w)
        y, mean, var = BatchNormalization <training_mode = 1> (a, n_g, n_b, n_m, n_v)
    }"""
    assert reason(text, CONV) == "the normalization is in training mode"


def test_numbers_that_overflow_are_a_reason() -> None:
    text = f"(float[N,3,16,16] x) => (float[N,4,16,16] y) {{ a = Conv (x, w) {BEHIND} }}"
    made = prepared(
        build(
            f"net {text}",
            CONV | W.batch_norm("n", 4) | {"n_g": np.full(4, 3e38, dtype=np.float32)},
            IMAGE,
        )
    )
    scaled = made.graph.initializers["w"]
    scaled.const_value = ir.tensor(1e3 * CONV["w"], name="w")
    (found,) = fuse_batchnorm(made)
    assert found.reason == "the folded weight is not finite"
    assert "BatchNormalization" in op_types(made)


def test_a_weight_that_two_layers_share_is_folded_for_each_alone() -> None:
    made, report = folded(
        build(
            f"""net (float[N,3,16,16] x) => (float[N,4,16,16] y, float[N,4,16,16] z) {{
                a = Conv (x, w) {BEHIND}
                z = Conv (x, w)
            }}""",
            CONV | W.batch_norm("n", 4),
            IMAGE,
        )
    )
    assert report == [Folded("a", "y")]
    assert np.array_equal(made.graph.initializers["w"].const_value.numpy(), CONV["w"])  # type: ignore[union-attr]


def test_names_of_new_constants_avoid_those_of_the_model() -> None:
    made, _ = folded(
        build(
            f"""net (float[N,3,16,16] x) => (float[N,4,16,16] y, float[N,4,16,16] a__folded_bias) {{
                a = Conv (x, w) {BEHIND}
                a__folded_bias = Relu (y)
            }}""",
            CONV | W.batch_norm("n", 4),
            IMAGE,
        )
    )
    assert {v.name for v in made.graph.outputs} == {"y", "a__folded_bias"}


def test_a_normalization_that_follows_no_layer_is_left_alone() -> None:
    model = build(
        f"net (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ a = Relu (x) {BEHIND} }}",
        W.batch_norm("n", 4),
        normal(4, 8, 8),
    )
    made, report = folded(model)
    assert report == []
    assert op_types(made) == ["Relu", "BatchNormalization"]


def test_float16_parameters_stay_float16() -> None:
    half = {n: v.astype(np.float16) for n, v in (CONV | W.batch_norm("n", 4)).items()}
    model = build(
        f"net (float16[N,3,16,16] x) => (float16[N,4,16,16] y) {{ a = Conv (x, w) {BEHIND} }}",
        half,
        IMAGE,
    )
    made = prepared(model)
    assert [f.done for f in fuse_batchnorm(made)] == [True]
    x = {"x": IMAGE()["x"].astype(np.float16)}
    np.testing.assert_allclose(outputs(made, x)[0], outputs(model[0], x)[0], atol=2e-2)

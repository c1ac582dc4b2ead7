"""Activations with one scale a channel: what is folded where, and that it computes what it should."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.choose import choose_activations, choose_parameters
from calibrant.emit.qdq import emit_qdq, emit_simulated
from calibrant.numerics import dequantize, fake_quantize
from calibrant.plan import resolve
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, LayerInput, Recipe, Rule, Settings
from calibrant.recipe.settings import FROM_MODEL
from calibrant.results import QuantizedModel
from calibrant.save.tables import plan_table
from calibrant.stats import TensorStats
from tests.models import NETS, Model, Weights, build, normal
from tests.road import TARGETS, batches, outputs, prepared, quantize, sqnr_db

IMAGE = normal(6, 9, 9)


def recipe(target: str = "generic", *more: Rule, joint: bool = False, **asked: object) -> Recipe:
    """Scales by channel everywhere, and no pass that changes the model."""
    wanted = {"activation_per_channel": True, "activation": AlgorithmChoice("min-max")} | asked
    rule = Rule(AllNodes(), Settings(**wanted), "the test")  # type: ignore[arg-type]
    return Recipe(
        rules=(rule, *more), target=target, equalize="off", bias_correction="off", joint=joint
    )


def spread(ratio: float, *, groups: int = 1, decades_first: bool = True) -> Model:
    """Two convolutions; the channels between them differ in range by `ratio`, and the second evens it out."""
    w = Weights(3)
    gain = np.geomspace(1, ratio, 8).astype(np.float32)
    second = (
        w.conv(8, 8 // groups)
        / np.resize(gain.reshape(groups, -1).repeat(8 // groups, axis=0), (8, 8 // groups))[
            :, :, None, None
        ]
    )
    return build(
        f"""net (float[N,6,9,9] x) => (float[N,8,9,9] y) {{
            first = Conv <pads = [1,1,1,1]> (x, w1, b1)
            act = LeakyRelu (first)
            y = Conv <pads = [1,1,1,1], group = {groups}> (act, w2, b2)
        }}""",
        {
            "w1": w.conv(8, 6) * gain[:, None, None, None],
            "b1": w.vector(8) * gain,
            "w2": second,
            "b2": w.vector(8),
        },
        IMAGE,
    )


def one_layer(kind: str) -> Model:
    """One layer of each kind that can take the scales of its input's channels."""
    w = Weights(5)
    text, weights, feeds = {
        "conv": (
            "(float[N,6,9,9] x) => (float[N,8,9,9] y) { y = Conv <pads = [1,1,1,1]> (x, w, b) }",
            {"w": w.conv(8, 6), "b": w.vector(8)},
            IMAGE,
        ),
        "grouped": (
            "(float[N,6,9,9] x) => (float[N,9,5,5] y) "
            "{ y = Conv <pads = [1,1,1,1], strides = [2,2], group = 3> (x, w, b) }",
            {"w": w.conv(9, 2), "b": w.vector(9)},
            IMAGE,
        ),
        "depthwise": (
            "(float[N,6,9,9] x) => (float[N,12,9,9] y) "
            "{ y = Conv <pads = [1,1,1,1], group = 6> (x, w, b) }",
            {"w": w.conv(12, 1), "b": w.vector(12)},
            IMAGE,
        ),
        "transposed": (
            "(float[N,6,9,9] x) => (float[N,4,11,11] y) { y = ConvTranspose <group = 2> (x, w, b) }",
            {"w": w.conv(6, 2), "b": w.vector(4)},
            IMAGE,
        ),
        "gemm": (
            "(float[N,24] x) => (float[N,8] y) { y = Gemm (x, w, b) }",
            {"w": w.dense(24, 8), "b": w.vector(8)},
            normal(24),
        ),
        "gemm transposed": (
            "(float[N,24] x) => (float[N,8] y) { y = Gemm <transB = 1> (x, w, b) }",
            {"w": w.dense(8, 24), "b": w.vector(8)},
            normal(24),
        ),
        "matmul": (
            "(float[N,5,24] x) => (float[N,5,8] y) { y = MatMul (x, w) }",
            {"w": w.dense(24, 8)},
            normal(5, 24),
        ),
        "stack": (
            "(float[N,3,5,24] x) => (float[N,3,5,8] y) { y = MatMul (x, w) }",
            {"w": np.stack([w.dense(24, 8) for _ in range(3)])},
            normal(3, 5, 24),
        ),
    }[kind]
    return build(f"net {text}", weights, feeds)


LAYERS = (
    "conv",
    "grouped",
    "depthwise",
    "transposed",
    "gemm",
    "gemm transposed",
    "matmul",
    "stack",
)


def uneven(
    model: Model, *, shift: float = 0.0, axis: int = 1
) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """A network and its feeds, with input channels of very different range and centre."""
    proto, feeds = model
    data = []
    for feed in batches(feeds, count=3):
        x = feed["x"]
        gain = np.geomspace(0.01, 1, x.shape[axis]).astype(np.float32)
        centre = shift * gain * np.linspace(-1, 1, x.shape[axis], dtype=np.float32)
        shape = [1] * x.ndim
        shape[axis] = -1
        data.append({"x": x * gain.reshape(shape) + centre.reshape(shape)})
    return proto, data


# -------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", LAYERS)
def test_all_forms_of_a_folded_layer_compute_the_same(
    kind: str, target: str, symmetric: bool
) -> None:
    """Folding is exact: the layer gives what the quantized input times the unfolded weight gives."""
    if kind == "transposed" and target == "onnxruntime":
        pytest.skip("stays in float there")
    axis = 1 if kind not in ("matmul", "stack") else -1
    model, data = uneven(one_layer(kind), shift=2.0, axis=axis)
    wanted = recipe(target, activation_symmetric=symmetric)
    result = quantize(model, data, wanted)
    first, *_ = result.plan.activations
    assert first.folded
    assert first.channels == (6 if data[0]["x"].ndim == 4 and kind != "stack" else 24)
    feed = data[0]
    simulated = emit_simulated(prepared(model), result.plan, result.params)
    meant = outputs(result.fake_quant, feed, optimize=False)
    scale = max(np.abs(meant[0]).max(), 1e-9)
    if result.plan.activations[-1].producer is None:  # otherwise a tie may go either way behind it
        for other, optimize in (
            (result.deploy, False),
            (result.deploy, True),
            (simulated, False),
            (simulated, True),
        ):
            found = outputs(other, feed, optimize=optimize)
            np.testing.assert_allclose(found[0] / scale, meant[0] / scale, atol=3e-5)
        x = fake_quantize(feed["x"], result.params.activations[first.id])
        folded = result.params.activations[first.id]
        layer = result.params.layers[result.plan.weights[0].layer]
        w = dequantize(layer.values, layer.weight)
        relative = folded.scale / folded.common_scale
        unfolded = {
            "gemm transposed": lambda: w / relative,
            "conv": lambda: w / relative[:, None, None],
            "grouped": lambda: w / relative.reshape(3, 2).repeat(3, axis=0)[:, :, None, None],
            "depthwise": lambda: w / relative.repeat(2)[:, None, None, None],
            "transposed": lambda: w / relative[:, None, None, None],
        }.get(kind, lambda: w / relative[:, None])()
        other = prepared(model)
        value = other.graph.initializers["w"]
        value.const_value = ir.tensor(unfolded.astype(np.float32), name="w")
        found = outputs(other, {"x": x}, optimize=False)
        np.testing.assert_allclose(found[0] / scale, meant[0] / scale, atol=3e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name",
    ["conv_bn_relu", "depthwise_leaky", "residual", "grouped", "pools", "resize", "activations",
     "concat_branches", "conv_transpose", "matmul_mlp", "attention_add", "shared_weight"],
)  # fmt: skip
def test_networks_run_and_the_runtimes_optimizer_changes_next_to_nothing(
    name: str, target: str, symmetric: bool
) -> None:
    """Its integer kernels take one scale; nothing of theirs may be fused with scales by channel."""
    model, feeds = NETS[name]()
    result = quantize(model, batches(feeds), recipe(target, activation_symmetric=symmetric))
    assert any(d.channels for d in result.plan.activations)
    feed = feeds(batch=4, seed=0)
    plain = outputs(result.deploy, feed, optimize=False)
    assert sqnr_db(plain, outputs(result.deploy, feed)) > 60
    assert sqnr_db(outputs(result.fake_quant, feed, optimize=False), plain) > 38
    assert sqnr_db(outputs(model, feed), plain) > 22


# -------------------------------------------------------------------------------------- the effect


@settings(max_examples=8, deadline=None)
@given(
    ratio=st.floats(100, 3000),
    groups=st.sampled_from([1, 2]),
    symmetric=st.booleans(),
    algorithm=st.sampled_from(["min-max", "max", "mse"]),
)
def test_uneven_channels_gain_by_scales_of_their_own(
    ratio: float, groups: int, symmetric: bool, algorithm: str
) -> None:
    model, feeds = spread(ratio, groups=groups)
    feed = feeds(batch=4, seed=1)
    reference = outputs(model, feed)
    found = []
    for per_channel in (False, True):
        wanted = recipe(
            activation_per_channel=per_channel,
            activation_symmetric=symmetric,
            activation=AlgorithmChoice(algorithm),
        )
        result = quantize(model, batches(feeds), wanted)
        found.append(sqnr_db(reference, outputs(result.deploy, feed)))
    assert found[1] > 30
    assert found[1] > found[0] + 8


@pytest.mark.parametrize("symmetric", [True, False])
def test_padding_of_a_convolution_is_zero_exactly(symmetric: bool) -> None:
    """A padded value stands at the zero point, so borders see 0 and nothing else."""
    w = Weights(7)
    net = build(
        """net (float[N,6,H,W] x) => (float[N,8,H,W] y) { y = Conv <pads = [1,1,1,1]> (x, w, b) }""",
        {"w": w.conv(8, 6), "b": w.vector(8)},
        IMAGE,
    )
    model, data = uneven(net, shift=4.0)
    result = quantize(model, data, recipe(activation_symmetric=symmetric))
    feed = data[0]
    padded = {"x": np.pad(feed["x"], ((0, 0), (0, 0), (1, 1), (1, 1)))}  # zeros that are quantized
    inner = outputs(result.deploy, padded, optimize=False)[0][:, :, 1:-1, 1:-1]
    for optimize in (False, True):
        found = outputs(result.deploy, feed, optimize=optimize)[0]
        np.testing.assert_allclose(found, inner, atol=1e-6 * np.abs(inner).max())
    if not symmetric:
        zero = result.params.activations["x"].zero_point
        assert len(set(zero.tolist())) > 3


# ------------------------------------------------------------------------------------ who takes what


def decided(result: QuantizedModel) -> dict[str, tuple[int | None, bool]]:
    """Tensor -> channel axis and whether it is folded."""
    return {d.tensor: (d.spec.axis, d.folded) for d in result.plan.activations}


def test_what_a_depthwise_layer_with_one_weight_scale_reads_is_not_folded() -> None:
    model, data = uneven(one_layer("depthwise"))
    folded = quantize(model, data, recipe())
    as_it_is = quantize(model, data, recipe(weight_per_channel=False))
    assert decided(folded) == {"x": (1, True)}
    assert decided(as_it_is) == {"x": (1, False)}
    feed = data[0]
    reference = outputs(model, feed)
    bias = [n for n in as_it_is.deploy.graph.initializers if n.endswith("bias_quantized")]
    assert bias  # int32, with the scale of each filter's channel
    for result in (folded, as_it_is):
        meant = outputs(result.fake_quant, feed, optimize=False)[0]
        for optimize in (False, True):
            found = outputs(result.deploy, feed, optimize=optimize)[0]
            np.testing.assert_allclose(
                found, meant, atol=3e-5 * np.abs(meant).max()
            )  # biases are rounded
        assert sqnr_db(reference, outputs(result.deploy, feed)) > 30


def test_readers_that_fold_and_readers_that_do_not_have_quantizers_of_their_own() -> None:
    """conv1 folds; the Add beside it takes channels as they are, on the same grid."""
    model, feeds = NETS["residual"]()
    add = Rule(LayerInput("add1", 0), Settings(compute="int"), "a rule")
    result = quantize(model, batches(feeds), recipe("generic", add))
    both = [d for d in result.plan.activations if d.tensor == "relu0"]
    assert [(d.folded, d.users) for d in both] == [
        (True, (("conv1", 0),)),
        (False, (("add1", 0),)),
    ]
    first, second = (result.params.activations[d.id] for d in both)
    np.testing.assert_array_equal(first.scale, second.scale)
    feed = feeds(batch=4, seed=0)
    assert sqnr_db(outputs(model, feed), outputs(result.deploy, feed)) > 30


@pytest.mark.parametrize(
    ("net", "target", "tensor", "reason"),
    [
        ("attention_add", "generic", None, "no quantized constant that could take the scales"),
        ("gemm_scaled", "generic", None, "the contracted axis is not the last"),
        ("resize", "onnxruntime", None, "Resize mixes or moves channels"),
        ("residual", "onnxruntime", "relu0", "need them in different forms"),
        ("pools", "onnxruntime", None, "hands on integers of one scale"),
    ],
)
def test_where_it_cannot_be_one_scale_stays_and_a_note_names_the_reader(
    net: str, target: str, tensor: str | None, reason: str
) -> None:
    model, _ = NETS[net]()
    plan = resolve(recipe(target), prepared(model))
    [note] = [n for n in plan.notes if reason in n.message]
    assert note.where == "the test"
    assert not note.honoured
    falling = [d for d in plan.activations if d.channels is None]
    named = [
        d for d in falling if any(f"'{node}' input {i}" in note.message for node, i in d.users)
    ]
    assert named
    if tensor is not None:
        assert tensor in {d.tensor for d in named}


def test_one_rule_for_one_layer_holds_there_alone() -> None:
    model, feeds = NETS["residual"]()
    wanted = recipe("generic", Rule(Layer("conv2"), Settings(activation_per_channel=True)),
                    activation_per_channel=False)  # fmt: skip
    result = quantize(model, batches(feeds), wanted)
    assert {t: axis for t, (axis, _) in decided(result).items() if axis} == {"relu1": 1}
    assert not result.plan.notes


def test_values_behind_a_max_pool_share_the_ranges_of_their_channels() -> None:
    w = Weights(1)
    model = build(
        """net (float[N,6,9,9] x) => (float[N,8,8,8] y, float[N,8,9,9] z) {
            z = Conv (x, w1)
            pooled = MaxPool <kernel_shape = [2,2]> (x)
            y = Conv (pooled, w2)
        }""",
        {"w1": w.conv(8, 6, 1), "w2": w.conv(8, 6, 1)},
        IMAGE,
    )
    result = quantize(*uneven(model), recipe())
    x, pooled = (result.params.activations[t] for t in ("x", "pooled"))
    np.testing.assert_array_equal(x.scale, pooled.scale)
    assert len(set(x.scale.tolist())) == 6


def test_sums_share_ranges_by_channel_where_the_recipe_joins_them() -> None:
    model, feeds = NETS["residual"]()
    result = quantize(model, batches(feeds), recipe(joint=True))
    groups: dict[str, list[np.ndarray]] = {}
    for d in result.plan.activations:
        groups.setdefault(d.group, []).append(result.params.activations[d.id].scale)
    shared = [g for g in groups.values() if len(g) > 1]
    assert shared
    assert all(np.array_equal(g[0], other) for g in shared for other in g)


def test_a_channel_without_values_takes_the_smallest_scale() -> None:
    """The guard of the kernel would give it scale 1, and its weights would crowd out all others."""
    model, data = uneven(one_layer("conv"))
    data = [{"x": f["x"] * np.array([1, 0, 1, 1, 1, 1], np.float32)[:, None, None]} for f in data]
    result = quantize(model, data, recipe())
    scale = result.params.activations["x"].scale
    assert scale[1] == scale.min() == scale[0]
    assert sqnr_db(outputs(model, data[0]), outputs(result.deploy, data[0])) > 30


# ------------------------------------------------------------------------------------ how they are chosen

ALGORITHMS = (
    "min-max",
    "max",
    "percentile",
    "mse",
    "ifmr",
    "hfmg",
    "kl",
    "kl-merge",
    "symkl",
    "jsd",
)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("exact", [True, False])
def test_every_algorithm_chooses_each_channel_by_itself(algorithm: str, exact: bool) -> None:
    model, feeds = one_layer("conv")
    wanted = recipe(activation=AlgorithmChoice(algorithm))
    plan = resolve(wanted, prepared(model))
    x = feeds(batch=8, seed=2)["x"] * np.geomspace(0.01, 1, 6, dtype=np.float32)[:, None, None]
    make = TensorStats.exact if exact else TensorStats.of
    found = choose_activations(plan, {"x": make(x, by_channel=(1,))})["x"]
    assert found.axis == 1
    one = resolve(recipe(activation=AlgorithmChoice(algorithm), activation_per_channel=False),
                  prepared(model))  # fmt: skip
    for c in range(6):
        alone = choose_activations(one, {"x": make(np.ascontiguousarray(x[:, c]))})["x"]
        assert found.scale[c] == alone.scale
        assert found.zero_point[c] == alone.zero_point


def test_percentiles_are_those_of_each_channel() -> None:
    """An outlier in one channel stretches its range and no other's."""
    model, feeds = one_layer("conv")
    data = [feeds(batch=8, seed=s) for s in range(2)]
    data[0]["x"][0, 2, 0, 0] = 1000.0
    results = [
        quantize(model, data, recipe(activation=AlgorithmChoice.of(name, options)))
        for name, options in (("max", {}), ("max", {"max_percentile": 0.999}))
    ]
    whole, clipped = (r.params.activations["x"].scale for r in results)
    assert whole[2] > 50 * whole[1]
    assert clipped[2] < 2 * clipped[1]


def test_auto_and_bias_correction_work_on_scales_by_channel() -> None:
    model, feeds = spread(100.0)
    rule = Rule(AllNodes(), Settings(activation_per_channel=True))
    result = quantize(model, batches(feeds), Recipe(rules=(rule,), equalize="off"))
    tried = {d["name"] for d in result.summary["decisions"] if d["stage"] == "ranges"}
    assert "mse, plain" in tried
    feed = feeds(batch=4, seed=9)
    assert sqnr_db(outputs(model, feed), outputs(result.deploy, feed)) > 30


def test_the_plan_lists_scales_zero_points_and_ranges_by_channel() -> None:
    model, data = uneven(one_layer("conv"), shift=3.0)
    result = quantize(model, data, recipe())
    [entry] = [t for t in plan_table(result.plan, result.params)["tensors"] if t["tensor"] == "x"]
    assert (entry["axis"], entry["folded_into_weights"]) == (1, True)
    low, high = entry["range"]
    x = np.concatenate([f["x"] for f in data])
    step = np.array(entry["scale"])
    assert (np.abs(np.array(low) - np.minimum(x.min(axis=(0, 2, 3)), 0)) <= step).all()
    assert (np.abs(np.array(high) - np.maximum(x.max(axis=(0, 2, 3)), 0)) <= step).all()
    assert len(entry["zero_point"]) == 6


def test_parameters_follow_from_statistics_alone() -> None:
    model, data = uneven(one_layer("grouped"))
    float_model = prepared(model)
    plan = resolve(recipe(), float_model)
    x = np.concatenate([f["x"] for f in data])
    half = len(x) // 2
    parts = [TensorStats.of(p, by_channel=(1,)) for p in (x[:half], x[half:])]
    merged = choose_parameters(plan, float_model, {"x": parts[1].merge(parts[0])})
    result = quantize(model, data, recipe())
    np.testing.assert_array_equal(
        merged.activations["x"].scale, result.params.activations["x"].scale
    )
    np.testing.assert_array_equal(merged.layers["y"].values, result.params.layers["y"].values)
    one, other = (ir.to_proto(emit_qdq(float_model, plan, p)) for p in (merged, result.params))
    assert one == other


@pytest.mark.slow
def test_learned_rounding_learns_the_weight_that_the_scales_are_folded_into() -> None:
    model, feeds = spread(100.0)
    found = []
    for algorithm in ("arq", "ada"):
        wanted = recipe(weight=AlgorithmChoice(algorithm), weight_bits=4)
        result = quantize(model, batches(feeds), wanted)
        feed = feeds(batch=4, seed=9)
        found.append(sqnr_db(outputs(model, feed), outputs(result.deploy, feed)))
    assert found[1] > found[0] + 1


def test_scales_by_channel_that_a_model_came_with_are_kept_as_they_are() -> None:
    """Trained elsewhere, with a pair of one axis before a dense Conv: its bias has no one scale, and stays float."""
    w = Weights(9)
    model, feeds = build(
        """net (float[N,6,9,9] x) => (float[N,12,9,9] y) {
            q = QuantizeLinear <axis = 1> (x, s, z)
            d = DequantizeLinear <axis = 1> (q, s, z)
            wd = DequantizeLinear <axis = 0> (wq, ws)
            y = Conv <pads = [1,1,1,1]> (d, wd, b)
        }""",
        {
            "s": np.geomspace(0.01, 0.03, 6).astype(np.float32),
            "z": np.arange(-3, 3).astype(np.int8),
            "wq": np.rint(w.conv(12, 6) * 100).astype(np.int8),
            "ws": np.full(12, 0.01, np.float32),
            "b": w.vector(12),
        },
        IMAGE,
    )
    keep = Rule(AllNodes(), Settings(activation=AlgorithmChoice(FROM_MODEL)))
    result = quantize(model, None, Recipe(rules=(keep,)))
    assert not [n for n in result.deploy.graph.initializers if n.endswith("bias_quantized")]
    feed = feeds(batch=4, seed=0)
    reference = outputs(model, feed, optimize=False)[0]
    for other in (result.deploy, result.fake_quant):
        found = outputs(other, feed, optimize=False)[0]
        np.testing.assert_allclose(found, reference, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize(
    ("symmetric", "positive", "axis"), [(True, False, 0), (False, True, 0), (False, False, 1)]
)
def test_a_folded_tensor_is_read_at_one_scale_and_at_one_zero_point_where_there_is_one(
    symmetric: bool, positive: bool, axis: int
) -> None:
    model, data = uneven(one_layer("conv"), shift=0.0 if positive else 3.0)
    if positive:
        data = [{"x": np.abs(feed["x"])} for feed in data]
    result = quantize(model, data, recipe(activation_symmetric=symmetric))
    p = result.params.activations["x"]
    nodes = {n.op_type: n for n in result.deploy.graph if (n.name or "").startswith("x__")}
    quantize_, dequantize_ = nodes["QuantizeLinear"], nodes["DequantizeLinear"]

    def constant(node: ir.Node, index: int) -> np.ndarray:
        return node.inputs[index].const_value.numpy()  # type: ignore[union-attr]

    np.testing.assert_array_equal(constant(quantize_, 1), p.scale)
    np.testing.assert_array_equal(constant(quantize_, 2), p.zero_point)
    assert quantize_.attributes["axis"].as_int() == 1
    assert constant(dequantize_, 1).ndim == constant(dequantize_, 2).ndim == axis
    assert (constant(dequantize_, 1) == p.scale.max()).all()
    assert (constant(dequantize_, 2) == p.zero_point).all()
    simulated = emit_simulated(prepared(model), result.plan, result.params)
    for optimize in (False, True):
        found, meant = (
            outputs(m, data[0], optimize=optimize)[0] for m in (result.deploy, simulated)
        )
        np.testing.assert_allclose(found, meant, atol=3e-5 * np.abs(meant).max())

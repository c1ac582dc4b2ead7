"""The whole road: every switch changes what it says, every form of data is taken, bad input is one sentence."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import calibrant
from calibrant import algorithms
from calibrant.analysis.better import TOLERATED_DB
from calibrant.errors import (
    CalibrantError,
    ConfigError,
    ConfigTypeError,
    ConfigValueError,
    DataError,
    ModelError,
)
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Calibration,
    Fusion,
    Layer,
    Recipe,
    Rule,
    Settings,
)
from calibrant.results import QuantizedModel
from tests.models import NETS, Array, Model, Weights, build, convolution, normal, structure
from tests.road import batches, outputs, quantize, sqnr_db

W = Weights(0)


def uneven() -> Model:
    """The network whose channels differ by decades."""
    return convolution.depthwise_leaky()


def reach(result: QuantizedModel, model: Model) -> float:
    """SQNR of a result on samples it has not seen [dB]."""
    feed = model[1](batch=8, seed=77)
    return sqnr_db(outputs(model[0], feed), outputs(result.deploy, feed))


def weights_of(result: QuantizedModel) -> dict[str, Array]:
    return {n: np.array(p.values) for n, p in result.params.layers.items()}


# -------------------------------------------------------------------------------------------- switches


def test_equalization_is_measured_taken_and_reported() -> None:
    model = uneven()
    results = {
        mode: quantize(model[0], batches(model[1]), Recipe(equalize=mode, bias_correction="off"))
        for mode in ("on", "off", "auto")
    }
    assert results["off"].summary["passes"]["equalized"] == []
    assert len(results["on"].summary["passes"]["equalized"]) >= 2
    assert reach(results["on"], model) > reach(results["off"], model) + 3
    assert reach(results["auto"], model) > reach(results["off"], model) + 3
    chosen = [c for c in results["auto"].summary["decisions"] if c["chosen"]]
    assert "equalized" in chosen[0]["name"] or "balanced" in chosen[0]["name"]
    decisions = results["auto"].summary["decisions"]
    tried = [c["score"] for c in decisions if c["stage"] == chosen[0]["stage"]]
    assert chosen[0]["score"] >= max(tried) - TOLERATED_DB


def test_bias_correction_is_taken_and_reported() -> None:
    model = NETS["residual"]()
    coarse = Rule(AllNodes(), Settings(weight_bits=4, weight_per_channel=False))
    data = [{"x": f["x"] + 2} for f in batches(model[1])]

    def made(mode: str) -> QuantizedModel:
        recipe = Recipe(rules=(coarse,), equalize="off", bias_correction=mode)  # type: ignore[arg-type]
        return quantize(model[0], data, recipe)

    off, on, auto = made("off"), made("on"), made("auto")
    assert off.summary["passes"]["bias_corrected"] == []
    assert all(p.bias is None for p in off.params.layers.values())
    assert any(c["kept"] for c in on.summary["passes"]["bias_corrected"])
    feed = {"x": model[1](batch=8, seed=77)["x"] + 2}
    reference = outputs(model[0], feed)
    plain, corrected, best = (sqnr_db(reference, outputs(r.deploy, feed)) for r in (off, on, auto))
    assert corrected > plain + 1
    assert best > max(plain, corrected) - 0.1


def test_folding_can_be_switched_off_and_a_layer_left_out() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    off = quantize(model, batches(feeds), Recipe(fusion=Fusion(batch_norm=False)))
    assert off.summary["passes"]["folded"] == []
    assert [n.op_type for n in off.deploy.graph].count("BatchNormalization") == 3
    some = quantize(model, batches(feeds), Recipe(fusion=Fusion(skip=("conv1",))))
    assert [n.op_type for n in some.deploy.graph].count("BatchNormalization") == 1
    assert reach(some, (model, feeds)) > 25
    with pytest.raises(ConfigValueError, match=r"'conv11'.*Did you mean 'conv1'"):
        quantize(model, batches(feeds), Recipe(fusion=Fusion(skip=("conv11",))))


ACTIVATIONS = [n for n in algorithms.names()["activation"] if n != "fixed"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_algorithm_goes_the_whole_road(name: str) -> None:
    model, feeds = NETS["residual"]()
    rule = Rule(AllNodes(), Settings(activation=AlgorithmChoice(name)))
    result = quantize(model, batches(feeds), Recipe(rules=(rule,)))
    assert {d.algorithm.name for d in result.plan.activations} == {name}
    assert reach(result, (model, feeds)) > 15


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] if n == "ada" else [])  # it learns
        for n in algorithms.names()["weight"]
    ],
)
def test_every_weight_algorithm_goes_the_whole_road(name: str) -> None:
    model, feeds = NETS["residual"]()
    rule = Rule(AllNodes(), Settings(weight=AlgorithmChoice(name)))
    assert reach(quantize(model, batches(feeds), Recipe(rules=(rule,))), (model, feeds)) > 25


def test_options_of_an_algorithm_reach_it() -> None:
    model, feeds = NETS["residual"]()

    def scale(share: float) -> float:
        choice = AlgorithmChoice.of("percentile", {"percentile": share})
        rule = Rule(AllNodes(), Settings(activation=choice))
        result = quantize(model, batches(feeds), Recipe(rules=(rule,), equalize="off"))
        return float(result.params.activations["relu1"].scale)

    assert scale(0.9) < 0.8 * scale(1.0)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(activation_symmetric=True),
        Settings(weight_per_channel=False),
        Settings(activation_bits=16),
        Settings(weight_bits=16),
        Settings(weight_bits=4),
    ],
    ids=str,
)
def test_each_setting_changes_the_result(settings: Settings) -> None:
    model, feeds = NETS["residual"]()
    fixed = Rule(AllNodes(), Settings(activation=AlgorithmChoice("max")))
    plain = Recipe(rules=(fixed,), target="layers-only", equalize="off", bias_correction="off")
    default = quantize(model, batches(feeds), plain)
    changed = quantize(model, batches(feeds), plain.with_rules(Rule(AllNodes(), settings)))
    same_weights = all(
        np.array_equal(a, b)
        for a, b in zip(weights_of(default).values(), weights_of(changed).values(), strict=True)
    )
    same_activations = all(
        (p.scale, p.zero_point) == (q.scale, q.zero_point)
        for p, q in zip(
            default.params.activations.values(), changed.params.activations.values(), strict=True
        )
    )
    about_weights = settings.weight_bits is not None or settings.weight_per_channel is not None
    assert (same_weights, same_activations) == (not about_weights, about_weights)


def test_more_bits_are_better() -> None:
    model, feeds = NETS["residual"]()
    reached = [
        reach(
            quantize(
                model,
                batches(feeds),
                Recipe(rules=(Rule(AllNodes(), Settings.of_precision(p)),), equalize="off"),
            ),
            (model, feeds),
        )
        for p in ("int4", "int8", "int16")
    ]
    assert reached == sorted(reached)
    assert reached[2] > reached[1] + 8


def test_a_skipped_layer_stays_in_float() -> None:
    model, feeds = NETS["residual"]()
    rule = Rule(Layer("conv1"), Settings(compute="float32"), "command line --skip")
    result = quantize(model, batches(feeds), Recipe(rules=(rule,)))
    assert "conv1" not in result.params.layers
    assert result.summary["layers"]["float"] == [
        {
            "layer": "conv1",
            "op_type": "Conv",
            "reason": "float32 asked for by command line --skip",
        }
    ]


def test_exact_calibration_differs_at_most_by_a_bin() -> None:
    model, feeds = NETS["residual"]()
    rule = Rule(AllNodes(), Settings(activation=AlgorithmChoice("percentile")))
    plain = Recipe(rules=(rule,), equalize="off", bias_correction="off")
    exact = replace(plain, calibration=Calibration(exact=True))
    a, b = (quantize(model, batches(feeds), r) for r in (plain, exact))
    assert b.statistics["relu0"].is_exact
    for name, p in a.params.activations.items():
        assert float(p.scale) == pytest.approx(float(b.params.activations[name].scale), rel=2e-3)


def test_float16_islands_run() -> None:
    model, feeds = NETS["residual"]()
    rule = Rule(Layer("conv1"), Settings(compute="float16"))
    result = quantize(model, batches(feeds), Recipe(rules=(rule,)))
    assert "conv1" not in result.params.layers
    assert {n.op_type for n in result.deploy.graph} >= {"Cast"}
    assert reach(result, (model, feeds)) > 25


# ------------------------------------------------------------------------------------------------ data


def forms() -> dict[str, Callable[[Path], object]]:
    """The same 32 samples in every form."""
    _, feeds = NETS["residual"]()
    x = np.concatenate([f["x"] for f in batches(feeds)])

    def npz(folder: Path) -> Path:
        np.savez(folder / "data.npz", x=x)
        return folder / "data.npz"

    def npy(folder: Path) -> str:
        np.save(folder / "data.npy", x)
        return str(folder / "data.npy")

    def files(folder: Path) -> Path:
        for i, sample in enumerate(x):
            np.save(folder / f"{i:03}.npy", sample)
        return folder

    return {
        "npz": npz,
        "npy": npy,
        "folder": files,
        "dict": lambda _: {"x": x},
        "list of feeds": lambda _: [{"x": x[i : i + 8]} for i in range(0, 32, 8)],
        "generator": lambda _: ({"x": x[i : i + 5]} for i in range(0, 32, 5)),
        "list of arrays": lambda _: [x[i : i + 16] for i in (0, 16)],
    }


@pytest.mark.parametrize("form", forms())
def test_every_form_of_data_gives_the_same_ranges(form: str, tmp_path: Path) -> None:
    model, _ = NETS["residual"]()
    recipe = Recipe(equalize="off", bias_correction="off")
    rule = Rule(AllNodes(), Settings(activation=AlgorithmChoice("mse")))
    result = quantize(model, forms()[form](tmp_path), recipe.with_rules(rule))
    x = np.concatenate([f["x"] for f in batches(NETS["residual"]()[1])])
    reference = quantize(model, {"x": x}, recipe.with_rules(rule))
    assert result.summary["data"]["samples"] == 32
    for name, p in reference.params.activations.items():
        q = result.params.activations[name]
        assert (p.scale, p.zero_point) == (q.scale, q.zero_point)


def test_the_number_of_batches_can_be_limited() -> None:
    model, feeds = NETS["residual"]()
    x = np.concatenate([f["x"] for f in batches(feeds)])
    result = quantize(model, {"x": x}, batch_size=4, batch_num=3)
    assert result.summary["data"]["samples"] == 12
    by_recipe = quantize(
        model, {"x": x}, Recipe(calibration=Calibration(batch_size=2, batch_num=5))
    )
    assert by_recipe.summary["data"]["samples"] == 10


def test_a_stream_longer_than_the_probe_is_read_to_its_end_once() -> None:
    model, feeds = NETS["gemm_mlp"]()
    read = itertools.count()
    stream = (feeds(batch=16, seed=next(read)) for _ in range(12))
    result = quantize(model, stream)
    assert result.summary["data"]["samples"] == 192
    assert next(read) == 12
    assert result.statistics["x"].count == 192 * 24


def test_one_sample_is_enough() -> None:
    model, feeds = NETS["residual"]()
    result = quantize(model, feeds(batch=1))
    assert result.summary["data"]["samples"] == 1


def test_models_with_a_fixed_batch_and_several_inputs() -> None:
    for name in ("fixed_batch", "two_in_two_out", "gemm_scaled"):
        model, feeds = NETS[name]()
        assert reach(quantize(model, batches(feeds)), (model, feeds)) > 25


def test_a_model_whose_inner_batch_is_fixed() -> None:
    model = build(
        """net (float[N,24] x) => (float[M,8] y) {
            r = Reshape (x, shape) a = MatMul (r, w) b = Relu (a) y = MatMul (b, v)
        }""",
        {"shape": np.array([4, 24]), "w": W.dense(24, 8), "v": W.dense(8, 8)},
        normal(24),
    )
    data = [model[1](batch=4, seed=s) for s in range(6)]
    result = quantize(model[0], data)
    feed = data[0]
    assert sqnr_db(outputs(model[0], feed), outputs(result.deploy, feed)) > 25


def test_progress_names_the_stages_and_counts_samples() -> None:
    model, feeds = NETS["residual"]()
    seen: list[tuple[str, int, int | None]] = []
    quantize(model, batches(feeds), progress=lambda *event: seen.append(event))
    names = list(dict.fromkeys(name for name, _, _ in seen))
    assert names[0] == "load"
    assert {"probe", "decide", "observe", "choose", "emit", "measure"} <= set(names)
    assert max(done for name, done, _ in seen if name == "observe") == 32
    counted: list[int] = []
    calibrant.observe(model, batches(feeds), progress=lambda _, done, __: counted.append(done))
    assert counted[-1] == 32


def test_statistics_of_parts_merge_to_those_of_the_whole() -> None:
    model, feeds = NETS["residual"]()
    parts = batches(feeds)
    whole = calibrant.observe(model, parts)
    first, second = calibrant.observe(model, parts[:1]), calibrant.observe(model, parts[1:])
    merged = second.merge(first)
    assert set(merged) == set(whole)
    for name in whole:
        a, b = whole[name].points(), merged[name].points()
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])
    assert merged.digest == whole.digest


def test_statistics_of_different_models_do_not_merge(tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    other = onnx.ModelProto.FromString(model.SerializeToString())
    array = numpy_helper.to_array(other.graph.initializer[0]) * np.float32(1.5)
    other.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(array, other.graph.initializer[0].name)
    )
    parts = batches(feeds)
    first, second = calibrant.observe(model, parts[:1]), calibrant.observe(other, parts[1:])
    assert set(first) == set(second)
    with pytest.raises(DataError, match=r"different models .digests '[0-9a-f]{12}' and '"):
        first.merge(second)
    first.save(tmp_path / "seen.npz")
    again = calibrant.Statistics.load(tmp_path / "seen.npz")
    assert again.digest == first.digest
    assert again.merge(calibrant.observe(model, parts[1:])).digest == first.digest
    with pytest.raises(DataError, match="another model"):
        calibrant.Statistics.load(tmp_path / "seen.npz", digest=second.digest)
    fewer = calibrant.Statistics({n: first[n] for n in list(first)[1:]}, first.digest)
    with pytest.raises(DataError, match="of different tensors: '"):
        first.merge(fewer)


# ------------------------------------------------------------------------------------------- bad input


def spoiled(value: float) -> dict[str, Array]:
    feed = NETS["residual"]()[1](batch=8)
    feed["x"][5, 0, 0, 0] = value
    return feed


BAD: dict[str, tuple[type[CalibrantError], str, Callable[[Path], object]]] = {
    "no file": (ModelError, "does not exist", lambda p: quantize(p / "m.onnx", {})),
    "wrong name": (
        DataError,
        "no array for model input 'x'",
        lambda _: quantize(NETS["residual"]()[0], {"image": np.zeros((4, 3, 16, 16), np.float32)}),
    ),
    "wrong shape": (
        DataError,
        r"expects shape \(N, 3, 16, 16\), got",
        lambda _: quantize(NETS["residual"]()[0], {"x": np.zeros((4, 16, 16, 3), np.float32)}),
    ),
    "empty": (DataError, "empty", lambda _: quantize(NETS["residual"]()[0], [])),
    "no samples": (
        DataError,
        "empty",
        lambda _: quantize(NETS["residual"]()[0], {"x": np.zeros((0, 3, 16, 16), np.float32)}),
    ),
    "nan": (
        DataError,
        r"sample 5 .*NaN",
        lambda _: quantize(NETS["residual"]()[0], spoiled(np.nan)),
    ),
    "inf": (
        DataError,
        r"sample 5 .*infinity",
        lambda _: quantize(NETS["residual"]()[0], spoiled(np.inf)),
    ),
    "unknown target": (
        ConfigError,
        r"'generik'.*Did you mean 'generic'",
        lambda _: quantize(*_with_data("residual"), Recipe(target="generik")),
    ),
    "unknown layer": (
        ConfigError,
        r"'conv_1'.*Did you mean 'conv1'",
        lambda _: quantize(
            *_with_data("residual"),
            Recipe(rules=(Rule(Layer("conv_1"), Settings(weight_bits=4)),)),
        ),
    ),
    "quantized": (
        ModelError,
        "already quantized",
        lambda _: quantize(structure.already_quantized()[0], normal(24)()),
    ),
    "nothing to quantize": (
        ConfigError,
        "no operator that target",
        lambda _: quantize(structure.nothing_to_quantize()[0], normal(24)()),
    ),
    "a recipe that is not there": (
        ConfigError,
        "recipe 'recipe.yaml' cannot be read",
        lambda _: quantize(*_with_data("residual"), "recipe.yaml"),
    ),
    "a list for a recipe": (
        ConfigTypeError,
        "a text, a mapping or a Recipe, not a list",
        lambda _: quantize(*_with_data("residual"), []),  # type: ignore[arg-type]
    ),
    "no threads": (
        ConfigError,
        "threads is 0",
        lambda _: quantize(*_with_data("residual"), threads=0),
    ),
    "no batch": (
        ConfigError,
        "batch_size is 0",
        lambda _: quantize(*_with_data("residual"), batch_size=0),
    ),
}


def _with_data(name: str) -> tuple[onnx.ModelProto, list[dict[str, Array]]]:
    model, feeds = NETS[name]()
    return model, batches(feeds)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_sentence(case: str, tmp_path: Path) -> None:
    kind, message, call = BAD[case]
    with pytest.raises(kind, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value)[-1] in ".?)"


def test_a_weight_that_is_not_a_number_is_a_model_error() -> None:
    weight = W.conv(4, 3)
    weight[0, 0, 0, 0] = np.nan
    model = build(
        "net (float[N,3,16,16] x) => (float[N,4,14,14] y) { y = Conv (x, w1) }",
        {"w1": weight},
        convolution.IMAGE,
    )
    with pytest.raises(ModelError, match=r"'w1', which node 'y' \(Conv\) reads, holds NaN"):
        quantize(model[0], batches(model[1]))


@pytest.mark.parametrize("clipped", [True, False])
def test_a_model_that_overflows_names_the_tensor(clipped: bool) -> None:
    """And the sample, where the output is not finite either; where it is, the value is left out."""
    behind = "c = Clip (b, low, high)" if clipped else "c = Max (b, low)"
    model = build(
        f"""net (float[N,24] x) => (float[N,8] y) {{
            a = Exp (x) b = MatMul (a, w) {behind} y = MatMul (c, v)
        }}""",
        {
            "w": W.dense(24, 8),
            "v": np.abs(W.dense(8, 8)),
            "low": np.array(-1, dtype=np.float32),
            "high": np.array(1, dtype=np.float32),
        },
        normal(24),
    )
    feed = model[1](batch=8)
    feed["x"][6, 3] = 200
    data = [model[1](batch=64, seed=1), feed]
    if clipped:
        result = quantize(model[0], data)
        assert result.summary["data"]["not_finite"]["a"] == 1
    else:
        with pytest.raises(DataError, match=r"'a' holds inf for sample 70 .*output 'y'"):
            quantize(model[0], data)


def test_a_raised_opset_that_changes_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardmax of opset 9 looked over all axes behind the first; the converter does not know."""
    node = onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="a"),
        node("Hardmax", ["a"], ["b"], axis=1, name="b"),
        node("Conv", ["b", "v"], ["y"], name="y"),
    ]
    tensors = {"w": W.conv(4, 3, 1), "v": W.conv(4, 4, 1)}
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, 16, 16])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 4, 16, 16])],
        [onnx.numpy_helper.from_array(v, n) for n, v in tensors.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 9)], ir_version=4
    )
    with pytest.raises(ModelError, match=r"from 9.* changes its output 'y'.*opset 13 or newer"):
        quantize(model, batches(convolution.IMAGE))


def test_the_road_leaves_no_names_behind_in_memory() -> None:
    model = ir.from_proto(NETS["constant_weight"]()[0])
    before = ir.to_proto(model).SerializeToString()
    quantize(model, batches(NETS["constant_weight"]()[1]))
    assert ir.to_proto(model).SerializeToString() == before

"""Another type at some quantizers, without calibrating again."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant import Quantizer, set_calib_qtype
from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import TARGETS, batches, outputs, quantize, sqnr_db


@cache
def run(
    name: str, bits: int = 8, *, symmetric: bool = False, target: str = "generic"
) -> QuantizedModel:
    model, feeds = NETS[name]()
    settings = Settings(
        activation=AlgorithmChoice("min-max"),
        activation_bits=bits,
        weight=AlgorithmChoice("arq"),
        weight_bits=bits,
        activation_symmetric=symmetric,
    )
    recipe = Recipe((Rule(AllNodes(), settings),), target, equalize="off", bias_correction="off")
    return quantize(model, batches(feeds), recipe)


def quality(name: str, result: QuantizedModel) -> float:
    model, feeds = NETS[name]()
    feed = feeds(batch=16, seed=5)
    return sqnr_db(outputs(model, feed)[0], outputs(result.deploy, feed, optimize=False)[0])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["residual", "matmul_mlp", "conv_transpose"])
def test_sixteen_bits_everywhere_are_what_a_calibration_for_them_gives(
    name: str, symmetric: bool
) -> None:
    before = run(name, symmetric=symmetric)
    after = set_calib_qtype(before, ["weight", "activation"], "int16")
    direct = run(name, 16, symmetric=symmetric)
    for key, p in direct.params.activations.items():
        assert float(after.params.activations[key].scale) == pytest.approx(
            float(p.scale), rel=0.01
        )
        assert after.params.activations[key].dtype.bits == 16
    assert quality(name, after) > quality(name, before) + 5
    assert quality(name, after) == pytest.approx(quality(name, direct), abs=3)
    assert before.params.activations.keys() == after.params.activations.keys()
    assert all(p.dtype.bits == 8 for p in before.params.activations.values())  # not changed


def test_thresholds_stay() -> None:
    before = run("residual", symmetric=True)
    after = set_calib_qtype(before, "activation", "int16")
    for key, p in before.params.activations.items():
        new = after.params.activations[key]
        assert float(new.scale) == float(p.scale) / 256
        assert new.range[0] <= p.range[0]
        assert new.range[1] >= p.range[1]
    back = set_calib_qtype(after, "activation", "int8")
    for key, p in before.params.activations.items():
        assert float(back.params.activations[key].scale) == pytest.approx(float(p.scale), rel=1e-6)


SELECTORS: dict[str, tuple[Any, set[tuple[str, int]]]] = {
    "a node": ("conv1", {("conv1", 0), ("conv1", 1)}),
    "an input": (("conv1", 1), {("conv1", 1)}),
    "a function": (lambda q: q.node == "conv2" and q.kind == "activation", {("conv2", 0)}),
    "several": (["conv1", ("conv2", 0)], {("conv1", 0), ("conv1", 1), ("conv2", 0)}),
}


@pytest.mark.parametrize("case", SELECTORS)
def test_a_selector_changes_what_it_names_and_nothing_else(case: str) -> None:
    selector, wanted = SELECTORS[case]
    after = set_calib_qtype(run("residual"), selector, "int16")
    wide = {e for d in after.plan.activations if d.spec.bits == 16 for e in d.users}
    wide |= {(w.layer, w.input_index) for w in after.plan.weights if w.spec.bits == 16}
    assert wide == wanted
    for model in (after.deploy, after.fake_quant):
        _, feeds = NETS["residual"]()
        assert np.isfinite(outputs(model, feeds(batch=2, seed=0))[0]).all()


def test_weights_activations_and_types() -> None:
    weights = set_calib_qtype(run("residual"), "weight", "int16")
    assert {w.spec.bits for w in weights.plan.weights} == {16}
    assert {d.spec.bits for d in weights.plan.activations} == {8}
    convs = set_calib_qtype(run("residual"), "Conv2d", "int16")
    assert {w.spec.bits for w in convs.plan.weights if w.layer.startswith("conv")} == {16}


def test_compensation_comes_near_sixteen_bits() -> None:
    before = run("matmul_mlp")
    reached = {
        q: quality("matmul_mlp", set_calib_qtype(before, ["weight", "activation"], q))
        for q in ("ec", "int16")
    }
    assert quality("matmul_mlp", before) + 25 < reached["ec"] <= reached["int16"] + 3
    assert reached["ec"] > reached["int16"] - 6


def test_float_leaves_a_layer_out() -> None:
    after = set_calib_qtype(run("residual"), "conv1", "float32")
    assert ("conv1", 0) not in {e for d in after.plan.activations for e in d.users}
    (layer,) = [x for x in after.plan.layers if x.node == "conv1"]
    assert (layer.quantized, layer.reason) == (False, "float32 asked for by set_calib_qtype")
    assert quality("residual", after) >= quality("residual", run("residual")) - 0.5


def test_one_reader_of_a_shared_tensor(tmp_path: Path) -> None:
    before = run("concat_branches")
    shared = next((d for d in before.plan.activations if len(d.users) > 1), None)
    assert shared is not None
    after = set_calib_qtype(before, shared.users[0], "int16")
    mine = [d for d in after.plan.activations if d.tensor == shared.tensor]
    assert sorted(d.spec.bits for d in mine) == [8, 16]
    model, feeds = NETS["concat_branches"]()
    after.save(tmp_path)
    again = quantize_from_record(model, tmp_path / "record.txt")
    feed = feeds(batch=4, seed=1)
    for a, b in zip(outputs(after.deploy, feed), outputs(again.deploy, feed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("target", TARGETS)
def test_the_summary_says_what_was_done_and_measures_nothing(target: str) -> None:
    after = set_calib_qtype(run("residual", target=target), "weight", "int16")
    assert after.summary["quality"]["outputs"] == {}
    assert any("int16 without calibrating again" in n["message"] for n in after.summary["notes"])


def test_nothing_that_was_measured_of_the_old_model_is_left() -> None:
    model, feeds = NETS["matmul_mlp"]()
    before = quantize(model, batches(feeds), per_node=True)
    assert before.summary["nodes"]
    after = set_calib_qtype(before, "weight", "ec")
    for key in ("nodes", "distances", "warnings"):
        assert after.summary[key] == []
    assert before.summary["compensation"]["operands"] == 0
    assert after.summary["compensation"]["operands"] == len(after.plan.weights)
    assert after.summary["size"]["deploy_bytes"] > before.summary["size"]["deploy_bytes"]


def test_errors() -> None:
    result = run("residual")
    with pytest.raises(ConfigValueError, match=r"qtype is 'int61'; .*Did you mean 'int16'"):
        set_calib_qtype(result, "weight", "int61")
    with pytest.raises(ConfigValueError, match=r"no node 'conv_1'.*Did you mean 'conv1'"):
        set_calib_qtype(result, "conv_1", "int16")
    with pytest.raises(ConfigValueError, match="input 5 of 'conv1' selects no quantizer"):
        set_calib_qtype(result, ("conv1", 5), "int16")
    with pytest.raises(ConfigValueError, match=r"Input 0 of 'conv1' \(Conv\) has no place"):
        set_calib_qtype(result, ("conv1", 0), "ec")
    with pytest.raises(ConfigTypeError, match="The selector is a int"):
        set_calib_qtype(result, 3, "int16")  # type: ignore[arg-type]
    ort = run("residual", target="onnxruntime")
    shared = next(d for d in ort.plan.activations if d.producer and len(d.users) > 1)
    with pytest.raises(ConfigValueError, match="all its readers take one type"):
        set_calib_qtype(ort, shared.users[0], "int16")


def test_a_function_is_asked_about_every_quantizer_once() -> None:
    asked: list[Quantizer] = []

    def only_the_weight_of_conv1(q: Quantizer) -> bool:
        asked.append(q)
        return (q.node, q.kind) == ("conv1", "weight")

    before = run("residual")
    after = calibrant.set_calib_qtype(before, only_the_weight_of_conv1, "int16")
    weights = {(w.layer, w.input_index) for w in before.plan.weights}
    reads = {e for d in before.plan.activations for e in d.users}
    kinds = {(q.node, q.input): q.kind for q in asked}
    assert kinds == dict.fromkeys(weights, "weight") | dict.fromkeys(reads, "activation")
    assert len(asked) == len(kinds)
    assert {(q.op_type, q.qtype) for q in asked if q.kind == "weight"} == {("Conv", "int8")}
    calibrant.set_calib_qtype(after, only_the_weight_of_conv1, "int16")
    wide = {(q.node, q.kind) for q in asked if q.qtype == "int16"}
    assert wide == {("conv1", "weight")}

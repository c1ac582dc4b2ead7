"""Targets that lower what is asked: which operands stay in 8 bits, and that each is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibrant.compat.horizon import set_calib_qtype
from calibrant.dialects import load_recipe
from calibrant.errors import ConfigValueError
from calibrant.plan import Plan, resolve
from calibrant.recipe import AllNodes, Layer, LayerInput, OpType, Recipe, Rule, Settings
from tests.models import NETS, Model, Weights, build, normal
from tests.road import (
    batches,
    every_net,
    op_types,
    outputs,
    prepared,
    quantize,
    quantized,
    sqnr_db,
)

INT16 = Rule(AllNodes(), Settings.of_precision("int16"), "all_node_type")


def everything() -> Model:
    """One of each operator that `horizon-like` limits, a Gemm, an Add and a Concat that it does not."""
    w = Weights(4)
    return build(
        """net (float[N,4,8,8] x) => (float[N,3] y) {
            conv = Conv <pads = [1,1,1,1]> (x, w1, b1)
            act = Relu (conv)
            up = ConvTranspose <strides = [2,2]> (act, w2)
            large = Resize <mode = "nearest"> (act, , scales)
            place = Tanh (x)
            two = Slice (place, zero, stop, axis)
            grid = Transpose <perm = [0,2,3,1]> (two)
            picked = GridSample (large, grid)
            both = Concat <axis = 1> (picked, act)
            more = Add (both, both)
            turned = Transpose <perm = [0,1,3,2]> (more)
            square = MatMul (more, turned)
            right = MatMul (square, w3)
            mean = GlobalAveragePool (right)
            flat = Flatten (mean)
            dense = Gemm (flat, w4)
            small = GlobalAveragePool (up)
            vector = Flatten (small)
            y = Sub (dense, vector)
        }""",
        {
            "w1": w.conv(5, 4),
            "b1": w.vector(5),
            "w2": w.conv(5, 3, 2),
            "scales": np.array([1, 1, 2, 2], np.float32),
            "zero": np.array([0]),
            "stop": np.array([2]),
            "axis": np.array([1]),
            "w3": w.dense(8, 6),
            "w4": w.dense(10, 3),
        },
        normal(4, 8, 8),
        opset=21,
    )


def plan(*rules: Rule, target: str = "horizon-like", model: Model | None = None) -> Plan:
    return resolve(Recipe(rules=rules, target=target), prepared(model or everything()))


def widths(found: Plan) -> dict[str, int]:
    """Return `node:input` -> bits, of activations and weights."""
    bits = {f"{n}:{i}": d.spec.bits for d in found.activations for n, i in d.users}
    return bits | {f"{w.layer}:{w.input_index}": w.spec.bits for w in found.weights}


#: Operands that stay in 8 bits when all is to have 16.
LOWERED = {"conv:1", "up:1", "large:0", "picked:0", "picked:1", "square:1", "right:1"}


def test_under_int16_everywhere_some_operands_keep_8_bits() -> None:
    """All in 16 bits: what stays at 8 is said."""
    found = widths(plan(INT16))
    assert {operand for operand, bits in found.items() if bits == 8} == LOWERED
    assert {"conv:0", "up:0", "square:0", "right:0", "dense:0", "dense:1", "both:0", "more:0"} <= {
        operand for operand, bits in found.items() if bits == 16
    }
    generic = widths(plan(INT16, target="generic"))
    assert set(generic.values()) == {16}


def test_each_is_noted_with_its_node_and_the_reason() -> None:
    notes = [n.message for n in plan(INT16).notes if n.where == "all_node_type"]
    assert sorted(notes) == sorted(
        f"{operand} int16 not supported by profile 'horizon-like' -> int8 (node '{node}')."
        for operand, node in [
            ("Conv weight", "conv"),
            ("ConvTranspose weight", "up"),
            ("Resize input0", "large"),
            ("GridSample input0", "picked"),
            ("GridSample input1", "picked"),
            ("MatMul input1", "square"),
            ("MatMul weight", "right"),
        ]
    )
    assert not any(n.honoured for n in plan(INT16).notes)


def test_int8_everywhere_is_lowered_nowhere() -> None:
    assert not plan().notes
    assert set(widths(plan()).values()) == {8}


def test_a_finer_rule_is_lowered_too_and_compensation_is_not() -> None:
    found = plan(Rule(LayerInput("square", 1), Settings(activation_bits=16), "node_config"))
    assert widths(found)["square:1"] == 8
    assert any(n.where == "node_config" and "'square'" in n.message for n in found.notes)
    rule = Rule(LayerInput("square", 1), Settings(activation_bits=8, compensation=True), "ec")
    compensated = plan(INT16, rule)
    assert [d.users for d in compensated.activations if d.compensation] == [(("square", 1),)]
    assert not any("'square'" in n.message for n in compensated.notes)


@pytest.mark.parametrize(
    ("where", "wide"), [(("conv", 1), True), (("square", 1), True), (("picked", 0), False)]
)
def test_a_granted_width_holds_where_the_device_has_a_mode_for_it(
    where: tuple[str, int], wide: bool
) -> None:
    settings = Settings(activation_bits=16, weight_bits=16)
    found = plan(Rule(LayerInput(*where), settings, "node_config", "granted"))
    assert widths(found)[f"{where[0]}:{where[1]}"] == (16 if wide else 8)
    assert any(n.where == "node_config" for n in found.notes) is not wide


def test_a_weight_that_is_compensated_is_not_noted_as_lowered() -> None:
    """The rule for the node asks for 16 bits, the one for its weight does not."""
    rule = Rule(LayerInput("conv", 1), Settings(weight_bits=8, compensation=True), "ec")
    found = plan(INT16, rule)
    assert [w.layer for w in found.weights if w.compensation] == ["conv"]
    assert not any("'conv'" in n.message for n in found.notes)


def test_what_is_required_and_cannot_be_is_an_error() -> None:
    rule = Rule(Layer("conv"), Settings(weight_bits=16), "quant.cfg:7", "required")
    with pytest.raises(
        ConfigValueError, match=r"quant.cfg:7: Conv weight int16 .* \(node 'conv'\)"
    ):
        plan(rule)


def test_a_rule_that_nobody_wrote_gives_way_without_a_word() -> None:
    found = plan(Rule(AllNodes(), Settings(weight_bits=16), "default", "implied"))
    assert widths(found)["conv:1"] == 8
    assert not found.notes


def test_a_node_in_float_is_not_lowered() -> None:
    found = plan(INT16, Rule(Layer("conv"), Settings(compute="float32")))
    assert "conv:1" not in widths(found)
    assert not any("'conv'" in n.message for n in found.notes)


# ------------------------------------------------------------------------------- neighbours (7.2)


def test_float_does_not_spread() -> None:
    """A node in float16 leaves the types of its neighbours."""
    before = widths(plan())
    for precision in ("float16", "float32"):
        after = widths(plan(Rule(Layer("right"), Settings.of_precision(precision))))
        assert after == {k: v for k, v in before.items() if not k.startswith("right:")}


def test_the_inputs_of_a_concat_take_the_widest() -> None:
    one = Rule(LayerInput("both", 1), Settings(activation_bits=16))
    found = widths(plan(one))
    assert (found["both:0"], found["both:1"]) == (16, 16)
    assert (found["picked:0"], found["more:0"]) == (8, 8)
    assert widths(plan())["both:1"] == 8


def test_what_is_only_moved_shares_its_range() -> None:
    by_tensor = {d.tensor: d for d in plan().activations}
    assert by_tensor["more"].group == by_tensor["turned"].group


# -------------------------------------------------------------------------------------- the road


@pytest.mark.parametrize("name", every_net())
def test_models_run_and_agree(name: str) -> None:
    result = quantized(name, "horizon-like")
    feed = NETS[name]()[1](batch=4, seed=99)
    meant = outputs(result.fake_quant, feed, optimize=False)
    assert sqnr_db(meant, outputs(result.deploy, feed)) > 30
    assert all(d.spec.symmetric or d.fixed_range for d in result.plan.activations)


def test_int16_everywhere_runs(tmp_path: Path) -> None:
    model, feeds = everything()
    path = tmp_path / "quant_config.json"
    path.write_text('{"model_config": {"all_node_type": "int16"}}')
    recipe = replace(load_recipe(path), target="horizon-like")
    result = quantize(model, batches(feeds), recipe)
    feed = feeds(batch=4, seed=9)
    want = outputs(model, feed)
    reached = sqnr_db(want, outputs(result.deploy, feed))
    everywhere = quantize(model, batches(feeds), replace(recipe, target="generic"))
    assert 22 < reached < sqnr_db(want, outputs(everywhere.deploy, feed)) - 6  # what 8 bits cost
    assert len([n for n in result.summary["notes"] if "horizon-like" in n["message"]]) == len(
        LOWERED
    )
    assert "QuantizeLinear" in op_types(result.deploy)


def test_what_was_lowered_is_raised_without_calibrating_again() -> None:
    """What stayed at 8 is raised without calibrating again."""
    model, feeds = everything()
    plain = Recipe((INT16,), "horizon-like", equalize="off", bias_correction="off")
    before = quantize(model, batches(feeds), plain)
    feed = batches(feeds)[0]  # of the calibration data: what is clipped elsewhere hides the rest
    want = outputs(model, feed)
    reached = [sqnr_db(want, outputs(before.deploy, feed))]
    lowered = [("conv", 1), ("up", 1), ("large", 0), "GridSample", ("square", 1), ("right", 1)]
    places = {"ec": lowered, "int16": lowered}
    for qtype, selector in places.items():
        after = set_calib_qtype(before, selector, qtype)
        reached.append(sqnr_db(want, outputs(after.deploy, feed)))
        assert after.statistics is before.statistics
    assert set(widths(after.plan).values()) == {16}
    assert min(reached[1:]) > reached[0] + 20


# ------------------------------------------------------------------------------------- int8-only


def test_a_device_of_8_bits_lowers_every_width() -> None:
    found = plan(INT16, target="int8-only")
    assert set(widths(found).values()) == {8}
    assert len([n for n in found.notes if "'int8-only' -> int8" in n.message]) == len(
        widths(found)
    )
    assert set(
        widths(plan(Rule(OpType("Conv"), Settings(weight_bits=4)), target="int8-only")).values()
    ) == {8}

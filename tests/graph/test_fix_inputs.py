"""Inputs that are the same in every use: constants, by type and shape of the input, or a sentence that says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError
from calibrant.graph.load import load, prepare
from calibrant.graph.notes import notes_of
from calibrant.graph.opset import raise_opset
from calibrant.graph.passes.fix_inputs import (
    fix_inputs,
    fixed_values,
    kept_inputs,
    with_kept_inputs,
    without_kept_inputs,
)
from calibrant.runtime.session import open_session
from tests.models import Array, Weights, build, normal
from tests.road import op_types, outputs

W = Weights(110)

#: Type and shape of an input, what it is fixed to, and the array that this is.
VALUES: dict[str, tuple[int, list[int | str] | None, Any, Array]] = {
    "a number": (TensorProto.INT64, [], 16000, np.array(16000)),
    "one of shape [1]": (TensorProto.INT64, [1], 16000, np.array([16000])),
    "one of free shape": (TensorProto.INT64, ["n"], 7, np.array([7])),
    "one of unknown shape": (TensorProto.INT32, None, 7, np.array(7, np.int32)),
    "a whole float": (TensorProto.INT64, [], 16000.0, np.array(16000)),
    "a flag": (TensorProto.BOOL, [], True, np.array(True)),
    "a flag as a number": (TensorProto.BOOL, [1], 0, np.array([False])),
    "a float": (TensorProto.FLOAT, [], 0.5, np.array(0.5, np.float32)),
    "a float by an int": (TensorProto.FLOAT, [1, 1], 2, np.array([[2]], np.float32)),
    "float16": (TensorProto.FLOAT16, [], 0.5, np.array(0.5, np.float16)),
    "a list": (TensorProto.INT64, [2], (224, 160), np.array([224, 160])),
    "a list of free length": (TensorProto.INT64, ["k"], (1, 2, 3), np.array([1, 2, 3])),
    "a matrix": (
        TensorProto.FLOAT,
        [2, "k"],
        ((1, 2, 3), (4, 5, 6)),
        np.array([[1, 2, 3], [4, 5, 6]], np.float32),
    ),
    "uint8": (TensorProto.UINT8, [], 255, np.array(255, np.uint8)),
}


def taking(kind: int, shape: list[int | str] | None) -> ir.Model:
    """A model that hands its second input out."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    c = helper.make_tensor_value_info("c", kind, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    d = helper.make_tensor_value_info("d", kind, shape)
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["c"], ["d"])]
    graph = helper.make_graph(nodes, "g", [x, c], [y, d])
    return load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


@pytest.mark.parametrize("name", VALUES)
def test_a_value_takes_the_type_and_shape_of_its_input(name: str) -> None:
    kind, shape, value, array = VALUES[name]
    model = taking(kind, shape)
    made = prepare(fix_inputs(model, {"c": value}))
    assert [v.name for v in made.graph.inputs] == ["x"]
    found = outputs(made, {"x": np.ones((2, 4), np.float32)})[1]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert [v.name for v in model.graph.inputs] == ["x", "c"]


def test_a_text_is_fixed_too() -> None:
    made = prepare(fix_inputs(taking(TensorProto.STRING, [1]), {"c": "de"}))
    assert outputs(made, {"x": np.ones((2, 4), np.float32)})[1].tolist() == ["de"]


REFUSED: dict[str, tuple[int, list[int | str] | None, Any, type[ConfigError], str]] = {
    "a text for a number": (
        TensorProto.INT64,
        [],
        "16k",
        ConfigTypeError,
        "is int64; it is fixed to a whole number.*not to '16k'",
    ),
    "a fraction": (TensorProto.INT64, [], 0.5, ConfigTypeError, "a whole number.*not to 0.5"),
    "a flag for a number": (
        TensorProto.INT64,
        [],
        True,
        ConfigTypeError,
        "a whole number.*not to true",
    ),
    "a number for a flag": (
        TensorProto.BOOL,
        [],
        2,
        ConfigTypeError,
        "is bool; it is fixed to true or false",
    ),
    "a flag for a float": (
        TensorProto.FLOAT,
        [],
        True,
        ConfigTypeError,
        "is float32; it is fixed to a number",
    ),
    "a number for a text": (TensorProto.STRING, [], 1, ConfigTypeError, "a text"),
    "another shape": (
        TensorProto.INT64,
        [2],
        (1, 2, 3),
        ConfigValueError,
        r"has shape \[2\]; the value has shape \[3\]",
    ),
    "one for several": (
        TensorProto.INT64,
        [2],
        1,
        ConfigValueError,
        r"has shape \[2\]; the value has shape \[\]",
    ),
    "several for one": (TensorProto.INT64, [], (1, 2), ConfigValueError, r"has shape \[\]"),
    "another rank": (TensorProto.FLOAT, ["n", 2], (1, 2), ConfigValueError, r"has shape \[n, 2\]"),
    "lists of different lengths": (
        TensorProto.FLOAT,
        [2, 2],
        ((1, 2), (3,)),
        ConfigValueError,
        "different lengths",
    ),
    "too large": (
        TensorProto.UINT8,
        [],
        256,
        ConfigValueError,
        "uint8, from 0 to 255; 256 does not fit",
    ),
    "too large for float16": (
        TensorProto.FLOAT16,
        [],
        70000,
        ConfigValueError,
        "no finite number",
    ),
    "infinite": (TensorProto.FLOAT, [], float("inf"), ConfigValueError, "no finite number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_does_not_fit_is_refused_in_a_sentence(name: str) -> None:
    kind, shape, value, error, text = REFUSED[name]
    with pytest.raises(
        error, match=f"^here: input 'c' {text}" if text.startswith(("is", "has")) else text
    ):
        fix_inputs(taking(kind, shape), {"c": value}, origins={"c": "here"})


def test_an_unknown_input_gets_a_near_name() -> None:
    model = taking(TensorProto.INT64, [])
    with pytest.raises(ConfigValueError) as caught:
        fix_inputs(model, {"cc": 1}, origins={"cc": "--fix cc=1"})
    assert str(caught.value) == (
        "--fix cc=1: the model has no input 'cc'; it has 'x' (float32 [N, 4]), 'c' (int64 []). Did you mean 'c'?"
    )


def test_one_input_has_to_be_left() -> None:
    model = load(
        helper.make_model(
            helper.make_graph(
                [helper.make_node("Relu", ["x"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
    )
    with pytest.raises(ConfigValueError, match="Every input of the model is fixed"):
        fix_inputs(model, {"x": (1, 2)})


# ---------------------------------------------------------------------------------------- what follows


def switched() -> tuple[onnx.ModelProto, Any]:
    """A model with a layer in each branch, chosen by the middle one of its inputs, which a Loop's body reads too."""
    return build(
        """net (float[N,24] x, int64 sr, float[N,8] z) => (float[N,8] y, int64 rate) {
            c = Equal (sr, k)
            a = If (c) <
                then_branch = yes () => (float[N,8] o) { o = MatMul (x, w1) },
                else_branch = no () => (float[N,8] o) { n = Neg (x) o = MatMul (n, w2) }
            >
            y = Add (a, z)
            rate = Mul (sr, k)
        }""",
        {"w1": W.dense(24, 8), "w2": W.dense(24, 8), "k": np.array(16000)},
        normal(24),
    )


@pytest.mark.parametrize(("rate", "ops"), [(16000, ["MatMul"]), (8000, ["Neg", "MatMul"])])
def test_the_branch_that_a_fixed_input_chooses_takes_the_place_of_the_if(
    rate: int, ops: list[str]
) -> None:
    model, feeds = switched()
    made = prepare(fix_inputs(load(model), {"sr": rate}))
    assert [n for n in op_types(made) if n != "Identity"] == [*ops, "Add"]
    feed = feeds() | {"z": np.ones((4, 8), np.float32)}
    expected = outputs(model, feed | {"sr": np.array(rate)})
    for one, other in zip(expected, outputs(made, feed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_an_input_with_a_default_is_fixed_to_another_value() -> None:
    model, feeds = switched()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(8000), "sr"))
    feed = feeds() | {"z": np.ones((4, 8), np.float32)}
    for rate in (None, 16000):
        loaded = load(model)
        made = prepare(fix_inputs(loaded, {"sr": rate}) if rate else loaded)
        given = feed | ({"sr": np.array(rate)} if rate else {})
        expected = open_session(model).run(None, given)
        np.testing.assert_array_equal(outputs(made, feed)[0], expected[0])


def test_what_was_fixed_is_said_and_known_whatever_happens_to_the_model() -> None:
    made = fix_inputs(load(switched()[0]), {"sr": 16000}, keep=True)
    for model in (made, made.clone(), prepare(made), raise_opset(made, 21)):
        assert fixed_values(model) == {"sr": 16000}
        assert [k.name for k in kept_inputs(model)] == ["sr"]
        assert (
            "Input 'sr' is fixed to 16000. The written models have it still" in notes_of(model)[0]
        )


def test_the_opset_of_an_old_model_is_raised_and_what_was_said_stays() -> None:
    model, _ = build(
        "net (float[N,24] x, bool t) => (float[N,24] y) { y = Relu (x) }", {}, normal(24), opset=9
    )
    made = raise_opset(fix_inputs(load(model), {"t": True}), 17)
    assert fixed_values(made) == {"t": True}
    assert notes_of(made) == ("Input 't' is fixed to true.",)


def test_inputs_that_are_kept_stand_in_their_places_and_need_not_be_fed() -> None:
    given = fix_inputs(load(switched()[0]), {"sr": 16000}, keep=True)
    made = with_kept_inputs(prepare(given), given)
    assert [v.name for v in made.graph.inputs] == ["x", "sr", "z"]
    assert with_kept_inputs(made, given) is made
    assert [i.name for i in open_session(made).get_inputs()] == ["x", "z"]
    assert [v.name for v in without_kept_inputs(made).graph.inputs] == ["x", "z"]
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto, full_check=True)
    assert [i.name for i in open_session(proto).get_inputs()] == ["x", "sr", "z"]


def test_inputs_that_are_not_kept_are_gone() -> None:
    given = fix_inputs(load(switched()[0]), {"sr": 16000})
    assert with_kept_inputs(given, given) is given
    assert without_kept_inputs(given) is given

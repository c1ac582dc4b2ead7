"""Names that a script gives to inputs and outputs."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import parser

from calibrant.errors import ConfigValueError
from calibrant.graph.rename import rename


def model() -> ir.Model:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[N] a, float[N] b) => (float[N] y) { y = Add (a, b) }"""
    return ir.from_proto(parser.parse_model(text))


def names(of: ir.Model) -> tuple[list[str | None], list[str | None]]:
    return [v.name for v in of.graph.inputs], [v.name for v in of.graph.outputs]


def test_names_are_given_and_none_keeps_them() -> None:
    found = model()
    rename(found, ["left", "right"], None)
    assert names(found) == (["left", "right"], ["y"])
    rename(found, None, ["sum"])
    assert names(found) == (["left", "right"], ["sum"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        (["left"], None, "input_names has 1 names; the model has 2 inputs: 'a', 'b'"),
        (["left", "right"], ["y", "z"], "output_names has 2 names; the model has 1 outputs"),
        (["left", "left"], None, "a name twice"),
    ],
)
def test_a_wrong_number_of_names_is_refused_and_changes_nothing(inputs, outputs, said) -> None:
    found = model()
    with pytest.raises(ConfigValueError, match=said):
        rename(found, inputs, outputs)
    assert names(found) == (["a", "b"], ["y"])

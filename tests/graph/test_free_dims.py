"""A dimension that is a number below 1 is a free one: a model comes out the same as with a name there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
import pytest

from calibrant.graph.free_dims import has_unknown_dims
from calibrant.graph.load import load, prepare
from calibrant.runtime.inputs import model_inputs
from tests.models import convolution, structure
from tests.road import batches, outputs, quantize, quantized

Pick = Callable[[onnx.GraphProto], Iterable[onnx.ValueInfoProto]]


def marked(
    model: onnx.ModelProto, pick: Pick, *, axes: tuple[int, ...], number: int = -1
) -> onnx.ModelProto:
    """Write a number over some dimensions of some values."""
    copy = onnx.shape_inference.infer_shapes(model)
    for value in pick(copy.graph):
        dims = value.type.tensor_type.shape.dim
        for axis in axes:
            if axis < len(dims):
                dims[axis].dim_value = number
    return copy


@pytest.mark.parametrize(
    ("pick", "axes", "number"),
    [
        (lambda g: g.input, (0,), -1),
        (lambda g: g.input, (0,), 0),
        (lambda g: g.input, (0, 2, 3), -1),
        (lambda g: g.output, (0, 2), -1),
        (lambda g: g.value_info, (0, 1, 2, 3), -1),
        (lambda g: (*g.input, *g.output, *g.value_info), (0, 1, 2, 3), -2),
    ],
    ids=["batch", "batch 0", "size", "outputs", "values", "all"],
)
def test_a_number_below_one_is_a_free_dimension(
    pick: Pick, axes: tuple[int, ...], number: int
) -> None:
    _, feeds = convolution.residual()
    unknown = quantize(
        marked(convolution.residual()[0], pick, axes=axes, number=number), batches(feeds)
    )
    feed = feeds(batch=7, seed=9)
    wanted = outputs(quantized("residual", "generic").deploy, feed)[0]
    np.testing.assert_allclose(outputs(unknown.deploy, feed)[0], wanted, atol=1e-5)
    assert not has_unknown_dims(unknown.deploy)
    assert unknown.summary["data"]["samples"] == 32


def test_the_callers_model_keeps_its_dimensions() -> None:
    model = ir.from_proto(marked(convolution.residual()[0], lambda g: g.input, axes=(0,)))
    loaded = load(model)
    assert loaded is not model
    assert model.graph.inputs[0].shape == [-1, 3, 16, 16]
    assert model_inputs(loaded)[0].shape == (None, 3, 16, 16)


def test_dimensions_in_bodies_are_freed() -> None:
    model = ir.from_proto(structure.if_subgraph()[0])
    bodies = [g for g in model.graphs() if g is not model.graph]
    for body in bodies:
        for node in body:
            node.outputs[0].shape = ir.Shape([-1, 8])
    assert bodies
    assert has_unknown_dims(model)
    assert not has_unknown_dims(load(model))


def test_shapes_that_say_nothing_wrong_stay() -> None:
    model = ir.from_proto(convolution.residual()[0])
    assert load(model) is model
    assert prepare(model).graph.inputs[0].shape == model.graph.inputs[0].shape

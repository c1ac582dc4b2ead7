"""A digest tells models apart by what they compute, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.shape_inference
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from calibrant.graph.digest import digest
from calibrant.graph.load import load, prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from tests.models import convolution, structure, with_external_data


def test_the_same_model_from_anywhere_has_one_digest(tmp_path: Path) -> None:
    model, _ = convolution.conv_bn_relu()
    onnx.save(model, tmp_path / "model.onnx")
    external = with_external_data(convolution.conv_bn_relu()[0], tmp_path)
    described = onnx.shape_inference.infer_shapes(model)
    described.doc_string = described.graph.node[0].doc_string = "a network"
    described.producer_name = "somebody"
    sources = (model, tmp_path / "model.onnx", external, described, ir.from_proto(model))
    found = {digest(prepare(load(source))) for source in sources}
    assert len(found) == 1
    assert len(found.pop()) == 64


def weight(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(model.graph.initializer[0]).copy()
    array.flat[-1] += 1e-6
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(array, model.graph.initializer[0].name)
    )


def attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].ints[0] = 0


def name(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = [n.replace("relu1", "other") for n in node.input]
        node.output[:] = [n.replace("relu1", "other") for n in node.output]


@pytest.mark.parametrize("change", [weight, attribute, name])
def test_what_changes_a_model_changes_its_digest(
    change: Callable[[onnx.ModelProto], None],
) -> None:
    one, other = (convolution.conv_bn_relu()[0] for _ in range(2))
    change(other)
    assert digest(ir.from_proto(one)) != digest(ir.from_proto(other))


def test_a_weight_in_a_body_counts() -> None:
    one, other = (ir.from_proto(structure.if_subgraph()[0]) for _ in range(2))
    assert digest(one) == digest(other)
    (body, *_) = (g for g in other.graphs() if g is not other.graph)
    for node in body:
        node.attributes["dilations"] = ir.AttrInt64s("dilations", [2, 2])
    assert digest(one) != digest(other)


def test_a_folded_form_is_another_one() -> None:
    model = prepare(load(convolution.conv_bn_relu()[0]))
    folded = model.clone()
    fuse_batchnorm(folded)
    assert digest(model) != digest(folded)

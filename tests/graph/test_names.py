"""Names: unique in the whole model, given once, and kept where they were unique."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from calibrant.graph.load import load
from calibrant.graph.passes.names import has_unique_names, name_everything
from calibrant.recipe import Recipe
from tests.models import NETS, convolution, structure
from tests.road import batches, every_net, outputs, quantize, sqnr_db


def all_names(model: ir.Model) -> tuple[list[str], list[str]]:
    """Return the names of nodes and of values."""
    values = {
        v
        for g in model.graphs()
        for v in (
            *g.inputs,
            *g.initializers.values(),
            *(o for n in g for o in n.outputs if o.name or o.uses()),
        )
    }
    return [n.name or "" for n in model.graph.all_nodes()], [v.name or "" for v in values]


@pytest.mark.parametrize("name", every_net())
def test_every_loaded_model_has_unique_names(name: str) -> None:
    made = load(NETS[name]()[0])
    for names in all_names(made):
        assert all(names)
        assert len(set(names)) == len(names)
    assert has_unique_names(made)


def test_a_model_with_unique_names_is_not_touched() -> None:
    model = ir.from_proto(convolution.residual()[0])
    assert load(model) is model


def test_the_first_of_several_keeps_its_name_and_no_new_name_meets_an_old_one() -> None:
    proto = convolution.residual()[0]
    old = ["conv", "conv", "conv_1", "", "conv"]
    for node, name in zip(proto.graph.node, old, strict=False):
        node.name = name
    made = load(proto)
    names = [n.name for n in made.graph][: len(old)]
    assert names[0] == "conv"
    assert names[2] == "conv_1"
    assert names[1] == "conv_2"
    assert names[4] == "conv_3"
    assert names[3] == f"{proto.graph.node[3].op_type}_{proto.graph.node[3].output[0]}"
    assert [n.name for n in proto.graph.node][:5] == old


def test_a_name_of_the_main_graph_goes_before_the_same_name_in_a_body() -> None:
    proto = structure.if_subgraph()[0]
    proto.graph.node[-1].name = "If"
    for attribute in proto.graph.node[-1].attribute:
        attribute.g.node[0].name = "conv1"
        attribute.g.node[0].output[0] = attribute.g.output[0].name = "t"
    made = load(proto)
    assert [n.name for n in made.graph] == ["conv1", "relu1", "mean", "bright", "If"]
    assert [n.name for n in made.graph.all_nodes()][-2:] == ["conv1_1", "conv1_2"]
    assert [g.outputs[0].name for g in made.graph.subgraphs()] == ["t", "t_1"]


def test_names_of_a_model_in_memory_are_given_to_a_copy() -> None:
    proto = convolution.residual()[0]
    for node in proto.graph.node:
        node.name = "same"
    model = ir.from_proto(proto)
    assert load(model) is not model
    assert {n.name for n in model.graph} == {"same"}


def test_outputs_that_a_node_leaves_out_stay_left_out() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[3,2,4] x) => (float[1,2,5] last) {
        , last = GRU <hidden_size = 5> (x, w, r)
    }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (1, 15, 4)), ("r", (1, 15, 5))):
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    made = load(model)
    assert [v.name for v in made.graph[0].outputs] == ["", "last"]
    name_everything(made)
    assert [v.name for v in made.graph[0].outputs] == ["", "last"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
def test_a_model_whose_nodes_share_one_name_is_quantized_and_timed(target: str) -> None:
    proto, feeds = convolution.residual()
    for node in proto.graph.node:
        node.name = "same"
    with pytest.raises(Exception, match="two nodes with same node name"):
        ort.InferenceSession(proto.SerializeToString())
    result = quantize(proto, batches(feeds), Recipe(target=target))
    named = {n.name for n in result.deploy.graph}
    assert len(named) == len(list(result.deploy.graph))
    sound = convolution.residual()[0]
    feed = feeds(batch=8, seed=9)
    assert sqnr_db(outputs(sound, feed), outputs(result.deploy, feed, optimize=False)) > 20

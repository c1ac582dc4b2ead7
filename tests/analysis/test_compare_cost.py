"""What a comparison takes: runs of many tensors at once, and a session for what many layers compute alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import calibrant
from calibrant.analysis.compare import births, compare
from calibrant.analysis.compare.mapping import map_layers
from calibrant.analysis.compare.sides import Side, opened
from calibrant.analysis.compare.stream import _groups, _sized
from calibrant.data.open import open_data
from calibrant.diagnose import rank
from calibrant.graph.load import load
from calibrant.runtime.inputs import model_inputs
from tests.models import NETS


def chain(nodes: int) -> onnx.ModelProto:
    """Return Relus one behind the other, of which the graph says nothing but the names of the axes."""
    value = [helper.make_tensor_value_info(n, 1, ["N", "L", "D"]) for n in ("t0", f"t{nodes}")]
    made = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], f"n{i}") for i in range(nodes)]
    graph = helper.make_graph(made, "chain", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_tensors_of_free_axes_are_asked_for_together() -> None:
    model = opened(load(chain(80)))
    layers = map_layers(Side(model), Side(opened(load(chain(80))))).layers
    assert len(layers) == 80
    batch = next(iter(open_data({"t0": np.ones((2, 4, 8), np.float32)}, model_inputs(model))))
    assert len(list(_groups(_values(model), layers, 2))) > 1
    assert [len(g) for g in _groups(_sized(model, batch), layers, 2)] == [80]


def _values(model: ir.Model) -> dict[str, ir.Value]:
    return {v.name or "": v for node in model.graph for v in node.outputs}


def test_layers_that_compute_alike_share_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = NETS["residual"]()
    quantized = calibrant.quantize(model, feeds(batch=8, seed=1), rank.PLAIN).deploy
    opened_ones: list[str] = []
    real: Any = births.__dict__["alone"]

    def counted(model: ir.Model, node: ir.Node, output: str) -> Any:
        opened_ones.append(node.op_type)
        return real(model, node, output)

    monkeypatch.setattr(births, "alone", counted)
    found = compare(model, quantized, feeds(batch=2, seed=9))
    assert all(r.born is not None for r in found.layers)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert 0 < opened_ones.count("Conv") < len(convolutions)


def test_the_same_operator_in_two_models_shares_none() -> None:
    """Softmax of opset 11 and that of 13 look alike and compute otherwise."""
    old, new = (
        ir.from_onnx_text(
            f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N, 2, 3] x) => (float[N, 2, 3] y) {{ y = Softmax <axis = 1> (x) }}'
        )
        for opset in (11, 13)
    )
    nodes = [m.graph.node(0) for m in (old, new)]
    assert births._computes(old, nodes[0]) != births._computes(new, nodes[1])
    assert births._computes(old, nodes[0]) == births._computes(old, nodes[0])

"""Quantized models of other tools: every layer is found, and what is spoiled is first."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from calibrant.analysis.compare import compare
from tests.models import NETS
from tests.models.written_elsewhere import Tool, written

NAMES = (
    "conv_bn_relu",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("residual", "depthwise_leaky")),
)


@pytest.mark.parametrize("tool", ["nncf", "aimet"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_found(name: str, tool: Tool) -> None:
    model, feeds = NETS[name]()
    quantized = written(model, feeds(batch=16, seed=1), tool)
    found = compare(model, quantized, feeds(batch=4, seed=9))
    assert found.unmapped == ()
    assert found.only_mine == ()
    assert {r.name for r in found.layers if r.op_type == "Conv"} == {
        n.name for n in model.graph.node if n.op_type == "Conv"
    }
    for row in found.layers:
        assert row.born is not None
        assert abs(row.born.other) < 0.05, row


@pytest.mark.parametrize("tool", ["nncf", "aimet"])
def test_a_spoiled_range_is_first(tool: Tool) -> None:
    model, feeds = NETS["residual"]()
    node = next(n for n in model.graph.node if n.name == "conv3")
    quantized = written(model, feeds(batch=16, seed=1), tool, narrow=node.input[0])
    found = compare(model, quantized, feeds(batch=4, seed=9))
    first = found.worst_first[0]
    assert first.born is not None
    assert (first.name, first.born.cause, first.born.kind) == ("conv3", "clipping", "activation")


@pytest.mark.parametrize("tool", ["nncf", "aimet"])
def test_what_a_tool_put_in_or_took_out_is_listed(tool: Tool) -> None:
    model, feeds = NETS["residual"]()
    quantized = written(model, feeds(batch=16, seed=1), tool)
    end = quantized.graph.output[0].name
    last = next(n for n in quantized.graph.node if end in n.output)
    last.output[list(last.output).index(end)] = "before"
    quantized.graph.node.append(helper.make_node("Erf", ["before"], [end], "put_in"))
    onnx.checker.check_model(quantized)
    found = compare(model, quantized, feeds(batch=4, seed=9))
    assert [u.name for u in found.only_mine] == ["put_in"]
    assert found.only_mine[0].reason

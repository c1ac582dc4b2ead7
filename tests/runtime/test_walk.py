"""The walk over a model's layers: nothing changed, nothing changes; a change reaches all behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.runtime.runtime import Runtime
from calibrant.runtime.tap import expose
from calibrant.runtime.walk import walk
from tests.models import NETS, Array, Weights, build, normal
from tests.road import every_net, outputs, prepared

W = Weights(0)


def stops_of(model: ir.Model) -> list[str]:
    """All float outputs of nodes."""
    return [
        v.name or ""
        for node in model.graph
        for v in node.outputs
        if v.name and v.dtype in (ir.DataType.FLOAT, None)
    ]


def plain(model: ir.Model, tensors: list[str], feed: dict[str, Array]) -> dict[str, Array]:
    return dict(zip(tensors, outputs(expose(model, tensors), feed), strict=True))


@pytest.mark.parametrize("name", every_net())
def test_a_walk_over_every_tensor_computes_what_a_run_does(name: str) -> None:
    model, feeds = NETS[name]()
    made = prepared(model)
    stops = stops_of(made)
    parts = [feeds(batch=3, seed=s) for s in range(2)]
    expected = [plain(made, stops, f) for f in parts]
    seen = []
    for stop, values in walk(made, stops, parts, runtime=Runtime(threads=1)):
        seen.append(stop)
        for value, reference in zip(values, expected, strict=True):
            np.testing.assert_allclose(value, reference[stop], rtol=1e-4, atol=1e-5)
    assert seen == stops


@pytest.mark.parametrize("name", ["residual", "two_in_two_out", "if_subgraph", "attention_add"])
def test_a_walk_over_the_outputs_alone(name: str) -> None:
    model, feeds = NETS[name]()
    made = prepared(model)
    names = [v.name or "" for v in made.graph.outputs]
    found = dict(walk(made, names[::-1], [feeds()], runtime=Runtime(threads=1)))
    assert set(found) == set(names)
    for n, x in zip(names, outputs(made, feeds()), strict=True):
        np.testing.assert_allclose(found[n][0], x, rtol=1e-4, atol=1e-5)


def test_what_is_written_into_a_stop_is_used_behind_it() -> None:
    model, feeds = NETS["residual"]()
    made, feed = prepared(model), feeds()
    for stop, values in walk(made, ["relu0", "conv1", "y"], [feed], runtime=Runtime(threads=1)):
        if stop == "relu0":
            values[0][...] = 0
        if stop == "conv1":
            bias = made.graph.initializers["b1"].const_value
            assert bias is not None
            inside = values[0][:, :, 1:-1, 1:-1]
            np.testing.assert_allclose(
                inside, np.broadcast_to(bias.numpy()[:, None, None], inside.shape), atol=1e-6
            )
        if stop == "y":
            assert not np.allclose(values[0], plain(made, ["y"], feed)["y"], atol=0.1)


def test_a_change_reaches_the_body_of_an_if() -> None:
    model, feeds = NETS["if_subgraph"]()
    made = prepared(model)
    for stop, values in walk(made, ["relu1", "y"], [feeds()], runtime=Runtime(threads=1)):
        if stop == "relu1":
            values[0][...] = 0
        else:
            assert np.abs(values[0]).max() == 0


def test_two_stops_of_one_node_that_nobody_reads() -> None:
    model, feeds = build(
        """net (float[N,6] x) => (float[N,2] a, float[N,4] b) {
            a, b = Split <axis = 1> (x, sizes)
        }""",
        {"sizes": np.array([2, 4])},
        normal(6),
    )
    x = feeds()["x"]
    found = dict(walk(prepared(model), ["a", "b"], [{"x": x}], runtime=Runtime(threads=1)))
    np.testing.assert_array_equal(found["a"][0], x[:, :2])
    np.testing.assert_array_equal(found["b"][0], x[:, 2:])


def test_feeds_of_other_sizes_and_no_stops() -> None:
    model, feeds = NETS["matmul_mlp"]()
    made = prepared(model)
    parts = [feeds(batch=1), feeds(batch=5)]
    found = dict(walk(made, ["relu1"], parts, runtime=Runtime(threads=1)))
    assert [x.shape[0] for x in found["relu1"]] == [1, 5]
    assert list(walk(made, [], parts)) == []


def test_the_feeds_of_the_caller_are_not_written() -> None:
    model, feeds = NETS["residual"]()
    feed = feeds()
    before = feed["x"].copy()
    for _, values in walk(prepared(model), ["relu0", "y"], [feed], runtime=Runtime(threads=1)):
        values[0][...] = 7
    np.testing.assert_array_equal(feed["x"], before)

"""A model in stretches: each node once, and the same values as in one run."""

from __future__ import annotations

import numpy as np
import pytest

from calibrant.runtime.session import infer, open_session
from calibrant.runtime.stretches import stretches
from calibrant.runtime.tap import expose
from tests.models import NETS
from tests.road import outputs, prepared

TENSORS = ("conv0", "relu0", "relu1", "relu2", "relu3")


@pytest.mark.parametrize("limit", [0.5, 1, 2, 3, 100])
def test_stretches_run_each_node_once_and_give_the_same_values(limit: float) -> None:
    net = NETS["residual"]()
    feed, whole = net[1](batch=3), prepared(net)
    found = stretches(whole, dict.fromkeys(TENSORS, 1.0), limit)
    assert found is not None
    assert all(len(s.tensors) <= max(1, limit) for s in found)
    assert [t for s in found for t in s.tensors] == list(TENSORS)
    nodes = [n.name for s in found for n in s.model.graph]
    assert len(nodes) == len(set(nodes))
    known = dict(feed)
    for s in found:
        names = [*s.tensors, *s.hands_on]
        session = open_session(s.model)
        read = {i.name: known[i.name] for i in session.get_inputs()}
        known |= dict(zip(names, infer(session, names, read), strict=True))
    truth = outputs(expose(whole, TENSORS), feed)
    for t, y in zip(TENSORS, truth, strict=True):
        np.testing.assert_allclose(known[t], y, rtol=1e-5, atol=1e-6)


def test_nodes_that_no_tensor_depends_on_are_left_out() -> None:
    found = stretches(prepared(NETS["residual"]()), {"conv0": 1.0}, 1.0)
    assert found is not None
    assert [n.name for s in found for n in s.model.graph] == ["conv0"]


def test_a_model_that_does_not_say_its_types_is_not_cut() -> None:
    whole = prepared(NETS["residual"]())
    for node in whole.graph:
        for value in node.outputs:
            value.type = None
    assert stretches(whole, dict.fromkeys(TENSORS, 1.0), 2.0) is None


def test_a_tensor_of_no_node_is_not_cut_for() -> None:
    assert stretches(prepared(NETS["residual"]()), {"nobody": 1.0}, 2.0) is None

"""Every network, for every target: what comes out is valid, runs, and means what it should."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.recipe import Recipe
from calibrant.runtime.session import open_session
from tests.models import NETS, structure, trained_attention
from tests.road import TARGETS, batches, every_net, outputs, quantize, quantized, sqnr_db

CASES = [(name, target) for target in TARGETS for name in every_net()]


@pytest.fixture(params=CASES, ids=[f"{target}-{name}" for name, target in CASES])
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    name, target = request.param
    return name, target


def test_both_models_are_valid_onnx(case: tuple[str, str]) -> None:
    result = quantized(*case)
    for model in (result.deploy, result.fake_quant):
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        names = [n.name for n in proto.graph.node]
        assert len(set(names)) == len(names)


def test_inputs_and_outputs_keep_name_shape_and_type(case: tuple[str, str]) -> None:
    model, _ = NETS[case[0]]()
    result = quantized(*case)
    original = open_session(model)
    for made in (result.deploy, result.fake_quant):
        session = open_session(made)
        for before, after in (
            (original.get_inputs(), session.get_inputs()),
            (original.get_outputs(), session.get_outputs()),
        ):
            assert [(v.name, v.type) for v in before] == [(v.name, v.type) for v in after]
            for a, b in zip(before, after, strict=True):
                fixed = [(i, d) for i, d in enumerate(a.shape) if isinstance(d, int)]
                assert all(b.shape[i] == d for i, d in fixed)


def test_outputs_are_near_those_of_the_float_model(case: tuple[str, str]) -> None:
    model, feeds = NETS[case[0]]()
    feed = feeds(batch=4, seed=99)
    reference = outputs(model, feed)
    assert sqnr_db(reference, outputs(quantized(*case).deploy, feed)) > 22


def test_fake_quant_says_what_the_deployable_model_does(case: tuple[str, str]) -> None:
    """They differ by the rounding of biases and by values on the border between two steps."""
    _, feeds = NETS[case[0]]()
    feed, result = feeds(batch=4, seed=99), quantized(*case)
    meant = outputs(result.fake_quant, feed, optimize=False)
    assert sqnr_db(meant, outputs(result.deploy, feed, optimize=False)) > 40


def test_the_optimizer_of_the_runtime_changes_next_to_nothing(case: tuple[str, str]) -> None:
    _, feeds = NETS[case[0]]()
    feed, result = feeds(batch=4, seed=99), quantized(*case)
    plain = outputs(result.deploy, feed, optimize=False)
    assert sqnr_db(plain, outputs(result.deploy, feed)) > 38


@pytest.mark.parametrize("name", every_net())
def test_the_callers_model_is_unchanged_and_the_result_always_the_same(name: str) -> None:
    model, feeds = NETS[name]()
    before = model.SerializeToString()
    in_memory = ir.from_proto(NETS[name]()[0])
    before_in_memory = ir.to_proto(in_memory).SerializeToString()
    recipe = Recipe(target="generic")
    first = quantize(model, batches(feeds), recipe)
    again = quantize(in_memory, batches(feeds), recipe)
    assert model.SerializeToString() == before
    assert ir.to_proto(in_memory).SerializeToString() == before_in_memory
    for a, b in ((first.deploy, again.deploy), (first.fake_quant, again.fake_quant)):
        assert ir.to_proto(a) == ir.to_proto(b)


def test_bodies_of_an_if_stay_in_float_and_the_summary_says_so() -> None:
    result = quantized("if_subgraph", "generic")
    (branching,) = [n for n in result.deploy.graph if n.op_type == "If"]
    bodies = [a.as_graph() for a in branching.attributes.values()]
    assert [[n.op_type for n in body] for body in bodies] == [["Conv"], ["Conv"]]
    assert result.summary["layers"]["subgraphs_in_float"] == ["y"]
    assert any("'y'" in text for text in result.summary["warnings"])


def test_both_branches_of_a_quantized_model_with_an_if_run() -> None:
    model, feeds = structure.if_subgraph()
    x = feeds()["x"]
    for target in TARGETS:
        deploy = quantized("if_subgraph", target).deploy
        for feed in ({"x": np.abs(x)}, {"x": -np.abs(x)}):
            assert sqnr_db(outputs(model, feed), outputs(deploy, feed)) > 22


@pytest.mark.parametrize("target", TARGETS)
def test_the_trained_attention_network_keeps_its_accuracy(target: str) -> None:
    """Measured: 0.971 in float, 0.955 in int8 at 21.7 dB; without equalization 11.7 dB."""
    case = trained_attention()
    result = quantize(case.path, dict(case.calibration), Recipe(target=target))
    reference = outputs(case.path, case.evaluation)
    found = outputs(result.deploy, case.evaluation)
    assert sqnr_db(reference, found) > 20
    right = found[0].argmax(1) == case.labels
    assert right.mean() > (reference[0].argmax(1) == case.labels).mean() - 0.025
    meant = outputs(result.fake_quant, case.evaluation, optimize=False)
    assert sqnr_db(meant, found) > 40

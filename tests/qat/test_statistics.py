"""Live statistics of batch normalization: what they do, where they stand, and that they go into scales and biases."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.demo.digits import MODEL, calibration, evaluation
from calibrant.errors import ConfigValueError
from calibrant.qat import fit, prepare
from calibrant.qat.statistics import answers_of
from tests.models import NETS

DATA = {"image": calibration().image}
X = torch.from_numpy(evaluation().image[:64])


def moved(qat):
    """Move weights, gains and biases, so that answers of layers have other statistics."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in qat.module.named_parameters():
            if name.startswith("weights.") and name.endswith("weight"):
                p.add_(0.2 * torch.randn_like(p))
    return qat


def statistics(qat, batches):
    """Return standard deviations and means behind each normalized layer."""
    nodes = {
        n.args[0]: s.axis
        for n in qat.module.graph.nodes
        if n.op == "call_module" and str(n.target).startswith("statistics.")
        for s in [qat.module.get_submodule(n.target)]
    }
    found = answers_of(qat.module.eval(), nodes, batches)
    return [found[n] for n in nodes]


def test_measured_anew_layers_answer_as_those_of_the_float_network_do():
    qat = prepare(MODEL, DATA)
    with torch.no_grad():
        before = qat.module.eval()(X)
    assert qat.reestimate_bn([]) == 0
    with torch.no_grad():
        assert torch.equal(qat.module(X), before)
    wanted = [(s.size.clone(), s.mean.clone()) for s in qat.statistics]
    moved(qat)
    off = statistics(qat, [(X,)])
    values = [qat.trained.weight(w.layer).params()[1] for w in qat.solution.plan.weights]
    assert qat.reestimate_bn([(X, "label")] * 3) == 3
    back = statistics(qat, [(X,)])
    for (size, mean), was, now in zip(wanted, off, back, strict=True):
        for mine, theirs in zip(now, (size, mean), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.02 * float(size.max()))
        assert not torch.allclose(was[0], size, rtol=0.02)
    for before_, w in zip(values, qat.solution.plan.weights, strict=True):
        np.testing.assert_array_equal(qat.trained.weight(w.layer).params()[1], before_)
    assert qat.convert().summary["training"]["agreement"]["typical_db"] > 40


@pytest.mark.slow
def test_live_statistics_settle_into_scales_and_biases_without_a_change_of_the_answers():
    qat = moved(prepare(MODEL, DATA))
    qat.live_bn()
    qat.module.train()
    for _ in range(50):
        y = qat.module(X)
    y.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in qat.module.parameters() if p.requires_grad)
    with torch.no_grad():
        running = qat.module.eval()(X)
        qat.freeze(bn=True)
        settled = qat.module(X)
    error = (running - settled).square().mean() / running.square().mean()
    assert error < 1e-3  # a bias is rounded at another place
    assert not any(s.live for s in qat.statistics)


def test_gains_that_are_learned_after_statistics_are_settled_count_once():
    qat = moved(prepare(MODEL, DATA))
    qat.live_bn()
    qat.freeze(bn=True)
    with torch.no_grad():
        for name, p in qat.module.named_parameters():
            if name.endswith("log_gain"):
                p += 0.1
        before = qat.module.eval()(X)
        qat.to_solution()
        torch.testing.assert_close(qat.module(X), before)


@pytest.mark.slow
def test_training_with_live_statistics_is_deployed_as_it_was_trained(tmp_path):
    images = {"image": evaluation().image[:300]}
    scores = iter([1.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    asked = {"epochs": 2, "batch_size": 30, "bn": "live", "folder": tmp_path}
    qat = prepare(MODEL, DATA)
    fitted = fit(qat, images, evaluate=lambda _: next(scores), **asked)
    assert fitted.result.summary["training"]["agreement"]["typical_db"] > 40
    assert qat.statistics
    with pytest.raises(ConfigValueError, match="bn is 'alive'"):
        fit(qat, images, epochs=1, bn="alive")


def test_a_model_without_a_layer_that_can_have_them_is_refused():
    model, feeds = NETS["shared_weight"]()
    qat = prepare(model, [feeds(batch=4, seed=i) for i in range(4)])
    with pytest.raises(ConfigValueError, match="No layer of the model can have live statistics"):
        qat.live_bn()

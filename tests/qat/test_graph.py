"""Whole models as torch computes them beside ONNX Runtime."""

from __future__ import annotations

import copy

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import onnxruntime as ort

from calibrant.demo.digits import MODEL, calibration
from calibrant.errors import UnsupportedError
from calibrant.graph.load import load, prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.qat.graph import key_of, to_torch
from tests.models import NETS

#: Networks with a loop or a branch in them: their bodies are graphs of their own.
WITH_BODIES = {"loop", "scan"}


def prepared(model):
    return prepare(load(model))


def run(model, feed):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    source = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(source, options, ["CPUExecutionProvider"]).run(None, feed)


def outputs(module, model, feed):
    names = [v.name for v in model.graph.inputs if v.name not in model.graph.initializers]
    found = module(*(torch.from_numpy(np.asarray(feed[n])) for n in names))
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("name", sorted(set(NETS) - WITH_BODIES))
@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_computes_what_onnx_runtime_does_and_learns(name, batch):
    model, feeds = NETS[name]()
    feed = feeds() if name == "fixed_batch" else feeds(batch=batch)
    loaded = prepared(model)
    module = to_torch(loaded)
    found = outputs(module, loaded, feed)
    for mine, theirs in zip(found, run(model, feed), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=1e-4, atol=1e-5)
    sum((t * t).sum() for t in found).backward()
    assert list(module.parameters())
    assert [n for n, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", sorted(WITH_BODIES))
def test_a_network_with_bodies_is_refused_with_the_node_that_has_them(name):
    model, _ = NETS[name]()
    with pytest.raises(UnsupportedError, match=r"node '.*' \((If|Loop|Scan)\)"):
        to_torch(prepared(model))


def test_the_network_of_the_demonstration_folded_and_not():
    x = calibration().image[:16]
    wanted = run(str(MODEL), {"image": x})[0]
    for fold in (False, True):
        model = prepared(MODEL)
        if fold:
            fuse_batchnorm(model)
        found = to_torch(model)(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_copy_and_a_state_dict_compute_the_same():
    model, feeds = NETS["residual"]()
    loaded = prepared(model)
    module = to_torch(loaded)
    feed = feeds(batch=2)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1.5)
    again = copy.deepcopy(module)
    fresh = to_torch(loaded)
    fresh.load_state_dict(module.state_dict())
    for other in (again, fresh):
        for a, b in zip(outputs(module, loaded, feed), outputs(other, loaded, feed), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(
        outputs(to_torch(loaded), loaded, feed)[0], outputs(module, loaded, feed)[0]
    )


def test_the_model_that_was_converted_keeps_its_weights():
    model, _ = NETS["residual"]()
    loaded = prepared(model)
    before = {k: v.const_value.numpy().copy() for k, v in loaded.graph.initializers.items()}
    module = to_torch(loaded)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    for key, value in loaded.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), before[key])


def test_names_become_parts_of_paths():
    assert key_of("layer1.0.conv1.weight") == "layer1_0_conv1_weight"
    assert key_of("//") == "unnamed"


@pytest.mark.parametrize("size", [3, 5])
def test_the_branches_of_an_if(size):
    """One of them reads a value and a constant from outside, and has an If inside."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, k] x) => (float[n, k] y, float[n, k] z) <int64 three = {3}, float w = {2.0}, int64 one = {1}> {
        s = Shape <start = 1> (x)
        t = Squeeze (s)
        c = Equal (t, three)
        y, z = If (c) <
            then_branch = a () => (float[n, k] p, float[n, k] q) {
                p = Mul (x, w)
                q = If (c) <
                    then_branch = b () => (float[n, k] r) { r = Neg (p) },
                    else_branch = d () => (float[n, k] r2) { r2 = Identity (x) }>
            },
            else_branch = e () => (float[n, k] p2, float[n, k] q2) {
                p2 = Abs (x)
                q2 = Add (x, x)
            }>
    }"""
    model = onnx.parser.parse_model(text)
    x = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    wanted = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    given = torch.from_numpy(x).requires_grad_()
    found = to_torch(ir.from_proto(model))(given)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=1e-6)
    found[0].sum().backward()
    assert given.grad is not None

"""Outputs as integers, or rounded through float16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calibrant.dialects import load_recipe
from calibrant.errors import ConfigValueError
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import AlgorithmChoice, AllNodes, Precision, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import TARGETS, batches, every_net, outputs, quantize, sqnr_db


def run(name: str, precision: Precision, target: str = "generic") -> QuantizedModel:
    model, feeds = NETS[name]()
    # nothing is left to choose
    algorithms = Settings(activation=AlgorithmChoice("min-max"), weight=AlgorithmChoice("arq"))
    fixed = Rule(AllNodes(), algorithms)
    recipe = Recipe(
        (fixed,), target, output_precision=precision, bias_correction="off", equalize="off"
    )
    return quantize(model, batches(feeds), recipe)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", every_net())
def test_integer_outputs_lie_on_a_grid_and_keep_name_and_type(name: str, target: str) -> None:
    model, feeds = NETS[name]()
    found, plain = run(name, "int8", target), run(name, "float32", target)
    feed = feeds(batch=8, seed=3)
    assert [v.name for v in found.deploy.graph.outputs] == [o.name for o in model.graph.output]
    reference = outputs(model, feed)
    for v, y, z, a in zip(
        found.deploy.graph.outputs,
        outputs(found.deploy, feed, optimize=False),
        outputs(plain.deploy, feed, optimize=False),
        reference,
        strict=True,
    ):
        if np.asarray(a).dtype != np.float32:
            continue
        (d,) = [d for d in found.plan.activations if d.tensor == v.name]
        p = found.params.activations[d.id]
        steps = y / p.scale
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert np.unique(y).size <= 256
        inside = np.clip(z, *p.range)
        np.testing.assert_allclose(y, inside, atol=1.01 * float(p.scale))
        assert d.origin == {"activation_bits": "output_precision"} or d.producer is not None


def test_sixteen_bits_are_finer_than_eight() -> None:
    _, feeds = NETS["matmul_mlp"]()
    feed = feeds(batch=8, seed=3)
    reference = outputs(run("matmul_mlp", "float32").deploy, feed, optimize=False)[0]
    quality = [
        sqnr_db(reference, outputs(run("matmul_mlp", p).deploy, feed, optimize=False)[0])
        for p in ("int8", "int16")
    ]
    assert quality[1] > quality[0] + 30


def test_float16_outputs_are_what_float16_holds(tmp_path: Path) -> None:
    model, feeds = NETS["conv_bn_relu"]()
    found = run("conv_bn_relu", "float16")
    feed = feeds(batch=8, seed=3)
    (y,) = outputs(found.deploy, feed, optimize=False)
    (z,) = outputs(run("conv_bn_relu", "float32").deploy, feed, optimize=False)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, y.astype(np.float16).astype(np.float32))
    assert (y != z).any()
    assert [v.name for v in found.deploy.graph.outputs] == [o.name for o in model.graph.output]
    found.save(tmp_path)
    again = quantize_from_record(model, tmp_path / "record.txt")
    np.testing.assert_array_equal(outputs(again.deploy, feed, optimize=False)[0], y)


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_integer_outputs_are_in_the_record(precision: Precision, tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    found = run("residual", precision)
    found.save(tmp_path)
    feed = feeds(batch=8, seed=3)
    again = quantize_from_record(model, tmp_path / "record.txt")
    for a, b in zip(outputs(found.deploy, feed), outputs(again.deploy, feed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_vendors_option_does_it(tmp_path: Path) -> None:
    path = tmp_path / "quant_config.json"
    config = {"model_output_type": "int16", "activation": {"calibration_type": "max"}}
    path.write_text(json.dumps({"model_config": config}))
    model, feeds = NETS["residual"]()
    found = quantize(model, batches(feeds), load_recipe(path))
    (d,) = [d for d in found.plan.activations if d.producer is not None]
    assert (d.tensor, d.spec.bits) == (model.graph.output[0].name, 16)


def test_a_trained_model_has_no_scale_for_them() -> None:
    before = run("matmul_mlp", "float32")
    keep = Rule(AllNodes(), Settings(activation=AlgorithmChoice("from-model")))
    with pytest.raises(ConfigValueError, match="outputs in int8"):
        quantize(before.deploy, None, Recipe((keep,), output_precision="int8"))

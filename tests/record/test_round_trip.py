"""A model and its record make the same quantized model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrant.rebuild import quantize_from_record
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Fusion,
    Layer,
    LayerInput,
    OpType,
    Recipe,
    Rule,
    Settings,
)
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import TARGETS, batches, every_net, outputs, quantize, quantized


def check(name: str, before: QuantizedModel, folder: Path) -> QuantizedModel:
    """Build again from both files; outputs are equal bit for bit, and so are the records."""
    model, feeds = NETS[name]()
    feed = feeds(batch=4, seed=31)
    before.save(folder)
    for file in ("record.txt", "record.json"):
        after = quantize_from_record(model, folder / file)
        for which in ("deploy", "fake_quant"):
            for a, b in zip(
                outputs(getattr(before, which), feed, optimize=False),
                outputs(getattr(after, which), feed, optimize=False),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b)
        assert after.record.content() == before.record.content()
    after.save(folder / "again")
    assert (folder / "again" / "record.txt").read_text() == (folder / "record.txt").read_text()
    return after


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", every_net())
def test_the_default(name: str, target: str, tmp_path: Path) -> None:
    check(name, quantized(name, target), tmp_path)


def run(name: str, *rules: Rule, **options: Any) -> QuantizedModel:
    model, feeds = NETS[name]()
    plain = {"equalize": "off", "bias_correction": "off"}
    return quantize(model, batches(feeds), Recipe(rules, **{**plain, **options}))


def everywhere(**settings: Any) -> Rule:
    return Rule(AllNodes(), Settings(**settings))


CASES = {
    "16 bits": (everywhere(activation_bits=16, weight_bits=16),),
    "4-bit weights": (everywhere(weight_bits=4),),
    "6-bit weights": (everywhere(weight_bits=6),),
    "one scale a weight": (everywhere(weight_per_channel=False),),
    "symmetric": (everywhere(activation_symmetric=True),),
    "by channel": (everywhere(activation_per_channel=True),),
    "by channel, symmetric": (everywhere(activation_per_channel=True, activation_symmetric=True),),
    "learned rounding": (
        everywhere(weight=AlgorithmChoice.of("ada", {"iterations": 50}), weight_bits=4),
    ),
    "few levels": (everywhere(weight=AlgorithmChoice.of("nuq", {"levels": 16})),),
    "indices": (
        everywhere(weight=AlgorithmChoice.of("nuq", {"levels": 16, "storage": "indices"})),
    ),
    "balanced": (everywhere(balance=0.5),),
}


@pytest.mark.parametrize("name", ["conv_bn_relu", "matmul_mlp", "grouped", "attention_add"])
@pytest.mark.parametrize("case", CASES)
def test_what_rules_ask_for(case: str, name: str, tmp_path: Path) -> None:
    check(name, run(name, *CASES[case]), tmp_path)


@pytest.mark.parametrize("equalize", ["on", "off", "auto"])
@pytest.mark.parametrize("bias_correction", ["on", "off"])
def test_passes(equalize: str, bias_correction: str, tmp_path: Path) -> None:
    rule = Rule(Layer("conv2"), Settings(balance=0.5))
    found = run("conv_bn_relu", rule, equalize=equalize, bias_correction=bias_correction)
    check("conv_bn_relu", found, tmp_path)
    text = (tmp_path / "record.txt").read_text()
    assert ('"bias"' in text) == (bias_correction == "on")
    assert "tensor_balance_factor" in text


def test_batch_normalizations_that_stay(tmp_path: Path) -> None:
    after = check("conv_bn_relu", run("conv_bn_relu", fusion=Fusion(skip=("conv1",))), tmp_path)
    assert "skip_fusion: true" in (tmp_path / "record.txt").read_text()
    assert any(n.op_type == "BatchNormalization" for n in after.deploy.graph)
    check("conv_bn_relu", run("conv_bn_relu", fusion=Fusion(batch_norm=False)), tmp_path)


@pytest.mark.parametrize(
    ("name", "op_type"), [("conv_bn_relu", "Conv"), ("attention_add", "MatMul")]
)
def test_compensated_operands(name: str, op_type: str, tmp_path: Path) -> None:
    after = check(name, run(name, Rule(OpType(op_type), Settings(compensation=True))), tmp_path)
    plan = after.plan
    assert any(d.compensation for d in plan.activations) or any(
        w.compensation for w in plan.weights
    )


def test_a_layer_in_float16_and_one_in_float(tmp_path: Path) -> None:
    rules = (
        Rule(Layer("conv1"), Settings(compute="float16")),
        Rule(Layer("conv2"), Settings(compute="float32")),
    )
    after = check("conv_bn_relu", run("conv_bn_relu", *rules), tmp_path)
    assert any(n.op_type == "Cast" for n in after.deploy.graph)
    assert "conv2" not in after.record.entries


def test_tensors_that_are_quantized_for_their_own_sake(tmp_path: Path) -> None:
    model, _ = NETS["residual"]()
    add = next(n for n in model.graph.node if n.op_type == "Add")
    rule = Rule(LayerInput(add.name, 0), Settings(compute="int"))
    found = run("residual", rule, target="layers-only")
    check("residual", found, tmp_path)
    assert found.record.entries[f"{add.name}:0"]["is_tensor_quantize"] is True
    assert '"quantizer"' not in (tmp_path / "record.txt").read_text()

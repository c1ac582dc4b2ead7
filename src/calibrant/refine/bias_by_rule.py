"""Correct biases as a rule asks: from so many samples, kept by a metric.

In graph order, with quantized weights, float activations, and every layer before already corrected,

    delta[c] = mean over samples and positions of (y_float[c] - y_wq[c])               (out,)
    bias'    = bias + delta

is kept if  metric(y_float, y_wq + delta)  is better than  metric(y_float, y_wq)  on these samples, each the mean
over them; else the bias stays. y is the output of the layer with its bias. A layer without a bias gets one.

Activations stay float because the correction is "after weight calibration" and y_wq is what quantized weights
make of a layer: the error of a quantizer in front depends on the data, and `refine.bias_correction` takes it in.

Source: docs/explanation/bias-correction.md, "By a rule".
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit.weights_only import emit_weights_only
from calibrant.numerics.finite import finite_pairs
from calibrant.numerics.metrics import Metric, get_metric
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.parameters import Parameters
from calibrant.refine._biases import (
    bias_factor,
    has_other_bias,
    output_axis,
    output_of,
    with_bias,
)
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.walk import walk

__all__ = ["RuleCorrection", "correct_by_rule"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class RuleCorrection:
    """What happened to the bias of one layer.

    Args:
        layer: Node name.
        kept: Whether the correction was kept.
        metric: What decided.
        samples: How many samples it was taken from.
        before: The metric without the correction; None where there is none to try.
        after: The metric with it.
        reason: Why there is none to try, or an empty string.
    """

    layer: str
    kept: bool
    metric: str
    samples: int = 0
    before: float | None = None
    after: float | None = None
    reason: str = ""


def correct_by_rule(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    feeds: Sequence[Mapping[str, Array]],
    sizes: Sequence[int],
    *,
    runtime: Runtime = CPU,
) -> tuple[Parameters, list[RuleCorrection]]:
    """Correct the bias of every layer for which a rule asks it.

    Args:
        model: The prepared float model that `plan` belongs to.
        plan: Where quantizers stand.
        params: What they are.
        feeds: The first samples, one a feed where the model takes that. A layer takes as many feeds, from
            the first, as make up its samples, or all.
        sizes: Samples of each feed.

    Returns:
        New parameters with biases where a correction was kept, and one entry a layer, in graph order.
    """
    asked = {n: wish for n, wish in plan.bias_wishes.items() if wish.samples > 0}
    decisions = [w for w in plan.weights if w.layer in asked]
    reasons = {w.layer: _why_not(model, w) for w in decisions}
    targets = {output_of(model, w): w for w in decisions if not reasons[w.layer]}
    layers = dict(params.layers)
    report = {
        n: RuleCorrection(n, False, asked[n].metric, reason=why)
        for n, why in reasons.items()
        if why
    }
    walks = zip(
        walk(model, list(targets), feeds, runtime=runtime),
        walk(emit_weights_only(model, plan, params), list(targets), feeds, runtime=runtime),
        strict=True,
    )
    for (name, reference), (same, outputs) in walks:
        assert name == same  # neither model reorders its nodes
        weight = targets[name]
        wish, axis = asked[weight.layer], output_axis(model, weight)
        used = _used(sizes, wish.samples)
        delta = _mean_error(reference[:used], outputs[:used], axis)
        shaped = delta if axis == -1 else delta.reshape(-1, *[1] * (outputs[0].ndim - 2))
        metric = get_metric(wish.metric)
        before = _score(metric, reference[:used], outputs[:used])
        after = _score(metric, reference[:used], [y + shaped for y in outputs[:used]])
        kept = metric.better(after, before)
        found = RuleCorrection(weight.layer, kept, wish.metric, sum(sizes[:used]), before, after)
        report[weight.layer] = found
        logger.info(
            "%s: bias %s, %s %.8g -> %.8g on %d samples",
            weight.layer,
            "corrected" if kept else "left",
            wish.metric,
            before,
            after,
            found.samples,
        )
        if kept:
            for y in outputs:
                y += shaped
            layers[weight.layer] = with_bias(layers[weight.layer], model, weight, delta)
    ordered = [report[w.layer] for w in decisions]
    return replace(params, layers=layers), ordered


def _why_not(model: ir.Model, weight: WeightDecision) -> str:
    """Say why a layer cannot be given another bias; empty where it can."""
    node = model.graph.node(weight.layer)
    if weight.input_index != 1:
        return "its weight is its first input"
    if has_other_bias(model, weight):
        return "its bias is computed"
    if bias_factor(node) == 0:
        return "it multiplies its bias with 0"
    value = node.inputs[weight.input_index]
    assert value is not None
    assert value.const_value is not None
    if len(value.const_value.shape) < 2:
        return "its output has no channels"
    return ""


def _used(sizes: Sequence[int], samples: int) -> int:
    """Return how many feeds make up so many samples."""
    total = 0
    for i, size in enumerate(sizes):
        total += size
        if total >= samples:
            return i + 1
    return len(sizes)


def _mean_error(
    reference: Sequence[Array], outputs: Sequence[Array], axis: int
) -> npt.NDArray[np.float32]:
    """Mean error of each channel (out,), over samples and positions where both are finite, in float64."""
    total: Any = 0.0
    count: Any = 0
    for a, b in zip(reference, outputs, strict=True):
        error = a.astype(np.float64) - b
        others = tuple(i for i in range(error.ndim) if i != axis % error.ndim)
        finite = np.isfinite(error)
        total = total + np.where(finite, error, 0).sum(axis=others)
        count = count + finite.sum(axis=others)
    return np.asarray(total / np.maximum(1, count), dtype=np.float32)


def _score(metric: Metric, reference: Sequence[Array], outputs: Sequence[Array]) -> float:
    """Mean of the metric over feeds, at positions where the float layer is finite; NaN where there are none."""
    pairs = [finite_pairs(a, b) for a, b in zip(reference, outputs, strict=True)]
    scores = [metric.measure(a, b) for a, b in pairs if a.size]
    return float(np.mean(scores)) if scores else math.nan

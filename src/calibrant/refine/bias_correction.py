"""Subtract the mean error that quantization adds to each output channel of a layer from its bias.

Rounding and clipping shift the mean of a layer's output, and the layers behind it see the shift as signal.
In graph order, with every layer before it quantized and already corrected,

    delta[c] = mean over samples and positions of (y_float[c] - y_quantized[c])        (out,)
    bias'    = bias + delta

A correction is kept only where it helps on samples that it was not taken from: `delta` is taken from each
half of the samples and judged on the other. With m[c] the mean error of the half judged on, the squared
error changes by  delta**2 - 2 delta m  a value, so means are all that is needed. Positions where the float layer
is not finite are left out (`numerics.finite`).

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.2 (empirical form); docs/explanation/bias-correction.md (kept only where it helps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit.qdq import emit_simulated
from calibrant.graph.values import drop_weights
from calibrant.numerics.finite import finite_mask, mean_square, means_by_channel
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.parameters import Parameters
from calibrant.refine._biases import (
    can_correct,
    cross_validated,
    output_axis,
    output_of,
    with_bias,
)
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose
from calibrant.runtime.walk import walk

__all__ = ["Correction", "correct_bias"]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Correction:
    """What happened to the bias of one layer.

    Args:
        layer: Node name.
        kept: Whether the correction was kept.
        gain: Squared error removed a value, on samples the correction was not taken from, over the
            variance of the layer's output; negative where it would have made the layer worse.
    """

    layer: str
    kept: bool
    gain: float


def correct_bias(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    feeds: Sequence[Mapping[str, Array]],
    *,
    runtime: Runtime = CPU,
) -> tuple[Parameters, list[Correction]]:
    """Correct the bias of every layer that has one (or can be given one).

    Layers for which a rule asks a correction of its own, or none, are left to it (`refine.bias_by_rule`).

    Args:
        model: The prepared float model that `plan` belongs to.
        plan: Where quantizers stand.
        params: What they are.
        feeds: A few dozen calibration samples, in at least two feeds.
        runtime: Where models run.

    Returns:
        New parameters with biases where a correction was kept, and one entry a layer.
    """
    targets = {output_of(model, w): w for w in _corrected(model, plan)}
    if not targets or len(feeds) < 2:
        return params, []
    axes = {name: output_axis(model, w) for name, w in targets.items()}
    reference, masks = _means(model, axes, feeds, runtime)
    simulated = emit_simulated(model, plan, params)
    layers = dict(params.layers)
    report = []
    for name, outputs in walk(simulated, list(targets), feeds, runtime=runtime):
        weight = targets[name]
        found = [
            means_by_channel(y, axes[name], masks.get((name, i))) for i, y in enumerate(outputs)
        ]
        error = reference[name] - np.stack(found)  # (feeds, out)
        deltas = cross_validated(error)
        gain = deltas.gain / max(mean_square(outputs), 1e-30)
        report.append(Correction(weight.layer, gain > 0, gain))
        if gain <= 0:
            continue
        delta = deltas.delta.astype(np.float32)
        for y in outputs:
            y += delta if axes[name] == -1 else delta.reshape(-1, *[1] * (y.ndim - 2))
        layers[weight.layer] = with_bias(layers[weight.layer], model, weight, delta)
    drop_weights(simulated)
    return replace(params, layers=layers), report


def _corrected(model: ir.Model, plan: Plan) -> list[WeightDecision]:
    own = plan.bias_wishes
    return [w for w in plan.weights if w.layer not in own and can_correct(model, w)]


def _means(
    model: ir.Model,
    axes: Mapping[str, int],
    feeds: Sequence[Mapping[str, Array]],
    runtime: Runtime,
) -> tuple[dict[str, FloatArray], dict[tuple[str, int], Mask]]:
    """Mean of each output channel of the float layers: tensor -> (feeds, out).

    Beside it, (tensor, feed) -> where the float layer is finite, if it is not everywhere.
    """
    exposed = expose(model, list(axes))
    session = open_session(exposed, runtime=runtime)
    names = [o.name for o in session.get_outputs()]
    inputs = [i.name for i in session.get_inputs()]
    rows = []
    masks: dict[tuple[str, int], Mask] = {}
    for k, feed in enumerate(feeds):
        outputs = infer(session, names, {n: feed[n] for n in inputs})
        rows.append([means_by_channel(y, axes[n]) for n, y in zip(names, outputs, strict=True)])
        for name, y in zip(names, outputs, strict=True):
            mask = finite_mask(y)
            if mask is not None:
                masks[name, k] = mask
    return {n: np.stack([row[i] for row in rows]) for i, n in enumerate(names)}, masks

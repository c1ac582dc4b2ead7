"""Choose the levels of a weight by what its layer answers, instead of by the weight alone.

A weight's error counts in the layer's output as much as its scale and the input that it meets:

    y[o] - y'[o] = sum over i of s[o] (q[o, i] - level[o, i]) x[i]
    mass of q    = sum over weights with this integer of s[o]**2 * mean(x[j]**2),  j the input channel of i

Products of different inputs are left out of the mass, so that k-means still applies; a new codebook is kept
only where the layer's output on calibration data, with all products in it, has less squared error against the
float weight. Inputs are those that the layer gets in the quantized network. A further round starts from
the codebooks of the last one, which change the inputs of the layers behind; it ends early when a round changes
nothing.

Source: docs/explanation/algorithms/weight-nuq.md (`rounds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit.qdq import emit_simulated
from calibrant.graph.input_channels import spread_over_weight
from calibrant.numerics import dequantize, quantize
from calibrant.numerics.finite import finite_or_zero
from calibrant.numerics.levels import nearest_level
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.plan.roles import levels_of
from calibrant.refine._layer_inputs import layer_inputs
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session

__all__ = ["Refinement", "refine_levels"]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
Feeds = Sequence[Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Refinement:
    """What one round did to the levels of one layer.

    Args:
        layer: Node name.
        round: Number of the round, from 1.
        before: Mean squared error of the layer's output with the levels it had [units of the output,
            squared].
        after: The same with the new levels.
        kept: Whether the new levels were kept.
    """

    layer: str
    round: int
    before: float
    after: float
    kept: bool


def refine_levels(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    feeds: Feeds,
    *,
    runtime: Runtime = CPU,
) -> tuple[Parameters, list[Refinement]]:
    """Refine the levels of every weight that asks for it.

    Args:
        model: The prepared float model that `plan` belongs to.
        plan: Where quantizers stand.
        params: What they are.
        feeds: Calibration samples.
        runtime: Where it runs.

    Returns:
        New parameters, and one entry for each round and layer in which another codebook was tried.
    """
    asked = _asked(plan)
    report: list[Refinement] = []
    for number in range(1, max((rounds for _, rounds in asked), default=0) + 1):
        due = {w.layer: w for w, rounds in asked if rounds >= number}
        layers = dict(params.layers)
        changed = False
        simulated = emit_simulated(model, plan, params)
        for name, inputs in layer_inputs(simulated, list(due), feeds, runtime):
            weight = due[name]
            w = float_weight(model, plan, weight, params.activations)
            known = [finite_or_zero(x) for x in inputs]  # a zero adds nothing to any mean square
            found = _better(model, weight, w, layers[name], known, runtime)
            if found is None:
                continue
            refined, before, after = found
            report.append(Refinement(name, number, before, after, after < before))
            if after < before:
                layers[name], changed = refined, True
        params = replace(params, layers=layers)
        if not changed:
            break
    return params, report


def _asked(plan: Plan) -> list[tuple[WeightDecision, int]]:
    """Return the weights with rounds to come, and how many."""
    codebooks = ((w, w.codebook) for w in plan.weights)
    return [(w, book.rounds) for w, book in codebooks if book is not None and book.rounds]


def _better(
    model: ir.Model,
    weight: WeightDecision,
    w: npt.NDArray[np.float32],
    layer: LayerParameters,
    inputs: Sequence[Array],
    runtime: Runtime,
) -> tuple[LayerParameters, float, float] | None:
    """Return the layer with new levels, and the output's error before and after; None for the same ones."""
    node = model.graph.node(weight.layer)
    uniform = quantize(w, layer.weight)
    mass = _moments(node, inputs, w.shape) * _squared_scale(layer, w.ndim)
    levels = levels_of(weight.algorithm, uniform, np.broadcast_to(mass, w.shape))
    if levels == layer.levels:
        return None
    refined = replace(layer, stored=nearest_level(uniform, levels), levels=levels)
    errors = [w - dequantize(some.values, some.weight) for some in (layer, refined)]
    before, after = _powers(model, node, errors, inputs, runtime)
    return refined, before, after


def _squared_scale(layer: LayerParameters, rank: int) -> FloatArray:
    """Return scale**2 in a shape that broadcasts over the weight."""
    squared = layer.weight.scale.astype(np.float64) ** 2
    axis = layer.weight.axis
    if axis is None or not squared.ndim:
        return squared
    return squared.reshape([-1 if i == axis else 1 for i in range(rank)])


def _moments(node: ir.Node, inputs: Sequence[Array], shape: tuple[int, ...]) -> FloatArray:
    """Return mean x**2 of each input channel in a shape that broadcasts over the weight.

    Ones where the inputs say nothing: none are there, or all are zero.
    """
    axis = 1 if node.op_type == "Conv" else -1
    totals: FloatArray = np.zeros(1)
    for x in inputs:
        others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        totals = totals + np.square(x, dtype=np.float64).sum(axis=others)  # (in,)
    count = sum(x.size for x in inputs) / totals.size
    if not totals.any() or not np.isfinite(totals).all():  # squares may be too large
        return np.ones(1)
    moments = totals / max(1.0, count)
    return spread_over_weight(node, shape, moments)


def _powers(
    model: ir.Model,
    node: ir.Node,
    weights: Sequence[Array],
    inputs: Sequence[Array],
    runtime: Runtime,
) -> list[float]:
    """Return the mean square of what a layer answers with each of some weights, without its bias."""
    values = [ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT)) for n in ("x", "w")]
    alone = ir.Node("", node.op_type, values, list(node.attributes.values()), name="layer")
    y = alone.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    opset = {"": model.graph.opset_imports[""]}
    graph = ir.Graph(values, [y], nodes=[alone], opset_imports=opset, name="layer")
    session = open_session(
        ir.Model(graph, ir_version=model.ir_version), integers=False, runtime=runtime
    )
    powers = []
    for w in weights:
        total, count = 0.0, 0
        for x in inputs:
            (answer,) = infer(session, ["y"], {"x": x, "w": w})
            total += float(np.sum(np.square(answer), dtype=np.float64))
            count += answer.size
        powers.append(total / max(1, count))
    return powers

"""Scales of weights for processors that add two products in 16 bits, as large as the samples need.

Some processors add up pairs of products of 8-bit numbers in 16 bits, and what is beyond is cut off (`numerics.pairs`). That
no pair can ever get there costs up to one bit of every weight. Most channels of an input never reach the largest number of
their tensor, and then larger weights fit. With X[c] the largest number of input channel c, a margin above what the samples
show, and two neighbours a, b that are added,

    -2**15 <= w_a X[a] + w_b X[b] <= 2**15 - 1          x as it is stored unsigned, in [0, 255]

The scale of an output channel grows until all its pairs are inside. A sample that goes beyond the margin loses what the
sum has too much; where nothing saturates it loses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.data.batch import Batch
from calibrant.graph.input_channels import spread_over_weight
from calibrant.graph.ops import contracted_axis
from calibrant.graph.values import node_named
from calibrant.numerics import QuantParams, quantize
from calibrant.numerics.pairs import LEARNED_STEPS, PAIR_LIMIT, fit_pairs, pair_sums
from calibrant.plan import ActivationDecision, Plan, WeightDecision, roles
from calibrant.plan.biases import rescaled
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.runtime.observe import channel_tops
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["fit_narrow_sums", "inputs_looked_at"]

#: Samples that were not seen may go beyond the largest value of those that were by so much.
MARGIN = 1.1


def fit_narrow_sums(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    batches: Sequence[Batch],
    *,
    layers: Collection[str] | None = None,
    runtime: Runtime = CPU,
    known: dict[tuple[ir.Model, str], npt.NDArray[np.float64]] | None = None,
) -> tuple[Parameters, tuple[str, ...]]:
    """Let scales of weights grow where pairs of products could be beyond 16 bits.

    Args:
        model: The prepared float model that `plan` belongs to.
        plan: Where quantizers stand.
        params: What they are.
        batches: Samples that say how large the channels of inputs get.
        layers: Layers whose scales may grow; None for all.
        runtime: Where it runs.
        known: The largest value of each channel of a tensor, seen before; new ones are added.

    Returns:
        New parameters, and the layers that have other scales.
    """
    due = [r for r in _reachable(model, plan, params) if layers is None or r[0].layer in layers]
    axes = {d.tensor: _channel_axis(node_named(model.graph, w.layer)) for w, d, _ in due}
    tops = known if known is not None else {}
    missing = {t: axis for t, axis in axes.items() if (model, t) not in tops}
    if missing:
        seen = channel_tops(model, missing, batches, runtime=runtime)
        tops |= {(model, t): x for t, x in seen.items()}
    fitted = dict(params.layers)
    changed = []
    for w, d, contracted in due:
        inputs = _largest(model, w, params.activations[d.id], tops[model, d.tensor])
        before = fitted[w.layer]
        after = _fitted(model, plan, params, w, contracted, inputs)
        if after is not before:
            fitted[w.layer] = after
            changed.append(w.layer)
    return replace(params, layers=fitted), tuple(changed)


def inputs_looked_at(model: ir.Model, plan: Plan) -> dict[str, int]:
    """Return the tensors whose channels `fit_narrow_sums` may ask for, and their channel axes."""
    found = {}
    for w in plan.weights:
        d = plan.at((w.layer, 1 - w.input_index))
        if d is not None and w.input_index == 1 and d.spec.axis is None:
            found[d.tensor] = _channel_axis(node_named(model.graph, w.layer))
    return found


def _reachable(
    model: ir.Model, plan: Plan, params: Parameters
) -> list[tuple[WeightDecision, ActivationDecision, int]]:
    """Return the layers of which some pair could saturate, what they read, and the axis that pairs lie along."""
    found = []
    for w in plan.weights:
        d = plan.at((w.layer, 1 - w.input_index))
        node, chosen = node_named(model.graph, w.layer), params.layers[w.layer]
        contracted = contracted_axis(node)
        if (
            d is None
            or contracted is None
            or w.input_index != 1
            or node.op_type == "ConvTranspose"
        ):
            continue  # no kernel of 8 bits computes these
        if d.spec.axis is not None or max(d.spec.bits, chosen.weight.dtype.bits) > 8:
            continue
        if (pair_sums(chosen.values, chosen.weight.axis, contracted) > PAIR_LIMIT).any():
            found.append((w, d, contracted))
    return found


def _channel_axis(node: ir.Node) -> int:
    """Return the axis of a layer's input that its channels lie along."""
    if node.op_type == "Conv":
        return 1
    transposed = node.attributes.get("transA") if node.op_type == "Gemm" else None
    return 0 if transposed is not None and transposed.as_int() else -1


def _largest(
    model: ir.Model,
    weight: WeightDecision,
    p: QuantParams,
    tops: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Return the largest unsigned number that each weight is multiplied with, in a shape that broadcasts."""
    node = node_named(model.graph, weight.layer)
    raised = np.where(tops > 0, tops * MARGIN, tops)
    numbers = quantize(raised.astype(np.float32), replace(p, axis=None)) - p.dtype.qmin  # (in,)
    const = model.graph.initializers[weight.weight].const_value
    assert const is not None
    shape = tuple(int(d) for d in const.shape.numpy())
    return np.asarray(spread_over_weight(node, shape, numbers), dtype=np.int64)


def _fitted(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    weight: WeightDecision,
    contracted: int,
    inputs: npt.NDArray[np.int64],
) -> LayerParameters:
    chosen = params.layers[weight.layer]
    floats = float_weight(model, plan, weight, params.activations)
    learns = roles.rounding(weight.algorithm) is not None
    limit = PAIR_LIMIT - (LEARNED_STEPS if learns else 0)
    grown = fit_pairs(
        chosen.weight, lambda p: quantize(floats, p), contracted, limit=limit, inputs=inputs
    )
    if grown is chosen.weight:
        return chosen
    return rescaled(model, plan, params, weight, grown)

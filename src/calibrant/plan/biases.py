"""The bias of a layer as integers, and the scale of a weight that its bias can live with.

A layer adds up products of integers in int32. Its bias is added to them in steps of the product of both scales:

    b_c ~ s_x s_w_c round(b_c / (s_x s_w_c))                          s_x of the input, s_w_c of output channel c

So the scale of a weight is the step of its bias too, and each asks something of it:

- the bias fits: |b_c| <= 2**30 steps. The other half of int32 is for the sums of products. Where the scale of a
  channel is finer than that, it is raised; what a weight loses then is below the last digit of the bias in float32.
- the bias is fine enough: the step of a channel that holds nothing but zeros may be anything for the weights, so it
  is the 2**23rd part of the bias. An input that was all zero in the calibration data has the scale that gives the
  largest bias behind it 2**12 steps: fine enough for the bias, and some range is left for values that come later.

One scale for a whole weight is left as it is: raising it for one channel would cost the others. A bias that does not
fit then is added in float, behind the layer (`emit.qdq`). So are vendors' rules for scales (`tiny_scales: one`).

A target that keeps its biases in float gets the same scales: a runtime between may still make integers of them.

With an operand of 16 bits the product of the scales is soon too fine for int32. No kernel adds such a bias in
integers, so each channel has the finest scale that it fits in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.ops import is_depthwise
from calibrant.graph.values import node_named
from calibrant.numerics import QuantParams, quantize
from calibrant.numerics.compensation import residual
from calibrant.numerics.levels import nearest_level
from calibrant.numerics.params import SMALLEST_SCALE
from calibrant.plan.decisions import ActivationDecision, Plan, WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.plan.products import adds_in_integers

__all__ = ["BiasSteps", "FinalBias", "final_bias", "fitted", "rescaled"]

FloatArray = npt.NDArray[np.float64]

#: Largest bias [steps] that scales are chosen for, and that is written.
ROOM, LARGEST = 2**30, 2**31 - 1

#: Steps of the bias of a channel that holds nothing but zeros.
OF_ZEROS = 2.0**23

#: Fewer steps than these are few.
FEW_STEPS = 64

#: Steps of the largest bias behind an input that was all zero.
BEHIND_ZEROS = 2.0**12


@dataclass(frozen=True, slots=True, eq=False)
class BiasSteps:
    """A bias as a layer adds it.

    Args:
        values: Steps (out,), int32.
        scale: Units of the output per step (out,), float32.
    """

    values: npt.NDArray[np.int32]
    scale: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FinalBias:
    """The bias of one layer, as the quantized model adds it.

    Args:
        layer: Node name.
        given: The corrected bias, or the one that the model has, float32 (out,).
        steps: The same as integers; None where it is added in float.
        changed: It is another one than the model has.
        apart: The layer would add it in integers, and it does not fit: it is added behind the layer.
        visible: Its rounding can be seen beside that of the weights.
    """

    layer: str
    given: npt.NDArray[np.float32]
    steps: BiasSteps | None = None
    changed: bool = False
    apart: bool = False
    visible: bool = False

    @property
    def floats(self) -> npt.NDArray[np.float32]:
        """What is added to the sums of products (out,)."""
        if self.steps is None:
            return self.given
        found: npt.NDArray[np.float32] = self.steps.values.astype(np.float32) * self.steps.scale
        return found


def final_bias(
    model: ir.Model, plan: Plan, params: Parameters, weight: WeightDecision
) -> FinalBias | None:
    """Return the bias of a layer as the quantized model adds it; None where it has none.

    Args:
        model: The float model that the plan belongs to.
        plan: Where quantizers stand.
        params: What they are.
        weight: The layer's weight.
    """
    chosen = params.layers[weight.layer]
    given = _given(model, weight, chosen)
    if given is None:
        return None
    found = FinalBias(weight.layer, given, changed=chosen.bias is not None)
    step = _step(model, plan, params, weight, chosen.weight.scale)
    if not plan.target.integer_bias or step is None or step.shape != given.shape:
        return found
    scale = step.astype(np.float32)
    if _is_wide(plan, params, weight):
        finest = np.abs(given).astype(np.float64) / (LARGEST - 2**8)  # float32 rounds the scale
        scale = np.maximum(scale, finest).astype(np.float32)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        steps = np.rint(given.astype(np.float64) / scale)
    if not np.isfinite(steps).all() or np.abs(steps).max(initial=0) > LARGEST:
        return replace(found, apart=True)
    rounded = BiasSteps(steps.astype(np.int32), scale)
    return replace(found, steps=rounded, visible=_is_visible(given, rounded, chosen))


def _given(
    model: ir.Model, weight: WeightDecision, chosen: LayerParameters
) -> npt.NDArray[np.float32] | None:
    """Return the corrected bias of a layer (out,), or the one that the model has; None without one."""
    if chosen.bias is not None:
        return chosen.bias
    if weight.bias is None:
        return None
    const = model.graph.initializers[weight.bias].const_value
    assert const is not None
    bias: npt.NDArray[np.float32] = const.numpy().astype(np.float32)
    return bias


def _is_visible(given: npt.NDArray[np.float32], bias: BiasSteps, chosen: LayerParameters) -> bool:
    """Say whether a channel's bias is rounded as coarsely as its sums are.

    The rounding of the input alone moves the sum of a row of weights by about its norm, in the same steps; a bias
    moves by a half. Few steps in the row and few in the bias: then the half counts.
    """
    few = (np.abs(bias.values) < FEW_STEPS) & (given != 0)
    scales = max(chosen.weight.scale.size, 1)
    asked = few.reshape(-1, scales).any(axis=0)  # (scales,)
    if not asked.any():
        return False
    rows = _rows(chosen.stored, chosen.weight.axis)[asked].astype(np.float64)  # (asked, rest)
    return bool(((rows**2).sum(axis=1) < FEW_STEPS**2).any())


def fitted(
    model: ir.Model, plan: Plan, params: Parameters, empty: Sequence[Sequence[str]]
) -> Parameters:
    """Return parameters whose weights have scales that their biases can live with.

    Layers that have them already are the same objects.

    Args:
        model: The float model that the plan belongs to.
        plan: Where quantizers stand.
        params: Chosen ranges and weights.
        empty: Quantizers of one scale whose tensors were all zero, scale by scale.
    """
    activations = dict(params.activations)
    for names in empty:
        found = max(_behind_zeros(model, plan, params, name) for name in names)
        if found and not any(activations[n].scale.ndim for n in names):
            scale = np.asarray(max(found, float(SMALLEST_SCALE)), dtype=np.float32)
            activations |= {n: replace(activations[n], scale=scale) for n in names}
    params = replace(params, activations=activations)
    layers = {
        w.layer: _fitted(model, plan, params, w) for w in plan.weights if not w.spec.tiny_to_one
    }
    return replace(params, layers={**params.layers, **layers})


def _fitted(
    model: ir.Model, plan: Plan, params: Parameters, weight: WeightDecision
) -> LayerParameters:
    """Return the parameters of one layer, with another scale where its bias needs it."""
    chosen = params.layers[weight.layer]
    bias = _given(model, weight, chosen)
    scale = chosen.weight.scale
    unit = _step(model, plan, params, weight, np.ones_like(scale))  # of a weight of scale 1
    if bias is None or unit is None or bias.shape != unit.shape:
        return chosen
    largest = _of_scales(np.abs(bias).astype(np.float64) / unit, scale)  # bias in units of s_w
    zero = ~_rows(chosen.stored, chosen.weight.axis).any(axis=1)  # (scales,)
    wanted = scale.astype(np.float64)
    if scale.ndim and not _is_wide(plan, params, weight):
        smallest = _of_scales(float(SMALLEST_SCALE) / unit, scale)
        wanted = np.maximum(wanted, np.maximum(largest / ROOM, smallest))
    of_zeros = np.maximum(largest / OF_ZEROS, SMALLEST_SCALE)
    wanted = np.where(zero.reshape(scale.shape) & (largest > 0), of_zeros, wanted)
    new = wanted.astype(np.float32)
    if np.array_equal(new, scale):
        return chosen
    return rescaled(model, plan, params, weight, replace(chosen.weight, scale=new))


def rescaled(
    model: ir.Model, plan: Plan, params: Parameters, weight: WeightDecision, p: QuantParams
) -> LayerParameters:
    """Return the parameters of a layer, rounded again for another scale of its weight."""
    chosen = params.layers[weight.layer]
    floats = float_weight(model, plan, weight, params.activations)
    values = quantize(floats, p)
    if chosen.levels is not None:
        values = nearest_level(values, chosen.levels)
    rest = residual(floats, values, p) if chosen.residual is not None else None
    return replace(chosen, weight=p, stored=values, residual=rest)


def _behind_zeros(model: ir.Model, plan: Plan, params: Parameters, name: str) -> float:
    """Return the scale of a tensor that was all zero, from the biases behind it; 0 where there are none."""
    decision = next(d for d in plan.activations if d.id == name)
    p = params.activations[name]
    if decision.spec.tiny_to_one or decision.fixed_range is not None:
        return 0.0
    found = 0.0
    for w in plan.weights:
        if (w.layer, 1 - w.input_index) in decision.users:
            chosen = params.layers[w.layer]
            bias = _given(model, w, chosen)
            step = _step(model, plan, params, w, chosen.weight.scale)
            if bias is not None and step is not None and bias.shape == step.shape:
                in_steps = np.abs(bias) * p.scale.astype(np.float64) / step
                found = max(found, float(in_steps.max(initial=0)))
    return found / BEHIND_ZEROS


def _step(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    weight: WeightDecision,
    scale: npt.NDArray[np.float32],
) -> FloatArray | None:
    """Return the step of a layer's bias (out,), for a scale of its weight; None where it adds none in integers."""
    node = node_named(model.graph, weight.layer)
    read = _input(plan, weight)
    if read is None or not adds_in_integers(node, plan, weight):
        return None
    if _factor(node, "alpha") != 1 or _factor(node, "beta") != 1:
        return None
    out = _channels(model, node, weight)
    if out is None:
        return None
    p = params.activations[read.id]
    of_input = np.asarray(p.common_scale if read.folded else p.scale, dtype=np.float64)
    if of_input.ndim:  # one a channel, of which a depthwise layer reads one for each filter
        if node.op_type != "Conv" or not is_depthwise(node):
            return None
        of_input = np.repeat(of_input, out // of_input.size)
    of_weight = scale.astype(np.float64)
    if of_weight.ndim and of_weight.size != out:  # the groups of a ConvTranspose share them
        of_weight = np.tile(of_weight, _groups(node))
    both: FloatArray = np.broadcast_to(np.asarray(of_input * of_weight, np.float64), (out,))
    return both


def _channels(model: ir.Model, node: ir.Node, weight: WeightDecision) -> int | None:
    """Return the number of output channels of a layer."""
    const = model.graph.initializers[weight.weight].const_value
    if weight.channel_axis is None or const is None:
        return None
    groups = _groups(node) if node.op_type == "ConvTranspose" else 1
    return int(const.shape.numpy()[weight.channel_axis]) * groups


def _of_scales(per_output: FloatArray, scale: npt.NDArray[np.float32]) -> FloatArray:
    """Return the largest of the outputs that share a scale, in the shape of `scale`."""
    if not scale.ndim:
        return np.asarray(per_output.max(initial=0))
    return np.asarray(per_output.reshape(-1, scale.size).max(axis=0))


def _rows(values: npt.NDArray[np.int32], axis: int | None) -> npt.NDArray[np.int32]:
    """Return a weight as one row a scale."""
    if axis is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _input(plan: Plan, weight: WeightDecision) -> ActivationDecision | None:
    """Return the quantizer of what a layer multiplies its weight with."""
    edge = (weight.layer, 1 - weight.input_index)
    return plan.at(edge)


def _is_wide(plan: Plan, params: Parameters, weight: WeightDecision) -> bool:
    """Say whether an operand of a layer has 16 bits."""
    read = _input(plan, weight)
    bits = params.activations[read.id].dtype.bits if read is not None else 0
    return bits == 16 or params.layers[weight.layer].weight.dtype.bits == 16


def _factor(node: ir.Node, name: str) -> float:
    attribute = node.attributes.get(name) if node.op_type == "Gemm" else None
    return attribute.as_float() if attribute is not None else 1.0


def _groups(node: ir.Node) -> int:
    attribute = node.attributes.get("group")
    return attribute.as_int() if attribute is not None else 1

"""The weights that are quantized: the model's, times the scales of their input's channels where these are folded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.input_channels import spread_over_weight
from calibrant.graph.values import node_named
from calibrant.numerics import QuantParams
from calibrant.plan import Plan, WeightDecision

__all__ = ["float_weight", "folded_scales"]


def float_weight(
    model: ir.Model,
    plan: Plan,
    decision: WeightDecision,
    activations: Mapping[str, QuantParams],
) -> npt.NDArray[np.float32]:
    """Return the weight of a layer as it is quantized.

        w[:, c] * s_c / t        s_c scale of input channel c, t the largest of them

    where the input has scales by channel that are folded (`plan.granularity`), and w elsewhere.

    Args:
        model: The model that the plan belongs to.
        plan: Where quantizers stand.
        decision: The weight.
        activations: Parameters by quantizer id; read where something is folded.
    """
    const = model.graph.initializers[decision.weight].const_value
    assert const is not None
    w: npt.NDArray[np.float32] = const.numpy().astype(np.float32)
    folded = folded_scales(model, plan, decision, activations)
    if folded is None:
        return w
    scaled: npt.NDArray[np.float32] = (w * folded).astype(np.float32)
    return scaled


def folded_scales(
    model: ir.Model,
    plan: Plan,
    decision: WeightDecision,
    activations: Mapping[str, QuantParams],
) -> npt.NDArray[np.float64] | None:
    """Return what the weight of a layer is multiplied with, in a shape that broadcasts; None where nothing is.

    Arguments are those of `float_weight`.
    """
    edge = (decision.layer, 1 - decision.input_index)
    folded = plan.at(edge)
    if folded is None or not folded.folded:
        return None
    p = activations[folded.id]
    relative = p.scale.astype(np.float64) / p.common_scale  # (in,)
    node = node_named(model.graph, decision.layer)
    value = node.inputs[decision.input_index]
    assert value is not None
    assert value.const_value is not None
    shape = tuple(int(d) for d in value.const_value.shape.numpy())
    spread: npt.NDArray[np.float64] = spread_over_weight(node, shape, relative)
    return spread

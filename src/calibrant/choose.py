"""Statistics and a plan become parameters: pure, no model is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

import calibrant.algorithms as algorithms
from calibrant.emit.folding import float_weight
from calibrant.emit.parameters import LayerParameters, Parameters
from calibrant.errors import DataError
from calibrant.numerics import QuantParams, QuantSpec, quantize
from calibrant.numerics.levels import nearest_level
from calibrant.numerics.params import SCALE_EPS
from calibrant.plan import ActivationDecision, Plan, WeightDecision
from calibrant.recipe import AlgorithmChoice
from calibrant.stats import TensorStats

__all__ = [
    "choose_activations",
    "choose_layers",
    "choose_parameters",
    "settled",
    "with_algorithm",
]

#: What `auto` stands for where nothing is measured.
AUTO_ACTIVATION = AlgorithmChoice("min-max")
AUTO_WEIGHT = AlgorithmChoice("mse")


def choose_activations(
    plan: Plan, statistics: Mapping[str, TensorStats]
) -> dict[str, QuantParams]:
    """Choose the range of every activation quantizer.

    Quantizers of one group are chosen once, from the merged statistics of their tensors.

    Returns:
        Parameters by quantizer id.
    """
    groups: dict[str, list[ActivationDecision]] = {}
    for decision in plan.activations:
        groups.setdefault(_key(decision), []).append(decision)
    chosen: dict[str, QuantParams] = {}
    for members in groups.values():
        params = _choose(members, statistics)
        chosen |= {d.id: params for d in members}
    return chosen


def _key(decision: ActivationDecision) -> str:
    return f"{decision.group}|{decision.fixed_range}"


def _choose(
    members: list[ActivationDecision], statistics: Mapping[str, TensorStats]
) -> QuantParams:
    first = members[0]
    if first.fixed_range is not None:
        return QuantParams.from_range(*first.fixed_range, first.spec)
    seen = [statistics[t] for t in dict.fromkeys(d.tensor for d in members)]
    if not any(s.count for s in seen):
        raise DataError(f"Tensor '{first.tensor}' had no values in the calibration data.")
    choice = _settled_activation(first.algorithm)
    algorithm = algorithms.activation(choice.name, **dict(choice.options))
    axis = first.spec.axis
    if axis is None:
        return algorithm(reduce(TensorStats.merge, [s.whole for s in seen]), first.spec)
    parts = zip(*(s.of_channels(axis) for s in seen), strict=True)
    channels = [reduce(TensorStats.merge, part) for part in parts]
    return _by_channel(algorithm, channels, first.spec)


def _by_channel(
    algorithm: algorithms.ActivationAlgorithm, channels: Sequence[TensorStats], spec: QuantSpec
) -> QuantParams:
    """Choose a range for each channel by itself.

    A channel in which nothing was seen but zeros (or less than the guard of the kernel lets through) says
    nothing about its scale. It takes the smallest of the others: its column of the weight then stays
    small where scales are folded into it, and disturbs nobody.
    """
    each = replace(spec, axis=None)
    chosen = [algorithm(stats, each) for stats in channels]
    scale = np.stack([p.scale for p in chosen])  # (channels,)
    largest = np.array([max(abs(s.min), abs(s.max)) for s in channels])
    alive = largest >= SCALE_EPS * (spec.dtype.qmax - spec.dtype.qmin)
    if alive.any():
        scale[~alive] = scale[alive].min()
    return QuantParams(scale, np.stack([p.zero_point for p in chosen]), spec.dtype, spec.axis)


def choose_layers(
    plan: Plan, model: ir.Model, activations: Mapping[str, QuantParams] | None = None
) -> dict[str, LayerParameters]:
    """Choose the scale of every weight and round it to its grid.

    Args:
        plan: Where quantizers stand.
        model: The model that the plan belongs to.
        activations: Parameters by quantizer id; where a layer's input has scales by channel that are
            folded into its weight, the weight is scaled by them first (`plan.granularity`). Not needed
            by a plan without such inputs.

    Returns:
        Parameters by node name.
    """
    return {
        w.layer: _layer(w, float_weight(model, plan, w, activations or {})) for w in plan.weights
    }


def choose_parameters(
    plan: Plan, model: ir.Model, statistics: Mapping[str, TensorStats]
) -> Parameters:
    """Choose everything: activations first, since weights may take over the scales of their channels."""
    activations = choose_activations(plan, statistics)
    return Parameters(activations, choose_layers(plan, model, activations))


def _layer(decision: WeightDecision, w: npt.NDArray[np.float32]) -> LayerParameters:
    if not np.isfinite(w).all():
        raise DataError(
            f"The weight '{decision.weight}' of layer '{decision.layer}' holds NaN or Inf."
        )
    choice = _settled_weight(decision.algorithm)
    algorithm = algorithms.weight(choice.name, **dict(choice.options))
    params = algorithm(w, decision.spec)
    values = quantize(w, params)
    if isinstance(algorithm, algorithms.CodebookAlgorithm):
        levels = algorithm.codebook(values)
        return LayerParameters(params, nearest_level(values, levels), levels=levels)
    return LayerParameters(params, values)


def _settled_activation(choice: AlgorithmChoice) -> AlgorithmChoice:
    return AUTO_ACTIVATION if choice.name == "auto" else choice


def _settled_weight(choice: AlgorithmChoice) -> AlgorithmChoice:
    return AUTO_WEIGHT if choice.name == "auto" else choice


def with_algorithm(plan: Plan, choice: AlgorithmChoice) -> Plan:
    """Return a plan in which every activation algorithm that is `auto` is `choice`."""
    return replace(
        plan,
        activations=tuple(
            replace(d, algorithm=choice) if d.algorithm.name == "auto" else d
            for d in plan.activations
        ),
    )


def settled(plan: Plan) -> Plan:
    """Return a plan that names the algorithms that were used, in the place of `auto`."""
    return replace(
        plan,
        activations=tuple(
            replace(d, algorithm=_settled_activation(d.algorithm)) for d in plan.activations
        ),
        weights=tuple(replace(d, algorithm=_settled_weight(d.algorithm)) for d in plan.weights),
    )

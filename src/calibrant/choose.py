"""Statistics and a plan become parameters: pure, no model is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

import calibrant.algorithms as algorithms
from calibrant.emit.parameters import LayerParameters
from calibrant.errors import DataError
from calibrant.numerics import QuantParams, quantize
from calibrant.plan import ActivationDecision, Plan, WeightDecision
from calibrant.recipe import AlgorithmChoice
from calibrant.stats import TensorStats

__all__ = ["choose_activations", "choose_layers", "settled", "with_algorithm"]

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
    tensors = dict.fromkeys(d.tensor for d in members)
    stats = reduce(TensorStats.merge, [statistics[t] for t in tensors])
    if stats.count == 0:
        raise DataError(f"Tensor '{first.tensor}' had no values in the calibration data.")
    choice = _settled_activation(first.algorithm)
    return algorithms.activation(choice.name, **dict(choice.options))(stats, first.spec)


def choose_layers(plan: Plan, model: ir.Model) -> dict[str, LayerParameters]:
    """Choose the scale of every weight and round it to its grid.

    Returns:
        Parameters by node name.
    """
    return {w.layer: _layer(w, model) for w in plan.weights}


def _layer(decision: WeightDecision, model: ir.Model) -> LayerParameters:
    const = model.graph.initializers[decision.weight].const_value
    assert const is not None
    w: npt.NDArray[np.float32] = const.numpy().astype(np.float32)
    if not np.isfinite(w).all():
        raise DataError(
            f"The weight '{decision.weight}' of layer '{decision.layer}' holds NaN or Inf."
        )
    choice = _settled_weight(decision.algorithm)
    params = algorithms.weight(choice.name, **dict(choice.options))(w, decision.spec)
    return LayerParameters(params, quantize(w, params))


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

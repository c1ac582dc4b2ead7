"""One simulated model for many parameters: scales, zero points and chosen weights are inputs.

Candidates that differ in numbers alone are then runs of one session, and what they cost is inference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit.qdq import WEIGHT, emit_with, pair_values, residual_values
from calibrant.graph.values import add_constant
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters

__all__ = ["Parametric", "emit_parametric", "form_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Parametric:
    """A simulated model whose quantizers are fed.

    Args:
        model: The model; beside its own inputs it has one for each number of each quantizer, and one for
            each free weight.
        plan: Where its quantizers stand.
        free: Layers whose weights are inputs.
        names: (quantizer id or layer, which of its values) -> input.
    """

    model: ir.Model
    plan: Plan
    free: frozenset[str]
    names: Mapping[tuple[str, str], str]

    def feeds(self, params: Parameters) -> dict[str, npt.NDArray[np.generic]]:
        """Return the inputs that stand for parameters, of a plan with the same form."""
        found: dict[str, npt.NDArray[np.generic]] = {}
        for d in self.plan.activations:
            p = params.activations[d.id]
            unsigned = self.plan.target.stores_unsigned(by_channel=p.axis is not None)
            values = pair_values(p, unsigned=unsigned, folded=d.folded, compact=False)
            if d.compensation:
                values |= residual_values(p, unsigned=unsigned)
            found |= {self.names[d.id, key]: np.asarray(v) for key, v in values.items()}
        for layer in self.free:
            chosen = params.layers[layer]
            found[self.names[layer, WEIGHT]] = chosen.floats
        return found


def form_of(plan: Plan) -> tuple[object, ...]:
    """Return what two plans must share for their parameters to fit into one parametric model."""
    return tuple(
        (
            d.id,
            d.users,
            d.producer,
            d.spec.bits,
            d.spec.axis,
            d.folded,
            d.compensation,
        )
        for d in plan.activations
    )


def emit_parametric(
    model: ir.Model, plan: Plan, params: Parameters, *, free: Collection[str] = ()
) -> Parametric:
    """Copy a prepared model, with inputs in the place of the numbers of its quantizers.

    Args:
        model: A prepared float model.
        plan: Where quantizers stand.
        params: Weights that are not free, and the types of the inputs.
        free: Layers whose weights are inputs.
    """
    names: dict[tuple[str, str], str] = {}

    def put(
        graph: ir.Graph, name: str, data: npt.NDArray[np.generic], of: tuple[str, str]
    ) -> ir.Value:
        if of[1] == WEIGHT and of[0] not in free:  # a layer may have the name of a quantizer
            return add_constant(graph, name, data)
        tensor = ir.tensor(data)
        shape = ir.Shape([None] * data.ndim)
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype))
        graph.inputs.append(value)
        names[of] = name
        return value

    made = emit_with(model, plan, params, put)
    return Parametric(made, plan, frozenset(free), names)

"""One simulated model for many parameters: scales, zero points, chosen weights and some biases are inputs.

A bias is rounded to steps that depend on the range of the layer's input. Where that rounding can be seen
(`plan.biases`), the bias is an input; elsewhere it is a float, which is no further from each candidate's than half of
a step that nobody sees. As inputs, all biases would cost a runtime its fast kernels.

Candidates that differ in numbers alone are then runs of one session, and what they cost is inference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit.qdq import BIAS, WEIGHT, emit_with, pair_values, residual_values
from calibrant.graph.values import add_constant
from calibrant.plan import Plan
from calibrant.plan.biases import final_bias
from calibrant.plan.parameters import Parameters

__all__ = ["Parametric", "emit_parametric", "form_of", "visible_biases"]


@dataclass(frozen=True, slots=True, eq=False)
class Parametric:
    """What a simulated model is fed whose quantizers are inputs: one for each number of each quantizer and free weight.

    Args:
        plan: Where its quantizers stand.
        source: The prepared float model.
        free: Layers whose weights are inputs.
        biases: Layers whose biases are inputs.
        names: (quantizer id or layer, which of its values) -> input.
    """

    plan: Plan
    free: frozenset[str]
    biases: frozenset[str]
    source: ir.Model
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
            found |= {self.names[d.id, key]: _fed(np.asarray(v)) for key, v in values.items()}
        for layer in self.free:
            chosen = params.layers[layer]
            found[self.names[layer, WEIGHT]] = chosen.floats
        for w in self.plan.weights:
            if w.layer in self.biases:
                bias = final_bias(self.source, self.plan, params, w)
                assert bias is not None
                found[self.names[w.layer, BIAS]] = bias.floats
        return found


_INT4 = np.dtype(ml_dtypes.int4)


def _fed(data: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return numbers in a type that ONNX Runtime takes from numpy: 4 bits become 8."""
    return data.astype(np.int8) if data.dtype == _INT4 else data


def _as_int4(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Return a value of 8 bits as one of 4 bits."""
    to = ir.AttrInt64("to", int(ir.DataType.INT4))
    cast = ir.Node("", "Cast", [value], [to], name=f"{name}__cast")
    cast.outputs[0].name = name
    cast.outputs[0].type = ir.TensorType(ir.DataType.INT4)
    graph.append(cast)
    return cast.outputs[0]


def visible_biases(model: ir.Model, plan: Plan, params: Parameters) -> frozenset[str]:
    """Return the layers of whose bias the rounding, which depends on the ranges, can be seen."""
    found = (final_bias(model, plan, params, w) for w in plan.weights)
    return frozenset(bias.layer for bias in found if bias is not None and bias.visible)


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
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    *,
    free: Collection[str] = (),
) -> tuple[ir.Model, Parametric]:
    """Copy a prepared model, with inputs in the place of the numbers of its quantizers; return it, and what it is fed.

    Args:
        model: A prepared float model.
        plan: Where quantizers stand.
        params: Weights that are not free, and the types of the inputs.
        free: Layers whose weights are inputs.
    """
    names: dict[tuple[str, str], str] = {}
    final = {w.layer: final_bias(model, plan, params, w) for w in plan.weights}
    biases = frozenset(n for n, bias in final.items() if bias is not None and bias.visible)

    def put(
        graph: ir.Graph, name: str, data: npt.NDArray[np.generic], of: tuple[str, str]
    ) -> ir.Value:
        kept = {WEIGHT: free, BIAS: biases}.get(of[1])  # a layer may have the name of a quantizer
        if kept is not None and of[0] not in kept:
            bias = final[of[0]] if of[1] == BIAS else None
            return add_constant(graph, name, data if bias is None else bias.given)
        narrow = data.dtype == _INT4
        given = f"{name}__int8" if narrow else name
        tensor = ir.Tensor(np.asarray(_fed(data)))
        shape = ir.Shape([None] * data.ndim)
        value = ir.Value(name=given, shape=shape, type=ir.TensorType(tensor.dtype))
        graph.inputs.append(value)
        names[of] = given
        return _as_int4(graph, value, name) if narrow else value

    made = emit_with(model, plan, params, put)
    return made, Parametric(plan, frozenset(free), biases, model, names)

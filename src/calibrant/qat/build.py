"""The deployed graph of a solution as a module of torch: the emitted model, with modules in the place of quantizers.

    Solution ─► emit.qdq.emit_with ─► graph.to_torch

Where quantizers stand is decided in one place, the plan, and put into a graph in one place, `emit`. What is trained
is that graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import nn
from torch.fx import GraphModule

from calibrant.emit.qdq import BIAS, WEIGHT, emit_with
from calibrant.graph.values import add_constant
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.biases import final_bias
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import Parameters
from calibrant.qat.graph import Parts, key_of, to_torch
from calibrant.qat.quantizers import (
    WEIGHTS,
    ActivationQuantizer,
    BiasQuantizer,
    ChannelQuantizer,
    WeightQuantizer,
)
from calibrant.qat.recipe import Asked
from calibrant.solution import Solution

__all__ = ["Trained", "build_module"]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """The module of a solution, and which part of it is what.

    Args:
        module: The whole graph; it is called with the inputs of the model.
        activations: Quantizer id -> path of its module.
        weights: Layer -> path of the module of its weight.
        biases: Layer -> path of the module of its bias.
    """

    module: GraphModule
    activations: Mapping[str, str]
    weights: Mapping[str, str]
    biases: Mapping[str, str]

    def activation(self, name: str) -> ActivationQuantizer | ChannelQuantizer:
        """Return the quantizer of an activation."""
        found: ActivationQuantizer | ChannelQuantizer = self.module.get_submodule(
            self.activations[name]
        )
        return found

    def weight(self, layer: str) -> WeightQuantizer:
        """Return the quantizer of a weight."""
        found: WeightQuantizer = self.module.get_submodule(self.weights[layer])
        return found

    def bias(self, layer: str) -> BiasQuantizer:
        """Return the bias of a layer."""
        found: BiasQuantizer = self.module.get_submodule(self.biases[layer])
        return found


def with_biases(solution: Solution) -> Solution:
    """Return the solution with the bias of each quantized layer among its parameters."""
    model, plan, params = solution.model, solution.plan, solution.params
    layers = dict(params.layers)
    for w in plan.weights:
        bias = final_bias(model, plan, params, w)
        if bias is not None:
            layers[w.layer] = replace(layers[w.layer], bias=bias.given)
    return replace(solution, params=replace(params, layers=layers))


def build_module(solution: Solution, asked: Asked) -> Trained:
    """Return the deployed graph of a solution as a module that learns.

    Raises:
        UnsupportedError: A node that torch is not told of.
    """
    solution = with_biases(solution)
    model, plan, params = solution.model, solution.plan, solution.params
    names = _Names()
    modules: dict[str, nn.Module] = {}
    activations = _activations(model, plan, params, asked, names, modules)
    weights, shared = {}, {}
    for w in plan.weights:
        key = w.weight, w.spec, w.input_index, asked.weights[w.layer]
        if key not in shared:  # layers that share a weight train one
            shared[key] = names.path("weights", w.layer)
            chosen = params.layers[w.layer]
            floats = float_weight(model, plan, w, params.activations)
            kind = WEIGHTS[asked.weights[w.layer]]
            modules[shared[key]] = kind(floats, chosen.values, chosen.weight)
        weights[w.layer] = shared[key]
    biases = {}
    for w in plan.weights:
        made = _bias(model, plan, params, w)
        if made is not None:
            biases[w.layer] = names.path("biases", w.layer)
            modules[biases[w.layer]] = made
    put = _Put(plan, activations, weights, biases)
    emitted = emit_with(model, plan, params, put)
    parts = Parts(put.activations, put.weights, put.biases, modules)
    return Trained(to_torch(emitted, parts), activations, weights, biases)


class _Names:
    """Paths of modules, each taken once."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def path(self, folder: str, name: str) -> str:
        key = candidate = f"{folder}.{key_of(name)}"
        count = 1
        while candidate in self.taken:
            count += 1
            candidate = f"{key}_{count}"
        self.taken.add(candidate)
        return candidate


class _Put:
    """Puts the numbers of quantizers into a graph, and remembers which value is whose."""

    def __init__(
        self,
        plan: Plan,
        activations: Mapping[str, str],
        weights: Mapping[str, str],
        biases: Mapping[str, str],
    ) -> None:
        self.of_activation, self.of_weight, self.of_bias = activations, weights, biases
        self.read = {w.layer: plan.at((w.layer, 1 - w.input_index)) for w in plan.weights}
        self.activations: dict[str, str] = {}
        self.weights: dict[str, str] = {}
        self.biases: dict[str, tuple[str, str, str | None]] = {}

    def __call__(
        self, graph: ir.Graph, name: str, data: npt.NDArray[Any], of: tuple[str, str]
    ) -> ir.Value:
        owner, which = of
        value = add_constant(graph, name, data)
        assert value.name is not None
        if which == WEIGHT:
            self.weights[value.name] = self.of_weight[owner]
        elif which == BIAS:
            read = self.read[owner]
            of_input = self.of_activation[read.id] if read is not None else None
            self.biases[value.name] = self.of_bias[owner], self.of_weight[owner], of_input
        elif which in ("scale", "common_scale"):
            self.activations[value.name] = self.of_activation[owner]
        return value


def _activations(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    asked: Asked,
    names: _Names,
    modules: dict[str, nn.Module],
) -> dict[str, str]:
    """Make the quantizers of activations; those of a group are one."""
    paths: dict[str, str] = {}
    groups: dict[str, str] = {}
    producers = {v.name: n for n in model.graph for v in n.outputs}
    for d in plan.activations:
        key = d.group or d.id
        if key not in groups:
            groups[key] = names.path("activations", d.id)
            said = [asked.fixed_min[n] for n, _ in d.users if n in asked.fixed_min]
            producer = producers.get(d.tensor)
            behind_relu = producer is not None and producer.op_type == "Relu"
            p = params.activations[d.id]
            begins_at_0 = bool((p.zero_point == p.dtype.qmin).all())
            fixed = said[0] if said else behind_relu and begins_at_0
            if p.axis is not None:
                modules[groups[key]] = ChannelQuantizer(p, folded=d.folded)
                paths[d.id] = groups[key]
                continue
            modules[groups[key]] = ActivationQuantizer.of(
                p,
                d.spec,
                fixed_min=fixed and not d.spec.symmetric,
                learns=d.fixed_range is None,
                half_scale=plan.half_scales,
            )
        paths[d.id] = groups[key]
    return paths


def _bias(
    model: ir.Model, plan: Plan, params: Parameters, w: WeightDecision
) -> BiasQuantizer | None:
    """Make the bias of a layer; None where it has none."""
    found = final_bias(model, plan, params, w)
    if found is None:
        return None
    read = plan.at((w.layer, 1 - w.input_index))
    bits = {params.layers[w.layer].weight.dtype.bits}
    reach = 1.0
    if read is not None:
        p = params.activations[read.id]
        bits.add(p.dtype.bits)
        low, high = p.range
        reach = float((high - low).max()) / 6  # a range is about six standard deviations
    node = model.graph.node(w.layer)
    attribute = node.attributes.get("group")
    group = attribute.as_int() if attribute is not None else 1
    return BiasQuantizer(
        found.given,
        size=_answer_size(float_weight(model, plan, w, params.activations), w, found.given, reach),
        integers=found.steps is not None,
        wide=16 in bits,
        groups=group if node.op_type == "ConvTranspose" else 1,
    )


def _answer_size(
    weight: npt.NDArray[np.float32],
    w: WeightDecision,
    bias: npt.NDArray[np.float32],
    reach: float,
) -> npt.NDArray[np.float32]:
    """Return about how large the answers of a layer are, channel by channel (out,), at least as its bias.

    With inputs of size r that are not correlated, an answer is about the norm of its weights times r.
    """
    if w.channel_axis is None:
        rows = weight.reshape(1, -1)
    else:
        rows = np.moveaxis(weight, w.channel_axis, 0).reshape(weight.shape[w.channel_axis], -1)
    norm = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1)) * reach
    if norm.size != bias.size:
        norm = np.resize(norm, bias.size) if norm.size > 1 else np.full(bias.size, norm.max())
    size: npt.NDArray[np.float32] = np.maximum(norm, 1e-12).astype(np.float32)
    return size

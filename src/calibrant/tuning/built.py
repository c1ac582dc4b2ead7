"""Options as they are built: a model, a plan, and parameters for each half of the probe."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from calibrant.analysis.score import SampleScores
from calibrant.analysis.simulate import Simulator, taking_scales
from calibrant.choose import Known, choose_activations, choose_layers, with_algorithm, with_biases
from calibrant.emit.weights_only import emit_weights_only
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.plan import Plan
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.recipe import AlgorithmChoice, Recipe
from calibrant.stats import TensorStats
from calibrant.tuning.folds import Folds
from calibrant.tuning.forms import Form
from calibrant.tuning.space import same_params

__all__ = ["Made", "behind_weights", "noisier", "same_grids", "unfolded", "with_choice"]

#: Parameters of activations by quantizer.
Grids = Mapping[str, QuantParams]


@dataclass(slots=True, eq=False)
class Made:
    """An option, but for its algorithm."""

    form: Form
    recipe: Recipe
    model: ir.Model
    plan: Plan
    folds: Folds
    simulator: Simulator
    known: Known
    scores: dict[str, list[SampleScores]] = field(default_factory=dict)
    grids: dict[str, tuple[Grids, Grids]] = field(default_factory=dict)
    _layers: dict[str, LayerParameters] | None = None
    _params: dict[str, tuple[Parameters, Parameters]] = field(default_factory=dict)

    def params(self, algorithm: str) -> tuple[Parameters, Parameters]:
        """Return the parameters for even feeds, and those for odd ones: each from the other half.

        Weights that take over no scales are the same in both, and for all algorithms if it can be, so that one session
        serves all. Where biases ask a half for larger scales (`plan.biases`), all get them.
        """
        if algorithm not in self._params:
            plan = with_choice(self.plan, algorithm)
            taking = taking_scales(plan)
            even, odd = (self._of_half(plan, self.folds.apart_from(i), taking) for i in (0, 1))
            shared = {n: layer for n, layer in odd.layers.items() if n not in taking}
            even = replace(even, layers={**even.layers, **shared})
            self._params[algorithm] = even, odd
            self.grids[algorithm] = even.activations, odd.activations
        return self._params[algorithm]

    def forget(self) -> None:
        """Let go of parameters but for the grids of activations, which tell whether another option is the same."""
        self._params.clear()
        self._layers = None

    def _of_half(
        self, plan: Plan, seen: Mapping[str, TensorStats], taking: Collection[str]
    ) -> Parameters:
        activations = choose_activations(plan, seen, self.known)
        layers = self._layers
        if layers is None or taking:
            chosen = choose_layers(plan, self.model, activations, self.known)
            layers = chosen | {n: w for n, w in (layers or {}).items() if n not in taking}
        params = with_biases(plan, self.model, Parameters(activations, layers), seen)
        self._layers = dict(params.layers)
        return params


def behind_weights(model: ir.Model, plan: Plan, known: Known | None = None) -> ir.Model:
    """Return the float model with its weights rounded: what activations are observed in, behind weights.

    Scales that an activation would fold into a weight are not known yet; such a weight is rounded as it is.
    """
    alone = unfolded(plan)
    layers = choose_layers(alone, model, known=known)
    return emit_weights_only(model, alone, Parameters({}, layers))


def unfolded(plan: Plan) -> Plan:
    """Return a plan in which no weight takes over the scales of its input."""
    return replace(plan, activations=tuple(replace(d, folded=False) for d in plan.activations))


def with_choice(plan: Plan, algorithm: str) -> Plan:
    """Return a plan with an algorithm where the recipe leaves it open."""
    return with_algorithm(plan, AlgorithmChoice(algorithm)) if algorithm else plan


def noisier(
    made: Made, one: tuple[Parameters, Parameters], other: tuple[Parameters, Parameters]
) -> bool:
    """Whether the second parameters have at least as much noise at every tensor, on the half they are not from."""
    for half, (a, b) in enumerate(zip(one, other, strict=True)):
        seen = made.folds.apart_from(1 - half)
        for d in made.plan.activations:
            if d.fixed_range is not None or d.spec.axis is not None:
                continue
            x, count = seen[d.tensor].points()
            before, after = (
                float(np.average((x - fake_quantize(x, p.activations[d.id])) ** 2, weights=count))
                for p in (a, b)
            )
            if after < before:
                return False
    return True


def same_grids(one: Mapping[str, QuantParams], other: Mapping[str, QuantParams]) -> bool:
    """Whether activations have the same parameters."""
    return one.keys() == other.keys() and all(same_params(one[k], other[k]) for k in one)

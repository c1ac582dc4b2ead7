"""Choose one candidate for the whole model, by the model's outputs.

Every candidate is the same model with other numbers, so they are runs of one session that takes scales, zero
points and the weights that change with them as inputs (`emit.parametric`).

Source: horizon.md 4.2.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from calibrant.auto.candidates import Trial
from calibrant.auto.judge import Judge, Verdict
from calibrant.choose import choose_activations, choose_layers
from calibrant.emit.parameters import LayerParameters, Parameters
from calibrant.emit.parametric import Parametric, emit_parametric, form_of
from calibrant.numerics import QuantParams
from calibrant.plan import Plan, WeightDecision
from calibrant.run import Run
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose
from calibrant.stats import TensorStats

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Modelwise", "same_params"]

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Modelwise:
    """Scores candidates for the whole model.

    Args:
        model: The model that is quantized.
        statistics: What was seen of every tensor that some candidate quantizes.
        judge: The samples, and the metric.
        run: The run.
    """

    model: ir.Model
    statistics: Mapping[str, TensorStats]
    judge: Judge
    run: Run
    _layers: dict[str, LayerParameters] = field(default_factory=dict)
    _sessions: dict[object, tuple[Parametric, ort.InferenceSession]] = field(default_factory=dict)
    _seen: list[tuple[Plan, Mapping[str, QuantParams], Verdict]] = field(default_factory=list)

    def verdict(self, trial: Trial) -> Verdict:
        """Return what a candidate reaches; one whose numbers were tried before is not run again."""
        plan = trial.plan
        activations = choose_activations(plan, self.statistics)
        for other, params, verdict in self._seen:
            if form_of(other) == form_of(plan) and same(params, activations):
                return verdict
        verdict = self._measured(plan, activations)
        self._seen.append((plan, activations, verdict))
        outputs = ", ".join(f"{n} {v:.6f}" for n, v in verdict.outputs.items())
        logger.info("%s: %s %s", trial.name, self.judge.metric.name, outputs)
        return verdict

    def _measured(self, plan: Plan, activations: Mapping[str, QuantParams]) -> Verdict:
        folding = {n for d in plan.activations if d.folded for n, _ in d.users}
        free = [w for w in plan.weights if w.layer in folding]
        fixed = [w for w in plan.weights if w.layer not in folding and w.layer not in self._layers]
        self._layers |= choose_layers(_of_weights(plan, fixed), self.model)
        own = choose_layers(_of_weights(plan, free), self.model, activations)
        params = Parameters(activations, {**self._layers, **own})
        form = form_of(plan)
        if form not in self._sessions:
            made = emit_parametric(self.model, plan, params, free=[w.layer for w in free])
            session = open_session(
                expose(made.model, self.judge.names), integers=False, **self.run.runtime
            )
            self._sessions[form] = made, session
        made, session = self._sessions[form]
        inputs = {i.name for i in session.get_inputs()}
        numbers = {n: x for n, x in made.feeds(params).items() if n in inputs}
        outputs = []
        for feed in self.judge.feeds:
            fed = {n: x for n, x in feed.items() if n in inputs}
            values = infer(session, self.judge.names, fed | numbers)
            outputs.append(dict(zip(self.judge.names, values, strict=True)))
        return self.judge.judge(outputs)


def _of_weights(plan: Plan, weights: Sequence[WeightDecision]) -> Plan:
    return replace(plan, weights=tuple(weights))


def same(one: Mapping[str, QuantParams], other: Mapping[str, QuantParams]) -> bool:
    """Say whether two sets of parameters are equal within 1e-6."""
    return one.keys() == other.keys() and all(same_params(one[k], other[k]) for k in one)


def same_params(a: QuantParams, b: QuantParams) -> bool:
    """Say whether two quantizers are equal: zero points, and scales within 1e-6 of each other."""
    return (
        a.dtype == b.dtype
        and a.axis == b.axis
        and a.scale.shape == b.scale.shape
        and bool(np.array_equal(a.zero_point, b.zero_point))
        and bool(np.allclose(a.scale, b.scale, rtol=1e-6, atol=0))
    )

"""Choose one candidate for the whole model, by the model's outputs.

Every candidate is the same model with other numbers, so they are runs of one session that takes scales, zero
points and the weights that change with them as inputs (`emit.parametric`).

Source: horizon.md 4.2.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from calibrant.analysis.judge import Judge, Verdict
from calibrant.analysis.simulate import Simulator, taking_scales
from calibrant.choose import choose_layers
from calibrant.emit.parametric import form_of
from calibrant.numerics import QuantParams
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.recipe import Settings
from calibrant.run import Candidate, Run
from calibrant.tuning.space import Trial

__all__ = ["modelwise", "same_params"]

logger = logging.getLogger(__name__)


def modelwise(
    model: ir.Model,
    tried: Sequence[Trial],
    later: Mapping[Settings, Trial],
    params: Callable[[Trial], Mapping[str, QuantParams]],
    judge: Judge,
    r: Run,
    progress: Callable[[int, int], None],
) -> Trial:
    """Return the best candidate, of equal ones the first; all that were tried are entered into the run.

    Args:
        model: The model that is quantized.
        tried: All candidates, in order.
        later: Candidate -> what is tried besides where it wins.
        params: Gives the parameters of a candidate's activations by quantizer id.
        judge: The samples, and the metric.
        r: The run.
        progress: Called with candidates done, and how many there are.
    """
    measure = _Measure(Simulator(model, tuple(judge.names), r), judge)
    scored: list[tuple[Trial, Verdict, float]] = []

    def verdict(trial: Trial) -> Verdict:
        start = time.perf_counter()
        found = measure.verdict(trial.plan, params(trial))
        scored.append((trial, found, time.perf_counter() - start))
        progress(len(scored), len(tried) + bool(later))
        return found

    best, reached = tried[0], verdict(tried[0])
    for other in tried[1:]:
        if judge.is_enough(reached):
            break
        found = verdict(other)
        if judge.better(found, reached):
            best, reached = other, found
    again = later.get(best.candidate)
    if (
        again is not None
        and not judge.is_enough(reached)
        and judge.better(verdict(again), reached)
    ):
        best = again
    entries = [
        Candidate("search", t.name, v.score, t is best, judge.metric.name, v.outputs, s)
        for t, v, s in scored
    ]
    r.candidates += entries
    _log(entries, judge)
    return best


def _log(entries: Sequence[Candidate], judge: Judge) -> None:
    """Write the table of candidates and the choice to the log."""
    width = max(len(e.name) for e in entries)
    columns = [f"{n:>14}" for n in (*judge.names, judge.search.aggregate)]
    logger.info("%-*s %s  seconds", width, judge.metric.name, " ".join(columns))
    for e in entries:
        cells = zip(columns, (*e.outputs.values(), e.score), strict=True)
        numbers = " ".join(f"{v:{len(c)}.8g}" for c, v in cells)
        logger.info("%-*s %s  %7.3f", width, e.name, numbers, e.seconds)
    logger.info("Select %s", next(e.name for e in entries if e.chosen))


@dataclass(slots=True, eq=False)
class _Measure:
    """Scores parameters for the whole model; what was scored before is not run again."""

    simulator: Simulator
    judge: Judge
    _layers: dict[str, LayerParameters] = field(default_factory=dict)
    _seen: list[tuple[object, Mapping[str, QuantParams], Verdict]] = field(default_factory=list)

    def verdict(self, plan: Plan, activations: Mapping[str, QuantParams]) -> Verdict:
        """Return what a plan reaches with these parameters of its activations."""
        form = form_of(plan)
        for other, known, verdict in self._seen:
            if other == form and same(known, activations):
                return verdict
        params = Parameters(activations, self._layer_parameters(plan, activations))
        verdict = self.judge.judge(self.simulator.simulate(plan, params, self.judge.feeds))
        self._seen.append((form, activations, verdict))
        return verdict

    def _layer_parameters(
        self, plan: Plan, activations: Mapping[str, QuantParams]
    ) -> dict[str, LayerParameters]:
        """Return the weights, which are rounded once where they do not depend on the candidate."""
        model, own = self.simulator.model, taking_scales(plan)
        fixed = [w for w in plan.weights if w.layer not in own]
        new = [w for w in fixed if w.layer not in self._layers]
        self._layers |= choose_layers(_of_weights(plan, new), model)
        free = _of_weights(plan, [w for w in plan.weights if w.layer in own])
        kept = {w.layer: self._layers[w.layer] for w in fixed}
        return {**kept, **choose_layers(free, model, activations)}


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

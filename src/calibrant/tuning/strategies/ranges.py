"""Measure the candidates on the probe and take the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.analysis.simulate import Simulator
from calibrant.choose import (
    choose_activations,
    choose_layers,
    choose_parameters,
    with_algorithm,
)
from calibrant.graph.values import values_by_name
from calibrant.plan import Plan
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.recipe import AlgorithmChoice
from calibrant.refine.bias_correction import correct_bias
from calibrant.run import Candidate, Run
from calibrant.runtime.measure import compare, mean_sqnr_db
from calibrant.runtime.observe import observe
from calibrant.stats import TensorStats
from calibrant.tuning.forms import Variant, balance_as_asked, variants

__all__ = ["affordable", "corrected", "decide"]

#: Activation algorithms that `auto` measures.
AUTO_ALGORITHMS = ("min-max", "mse")

#: Candidates are scored on at least so many samples of the probe …
SCORE_SAMPLES = 16
#: … and on more where all observed values of all samples stay below this, since few samples are noisy.
SCORE_VALUES = 16_000_000

#: Biases are corrected on at least so many samples of the probe …
CORRECTION_SAMPLES = 8
#: … and on more where the largest observed tensor of all samples stays below this.
CORRECTION_VALUES = 16_000_000

#: Balancing puts Muls into the model, so it has to make the outputs so much better [dB].
BALANCE_GAIN_DB = 2.0


def decide(model: ir.Model, plan: Plan, probe: Probe, r: Run) -> Variant:
    """Decide what the recipe leaves to measurement: equalization, balancing, and the activation algorithm.

    The form of the model is decided first, with the first algorithm; the others are tried on that form.
    """
    model, plan, asked = balance_as_asked(model, plan, probe, r)
    forms = [replace(v, balanced=asked + v.balanced) for v in variants(model, plan, probe, r)]
    automatic = any(d.algorithm.name == "auto" and d.fixed_range is None for d in plan.activations)
    first, *others = AUTO_ALGORITHMS if automatic else ("",)
    best = forms[0]
    if len(forms) > 1 or others:
        few = _sample(model, plan, probe, r)
        trials = [_Trial.of(form, few, r) for form in forms]
        scored = [(t.score(first), t) for t in trials]
        reached, trial = scored[0]
        for score_, t in scored[1:]:
            costs_more = len(t.form.balanced) > len(trial.form.balanced)
            if score_ > reached + (BALANCE_GAIN_DB if costs_more else 0.0):
                reached, trial = score_, t
        name = first
        for other in others:
            score_ = trial.score(other)
            scored.append((score_, trial))
            if score_ > reached:
                reached, name = score_, other
        labels = [f"{first}, {t.form.name}" if first else t.form.name for t in trials]
        labels += [f"{other}, {trial.form.name}" for other in others]
        chosen = labels.index(f"{name}, {trial.form.name}" if name else trial.form.name)
        r.candidates += [
            Candidate("ranges", label, s, i == chosen)
            for i, (label, (s, _)) in enumerate(zip(labels, scored, strict=True))
        ]
        best = replace(trial.form, plan=trial.plan(name), simulator=trial.simulator)
    r.equalized, r.balanced = list(best.equalized), list(best.balanced)
    return best


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """One form of the model with what its scores are made of."""

    form: Variant
    sample: Probe
    simulator: Simulator
    statistics: dict[str, TensorStats]
    layers: dict[str, LayerParameters] | None

    @classmethod
    def of(cls, form: Variant, sample: Probe, r: Run) -> _Trial:
        """Observe a form on a sample, and round its weights."""
        plan = form.plan
        statistics = observe(
            form.model,
            plan.observed_tensors,
            sample.batches,
            per_channel=plan.channel_axes,
            runtime=r.runtime,
        )
        folds = any(d.folded for d in plan.activations)  # then weights depend on activations
        layers = None if folds else choose_layers(plan, form.model)
        simulator = Simulator(form.model, sample.scored, r)
        return cls(form, sample, simulator, statistics, layers)

    def plan(self, algorithm: str) -> Plan:
        """Return the plan with an algorithm where the recipe leaves it open."""
        plan = self.form.plan
        return with_algorithm(plan, AlgorithmChoice(algorithm)) if algorithm else plan

    def score(self, algorithm: str) -> float:
        """Score an algorithm [dB]."""
        plan = self.plan(algorithm)
        if self.layers is None:
            params = choose_parameters(plan, self.form.model, self.statistics)
        else:
            params = Parameters(choose_activations(plan, self.statistics), self.layers)
        return _score(self.simulator, plan, params, self.sample)


def _score(simulator: Simulator, plan: Plan, params: Parameters, sample: Probe) -> float:
    """Mean output SQNR of the simulated quantized model [dB]."""
    outputs = simulator.simulate(plan, params, sample.feeds)
    return mean_sqnr_db(compare(sample.scored_reference, outputs))


def _sample(model: ir.Model, plan: Plan, probe: Probe, r: Run) -> Probe:
    """Return as much of the probe as scoring can afford."""
    values = _values_a_sample(model, plan.observed_tensors, probe.small[0].size)
    if values is None:
        few = probe.part(SCORE_SAMPLES)
        seen = observe(model, plan.observed_tensors, few.batches[:1], runtime=r.runtime)
        values = sum(s.count for s in seen.values()) / max(1, few.batches[0].size)
    return probe.part(max(SCORE_SAMPLES, int(SCORE_VALUES / max(1.0, values))))


def _values_a_sample(model: ir.Model, tensors: Sequence[str], batch: int) -> float | None:
    """Return how many values the tensors have for each sample; None where the model does not say."""
    values, total = values_by_name(model.graph), 0.0
    for tensor in tensors:
        shape = values[tensor].shape
        if shape is None or not len(shape) or not all(isinstance(d, int) for d in shape[1:]):
            return None
        first = shape[0] if isinstance(shape[0], int) else batch
        total += first * math.prod(int(d) for d in shape[1:] if isinstance(d, int)) / max(1, batch)
    return total


def affordable(statistics: Mapping[str, TensorStats], r: Run) -> int:
    """Return for how many samples the tensors between two layers can be held at once."""
    largest = max((s.count for s in statistics.values()), default=0) / max(1, r.samples)
    return max(CORRECTION_SAMPLES, int(CORRECTION_VALUES / max(1.0, largest)))


def corrected(
    form: Variant,
    params: Parameters,
    statistics: Mapping[str, TensorStats],
    probe: Probe,
    r: Run,
) -> Parameters:
    """Correct biases where the recipe says so, or where it makes the outputs better.

    The tensors between two layers are held for all samples at once, so large ones allow fewer samples.
    """
    model, plan = form.model, form.plan
    mode = r.recipe.bias_correction
    if mode == "off" or len(probe.feeds) < 2:
        return params
    feeds = probe.part(affordable(statistics, r)).feeds
    improved, report = correct_bias(model, plan, params, feeds, runtime=r.runtime)
    r.corrections = report
    if mode == "on" or not any(c.kept for c in report):
        return improved
    few = _sample(model, plan, probe, r)
    simulator = form.simulator or Simulator(model, few.scored, r)
    before, after = (_score(simulator, plan, p, few) for p in (params, improved))
    better = after > before
    r.candidates += [
        Candidate("bias correction", "off", before, not better),
        Candidate("bias correction", "on", after, better),
    ]
    if not better:
        r.corrections = [replace(c, kept=False) for c in report]
        return params
    return improved

"""Decide what a recipe leaves open of the ranges, by measuring on the probe: forms of the model, algorithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.analysis.simulate import Simulator
from calibrant.choose import (
    choose_activations,
    choose_layers,
    choose_parameters,
    with_algorithm,
)
from calibrant.findings import Trial
from calibrant.graph.values import values_by_name
from calibrant.plan import Plan
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.recipe import AlgorithmChoice, Recipe
from calibrant.runtime.measure import compare, mean_sqnr_db
from calibrant.runtime.observe import observe
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.stats import TensorStats
from calibrant.tuning.driver import drive
from calibrant.tuning.forms import Form, balance_as_asked, forms
from calibrant.tuning.strategies.ranges import RangeOption, ranges

__all__ = ["decide", "scorer"]

#: Activation algorithms that `auto` measures.
AUTO_ALGORITHMS = ("min-max", "mse")

#: Candidates are scored on at least so many samples of the probe …
SCORE_SAMPLES = 16
#: … and on more where all observed values of all samples stay below this, since few samples are noisy.
SCORE_VALUES = 16_000_000


def decide(
    model: ir.Model, plan: Plan, recipe: Recipe, probe: Probe, runtime: Runtime = CPU
) -> tuple[Form, tuple[Trial, ...]]:
    """Return the form of the model, with the algorithms in its plan, and what was tried."""
    model, plan, asked = balance_as_asked(model, plan, recipe, probe, runtime)
    found = forms(model, plan, recipe, probe, runtime)
    found = [replace(f, balanced=asked + f.balanced) for f in found]
    automatic = any(d.algorithm.name == "auto" and d.fixed_range is None for d in plan.activations)
    algorithms = AUTO_ALGORITHMS if automatic else ("",)
    if len(found) == 1 and len(algorithms) == 1:
        return found[0], ()
    measure = _Measure(found, _sample(model, plan, probe, runtime), runtime)
    by_name = {f.name: f for f in found}
    strategy = ranges([(f.name, len(f.balanced)) for f in found], algorithms)
    best = drive(strategy, measure.score)
    trials = tuple(
        Trial("ranges", str(option), score, option == best) for option, score in measure.scored
    )
    form = by_name[best.form]
    return replace(form, plan=_with(form.plan, best.algorithm)), trials


@dataclass(slots=True, eq=False)
class _Measure:
    """Says what options reach on a sample of the probe."""

    forms: Sequence[Form]
    sample: Probe
    runtime: Runtime
    scored: list[tuple[RangeOption, float]] = field(default_factory=list)
    _ready: dict[str, _Ready] = field(default_factory=dict)

    def score(self, option: RangeOption) -> float:
        """Return the mean SQNR of the outputs [dB]."""
        if option.form not in self._ready:
            form = next(f for f in self.forms if f.name == option.form)
            self._ready[option.form] = _Ready.of(form, self.sample, self.runtime)
        score = self._ready[option.form].score(option.algorithm)
        self.scored.append((option, score))
        return score


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """One form of the model with what its scores are made of."""

    form: Form
    sample: Probe
    simulator: Simulator
    statistics: dict[str, TensorStats]
    layers: dict[str, LayerParameters] | None

    @classmethod
    def of(cls, form: Form, sample: Probe, runtime: Runtime) -> _Ready:
        """Observe a form on a sample, and round its weights."""
        plan = form.plan
        statistics = observe(
            form.model,
            plan.observed_tensors,
            sample.batches,
            per_channel=plan.channel_axes,
            runtime=runtime,
        )
        folds = any(d.folded for d in plan.activations)  # then weights depend on activations
        layers = None if folds else choose_layers(plan, form.model)
        simulator = Simulator(form.model, sample.scored, runtime)
        return cls(form, sample, simulator, statistics, layers)

    def score(self, algorithm: str) -> float:
        """Score an algorithm [dB]."""
        plan = _with(self.form.plan, algorithm)
        if self.layers is None:
            params = choose_parameters(plan, self.form.model, self.statistics)
        else:
            params = Parameters(choose_activations(plan, self.statistics), self.layers)
        return _score(self.simulator, plan, params, self.sample)


def _with(plan: Plan, algorithm: str) -> Plan:
    """Return a plan with an algorithm where the recipe leaves it open."""
    return with_algorithm(plan, AlgorithmChoice(algorithm)) if algorithm else plan


def _score(simulator: Simulator, plan: Plan, params: Parameters, sample: Probe) -> float:
    """Mean output SQNR of the simulated quantized model [dB]."""
    outputs = simulator.simulate(plan, params, sample.feeds)
    return mean_sqnr_db(compare(sample.scored_reference, outputs))


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """Scores parameters of one plan by the outputs of the simulated model."""

    simulator: Simulator
    plan: Plan
    sample: Probe

    def score(self, params: Parameters) -> float:
        """Return the mean SQNR of the outputs [dB]."""
        return _score(self.simulator, self.plan, params, self.sample)


def scorer(model: ir.Model, plan: Plan, probe: Probe, runtime: Runtime = CPU) -> Scorer:
    """Return what scores parameters of a plan, on as much of the probe as it can afford."""
    few = _sample(model, plan, probe, runtime)
    return Scorer(Simulator(model, few.scored, runtime), plan, few)


def _sample(model: ir.Model, plan: Plan, probe: Probe, runtime: Runtime) -> Probe:
    """Return as much of the probe as scoring can afford."""
    values = _values_a_sample(model, plan.observed_tensors, probe.small[0].size)
    if values is None:
        few = probe.part(SCORE_SAMPLES)
        seen = observe(model, plan.observed_tensors, few.batches[:1], runtime=runtime)
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

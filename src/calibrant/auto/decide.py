"""Measure the candidates on the probe and take the best."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from calibrant.auto.probe import Probe, score
from calibrant.auto.variants import Variant, balance_as_asked, variants
from calibrant.choose import choose_activations, choose_layers, with_algorithm
from calibrant.emit.parameters import Parameters
from calibrant.plan import Plan
from calibrant.recipe import AlgorithmChoice
from calibrant.refine.bias_correction import correct_bias
from calibrant.run import Candidate, Run
from calibrant.runtime.observe import observe

__all__ = ["corrected", "decide"]

#: Activation algorithms that `auto` measures.
AUTO_ALGORITHMS = ("min-max", "mse")

#: Candidates are scored on at least so many samples of the probe …
SCORE_SAMPLES = 16
#: … and on more where all observed values of all samples stay below this, since few samples are noisy.
SCORE_VALUES = 16_000_000

#: Balancing puts Muls into the model, so it has to make the outputs so much better [dB].
BALANCE_GAIN_DB = 1.0


def decide(model: ir.Model, plan: Plan, probe: Probe, r: Run) -> Variant:
    """Decide what the recipe leaves to measurement: equalization, balancing, and the activation algorithm."""
    model, plan, asked = balance_as_asked(model, plan, probe, r)
    forms = [replace(v, balanced=asked + v.balanced) for v in variants(model, plan, probe, r)]
    automatic = any(d.algorithm.name == "auto" and d.fixed_range is None for d in plan.activations)
    algorithms = AUTO_ALGORITHMS if automatic else ("",)
    few = probe if len(forms) * len(algorithms) == 1 else _sample(model, plan, probe, r)
    best: tuple[float, Variant] | None = None
    alone = len(forms) * len(algorithms) == 1
    tried: list[tuple[str, float, Variant]] = []
    for variant in forms:
        if alone:
            best = (0.0, variant)
            break
        statistics = observe(
            variant.model, variant.plan.observed_tensors, few.batches, **r.runtime
        )
        layers = choose_layers(variant.plan, variant.model)
        for name in algorithms:
            trial = with_algorithm(variant.plan, AlgorithmChoice(name)) if name else variant.plan
            params = Parameters(choose_activations(trial, statistics), layers)
            reached = score(variant.model, trial, params, few, r)
            found = replace(variant, plan=trial)
            label = f"{name}, {variant.name}" if name else variant.name
            tried.append((label, reached, found))
            costs_more = best is not None and len(variant.balanced) > len(best[1].balanced)
            needed = BALANCE_GAIN_DB if costs_more else 0.0
            if best is None or reached > best[0] + needed:
                best = (reached, found)
    assert best is not None
    chosen = best[1]
    r.candidates += [Candidate("ranges", label, s, found is chosen) for label, s, found in tried]
    r.equalized, r.balanced = list(chosen.equalized), list(chosen.balanced)
    return chosen


def _sample(model: ir.Model, plan: Plan, probe: Probe, r: Run) -> Probe:
    """Return as much of the probe as scoring can afford."""
    few = probe.part(SCORE_SAMPLES)
    seen = observe(model, plan.observed_tensors, few.batches[:1], **r.runtime)
    values = sum(s.count for s in seen.values()) / max(1, few.batches[0].size)
    return probe.part(max(SCORE_SAMPLES, int(SCORE_VALUES / max(1.0, values))))


def corrected(model: ir.Model, plan: Plan, params: Parameters, probe: Probe, r: Run) -> Parameters:
    """Correct biases where the recipe says so, or where it makes the outputs better."""
    mode = r.recipe.bias_correction
    if mode == "off" or len(probe.feeds) < 2:
        return params
    improved, report = correct_bias(model, plan, params, probe.feeds, **r.runtime)
    r.corrections = report
    if mode == "on" or not any(c.kept for c in report):
        return improved
    few = _sample(model, plan, probe, r)
    before, after = (score(model, plan, p, few, r) for p in (params, improved))
    better = after > before
    r.candidates += [
        Candidate("bias correction", "off", before, not better),
        Candidate("bias correction", "on", after, better),
    ]
    if not better:
        r.corrections = [replace(c, kept=False) for c in report]
        return params
    return improved

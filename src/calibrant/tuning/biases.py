"""Correct biases: as rules ask it, and where it makes the outputs better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.findings import Trial
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.recipe import Note, Recipe
from calibrant.refine.bias_by_rule import RuleCorrection, correct_by_rule, wishes
from calibrant.refine.bias_correction import Correction, correct_bias
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.stats import TensorStats
from calibrant.tuning.ranges import scorer

__all__ = ["affordable", "corrected", "corrected_by_rules"]

#: Biases are corrected on at least so many samples of the probe …
CORRECTION_SAMPLES = 8
#: … and on more where the largest observed tensor of all samples stays below this.
CORRECTION_VALUES = 16_000_000


def corrected_by_rules(
    model: ir.Model, plan: Plan, params: Parameters, probe: Probe, runtime: Runtime = CPU
) -> tuple[Parameters, tuple[RuleCorrection, ...], tuple[Note, ...]]:
    """Correct the biases for which rules ask it.

    Returns:
        New parameters, a report, and a note where there are fewer samples than asked for.
    """
    most = max((w.samples for w in wishes(plan).values()), default=0)
    if most == 0:
        return params, (), ()
    feeds, sizes = probe.one_by_one(most)
    params, report = correct_by_rule(model, plan, params, feeds, sizes, runtime=runtime)
    if sum(sizes) >= most:
        return params, tuple(report), ()
    message = (
        f"Biases are to be corrected from {most} samples; the calibration data (or what is kept of it) has "
        f"{sum(sizes)}, and these are taken."
    )
    return params, tuple(report), (Note("bias correction", message, honoured=True),)


def affordable(statistics: Mapping[str, TensorStats], samples: int) -> int:
    """Return for how many samples the tensors between two layers can be held at once.

    Args:
        statistics: What was seen.
        samples: Of so many samples.
    """
    largest = max((s.count for s in statistics.values()), default=0) / max(1, samples)
    return max(CORRECTION_SAMPLES, int(CORRECTION_VALUES / max(1.0, largest)))


def corrected(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    recipe: Recipe,
    probe: Probe,
    samples: int,
    runtime: Runtime = CPU,
) -> tuple[Parameters, tuple[Correction, ...], tuple[Trial, ...]]:
    """Correct biases where the recipe says so, or where it makes the outputs better.

    Args:
        model: The float model that the plan belongs to.
        plan: Where quantizers stand.
        params: What they are.
        recipe: Says whether.
        probe: Samples.
        samples: How many of them can be held at once.
        runtime: Where it runs.
    """
    mode = recipe.bias_correction
    if mode == "off" or len(probe.feeds) < 2:
        return params, (), ()
    feeds = probe.part(samples).feeds
    improved, report = correct_bias(model, plan, params, feeds, runtime=runtime)
    if mode == "on" or not any(c.kept for c in report):
        return improved, tuple(report), ()
    scored = scorer(model, plan, probe, runtime)
    before, after = scored.score(params), scored.score(improved)
    better = after > before
    trials = (
        Trial("bias correction", "off", before, not better),
        Trial("bias correction", "on", after, better),
    )
    if not better:
        return params, tuple(replace(c, kept=False) for c in report), trials
    return improved, tuple(report), trials

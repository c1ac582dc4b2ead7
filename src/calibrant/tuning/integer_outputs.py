"""What it costs that layers answer in integers, and which layers it comes from.

A kernel of integers that also answers in integers is fast, and rounds once more: its output has one scale for all
channels, however much smaller some of them are. Where no layer reads that output quantized (it is added, squared,
normalized), the rounding serves the speed alone. A target that asks for it (`integer_outputs`) gets it; where it costs much,
the summary says how much, and which layers to leave in float.

Those are looked for where the quantizers behind them lose most of what passes them: the first one, two, four … layers of
that order are left in float, until what is lost is nearly won back.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from calibrant.analysis.parts import parts_of
from calibrant.analysis.score import SampleScores
from calibrant.findings import IntegerOutputs
from calibrant.numerics import fake_quantize
from calibrant.plan import ActivationDecision, Plan, resolve
from calibrant.plan.parameters import Parameters
from calibrant.recipe import Layer, Recipe, Rule, Settings
from calibrant.stats import TensorStats
from calibrant.tuning.as_before import as_before
from calibrant.tuning.judged import judged
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store

__all__ = ["cost_of_integer_outputs"]

#: What a part of the outputs has to lose before something is said: half of the steps of the output [dB].
SAID_DB = 6.0
#: Layers are looked for until a part is so near to what it is without the roundings [dB].
NEAR_DB = 3.0
#: It is measured on so many samples.
SAMPLES = 16


def cost_of_integer_outputs(solved: Solved, recipe: Recipe, store: Store) -> IntegerOutputs | None:
    """Return what the roundings of outputs cost; None where they cost little, or the target asks for none.

    Args:
        solved: A solution of the recipe.
        recipe: The recipe.
        store: The model, its data, and what is known of them.
    """
    solution, probe, simulator = solved.solution, solved.probe, solved.simulator
    model, plan, params = solution.model, solution.plan, solution.params
    layers = {d.node for d in plan.layers if d.quantized}
    extra = [d for d in plan.activations if d.producer is not None and not _serves(d, layers)]
    if not plan.target.integer_outputs or not extra or probe is None or simulator is None:
        return None
    few = probe.first_samples(SAMPLES)
    parts = {n: parts_of(model, n, [r[n] for r in few.scored_reference]) for n in few.scored}

    def lost(some: Plan) -> SampleScores:
        kept = Parameters(
            {d.id: params.activations[d.id] for d in some.activations},
            {w.layer: params.layers[w.layer] for w in some.weights},
            params.balance,
        )
        found = judged(simulator, some, kept, few, parts, store)
        return SampleScores.joined([*found.values()])

    kept = tuple(d for d in plan.activations if d not in extra)
    now, most = lost(plan), lost(replace(plan, activations=kept))
    with np.errstate(invalid="ignore"):
        gains = np.where(now.counted, most.sqnr_db - now.sqnr_db, -math.inf)
    worst = int(np.nanargmax(gains)) if np.isfinite(gains).any() else 0
    if not gains[worst] >= SAID_DB:
        return None
    ranked = _ranked(extra, params, solved.statistics.tensors, layers)
    count, left, reached = 1, ranked[:0], float(now.sqnr_db[worst])
    while ranked:
        some = ranked[:count]
        rules = [Rule(Layer(glob.escape(n)), Settings(compute="float32")) for n in some]
        changed = as_before(resolve(recipe.with_rules(*rules), model), plan, some)
        if not all(d.id in params.activations for d in changed.activations):
            break
        db = float(lost(changed).sqnr_db[worst])
        if db > reached:
            left, reached = some, db
        if reached >= most.sqnr_db[worst] - NEAR_DB or count >= len(ranked):
            break
        count *= 2
    return IntegerOutputs(
        now.parts[worst],
        float(now.sqnr_db[worst]),
        float(most.sqnr_db[worst]),
        tuple(left),
        reached,
        now.samples,
    )


def _serves(d: ActivationDecision, layers: set[str]) -> bool:
    """Whether a layer reads a tensor quantized, so that it would be rounded in any case."""
    return any(node in layers for node, _ in d.users)


def _ranked(
    extra: list[ActivationDecision],
    params: Parameters,
    statistics: Mapping[str, TensorStats],
    layers: set[str],
) -> list[str]:
    """Return the layers behind which such roundings stand, the one first that loses most of its signal."""
    found = {}
    for d in extra:
        if d.producer in layers and d.tensor in statistics:
            x, count = statistics[d.tensor].points()
            noise = float(
                np.average((x - fake_quantize(x, params.activations[d.id])) ** 2, weights=count)
            )
            signal = float(np.average(np.square(x), weights=count))
            found[d.producer or ""] = noise / signal if signal > 0 else 0.0
    return sorted(found, key=lambda n: -found[n])

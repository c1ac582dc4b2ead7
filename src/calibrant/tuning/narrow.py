"""Fit weights to processors that add two products in 16 bits, where the target says that some of its kind do.

Where other processors of the kind are exact, they pay for it with coarser weights. So a target that says `try` gets the
fitted weights only if no part of an output loses more than is worth a word, on the probe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from calibrant.analysis.better import MIN_SAMPLES
from calibrant.analysis.parts import Part
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import SampleScores, Score
from calibrant.analysis.simulate import Simulator, is_light
from calibrant.findings import Trial
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.refine.narrow_sums import fit_narrow_sums
from calibrant.runtime.saturation import CLEARLY_DB
from calibrant.tuning.judged import judged
from calibrant.tuning.store import Store

__all__ = ["SEEN_SAMPLES", "Narrowed", "narrowed"]

#: Sums are looked at on so many samples of the probe …
SEEN_SAMPLES = 16
#: … and what it costs is judged on so many, fewer where a part has lost this much more than it may [dB], but never on fewer
#: than a comparison needs.
JUDGED_SAMPLES = 16
FAR_DB = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Narrowed:
    """What became of the weights.

    Args:
        params: The parameters.
        layers: Layers whose scales grew.
        trials: What was tried.
        taken: Whether weights are to be fitted; of a recipe that differs in widths alone, too.
        scores: What the parameters lost on feeds that they were judged on, by batch of the probe (`tuning.judged`).
    """

    params: Parameters
    layers: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    taken: bool = True
    scores: Mapping[int, SampleScores] = field(default_factory=dict)


def narrowed(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    probe: Probe,
    simulator: Simulator,
    parts: Mapping[str, tuple[Part, ...]],
    store: Store,
    left_open: Collection[str],
    taken: bool | None = None,
    judges: Probe | None = None,
) -> Narrowed:
    """Let scales of weights grow where pairs of products could be beyond 16 bits, as the target asks.

    Args:
        model: The float model that the plan belongs to.
        plan: Where quantizers stand.
        params: What they are.
        probe: Samples.
        simulator: Runs the simulated model.
        parts: Parts of the tensors that models are compared by.
        store: What is known of the model.
        left_open: Layers for whose weights the recipe names no algorithm: where the target says `try`, no others are
            touched.
        taken: Whether weights are to be fitted, where that is decided already.
        judges: Samples of the probe that say what it costs, the first of them; None takes samples from all over it.
    """
    how = plan.target.narrow_sums
    if how == "ignore" or taken is False:
        return Narrowed(params, taken=False)
    seen = probe.part(SEEN_SAMPLES)
    known = len(store.tops)
    fitted, changed = fit_narrow_sums(
        model,
        plan,
        params,
        seen.small,
        layers=left_open if how == "try" else None,
        runtime=store.runtime,
        known=store.tops,
    )
    if len(store.tops) > known:
        store.work.whole(seen.samples)
    if how == "fit" or taken or not changed:
        return Narrowed(fitted, changed)
    few = (
        judges.first_samples(JUDGED_SAMPLES)
        if judges is not None and judges.small
        else probe.part(JUDGED_SAMPLES)
    )
    few.answer()
    off = judged(simulator, plan, params, few, parts, store)
    if not is_light(model):
        simulator.close()  # the fitted weights are a second set
    fit: dict[int, SampleScores] = {}
    lost = np.zeros(0)
    for i in range(len(few.small)):
        fit |= judged(simulator, plan, fitted, few.only([i]), parts, store)
        before = SampleScores.joined([off[k] for k in fit])
        after = SampleScores.joined([*fit.values()])
        lost = (before.sqnr_db - after.sqnr_db)[before.counted]
        if before.samples >= MIN_SAMPLES and (lost > CLEARLY_DB + FAR_DB).any():
            break
    taken = bool((lost <= CLEARLY_DB).all())  # NaN where both are worthless: not taken
    trials = []
    for name, scores, chosen in (("off", before, not taken), ("fit", after, taken)):
        score = Score.of(scores)
        trials.append(
            Trial(
                "sums of two products",
                name,
                score.db,
                chosen,
                outputs=score.parts,
                samples=scores.samples,
                reason=f"An exact device may lose {CLEARLY_DB:g} dB in a part at most."
                if name == "fit"
                else "",
            )
        )
    if taken:
        return Narrowed(fitted, changed, tuple(trials), scores=fit)
    return Narrowed(params, (), tuple(trials), taken=False, scores=off)

"""What a solution answers to samples that its ranges do not come from.

The final ranges come from all samples, so none is left to judge them on. Instead ranges from one half of the probe are
run on the other, and the other way round, with the weights and biases of the solution: a figure for samples that were
not seen, slightly on the safe side, since half of the samples shows less of the range than all of them do.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from calibrant.choose import Known, choose_activations, choose_layers, with_biases
from calibrant.plan.parameters import Parameters
from calibrant.tuning.solved import Solved

__all__ = ["UNSEEN_SAMPLES", "unseen_outputs"]

#: Samples that the figure is taken from, at least, where there are so many.
UNSEEN_SAMPLES = 16


def unseen_outputs(
    solved: Solved, known: Known | None = None
) -> list[dict[str, npt.NDArray[np.generic]]]:
    """Return the outputs for the first feeds of the probe, each with ranges from the half it does not belong to.

    Empty where nothing can be said: there is one feed, or the ranges do not come from the probe's statistics.

    Args:
        solved: A solution, and what was found on the way.
        known: What was chosen before.
    """
    folds, simulator, probe = solved.folds, solved.simulator, solved.probe
    plan, params = solved.solution.plan, solved.solution.params
    if folds is None or simulator is None or probe is None or len(probe.small) < 2:
        return []
    if folds.feeds < 2 or not folds.hold(plan.observed_tensors, plan.channel_axes):
        return []
    halves = []
    for feed in (0, 1):
        seen = folds.apart_from(feed)
        activations = choose_activations(plan, seen, known)
        layers = params.layers
        if any(d.folded for d in plan.activations):  # weights take these scales over
            model = solved.solution.model
            chosen = Parameters(activations, choose_layers(plan, model, activations, known))
            own = with_biases(plan, model, chosen, seen).layers
            layers = {n: replace(own[n], bias=layer.bias) for n, layer in layers.items()}
        halves.append(Parameters(activations, layers, params.balance))
    found: list[dict[str, npt.NDArray[np.generic]]] = []
    samples = 0
    for i, batch in enumerate(probe.small):
        if samples >= UNSEEN_SAMPLES and i >= 2:
            break
        found += simulator.simulate(plan, halves[i % 2], [batch.feeds])
        samples += batch.size
    return found

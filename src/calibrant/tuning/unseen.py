"""What a solution answers to samples that its ranges do not come from.

The final ranges come from all samples, so none is left to judge them on. Instead ranges from one half of the probe are
run on the other, and the other way round, with the weights and biases of the solution: a figure for samples that were
not seen, slightly on the safe side, since half of the samples shows less of the range than all of them do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from calibrant.choose import Known, choose_activations, choose_layers, with_biases
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.stats import TensorStats
from calibrant.tuning.extent import LEAST_MEASURED_SAMPLES, MEASURED_SAMPLES, affordable_samples
from calibrant.tuning.solved import Solved

__all__ = ["Halves", "in_halves", "unseen_outputs"]

#: Statistics for even feeds of the probe, and for odd ones.
Halves = tuple[Mapping[str, TensorStats], Mapping[str, TensorStats]]


def unseen_outputs(
    solved: Solved, known: Known | None = None
) -> list[dict[str, npt.NDArray[np.generic]]]:
    """Return the outputs for the first feeds of the probe, each with ranges from the half it does not belong to.

    Empty where nothing can be said: there is one feed, or the ranges do not come from the probe's statistics.

    Args:
        solved: A solution, and what was found on the way.
        known: What was chosen before.
    """
    simulator, probe, plan = solved.simulator, solved.probe, solved.solution.plan
    if simulator is None or probe is None or len(probe.small) < 2:
        return []
    halves = in_halves(solved, solved.halves, known)
    if halves is None:
        return []
    found: list[dict[str, npt.NDArray[np.generic]]] = []
    model, size = solved.solution.model, probe.small[0].size
    most, least = MEASURED_SAMPLES, LEAST_MEASURED_SAMPLES
    enough = affordable_samples(model, plan.observed_tensors, size, most=most, least=least)
    samples = 0
    for i, batch in enumerate(probe.small):
        if samples >= enough and i >= 2:
            break
        found += simulator.simulate(plan, halves[i % 2], [batch.feeds])
        samples += batch.size
    return found


def in_halves(
    solved: Solved, seen: Halves | None, known: Known | None = None
) -> tuple[Parameters, Parameters] | None:
    """Return a solution's parameters with the ranges that even feeds of the probe are judged by, and those for odd ones.

    Args:
        solved: A solution.
        seen: Statistics for even feeds, and for odd ones.
        known: What was chosen before.

    Returns:
        Parameters for even feeds, and for odd ones; None where the statistics lack something that the solution asks for.
    """
    plan, params = solved.solution.plan, solved.solution.params
    if seen is None or not all(_hold(half, plan) for half in seen):
        return None
    even, odd = (_in_half(solved, half, params, known) for half in seen)
    return even, odd


def _in_half(
    solved: Solved, half: Mapping[str, TensorStats], params: Parameters, known: Known | None
) -> Parameters:
    plan, layers = solved.solution.plan, params.layers
    activations = choose_activations(plan, half, known)
    if any(d.folded for d in plan.activations):  # weights take these scales over
        model = solved.solution.model
        chosen = Parameters(activations, choose_layers(plan, model, activations, known))
        own = with_biases(plan, model, chosen, half).layers
        layers = {n: replace(own[n], bias=layer.bias) for n, layer in layers.items()}
    return Parameters(activations, layers, params.balance)


def _hold(seen: Mapping[str, TensorStats], plan: Plan) -> bool:
    """Whether statistics have all that a plan asks for."""
    return all(
        t in seen and set(plan.channel_axes.get(t, ())) <= {c.axis for c in seen[t].by_channel}
        for t in plan.observed_tensors
    )

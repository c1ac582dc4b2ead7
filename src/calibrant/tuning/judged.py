"""Score parameters feed by feed."""

from __future__ import annotations

from collections.abc import Mapping

from calibrant.analysis.parts import Part
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import SampleScores, sample_scores
from calibrant.analysis.simulate import Simulator
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.tuning.store import Store

__all__ = ["judged"]


def judged(
    simulator: Simulator,
    plan: Plan,
    params: Parameters,
    probe: Probe,
    parts: Mapping[str, tuple[Part, ...]],
    store: Store,
) -> dict[int, SampleScores]:
    """Return what parameters lose on each feed of a probe, by the identity of its batch.

    Args:
        simulator: Runs the simulated model.
        plan: Where quantizers stand.
        params: What they are.
        probe: Samples.
        parts: Parts of the tensors that models are compared by.
        store: Counts the work.
    """
    found: dict[int, SampleScores] = {}
    for batch, reference in zip(probe.small, probe.scored_reference, strict=True):
        outputs = simulator.simulate(plan, params, [batch.feeds])
        found[id(batch)] = sample_scores([reference], outputs, parts, sizes=[batch.size])
        store.work.whole(batch.size)
    return found

"""Score parameters feed by feed, so that what is known of a feed is not run again."""

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
    known: Mapping[int, SampleScores] | None = None,
) -> dict[int, SampleScores]:
    """Return what parameters lose on each feed of a probe, by the identity of its batch.

    Args:
        simulator: Runs the simulated model.
        plan: Where quantizers stand.
        params: What they are.
        probe: Samples.
        parts: Parts of the tensors that models are compared by.
        store: Counts the work.
        known: What the same parameters are known to lose.
    """
    found: dict[int, SampleScores] = {}
    for batch, reference in zip(probe.small, probe.scored_reference, strict=True):
        if known is not None and id(batch) in known:
            found[id(batch)] = known[id(batch)]
            continue
        outputs = simulator.simulate(plan, params, [batch.feeds])
        found[id(batch)] = sample_scores([reference], outputs, parts, sizes=[batch.size])
        store.work.whole(batch.size)
    return found

"""What parameters lose is known feed by feed."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibrant.analysis.parts import Part
from calibrant.analysis.probe import Probe
from calibrant.data.batch import Batch
from calibrant.tuning.judged import judged
from calibrant.tuning.store import Store


class Counting:
    """Answers the input and a bit more, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def simulate(self, plan: Any, params: Any, feeds: list[Any]) -> list[dict[str, np.ndarray]]:
        self.asked += len(feeds)
        return [{"y": f["x"] + np.float32(0.1)} for f in feeds]


def probe_of(feeds: int) -> Probe:
    x = [np.full((2, 3), i + 1, np.float32) for i in range(feeds)]
    small = [Batch({"x": v}, {}, 2 * i, 2, "test", ()) for i, v in enumerate(x)]
    answers = [{"y": v} for v in x]
    return Probe(small, small, True, answers, ("y",), answers)


def test_each_feed_has_a_score_of_its_own() -> None:
    simulator: Any = Counting()
    store, probe, parts = Store("none"), probe_of(4), {"y": (Part("y"),)}
    plan: Any = None
    both = judged(simulator, plan, plan, probe.only([1, 3]), parts, store)
    assert simulator.asked == 2
    assert store.work.samples == 4
    assert list(both) == [id(probe.small[i]) for i in (1, 3)]
    alone = judged(simulator, plan, plan, probe.only([3]), parts, store)
    np.testing.assert_array_equal(both[id(probe.small[3])].error, alone[id(probe.small[3])].error)


def test_a_probe_is_cut_to_feeds_and_to_samples() -> None:
    probe = probe_of(5)
    assert [b.first for b in probe.only([0, 3, 9]).small] == [0, 6]
    assert probe.first_samples(3).samples == 4
    assert probe.first_samples(100).samples == probe.samples == 10
    assert probe.only([2]).reference[0] is probe.reference[2]

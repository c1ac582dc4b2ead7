"""What the float model answers: run when it is asked for, or taken from who runs it anyway."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from calibrant.analysis.answers import FloatAnswers
from calibrant.analysis.probe import Probe, take_probe
from calibrant.data.batch import Batch
from calibrant.errors import DataError
from calibrant.runtime.observe import Observer
from calibrant.runtime.tap import expose
from tests.models import NETS, Weights, build, normal
from tests.road import outputs, prepared

W = Weights(0)


def probe_of(name: str, samples: int) -> tuple[Probe, list[int]]:
    """Return a probe, and where it notes how many samples were run."""
    ran: list[int] = []
    net = NETS[name]()
    batch = Batch(net[1](batch=samples), {}, 0, samples, "calib.npz", ())
    return take_probe(prepared(net), iter([batch]), samples, ran=ran.append), ran


def source_of(probe: Probe) -> FloatAnswers:
    found = probe.reference.source  # type: ignore[attr-defined]
    assert isinstance(found, FloatAnswers)
    return found


def test_feeds_are_answered_when_somebody_asks() -> None:
    probe, ran = probe_of("residual", 32)
    assert sum(ran) == probe.small[0].size
    later = probe.only([5])
    assert sum(ran) == probe.small[0].size
    truth = outputs(expose(prepared(NETS["residual"]()), ["y"]), dict(probe.small[5].feeds))[0]
    np.testing.assert_allclose(later.reference[0]["y"], truth, rtol=1e-5, atol=1e-6)
    assert sum(ran) == 2 * probe.small[0].size
    assert len(list(probe.reference)) == len(probe.small)
    assert sum(ran) == 32
    probe.answer()
    assert sum(ran) == 32


@pytest.mark.parametrize("cut", [False, True])
def test_what_somebody_runs_is_not_run_again(cut: bool) -> None:
    probe, ran = probe_of("residual", 32)
    source = source_of(probe)
    observer = Observer(source.of, ["relu0"], beside=source.names)
    feeds = probe.small[1:3]
    if cut:
        y = outputs(expose(source.of, ["y"]), dict(feeds[0].feeds))[0]
        for i in range(feeds[0].size):
            source.hear("y", y[i : i + 1], feeds[0], i)
        feeds = feeds[1:]
    observer.see(feeds, listeners=[source])
    before = sum(ran)
    found = [probe.reference[i]["y"] for i in (1, 2)]
    assert sum(ran) == before
    for y, batch in zip(found, probe.small[1:3], strict=True):
        truth = outputs(expose(source.of, ["y"]), dict(batch.feeds))[0]
        np.testing.assert_allclose(y, truth, rtol=1e-5, atol=1e-6)


def test_an_answer_that_depends_on_how_a_feed_is_cut_is_run() -> None:
    net = build(
        """net (float[N,24] x) => (float[M,8] y) {
            p = MatMul (x, w)
            y = ReduceMax <axes = [0], keepdims = 1> (p)
        }""",
        {"w": W.dense(24, 8)},
        normal(24),
    )
    feeds = [Batch(net[1](batch=4, seed=i), {}, 4 * i, 4, "calib.npz", ()) for i in (0, 1)]
    source = FloatAnswers(prepared(net), ["y"], ["y"])
    source.feeds = feeds
    source.asked([0])
    for i in range(4):
        one = {"x": feeds[1].feeds["x"][i : i + 1]}
        source.hear("y", outputs(expose(prepared(net), ["y"]), one)[0], feeds[1], i)
    assert source.asked([1])[0]["y"].shape == (1, 8)


def test_an_answer_that_is_no_number_names_its_feed() -> None:
    net = NETS["residual"]()
    feed = net[1](batch=32)
    feed["x"][17] = np.nan
    batch = Batch(feed, {}, 0, 32, "calib.npz", ())
    probe = take_probe(prepared(net), iter([batch]), 32)
    with pytest.raises(DataError, match=r"'y' holds NaN for .*calib\.npz"):
        probe.answer()


def test_a_copy_shares_what_was_answered() -> None:
    probe, ran = probe_of("residual", 32)
    other = copy.deepcopy(probe)
    probe.answer()
    assert len(list(other.reference)) == len(probe.small)
    assert sum(ran) == 32

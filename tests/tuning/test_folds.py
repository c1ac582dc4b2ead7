"""What is seen in halves, let go of, and seen again."""

from __future__ import annotations

import sys

from calibrant.analysis.probe import take_probe
from calibrant.choose import Known, choose_activations
from calibrant.data.batch import Batch
from calibrant.plan import resolve
from calibrant.recipe import Recipe
from calibrant.tuning.folds import Folds
from tests.models import NETS
from tests.road import batches, prepared


def folds() -> Folds:
    net = NETS["residual"]()
    model = prepared(net)
    plan = resolve(Recipe(), model)
    feeds = [Batch(f, {}, 8 * i, 8, "test", ()) for i, f in enumerate(batches(net[1]))]
    probe = take_probe(model, iter(feeds), 32)
    return Folds(model, plan.observed_tensors, plan.channel_axes, probe)


def test_what_was_let_go_of_is_seen_again_where_it_is_asked_for() -> None:
    seen = folds()
    seen.see(4)
    before = seen.halves
    seen.forget()
    assert seen.halves is None
    seen.see(4)
    assert before is not None
    assert seen.halves == before


def test_what_ranges_were_chosen_from_is_not_kept_alive_by_them() -> None:
    seen = folds()
    seen.see(4)
    plan = resolve(Recipe(), seen.model)
    half = seen.apart_from(0)
    known = Known()
    before = {t: sys.getrefcount(s) for t, s in half.items()}
    first = choose_activations(plan, half, known)
    assert {t: sys.getrefcount(s) for t, s in half.items()} == before
    again = choose_activations(plan, half, known)
    assert all(again[d] is p for d, p in first.items())
    other = choose_activations(plan, seen.apart_from(1), known)
    assert not any(other[d] is p for d, p in first.items())

"""Samples that tell trials apart, and looks at them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import calibrant
from calibrant.analysis.task_metrics import batch_metric
from calibrant.data.batch import InputInfo
from calibrant.demo import digits
from calibrant.graph.load import load
from calibrant.runtime.runtime import Runtime
from calibrant.tuner.evaluations import Evaluations
from calibrant.tuner.journal import Journal
from calibrant.tuner.likeness import Likeness
from calibrant.tuner.looks import PairedLooks, RatioLooks
from calibrant.tuner.own_code import Runner
from calibrant.tuner.paired import Paired
from calibrant.tuner.samples import Samples
from calibrant.tuner.telling import NEAR, SHARE, telling
from calibrant.tuner.trials import Trials
from calibrant.tuning.questions import Glance
from tests.models import convolution
from tests.models.rescaled import rescaled
from tests.road import batches


@given(st.lists(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0]), max_size=40), max_size=5))
def test_only_samples_that_differ_somewhere_and_no_more_than_a_share(lists: list[Any]) -> None:
    losses = [np.array(x) for x in lists]
    found, share = telling(losses, 40)
    differ = [i for i in range(40) if any(i < len(x) and x[i] != 0 for x in losses)]
    assert found == differ[: int(SHARE * 40)]
    assert share == len(differ) / 40


@pytest.fixture(scope="module")
def models() -> dict[int, ir.Model]:
    """Return networks that are ever less like the float one; number 8 is nearest to it."""
    return {8: noisy(0.02), 6: noisy(0.05), 4: noisy(0.08)}


def noisy(size: float, seed: int = 1) -> ir.Model:
    """Return the network with noise on its weights, of a size relative to theirs."""
    model = load(digits.MODEL)
    rng = np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        weight = value.const_value.numpy()
        if weight.ndim > 1 and weight.dtype == np.float32:
            noise = rng.normal(size=weight.shape) * size * weight.std()
            value.const_value = ir.tensor((weight + noise).astype(np.float32), name=value.name)
    return model


def evaluations(journal: Journal | None = None, **options: Any) -> Evaluations:
    found = digits.evaluation()
    data = {"image": found.image, "labels": found.labels}
    paired = Paired(Samples(data, load(digits.MODEL), Runtime()), batch_metric("top1"), **options)
    paired.open()
    evaluator: Any = SimpleNamespace(
        paired=paired, higher_is_better=True, labelled=True, looks=lambda _: PairedLooks(paired)
    )
    reference = float(paired.reference.mean())
    return Evaluations(evaluator, journal or Journal(), reference, 0.0)


def seen_by(found: Evaluations) -> Any:
    """Return what trials lost, sample by sample."""
    assert isinstance(found._looks, PairedLooks)
    return found._looks._losses


def test_nothing_is_known_before_a_trial(models: dict[int, ir.Model]) -> None:
    found = evaluations()
    assert not found.looks
    assert found.glance("a", "", lambda: models[4]) is None
    found.reach("a", "", lambda: models[4])
    assert found.looks


def test_where_a_function_gives_one_number_nothing_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not the float model either, which costs nothing to look at: errors decide."""
    looks: list[Any] = []
    answer = Trials.answer

    def spied(self: Trials, question: Any) -> Any:
        said = answer(self, question)
        looks.extend([said] if isinstance(question, Glance) else [])
        return said

    monkeypatch.setattr(Trials, "answer", spied)
    net, feeds = convolution.residual()
    model = rescaled(net, "w1", "w2")
    truth = Runner(load(model))

    def likeness(runner: Runner) -> float:
        """Return one number, of which nobody knows what it is a mean of."""
        return -sum(
            float(np.abs(runner(f)[n] - x).sum())
            for f in batches(feeds)[:2]
            for n, x in truth(f).items()
        )

    calibrant.tune(model, batches(feeds), likeness, "max-drop 0.01", moves="none")
    assert looks
    assert set(looks) == {None}


def test_a_look_without_labels_is_read_by_what_trials_lost() -> None:
    """Few samples that lose twice what all do say half of it, and 3 dB less on them is 3 dB less in all."""
    looks = RatioLooks(lambda _: (27.0, 5), np.inf)
    model: Any = None
    assert not looks.ready
    looks.learn("failed", {"score": -np.inf, "look": 20.0})
    looks.learn("as good as the float model", {"score": np.inf, "look": np.inf})
    looks.learn("of an older journal", {"score": 20.0})
    assert not looks.ready
    looks.learn("a", {"score": 20.0, "look": 17.0})
    looks.learn("far", {"score": 60.0, "look": 70.0})
    looked = looks.at({}, lambda: model)
    assert -10 * np.log10(looked.loss) == pytest.approx(30.0)
    assert looked.samples == 5
    assert looks.at({"look": np.inf, "samples": 5.0}, lambda: model).loss == 0
    assert looks.at({"look": -np.inf, "samples": 5.0}, lambda: model).loss == np.inf


def test_likeness_is_looked_at_on_few_samples_that_are_spread(models: dict[int, ir.Model]) -> None:
    image = digits.evaluation().image[:100]
    likeness = Likeness(load(digits.MODEL), {"image": image}, "sqnr_db", Runtime(), {})
    score, count = likeness.look(models[8])
    whole, all_ = likeness.of(models[8])
    assert (count, all_) == (25, 100)
    assert score == pytest.approx(whole, abs=1.5)
    chosen = np.linspace(0, 99, 25).round().astype(int)
    same = Likeness(load(digits.MODEL), {"image": image[chosen]}, "sqnr_db", Runtime(), {})
    assert score == pytest.approx(same.of(models[8])[0], abs=1e-6)


def test_a_look_that_one_sample_decides_says_nothing(models: dict[int, ir.Model]) -> None:
    image = digits.evaluation().image[:100].copy()
    likeness = Likeness(load(digits.MODEL), {"image": image}, "sqnr_db", Runtime(), {})
    assert likeness.telling(models[8]) == likeness.look(models[8])[0]
    image[np.linspace(0, 99, 25).round().astype(int)[7]] *= 30  # far beyond what ranges cover
    likeness = Likeness(load(digits.MODEL), {"image": image}, "sqnr_db", Runtime(), {})
    assert likeness.telling(models[8]) is None


def test_samples_of_one_batch_are_run_together() -> None:
    found = digits.evaluation()
    data = {"image": found.image[:96], "labels": found.labels[:96]}
    samples = Samples(data, load(digits.MODEL), Runtime(), batch_size=32)
    samples.open()
    every = np.concatenate([b.feeds["image"] for b in samples.batches([(0, np.inf)])])
    some = list(samples.batches([(1, 2), (5, 5), (7, 8), (9, 40), (90, 91)]))
    assert [b.size for b in some] == [2 + 23, 8, 1]
    taken = np.concatenate([b.feeds["image"] for b in some])
    assert np.array_equal(taken, every[[1, 7, *range(9, 40), 90]])


def test_a_look_says_what_the_evaluation_of_the_same_model_saw(
    models: dict[int, ir.Model],
) -> None:
    found = evaluations(confidence=None)
    assert not found.reach("a", "", lambda: models[4]).met
    seen = seen_by(found)["a"]
    paired = found.evaluator.paired
    assert paired is not None
    assert paired.margins is not None
    paired.margins = paired.margins[:0]
    assert 0 < found.glance("b", "", lambda: models[4]) == pytest.approx(seen.sum() / 600)  # type: ignore[operator]
    assert found.counts.precheck_samples == np.count_nonzero(seen) <= SHARE * len(seen)


def test_samples_are_looked_at_that_are_as_near_to_another_answer_as_those_that_changed() -> None:
    """So a look sees what another model changes, before any trial changed it."""
    found = evaluations(confidence=None)
    found.reach("a", "", lambda: noisy(0.03))
    paired = found.evaluator.paired
    assert paired is not None
    assert paired.margins is not None
    changed = seen_by(found)["a"] != 0
    near = np.flatnonzero(paired.margins <= paired.margins[changed].max())
    assert len(near) < NEAR * 600
    other = noisy(0.03, seed=2)
    losses = paired.losses(paired.run(other).values)
    others = losses[near][~changed[near]]
    assert np.any(others != 0)
    assert found.glance("b", "", lambda: other) == pytest.approx(losses[near].sum() / 600)
    assert found.counts.precheck_samples == len(near)


@given(
    st.lists(st.sampled_from([0.0, 0.0, 1.0, -1.0]), min_size=40, max_size=40),
    st.lists(st.floats(0, 1), min_size=30, max_size=40),
)
def test_near_ones_are_added_up_to_the_furthest_that_changed(losses: Any, margins: Any) -> None:
    found, share = telling([np.array(losses)], 40, np.array(margins))
    changed = [i for i in range(40) if losses[i]]
    furthest = max((margins[i] for i in changed if i < len(margins)), default=-1.0)
    near = [i for i, m in enumerate(margins) if m <= furthest and i not in changed]
    assert set(changed[:10]) <= set(found)
    assert len(found) == min(10, max(len(changed), min(5, len(changed) + len(near))))
    assert share == max(len(found), len(changed)) / 40
    left = [margins[i] for i in near if i not in found]
    assert all(margins[i] <= min(left, default=1.0) for i in found if i in near)


def test_a_model_that_changes_nothing_leaves_nothing_to_look_at() -> None:
    assert telling([np.zeros(40)], 40, np.zeros(40)) == ([], 0.0)


def test_a_look_is_part_of_what_another_model_loses(models: dict[int, ir.Model]) -> None:
    found = evaluations(confidence=None)
    found.reach("a", "", lambda: models[4])
    paired = found.evaluator.paired
    assert paired is not None
    losses = paired.losses(paired.run(models[6]).values)
    differs, _ = telling([seen_by(found)["a"]], 600, paired.margins)
    assert np.any(losses[differs] != 0)
    assert found.glance("b", "", lambda: models[6]) == pytest.approx(losses[differs].sum() / 600)


def test_samples_are_not_looked_at_twice(models: dict[int, ir.Model]) -> None:
    def never() -> ir.Model:
        raise AssertionError("it was run again")

    journal = Journal()
    found = evaluations(journal, confidence=None)
    found.reach("a", "", lambda: models[4])
    loss = found.glance("b", "", lambda: models[8])
    assert found.glance("b", "", never) == loss
    again = evaluations(journal, confidence=None)
    again.reach("a", "", never)
    assert again.glance("b", "", never) == loss
    assert again.counts.precheck_samples * 2 == found.counts.precheck_samples > 0


def test_samples_that_cannot_be_parted_are_not_looked_at(models: dict[int, ir.Model]) -> None:
    found = evaluations(confidence=None)
    found.reach("a", "", lambda: models[4])
    paired = found.evaluator.paired
    assert paired is not None
    paired.samples.inputs = [InputInfo("image", (100, 1, 16, 16), np.dtype("float32"))]
    assert found.glance("b", "", lambda: models[8]) is None

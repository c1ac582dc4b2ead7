"""Choosing ranges, with invented scores: what is tried, what is taken, and on how many samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from calibrant.analysis.score import SampleScores
from calibrant.tuning.driver import drive
from calibrant.tuning.strategies.biases import biases
from calibrant.tuning.strategies.ranges import (
    FIRST_SAMPLES,
    Question,
    RangeOption,
    Verdict,
    ranges,
)

SAMPLES = 64


def scores(
    db: float, *, noise: float = 0.1, seed: int = 0, parts: tuple[float, ...] = (0.0,)
) -> SampleScores:
    """Return invented scores of `SAMPLES` samples: SQNR `db` plus that of each part, with noise of its own."""
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(1).normal(0, 3, (SAMPLES, 1))  # a sample is hard for every option
    values = db + np.array(parts) + hard + rng.normal(0, noise, (SAMPLES, len(parts)))
    signal = np.ones((SAMPLES, len(parts)))
    names = tuple(f"part {i}" for i in range(len(parts)))
    least, most = np.zeros(len(parts)), np.ones(len(parts))
    return SampleScores(names, signal, signal * 10 ** (-values / 10), least, most)


def first(found: SampleScores, samples: int) -> SampleScores:
    return SampleScores(
        found.parts, found.signal[:samples], found.error[:samples], found.least, found.most
    )


def answers(
    invented: Callable[[RangeOption], SampleScores | None], asked: list[Question]
) -> Callable[[Question], Verdict]:
    def answer(question: Question) -> Verdict:
        asked.append(question)
        found = invented(question.option)
        if found is None:
            return Verdict(None)
        return Verdict(first(found, question.samples), all=question.samples >= SAMPLES)

    return answer


BASE = RangeOption("plain", "min-max")
FORMS = [("equalized", 0), ("balanced", 1)]


def test_every_algorithm_is_tried_in_every_form() -> None:
    asked: list[Question] = []
    drive(ranges(BASE, FORMS, ["mse"]), answers(lambda _: scores(20), asked))
    tried = {(q.option.form, q.option.algorithm) for q in asked}
    assert tried == {
        (f, a) for f in ("plain", "equalized", "balanced") for a in ("min-max", "mse")
    }


def test_a_gain_that_more_samples_would_make_clear_is_looked_at_on_twice_as_many() -> None:
    """16 samples are thought to be enough. A gain of 1 dB is not clear on them where single samples differ by 2.5 dB."""
    for gain, asks in ((1.0, True), (0.1, False), (-1.0, False), (4.0, False)):
        asked: list[Question] = []

        def answer(q: Question, gain: float = gain, asked: list[Question] = asked) -> Verdict:
            asked.append(q)
            found = scores(20 + gain * (q.option.algorithm == "mse"), noise=0.0)
            spread = 2.5 * np.resize([1.0, -1.0], (SAMPLES, 1)) * (q.option.algorithm == "mse")
            error = found.error * 10 ** (spread / 10)
            found = SampleScores(found.parts, found.signal, error, found.least, found.most)
            most = SAMPLES if q.beyond else 16
            return Verdict(first(found, min(q.samples, most)), all=q.samples >= most)

        best = drive(ranges(BASE, [], ["mse"]), answer)
        beyond = [q for q in asked if q.beyond]
        assert [q.samples for q in beyond] == ([32, 32] if asks else [])
        assert (best.algorithm == "mse") is (gain >= 1), gain


def test_a_form_is_tried_with_the_best_algorithm_and_where_it_loses_with_no_other() -> None:
    both = ["min-max", "mse"]
    for gain, lost, tried in (
        (0, 3, ["min-max"]),
        (5, -2, both),
        (5, 3, ["mse"]),
        (2, 8, ["mse"]),
    ):
        asked: list[Question] = []

        def invented(o: RangeOption, gain: float = gain, lost: float = lost) -> SampleScores:
            db = 20 + gain * (o.algorithm == "mse") - lost * (o.form == "equalized")
            return scores(db, seed=len(str(o)))

        drive(ranges(BASE, FORMS[:1], ["mse"]), answers(invented, asked))
        assert sorted({q.option.algorithm for q in asked if q.option.form == "equalized"}) == tried


def test_a_gain_within_its_noise_leaves_the_simpler_option() -> None:
    def invented(o: RangeOption) -> SampleScores:
        return scores(20.05 if o.algorithm == "mse" else 20.0, noise=2.0, seed=len(o.algorithm))

    assert drive(ranges(BASE, [], ["mse"]), answers(invented, [])) == BASE


def test_a_clear_gain_is_taken_however_small() -> None:
    def invented(o: RangeOption) -> SampleScores:
        return scores(20.3 if o.algorithm == "mse" else 20.0, noise=0.05, seed=len(o.algorithm))

    assert drive(ranges(BASE, [], ["mse"]), answers(invented, [])).algorithm == "mse"


def test_an_option_that_spoils_a_part_is_not_taken() -> None:
    def invented(o: RangeOption) -> SampleScores:
        parts = (10.0, -4.0) if o.form == "equalized" else (0.0, 0.0)
        return scores(20, parts=parts, seed=len(o.form))

    assert drive(ranges(BASE, FORMS[:1], []), answers(invented, [])) == BASE


def test_what_puts_operators_in_has_to_bring_two_db() -> None:
    for gain, taken in ((1.5, "plain"), (2.5, "balanced")):

        def invented(o: RangeOption, gain: float = gain) -> SampleScores:
            return scores(20 + (gain if o.form == "balanced" else 0), seed=len(o.form))

        found = drive(ranges(BASE, FORMS[1:], []), answers(invented, []))
        assert found.form == taken


def test_a_gain_that_cannot_become_two_db_is_not_looked_at_longer() -> None:
    asked: list[Question] = []

    def invented(o: RangeOption) -> SampleScores:
        return scores(20.2 if o.form == "balanced" else 20, noise=0.5, seed=len(o.form))

    assert drive(ranges(BASE, FORMS[1:], []), answers(invented, asked)) == BASE
    assert max(q.samples for q in asked) == FIRST_SAMPLES


def test_few_samples_decide_what_is_clear_and_more_what_is_not() -> None:
    for gain, noise, clear in ((6.0, 0.1, True), (0.3, 1.5, False)):
        asked: list[Question] = []

        def invented(o: RangeOption, gain: float = gain, noise: float = noise) -> SampleScores:
            db = 20 + (gain if o.algorithm == "mse" else 0)
            return scores(db, noise=noise, seed=len(o.algorithm))

        drive(ranges(BASE, [], ["mse"]), answers(invented, asked))
        assert (max(q.samples for q in asked) == FIRST_SAMPLES) == clear


def test_what_was_not_built_is_not_taken_and_costs_nothing() -> None:
    asked: list[Question] = []
    found = drive(
        ranges(BASE, [], ["mse"], channel_scales=True, behind=True),
        answers(lambda o: None if o != BASE else scores(20), asked),
    )
    assert found == BASE
    assert all(q.option != BASE for q in asked)


def test_open_facts_are_tried_on_the_best_of_the_rest() -> None:
    def invented(o: RangeOption) -> SampleScores:
        db = 20 + 3 * (o.form == "equalized") + 4 * o.channel_scales + (o.behind == "weights")
        return scores(db, seed=len(str(o)))

    strategy = ranges(BASE, FORMS[:1], [], channel_scales=True, behind=True)
    found = drive(strategy, answers(invented, []))
    assert found == RangeOption("equalized", "min-max", True, "weights")


def judged_on(db: Mapping[str, float], way: str, samples: int) -> Verdict:
    return Verdict(first(scores(db[way], seed=len(way)), samples), all=samples >= SAMPLES)


def test_biases_stay_unless_a_way_is_clearly_better_and_the_best_such_way_is_taken() -> None:
    def choice(**db: float) -> str:
        return drive(
            biases(["local", "walked"]),
            lambda asked: judged_on(db, *asked) if asked[0] in db else Verdict(None),
        )

    assert choice(off=20, local=20, walked=19) == "off"
    assert choice(off=20, local=22, walked=23) == "walked"
    assert choice(off=20, local=23, walked=22) == "local"
    assert choice(off=20, walked=22) == "walked"


def test_a_way_that_gains_enough_is_taken_without_the_others_on_few_samples() -> None:
    def asked(walked: float, local: float = 25.0) -> tuple[str, dict[str, int]]:
        most: dict[str, int] = {}

        def answer(question: tuple[str, int]) -> Verdict:
            way, samples = question
            most[way] = max(most.get(way, 0), samples)
            return judged_on({"off": 20.0, "walked": walked, "local": local}, way, samples)

        return drive(biases(["walked", "local"], enough_db=1.0), answer), most

    few, every = FIRST_SAMPLES, FIRST_SAMPLES * 2**4
    assert asked(23) == ("walked", {"walked": few, "off": few})
    assert asked(20.2) == ("local", {"walked": every, "off": every, "local": every})
    assert asked(19) == ("local", {"walked": few, "off": few, "local": few})
    assert asked(19, 18) == ("off", {"walked": few, "off": few, "local": few})

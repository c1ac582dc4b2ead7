"""Choose what a recipe leaves open of the ranges.

Open may be the form of the model, the algorithm of activations, whether depthwise convolutions read one scale a
channel, and whether activations are observed behind rounded weights. Options are tried from the simplest on. The
simpler one stays unless another is clearly better: the difference is taken sample by sample, on samples that the
ranges do not come from, and has to lie beyond its own noise (`analysis.better`).

An option is judged on few samples first, and on more only as long as they cannot say which is better and the gain may be worth a
word (`TOLERATED_DB`). Where the last of them leave such a gain, and twice as many samples would make it clear, they are asked for
once. Each form is tried with the algorithm that is best so far, then with the others. Where it loses clearly more than an
algorithm gained in the first form, both together are not tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from calibrant.analysis.better import TOLERATED_DB, Comparison, clearly_better
from calibrant.analysis.score import SampleScores
from calibrant.tuning.driver import Strategy

__all__ = [
    "ADDED_GAIN_DB",
    "FIRST_SAMPLES",
    "Question",
    "RangeOption",
    "Verdict",
    "challenge",
    "ranges",
]

#: What puts operators into the model, or asks more of the device, has to bring so much in some part [dB].
ADDED_GAIN_DB = 2.0

#: An option is judged on so many samples first; then on twice as many, as long as they cannot say.
FIRST_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class RangeOption:
    """One way to set ranges.

    Args:
        form: Name of the form of the model.
        algorithm: Algorithm of the activations that are left open; empty where none is.
        channel_scales: Depthwise convolutions read one scale a channel.
        behind: What activations are observed in: the float model, or the one with rounded weights.
        added: Operators that the form puts into the model.
    """

    form: str = "plain"
    algorithm: str = ""
    channel_scales: bool = False
    behind: Literal["float", "weights"] = "float"
    added: int = 0

    def __str__(self) -> str:
        words = [self.algorithm, self.form]
        words += ["one scale a channel into depthwise layers"] if self.channel_scales else []
        words += ["observed behind rounded weights"] if self.behind == "weights" else []
        return ", ".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class Question:
    """What an option loses on the first samples of the probe.

    Args:
        option: The option.
        samples: On how many samples, at the least.
        beyond: So many even where fewer are thought to be enough.
    """

    option: RangeOption
    samples: int
    beyond: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The answer.

    Args:
        scores: What the option lost, sample by sample; None where it was not built, since the statistics alone show
            that it changes nothing, or only for the worse.
        all: There are no more samples.
    """

    scores: SampleScores | None
    all: bool = True


def ranges(
    base: RangeOption,
    forms: Sequence[tuple[str, int]],
    algorithms: Sequence[str],
    *,
    channel_scales: bool = False,
    behind: bool = False,
    said: Callable[[RangeOption, Comparison], None] = lambda *_: None,
) -> Strategy[Question, Verdict, RangeOption]:
    """Return the option that is taken.

    Args:
        base: The simplest option.
        forms: Other forms of the model, and how many operators each puts in, the simplest first.
        algorithms: Other algorithms.
        channel_scales: Whether scales by channel are open.
        behind: Whether it is open what activations are observed in.
        said: Told of each comparison: the option that was tried, and what came of it.
    """
    found: dict[RangeOption, Comparison] = {}

    def told(option: RangeOption, comparison: Comparison) -> None:
        found[option] = comparison
        said(option, comparison)

    best = base
    for algorithm in algorithms:
        best = yield from challenge(best, replace(base, algorithm=algorithm), said=told)
    for form, added in forms:
        # the better algorithm first: where the other has more noise at every tensor, it is not built
        ordered = sorted([base.algorithm, *algorithms], key=lambda a: a != best.algorithm)
        first, *others = (replace(base, form=form, added=added, algorithm=a) for a in ordered)
        best = yield from challenge(best, first, said=told)
        for other in others:
            if not _lost(found.get(first), found.get(replace(base, algorithm=other.algorithm))):
                best = yield from challenge(best, other, said=told)
    if channel_scales:
        best = yield from challenge(best, replace(best, channel_scales=True), said=told)
    if behind:
        best = yield from challenge(best, replace(best, behind="weights"), said=told)
    return best


def _lost(form: Comparison | None, algorithm: Comparison | None) -> bool:
    """Whether a form loses clearly more than an algorithm may gain, so that both together are not built.

    Args:
        form: What the form lost, with the first algorithm; None where that is not known.
        algorithm: What the algorithm gained in the first form; None where it changed nothing.
    """
    if form is None or form.better or not form.can_say:
        return False
    if algorithm is not None and not algorithm.can_say:
        return False
    gain = 0.0 if algorithm is None else max(0.0, algorithm.gain_db + algorithm.noise_db)
    return form.gain_db + form.noise_db + gain < 0


def challenge(
    best: RangeOption,
    other: RangeOption,
    *,
    said: Callable[[RangeOption, Comparison], None] = lambda *_: None,
) -> Strategy[Question, Verdict, RangeOption]:
    """Return the better of two options, the first unless the second is clearly better."""
    costs_more = other.added > best.added or other.channel_scales > best.channel_scales
    samples, beyond = FIRST_SAMPLES, False
    while True:
        theirs = yield Question(other, samples, beyond)
        if theirs.scores is None:
            return best
        ours = yield Question(best, samples, beyond)
        if ours.scores is None:
            return other
        found = clearly_better(theirs.scores, ours.scores)
        if costs_more and found.better:
            found = _worth_it(found)
        last = beyond or (theirs.all and ours.all)
        sure = found.better and (not costs_more or _gain(found) - found.noise_db >= ADDED_GAIN_DB)
        asked = ADDED_GAIN_DB if costs_more else TOLERATED_DB
        decided = sure or (found.can_say and _hopeless(found, asked))
        if last and not beyond and not decided and _is_near(found):
            samples, beyond = 2 * ours.scores.samples, True
            continue
        if decided or last:
            said(other, found)
            return other if found.better else best
        samples *= 2


def _is_near(found: Comparison) -> bool:
    """Whether a gain worth a word that is not clear would be so on twice as many samples, if it stays what it is."""
    near = found.can_say and not found.better and not found.worse
    return near and _gain(found) >= TOLERATED_DB and found.gain_db * math.sqrt(2) > found.noise_db


def _worth_it(found: Comparison) -> Comparison:
    """Say no where a better option costs more than it brings."""
    if _gain(found) >= ADDED_GAIN_DB:
        return found
    reason = (
        f"{found.reason} It costs more than that: {ADDED_GAIN_DB:g} dB in some part are asked for."
    )
    return replace(found, better=False, reason=reason)


def _gain(found: Comparison) -> float:
    """Return the gain of the part that gains most [dB]."""
    return max(found.parts.values(), default=found.gain_db)


def _hopeless(found: Comparison, asked: float) -> bool:
    """Whether more samples would not make the option the better one, by what is asked for in some part [dB]."""
    if found.worse or found.gain_db + found.noise_db <= 0:
        return True
    return _gain(found) + found.noise_db < asked

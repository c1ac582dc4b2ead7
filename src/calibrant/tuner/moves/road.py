"""Try moves that keep what a model costs, and take those that are clearly better on samples that they do not come from.

    calibration samples ─┬─► two of three: ranges, biases, rounding of each move
                         └─► one of three: judge, in pairs, sample by sample

Each move is tried alone. Those that are clearly better are then laid one over another, the one that gains most first; each stays
where it is clearly better beside those before it. No label is looked at, and nothing is evaluated.

Of m moves some would look better by chance: each is tested at the confidence 1 - (1 - 0.95) / m (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.alone.journal import Journal as Figures
from calibrant.analysis.better import MIN_SAMPLES, Comparison, clearly_better
from calibrant.analysis.probe import rows_are_free, take_probe
from calibrant.analysis.score import SampleScores
from calibrant.data.batch import Batch
from calibrant.diagnose.advice.keep import LEAST_DB
from calibrant.diagnose.advice.trials import Trials
from calibrant.diagnose.advice.units import units_of
from calibrant.diagnose.triage import masks_of
from calibrant.dialects import dump_recipe, load_recipe
from calibrant.errors import CalibrantError
from calibrant.progress import Progress
from calibrant.recipe import Recipe
from calibrant.tuner.moves.candidates import Candidate, candidates
from calibrant.tuner.moves.tried import MoveTried
from calibrant.tuning.guide import as_decided
from calibrant.tuning.road import solve
from calibrant.tuning.store import Store
from calibrant.tuning.strategies.ranges import ADDED_GAIN_DB

__all__ = ["Moves", "find_moves"]

#: Samples that moves are tried on, at most, and bytes of them; one of three judges.
SAMPLES, BYTES, JUDGES = 96, 256 * 2**20, 3

#: Samples that quantizers are measured on alone.
ALONE = 4

#: Chance that some move of all is taken that does not gain.
CHANCE = 0.05

_TOO_FEW = (
    "No cheaper moves were tried: a third of the calibration samples judges what the others say, 5 of them at least, and there "
    "are {} samples."
)

_NO_TIME = (
    "{} of {} cheaper moves were not tried: moves get a third of the time at most, and the rest is for raising layers. More "
    "minutes try more of them."
)


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """What came of it.

    Args:
        recipe: The recipe with the moves that were taken.
        tried: All moves, those that were taken first.
        samples: Samples that models were run on.
        note: Why nothing was tried, or not all; empty where all was.
        left_out: Moves that there was no time for.
    """

    recipe: Recipe
    tried: tuple[MoveTried, ...] = ()
    samples: int = 0
    note: str = ""
    left_out: int = 0

    def content(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "recipe": dump_recipe(self.recipe),
            "tried": [m.content() for m in self.tried],
            "samples": self.samples,
            "note": self.note,
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Moves:
        """Return what plain values say."""
        tried = tuple(MoveTried.from_content(m) for m in content["tried"])
        recipe = load_recipe(content["recipe"], dialect="native")
        return cls(recipe, tried, content["samples"], content["note"])


def find_moves(
    store: Store,
    recipe: Recipe,
    cheapest: Callable[[Recipe], Recipe],
    kinds: Sequence[str],
    *,
    figures: Figures | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> Moves:
    """Return a recipe with the moves that gain.

    Args:
        store: The model and its data.
        recipe: What is wanted but for precisions.
        cheapest: Returns a recipe with the precisions of the cheapest assignment.
        kinds: Kinds of moves.
        figures: Keeps what quantizers lose alone; None keeps nothing.
        goes_on: Asked before each move; whether there is time for it.

    Raises:
        CalibrantError: The recipe cannot be solved on two of three samples.
    """
    feeds = _feeds(store, recipe)
    judge, learn = feeds[::JUDGES], [f for i, f in enumerate(feeds) if i % JUDGES]
    if min(len(learn), len(judge)) < MIN_SAMPLES:
        return Moves(recipe, note=_TOO_FEW.format(len(feeds)))
    part = _taken(store, recipe)
    some = sum(1 for i in range(min(part, len(feeds))) if i % JUDGES)
    own = replace(recipe.calibration, batch_size=None, batch_num=min(some, len(learn)) or 1)
    start = cheapest(replace(recipe, calibration=own))
    inner = Store(store.model, [dict(b.feeds) for b in learn], runtime=store.runtime, shared=True)
    with store.progress.stage("cheaper moves"):
        solved = solve(inner, start)
        assert solved.probe is not None
        judges = take_probe(solved.solution.model, iter(judge), len(judge), store.runtime)
        trials = Trials(inner, judges, solved, count=1)
        free = judges.free and rows_are_free(solved.solution.model)
        units = units_of(
            solved,
            take_feeds(iter(judges.small), ALONE, free=free),
            judges.scored,
            Progress(),
            store.runtime,
            figures,
        )
        every = list(
            candidates(
                kinds,
                as_decided(start, solved.guide),
                recipe,
                units,
                masks_of(solved),
                solved.solution,
                more_data=some < len(learn),
            )
        )
        asking = _Asking(trials, start, trials.lost(solved), every, goes_on)
        each = asking.each(store.progress)
        taken = asking.together(each)
    for one in taken:
        recipe = one.candidate.of(recipe)
    rest = [e for e in each if all(e is not t for t in taken)]
    told = (*taken, *sorted(rest, key=lambda e: -(e.alone.gain_db if e.alone else -math.inf)))
    left_out = len(every) - len(each)
    note = _NO_TIME.format(left_out, len(every)) if left_out else ""
    moves = tuple(e.told() for e in told)
    return Moves(recipe, moves, trials.count * judges.samples, note, left_out)


@dataclass(slots=True, eq=False)
class _Each:
    """A move on its way."""

    candidate: Candidate
    alone: Comparison | None = None
    beside: Comparison | None = None
    reason: str = ""
    taken: bool = False

    @property
    def gains(self) -> bool:
        """Whether it alone is clearly better."""
        return self.alone is not None and _enough(self.alone, self.candidate)

    def told(self) -> MoveTried:
        """Return it as a value."""
        c, alone, beside = self.candidate, self.alone, self.beside
        return MoveTried(
            c.kind,
            c.what,
            c.layers,
            _number(alone.gain_db) if alone is not None else None,
            _number(alone.noise_db) if alone is not None else None,
            _number(beside.gain_db) if beside is not None else None,
            self.taken,
            self.reason,
            c.rules,
        )


@dataclass(slots=True, eq=False)
class _Asking:
    """Solves recipes with moves, and compares them."""

    trials: Trials
    base: Recipe
    lost: SampleScores
    candidates: list[Candidate]
    goes_on: Callable[[], bool]

    def each(self, progress: Progress) -> list[_Each]:
        """Try each move alone, as long as there is time."""
        found: list[_Each] = []
        for i, candidate in enumerate(self.candidates):
            if not self.goes_on():
                break
            one = _Each(candidate)
            try:
                one.alone = self._compared(candidate.of(self.base), self.lost)
                one.reason = _reason(one.alone, candidate)
            except CalibrantError as e:
                one.reason = f"It could not be tried: {e}"
            found.append(one)
            progress.step(i + 1, len(self.candidates))
        return found

    def together(self, each: Sequence[_Each]) -> list[_Each]:
        """Lay those that gain one over another, and return those that stay."""
        recipe, lost = self.base, self.lost
        taken: list[_Each] = []
        for one in sorted((e for e in each if e.gains), key=_worth):
            if any(_same_place(one.candidate, t.candidate) for t in taken):
                continue
            if taken and not self.goes_on():
                one.reason = f"{one.reason} There was no time to try it beside those before it."
                continue
            new = one.candidate.of(recipe)
            try:
                theirs = self.trials.lost(self.trials.solve(new))
            except CalibrantError as e:
                one.reason = f"It could not be had beside those before it: {e}"
                continue
            if taken:
                one.beside = clearly_better(theirs, lost, confidence=self._confidence)
                one.reason = _reason(one.beside, one.candidate)
                if not _enough(one.beside, one.candidate):
                    continue
            lost = theirs
            one.taken = True
            recipe = new
            taken.append(one)
        return taken

    def _compared(self, recipe: Recipe, lost: SampleScores) -> Comparison:
        theirs = self.trials.lost(self.trials.solve(recipe))
        return clearly_better(theirs, lost, confidence=self._confidence)

    @property
    def _confidence(self) -> float:
        return 1 - CHANCE / max(1, len(self.candidates))


def _feeds(store: Store, recipe: Recipe) -> list[Batch]:
    """Return the first calibration samples, one a feed where the model takes any number."""
    whole = replace(recipe, calibration=replace(recipe.calibration, batch_num=None))
    free = rows_are_free(store.prepared(recipe).model)
    found: list[Batch] = []
    size = 0
    for batch in store.samples(whole).first():
        rows = range(batch.size) if free and batch.size > 1 else [0]
        for row in rows:
            found.append(batch.part(row, row + 1) if len(rows) > 1 else batch)
            size += sum(v.nbytes for v in found[-1].feeds.values())
            if len(found) == SAMPLES or size > BYTES:
                return found
    return found


def _taken(store: Store, recipe: Recipe) -> int:
    """Return how many feeds of `_feeds` a recipe takes; more than there are where it takes all."""
    most = recipe.calibration.batch_num
    if most is None:
        return SAMPLES
    first = next(iter(store.samples(recipe).first()))
    return most * (first.size if rows_are_free(store.prepared(recipe).model) else 1)


def _enough(found: Comparison, candidate: Candidate) -> bool:
    """Whether a move is clearly better, and by so much as what it asks of the device is worth."""
    most = max(found.parts.values(), default=found.gain_db)
    return found.better and most >= (ADDED_GAIN_DB if candidate.price else LEAST_DB)


def _reason(found: Comparison, candidate: Candidate) -> str:
    if found.better and not _enough(found, candidate):
        least = ADDED_GAIN_DB if candidate.price else LEAST_DB
        return f"{found.reason} {least:g} dB in some part are asked for."
    return found.reason


def _worth(one: _Each) -> tuple[int, float]:
    """Order moves: those that ask nothing of the device first, of these the one that gains most."""
    assert one.alone is not None
    return one.candidate.price, -one.alone.gain_db


def _same_place(one: Candidate, other: Candidate) -> bool:
    """Whether two moves set the same of the same places, so that one would undo the other."""
    mine = {(r.where, n) for r in one.added.rules for n, _ in r.settings.items()}
    theirs = {(r.where, n) for r in other.added.rules for n, _ in r.settings.items()}
    return bool(mine & theirs)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

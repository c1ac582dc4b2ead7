"""What to do now: where no single step brings the outputs to 20 dB, what does, and with which precision; or what is reachable.

    1. steps together: the best one, then the others as long as they gain
    2. more places: the worst quantizers at 16 bits, where the target has them, then their nodes in float; of each as few as reach
       20 dB, found by doubling and then by halving
    3. nothing reaches it: the best that was found

Where a step for most of the places reaches 20 dB, fewer places that do are looked for in the same way.

Counted is the part of the outputs that is worst: boxes of 40 dB do not make up for scores of 5. Every figure is that of a recipe
that was solved. Single places alone do not say what they are worth together, so sets are solved, not added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from calibrant.analysis.score import Score
from calibrant.diagnose.advice.candidates import tried
from calibrant.diagnose.advice.keep import DEARER_DB, GOOD_DB
from calibrant.diagnose.advice.moves import MOVES, Move, rules_for
from calibrant.diagnose.advice.steps import Tried
from calibrant.diagnose.advice.units import Unit
from calibrant.errors import CalibrantError
from calibrant.recipe import Recipe
from calibrant.solution import Solution

__all__ = ["STEPS", "Way", "joined", "way_to", "worst_part"]

#: Steps that are put together, at most.
STEPS = 5

#: Places that are tried first, and how many times as many then.
_FIRST, _TIMES = 4, 4

#: Moves that more and more places are given, the cheaper first.
_LADDER = tuple(m for name in ("int16", "float32") for m in MOVES if m.name == name)


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """What brings the outputs to 20 dB, or as near as anything does.

    Args:
        found: A step that was solved on the way and reaches more than those that are known, or as much with fewer places.
        reached_db: The worst part with the best of all steps [dB].
    """

    found: tuple[tuple[Tried, Score], ...]
    reached_db: float


def worst_part(score: Score) -> float:
    """Return the score of the worst part of the outputs [dB]."""
    return min(score.parts.values(), default=score.db)


def way_to(
    kept: Sequence[tuple[Tried, Score]],
    units: Sequence[Unit],
    solution: Solution,
    base: Recipe,
    before: Score,
    score: Callable[[Recipe], Score],
    goal: float = GOOD_DB,
) -> Way:
    """Look for what brings the worst part of the outputs to a goal.

    Args:
        kept: Steps that gain, best first, and what each scores.
        units: Quantizers, worst first.
        solution: How the model is quantized now.
        base: The recipe of that.
        before: Its score.
        score: Solves a recipe and scores it.
        goal: [dB]
    """
    best = max([worst_part(before), *(worst_part(s) for _, s in kept)])
    if best >= goal:
        enough = [s.units for s, reached in kept if worst_part(reached) >= goal]
        if worst_part(before) >= goal or not enough or min(enough) <= max(_FIRST, len(units) // 4):
            return Way((), best)
        fewer = [
            way
            for way in _more(units, solution, base, score, goal)
            if worst_part(way[1]) >= goal and way[0].units < min(enough)
        ]
        return Way(tuple(fewer), max([best, *(worst_part(s) for _, s in fewer)]))
    found: list[tuple[Tried, Score]] = []
    for way in (_steps(kept, base, score, goal), _more(units, solution, base, score, goal)):
        if best >= goal:
            break
        for step, reached in way:
            if worst_part(reached) > best:
                best = worst_part(reached)
                found.append((step, reached))
    return Way(tuple(found[-1:]), best)


def _steps(
    kept: Sequence[tuple[Tried, Score]],
    base: Recipe,
    score: Callable[[Recipe], Score],
    goal: float,
) -> Iterator[tuple[Tried, Score]]:
    """Yield the best step with others, one more each time that they gain."""
    if len(kept) < 2:
        return
    chosen, now = [kept[0][0]], kept[0][1]
    recipe = kept[0][0].recipe
    for step, _ in kept[1:STEPS]:
        if step.move == "data" or worst_part(now) >= goal:
            continue
        together = joined(recipe, step.added)
        try:
            reached = score(together)
        except CalibrantError:  # two steps may ask for what cannot be had together
            continue
        if worst_part(reached) < worst_part(now) + DEARER_DB:
            continue
        chosen, now, recipe = [*chosen, step], reached, together
        yield _both(chosen, recipe, base), reached


def joined(recipe: Recipe, more: Recipe) -> Recipe:
    """Return a recipe with what a step adds: its rules, and the switches of the whole model that it turns on."""
    found = recipe.with_rules(*more.rules)
    if more.equalize == "on":
        found = replace(found, equalize="on")
    return replace(found, bias_correction="on") if more.bias_correction == "on" else found


def _both(steps: Sequence[Tried], recipe: Recipe, base: Recipe) -> Tried:
    first = steps[0]
    added = Recipe(target=base.target)
    for step in steps:
        added = joined(added, step.added)
    dear = max(steps, key=lambda s: s.price)
    done = ", and ".join(
        f"{s.done} for {s.layers[0]}{' and more' if len(s.layers) > 1 else ''}"
        if s.layers and not s.whole
        else s.done
        for s in steps
    )
    return Tried(
        tuple(dict.fromkeys(n for s in steps for n in s.layers)),
        first.cause,
        f"{len(steps)} steps together",
        done,
        "together",
        dear.price,
        dear.costs,
        recipe,
        added,
        sum(s.units for s in steps),
    )


def _more(
    units: Sequence[Unit],
    solution: Solution,
    base: Recipe,
    score: Callable[[Recipe], Score],
    goal: float,
) -> Iterator[tuple[Tried, Score]]:
    """Yield as few of the worst places as reach the goal in a higher precision; all of them where that does not."""
    plan = solution.plan
    for move in _LADDER:
        able = [u for u in units if u.loss > 0 and move.fits(u, plan, plan.target)]
        if not able:
            continue
        ladder = _Ladder(move, able, len(units), base, score)
        try:
            enough = ladder.first(goal)
            yield ladder.at(enough if enough is not None else len(able))
        except CalibrantError:  # the target refuses the precision somewhere
            continue
        if enough is not None:
            return


@dataclass(slots=True, eq=False)
class _Ladder:
    """The worst places, one more of them on each rung, all with one move.

    Args:
        move: What is done.
        units: Places that it changes, worst first.
        total: All places.
        base: How the model is quantized now.
        score: Solves a recipe and scores it.
    """

    move: Move
    units: Sequence[Unit]
    total: int
    base: Recipe
    score: Callable[[Recipe], Score]
    _known: dict[int, tuple[Tried, Score]] = field(default_factory=dict)

    def at(self, count: int) -> tuple[Tried, Score]:
        """Return the step for so many places, and its score."""
        if count not in self._known:
            step = _set(self.units[:count], self.total, self.base, self.move)
            self._known[count] = step, self.score(step.recipe)
        return self._known[count]

    def first(self, goal: float) -> int | None:
        """Return how many places reach the goal, a quarter more than need be at most; None where all of them do not."""

        def reaches(count: int) -> bool:
            return worst_part(self.at(count)[1]) >= goal

        most = len(self.units)
        if not reaches(most):
            return None
        low, high = 0, min(_FIRST, most)
        while high < most and not reaches(high):
            low, high = high, min(_TIMES * high, most)
        while high - low > max(1, low // 4):
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle, high)
        return high


def _set(units: Sequence[Unit], total: int, base: Recipe, move: Move) -> Tried:
    causes = [u.cause for u in units]
    return tried(
        base,
        rules_for(move, units),
        layers=tuple(dict.fromkeys(n for u in units for n in u.layers)),
        cause=max(dict.fromkeys(causes), key=causes.count),
        seen=f"the worst {len(units)} of {total} quantizers",
        move=move,
        units=len(units),
    )

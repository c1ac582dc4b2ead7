"""Solve recipes on a bench and score them all on the same samples, so that their scores can be compared.

Where no evaluation samples are given, the samples are those that ranges come from, and ranges that clip nothing of them would
look better than they are. So each sample is run with ranges from the half of the probe that it does not belong to
(`tuning.unseen`); what a recipe asks for beside the first one (scales by channel) is looked at in the halves then. Where there are
no halves (one feed, or another form of the model), a solution is run with its own ranges; what it gains over the first recipe on
the samples that it saw is then added to what that one reaches on unseen ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from calibrant.analysis.better import Comparison, clearly_better
from calibrant.analysis.parts import Part, parts_of
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import SampleScores, Score, sample_scores
from calibrant.analysis.simulate import Simulator
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.recipe import Recipe
from calibrant.runtime.measure import Outputs
from calibrant.tuning.built import behind_weights
from calibrant.tuning.folds import Folds
from calibrant.tuning.guide import Guide, essence
from calibrant.tuning.road import solve
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store
from calibrant.tuning.unseen import Halves, in_halves

__all__ = ["Trials"]

#: Simulators that are kept; each holds sessions of one form of the model.
_KEPT = 2


@dataclass(slots=True, eq=False)
class Trials:
    """Recipes that were solved.

    Args:
        store: The model, and the data that ranges come from.
        probe: Samples that outputs are compared on.
        first: The recipe that all others are compared with, solved.
        seen: Whether ranges come from these samples.
        count: How many were solved.
    """

    store: Store
    probe: Probe
    first: Solved | None = None
    seen: bool = False
    count: int = 0
    _parts: dict[str, tuple[Part, ...]] | None = None
    _known: dict[Recipe, Score] = field(default_factory=dict)
    _gap: tuple[Score, Score] | None = None
    _simulators: dict[ir.Model, Simulator] = field(default_factory=dict)

    def score(self, recipe: Recipe) -> Score:
        """Return how near the outputs are to the float model's with a recipe.

        Raises:
            CalibrantError: The recipe cannot be solved.
        """
        key = essence(recipe)
        if key not in self._known:
            self._known[key] = self.of(self.solve(recipe))
        return self._known[key]

    def of(self, solved: Solved) -> Score:
        """Return how near the outputs of a solution are to the float model's."""
        first = self.first
        own = self._in_halves(solved)
        if own is not None or not self.seen or first is None:
            return self._score(solved, own)
        of_first = self._in_halves(first)
        if of_first is None:
            return self._score(solved, None)
        if self._gap is None:
            self._gap = self._score(first, of_first), self._score(first, None)
        return _moved(self._score(solved, None), *self._gap)

    def lost(self, solved: Solved) -> SampleScores:
        """Return what the outputs of a solution lose, sample by sample, with its own ranges."""
        return self._lost(solved, None)

    def compared(self, recipe: Recipe) -> tuple[Score, Comparison]:
        """Return the score of a recipe, and how it compares with the first one, sample by sample.

        Raises:
            CalibrantError: The recipe cannot be solved.
        """
        assert self.first is not None
        solved = self.solve(recipe)
        own, of_first = self._in_halves(solved), self._in_halves(self.first)
        if self.seen and (own is None or of_first is None):
            lost = self._lost(solved, None)
            return self.of(solved), clearly_better(lost, self._lost(self.first, None))
        lost = self._lost(solved, own)
        return Score.of(lost), clearly_better(lost, self._lost(self.first, of_first))

    def _in_halves(self, solved: Solved) -> tuple[Parameters, Parameters] | None:
        """Return parameters for even feeds and for odd ones, of samples that they do not come from."""
        if not self.seen or self.first is None:
            return None
        return in_halves(solved, self._halves(solved), self.store.known)

    def _halves(self, solved: Solved) -> Halves | None:
        """Return statistics of both halves of the probe; what the first recipe does not ask for is looked at now."""
        first, solution = self.first, solved.solution
        if solved.halves is not None or first is None or first.halves is None:
            return solved.halves
        if first.probe is None or solution.model is not first.solution.model:
            return None
        plan = solution.plan
        axes = {t: a for t in plan.observed_tensors if (a := plan.channel_axes.get(t, ()))}
        lacking = [
            t
            for t in plan.observed_tensors
            if t not in first.halves[0]
            or not set(axes.get(t, ())) <= {c.axis for c in first.halves[0][t].by_channel}
        ]
        if not lacking:
            return first.halves
        observed = solution.model
        if first.guide is not None and first.guide.option.behind == "weights":
            observed = behind_weights(observed, plan, self.store.known)
        folds = Folds(
            observed,
            lacking,
            {t: axes[t] for t in lacking if t in axes},
            first.probe,
            runtime=self.store.runtime,
        )
        folds.see(len(first.probe.small))
        more = folds.halves
        folds.close()
        if more is None:
            return None
        even, odd = ({**h, **m} for h, m in zip(first.halves, more, strict=True))
        return even, odd

    def _score(self, solved: Solved, halves: tuple[Parameters, Parameters] | None) -> Score:
        return Score.of(self._lost(solved, halves))

    def _lost(self, solved: Solved, halves: tuple[Parameters, Parameters] | None) -> SampleScores:
        solution, probe = solved.solution, self.probe
        simulator = self._simulators.pop(solution.model, None)
        if simulator is None:
            simulator = Simulator(solution.model, probe.scored, self.store.runtime)
        self._simulators[solution.model] = simulator
        while len(self._simulators) > _KEPT:
            self._simulators.pop(next(iter(self._simulators)))
        if halves is None:
            outputs = simulator.simulate(solution.plan, solution.params, probe.feeds)
        else:
            outputs = self._apart(simulator, solution.plan, halves)
        self.store.work.whole(probe.samples)
        sizes = [b.size for b in probe.small]
        parts = self.parts(solution.model)
        return sample_scores(probe.scored_reference, outputs, parts, sizes=sizes)

    def _apart(
        self, simulator: Simulator, plan: Plan, halves: tuple[Parameters, Parameters]
    ) -> Outputs:
        """Run each feed with the ranges of the half that it does not belong to."""
        assert self.first is not None
        assert self.first.probe is not None
        places = {id(b): i for i, b in enumerate(self.first.probe.small)}
        odd = [places[id(b)] % 2 for b in self.probe.small]
        found: Outputs = [{} for _ in odd]
        for half, params in enumerate(halves):
            mine = [i for i, of in enumerate(odd) if of == half]
            feeds = [self.probe.feeds[i] for i in mine]
            for i, outputs in zip(mine, simulator.simulate(plan, params, feeds), strict=True):
                found[i] = outputs
        return found

    def solve(self, recipe: Recipe) -> Solved:
        """Return the solution of a recipe, what is left open decided as for the one that all are compared with.

        Raises:
            CalibrantError: The recipe cannot be solved.
        """
        self.count += 1
        return solve(self.store, recipe, self._guide_of(recipe))

    def parts(self, model: ir.Model) -> dict[str, tuple[Part, ...]]:
        """Return the parts that outputs are compared by."""
        if self._parts is None:
            reference = self.probe.parts_reference
            self._parts = {
                n: parts_of(model, n, [r[n] for r in reference]) for n in self.probe.scored
            }
        return self._parts

    def _guide_of(self, recipe: Recipe) -> Guide | None:
        """Return what was decided, where it holds: for balanced layers and other forms the model is another one."""
        guide = self.first.guide if self.first is not None else None
        if guide is None or any(r.settings.balance for r in recipe.rules):
            return None
        if recipe.equalize == "on" and guide.option.form != "equalized":
            return None
        return replace(guide, way="walked") if recipe.bias_correction == "on" else guide


def _moved(score: Score, there: Score, here: Score) -> Score:
    """Return a score with what another one changes by from here to there: part by part, and over all."""
    if not all(math.isfinite(x.db) for x in (score, there, here)):
        return score
    parts = {
        n: db + there.parts.get(n, db) - here.parts.get(n, db) for n, db in score.parts.items()
    }
    return replace(score, db=score.db + there.db - here.db, parts=parts)

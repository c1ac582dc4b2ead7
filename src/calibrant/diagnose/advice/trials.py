"""Solve recipes on a bench and score them all on the same samples, so that their scores can be compared."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import onnx_ir as ir

from calibrant.analysis.parts import Part, parts_of
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import SampleScores, Score, sample_scores
from calibrant.analysis.simulate import Simulator
from calibrant.recipe import Recipe
from calibrant.tuning.guide import Guide, essence
from calibrant.tuning.road import solve
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store

__all__ = ["Trials"]

#: Simulators that are kept; each holds sessions of one form of the model.
_KEPT = 2


@dataclass(slots=True, eq=False)
class Trials:
    """Recipes that were solved.

    Args:
        store: The model, and the data that ranges come from.
        probe: Samples that outputs are compared on.
        guide: What was decided for the recipe that all others are compared with.
        count: How many were solved.
    """

    store: Store
    probe: Probe
    guide: Guide | None = None
    count: int = 0
    _parts: dict[str, tuple[Part, ...]] | None = None
    _known: dict[Recipe, Score] = field(default_factory=dict)
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
        return Score.of(self.lost(solved))

    def lost(self, solved: Solved) -> SampleScores:
        """Return what the outputs of a solution lose, sample by sample."""
        solution, probe = solved.solution, self.probe
        simulator = self._simulators.pop(solution.model, None)
        if simulator is None:
            simulator = Simulator(solution.model, probe.scored, self.store.runtime)
        self._simulators[solution.model] = simulator
        while len(self._simulators) > _KEPT:
            self._simulators.pop(next(iter(self._simulators)))
        outputs = simulator.simulate(solution.plan, solution.params, probe.feeds)
        self.store.work.whole(probe.samples)
        sizes = [b.size for b in probe.small]
        parts = self.parts(solution.model)
        return sample_scores(probe.scored_reference, outputs, parts, sizes=sizes)

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
            reference = self.probe.scored_reference
            self._parts = {
                n: parts_of(model, n, [r[n] for r in reference]) for n in self.probe.scored
            }
        return self._parts

    def _guide_of(self, recipe: Recipe) -> Guide | None:
        """Return what was decided, where it holds: for balanced layers and other forms the model is another one."""
        guide = self.guide
        if guide is None or any(r.settings.balance for r in recipe.rules):
            return None
        if recipe.equalize == "on" and guide.option.form != "equalized":
            return None
        return replace(guide, way="walked") if recipe.bias_correction == "on" else guide

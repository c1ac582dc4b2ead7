"""The bench: one model, its data and all that is known of them, on which any recipe is built and judged.

    bench = Bench("model.onnx", "calib.npz")
    solution = bench.solve(recipe)          # nothing is run twice
    score = bench.score(solution)           # .db over all parts, .parts by part
    bench.work.passes                       # what all runs so far amount to

Recipes that differ in widths alone share what they leave open: it is decided once, for the recipe without its widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrant.analysis.parts import Part, parts_of
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import Score, sample_scores
from calibrant.analysis.simulate import Simulator
from calibrant.dialects.asked import RecipeLike, asked
from calibrant.errors import ConfigValueError
from calibrant.graph.digest import digest
from calibrant.graph.load import ModelLike
from calibrant.graph.passes.fix_inputs import fixed_values
from calibrant.plan.loaded import keeps_scales
from calibrant.progress import Callback, Progress
from calibrant.recipe import Recipe
from calibrant.recipe.fixed import as_fixed
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.workers import Workers
from calibrant.solution import Solution, build
from calibrant.tuning.guide import Guide, essence, without_widths
from calibrant.tuning.lifted import lifted
from calibrant.tuning.road import solve
from calibrant.tuning.shelf import Shelf
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store
from calibrant.tuning.work import Work

__all__ = ["Bench"]


class Bench:
    """One model and its data, on which many recipes are built and judged.

    Args:
        model: The model, as `calibrant.quantize` takes it; it is not changed.
        data: Calibration data, as `calibrant.quantize` takes it.
        evaluate: A task metric: a function that is given a path of an ONNX file and returns a number. None for none.
        provider: Execution provider for every run of a model.
        threads: Threads inside an operator; None takes one where layers are small, else what ONNX Runtime takes.
        batch_size: Samples in a batch; over the recipes'.
        batch_num: Batches to use; over the recipes'.
        preprocess: File that says how raw samples become inputs.
        progress: Called with a stage, what is done of it, and how much there is.
        workers: Who looks at the data; None for this process alone.
        cache: A folder in which statistics stay for other processes; of data that can be read by index, which are
            files, folders and arrays. None for no folder.
    """

    def __init__(
        self,
        model: ModelLike,
        data: Any = None,
        *,
        evaluate: Callable[[str], float] | None = None,
        provider: str = "cpu",
        threads: int | None = None,
        batch_size: int | None = None,
        batch_num: int | None = None,
        preprocess: str | Path | None = None,
        progress: Callback | None = None,
        workers: Workers | None = None,
        cache: str | Path | None = None,
    ) -> None:
        """Keep model and data; nothing is read yet."""
        self._store = Store(
            model,
            data,
            runtime=Runtime(provider, threads),
            batch_size=batch_size,
            batch_num=batch_num,
            preprocess=preprocess,
            progress=Progress(progress),
            shared=True,
            workers=workers,
            shelf=Shelf(cache) if cache is not None else None,
        )
        self._evaluate = evaluate
        self._solved: dict[Recipe, Solved] = {}
        self._scores: dict[Solution, Score] = {}
        self._simulators: dict[object, Simulator] = {}
        self._parts: dict[object, dict[str, tuple[Part, ...]]] = {}

    @property
    def work(self) -> Work:
        """What all runs so far amount to."""
        return self._store.work

    def solve(self, recipe: RecipeLike | None = None) -> Solution:
        """Return the solution of a recipe.

        Args:
            recipe: What is wanted, as `calibrant.quantize` takes it; None for the defaults.

        Raises:
            ModelError: The model cannot be read, checked or quantized.
            DataError: The data is empty, does not fit the inputs, or is not finite.
            ConfigError: The recipe names what the model does not have, or asks for what does not exist.
        """
        return self._solve(asked(recipe, None)).solution

    def score(self, solution: Solution) -> Score:
        """Return how near the outputs of a solution are to those of the float model, on the probe.

        The first samples of the data are run, with quantizers simulated in float. A Softmax or Sigmoid at the end is
        left out, since behind it a few uncertain samples decide the whole figure.

        Args:
            solution: A solution of this bench's model.

        Raises:
            ConfigValueError: The solution is of another model.
        """
        if solution not in self._scores:
            self._scores[solution] = self._score(solution)
        return self._scores[solution]

    @property
    def store(self) -> Store:
        """What is known of the model and its data."""
        return self._store

    def found(self, recipe: RecipeLike | None = None) -> Solved:
        """Return the solution of a recipe with what was found on the way; arguments and errors are those of `solve`."""
        return self._solve(asked(recipe, None))

    def _solve(self, recipe: Recipe) -> Solved:
        key = essence(recipe)
        if key not in self._solved:
            if keeps_scales(recipe):
                self._solved[key] = lifted(self._store, recipe)
            else:
                self._solved[key] = solve(self._store, recipe, self._guide(key))
            probe = self._solved[key].probe
            if probe is not None:
                self.work.probe = max(self.work.probe, probe.samples)
        return self._solved[key]

    def _guide(self, recipe: Recipe) -> Guide | None:
        plain = without_widths(recipe)
        return self._solve(plain).guide if plain != recipe else None

    def _score(self, solution: Solution) -> Score:
        known = next((s for s in self._solved.values() if s.solution is solution), None)
        plain = _as_fixed_in(solution)
        probe = known.probe if known is not None else self._solve(plain).probe
        if probe is None:
            raise ConfigValueError("The bench has no data to score a solution on.")
        if known is None and digest(solution.original) != digest(self._store.original(plain)):
            raise ConfigValueError("The solution is of another model than the bench's.")
        key = solution.model
        if key not in self._simulators:
            self._simulators[key] = Simulator(key, probe.scored, self._store.runtime)
        outputs = self._simulators[key].simulate(solution.plan, solution.params, probe.feeds)
        self.work.whole(probe.samples)
        sizes = [b.size for b in probe.small]
        scores = sample_scores(
            probe.scored_reference, outputs, self._parts_of(probe, plain), sizes=sizes
        )
        found = Score.of(scores)
        return found if self._evaluate is None else replace(found, metric=self._metric(solution))

    def _parts_of(self, probe: Probe, recipe: Recipe) -> dict[str, tuple[Part, ...]]:
        if probe not in self._parts:
            model = self._store.prepared(recipe).model
            self._parts[probe] = {
                n: parts_of(model, n, [r[n] for r in probe.parts_reference]) for n in probe.scored
            }
        return self._parts[probe]

    def _metric(self, solution: Solution) -> float:
        """Return what the task metric says of the deployed model."""
        import tempfile

        import onnx_ir as ir

        assert self._evaluate is not None
        with tempfile.TemporaryDirectory(prefix="calibrant-") as folder:
            path = Path(folder) / "deploy.onnx"
            ir.save(build(solution).deploy, path)
            return float(self._evaluate(str(path)))


def _as_fixed_in(solution: Solution) -> Recipe:
    """Return the recipe that fixes the inputs of a model as a solution has them, and asks for nothing else."""
    return Recipe(fix=as_fixed(fixed_values(solution.original)))

"""Answers what a strategy asks that changes recipes: builds each on the bench, evaluates it, and looks at its layers.

What layers end in is read from the plan that a recipe leads to, so a trial costs what its layers cost, whatever the recipe
says. Answers come from the journal where they are in it, and recipes that lead to equal models are evaluated once.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.alone.losses import Losses as LossesOf
from calibrant.analysis.alone.measuring import Question as LayersOf
from calibrant.analysis.alone.measuring import measure
from calibrant.analysis.alone.metric import ranked_by
from calibrant.analysis.fidelity import look_at_nodes
from calibrant.analysis.probe import rows_are_free
from calibrant.analysis.readings import HalfAlone, QuantizedAlone, Reading
from calibrant.data.digests import text_digest
from calibrant.diagnose.own_outputs import own_outputs
from calibrant.errors import CalibrantError
from calibrant.graph.digest import digest
from calibrant.graph.ends import ends
from calibrant.plan import Plan
from calibrant.qat.recipe import for_calibration
from calibrant.recipe import Settings
from calibrant.retype import Quantizer, quantizers_of, retyped
from calibrant.solution import Solution, build
from calibrant.tuner.journal import LayerFigures
from calibrant.tuner.precisions import precision_of, with_precision
from calibrant.tuner.trainer import Trainer
from calibrant.tuner.trials import TimeIsUp, Trials
from calibrant.tuning.guide import essence
from calibrant.tuning.menu import Assignment
from calibrant.tuning.promotion import fixed_layers
from calibrant.tuning.questions import Reached, Trial
from calibrant.tuning.strategies.recipes import (
    Alone,
    BatchOf,
    Decided,
    LayerAlone,
    LayerFacts,
    Layers,
    NarrowOperands,
    Operand,
    OwnOutputs,
    RecipeQuestion,
    Seen,
    Try,
)

__all__ = ["EvaluationsSpent", "RecipeTrial", "RecipeTrials"]


class EvaluationsSpent(Exception):  # noqa: N818  it ends a run as asked, and is no error
    """No full evaluation is left."""


@dataclass(frozen=True, slots=True)
class RecipeTrial(Trial):
    """A recipe that was evaluated; its assignment says what the layers ended in.

    Args:
        asked: The question.
        change: What was different in it.
    """

    asked: Try
    change: str


@dataclass(slots=True, eq=False)
class RecipeTrials:
    """Answers the questions of a strategy.

    Args:
        trials: Model, data, evaluation and journal.
        most: Evaluations of quantized models, at most; None for no limit.
        log: What was tried, in order.
    """

    trials: Trials
    most: int | None = None
    log: list[RecipeTrial] = field(default_factory=list)
    _reached: dict[tuple[object, ...], Reached] = field(default_factory=dict)
    _models: dict[str, Reached] = field(default_factory=dict)

    def answer(self, question: RecipeQuestion) -> Any:
        """Answer a question.

        Raises:
            TimeIsUp: The time is over, and some recipe was evaluated.
            EvaluationsSpent: No evaluation is left.
        """
        deadline = self.trials.deadline
        if deadline is not None and self.log and time.monotonic() > deadline:
            raise TimeIsUp
        match question:
            case Try():
                return self._try(question)
            case OwnOutputs():
                return self._own_outputs(question)
            case Alone():
                return self._alone(question)
            case Layers():
                return self._layers(question)
            case Seen():
                return self._seen(question)
            case NarrowOperands():
                return self._narrow(question)
            case Decided():
                return self._decided(question)
            case BatchOf():
                return self.trials.bench.store.samples(question.recipe).source.batch_size

    def solution_of(self, asked: Try) -> Solution:
        """Return the solution of a question; a recipe for training is trained."""
        if asked.recipe.training:
            return self._trainer.model(asked.recipe).solution
        solution = self.trials.bench.solve(asked.recipe)
        if not asked.raised:
            return solution
        wanted = {(node, index) for node, _, index in asked.raised}
        chosen = [q for q in quantizers_of(solution) if (q.node, q.input) in wanted]
        return retyped(solution, _with_readers(solution, chosen), "int16")

    def key_of(self, asked: Try) -> str:
        """Return the key of a question's answer in the journal."""
        said = [repr(essence(asked.recipe)), *([repr(asked.raised)] if asked.raised else [])]
        if asked.recipe.training:
            said.append(self._trainer.train(asked.recipe, self._shown(asked)).model)
        return text_digest(self.trials.context, self.trials.scoring, "full", *said)

    @property
    def _trainer(self) -> Trainer:
        trainer = self.trials.trainer
        assert trainer is not None
        return trainer

    # ----------------------------------------------------------------------------------------- evaluations

    def _try(self, asked: Try) -> Reached:
        key = (essence(asked.recipe), asked.raised)
        trained = False
        try:
            if asked.recipe.training:
                if key not in self._reached:
                    self._check_left()
                self._trainer.train(asked.recipe, self._shown(asked))
            solution = self.solution_of(asked)
            assignment = self._assignment(solution.plan)
            trained = solution.source == "training"
            if key not in self._reached:
                self._reached[key] = self._evaluated(asked, solution)
        except CalibrantError as e:
            if not self.log:
                raise
            assignment = self.trials.menu.narrowest
            self._reached[key] = Reached(math.nan, math.inf, False, free=True)
            self.trials.notes.append(
                f"{self._shown(asked)} cannot be built, and counts as not met: {e}"
            )
        reached = self._reached[key]
        cost = self.trials.menu.cost_of(assignment) if reached.cost is None else reached.cost
        self.log.append(
            RecipeTrial(
                assignment,
                cost,
                None,
                None,
                reached,
                asked.phase,
                asked,
                asked.change,
                trained=trained,
            )
        )
        return reached

    def _check_left(self) -> None:
        """Raise where no evaluation is left."""
        if self.most is not None and len(self._models) >= self.most:
            raise EvaluationsSpent

    def _evaluated(self, asked: Try, solution: Solution) -> Reached:
        trials, plan = self.trials, solution.plan
        known = trials.evaluations
        if not plan.half and not any(d.quantized for d in plan.layers):
            cost = trials.milliseconds(None)
            return Reached(known.reference, 0.0, not known.above_float, free=True, cost=cost)
        deploy = build(solution).deploy
        same = digest(deploy)
        if same not in self._models:
            self._check_left()
            self._models[same] = known.reach(
                self.key_of(asked), self._shown(asked), lambda: deploy, trials.milliseconds
            )
        return self._models[same]

    def _shown(self, asked: Try) -> str:
        return f"{asked.phase}: {asked.change}" if asked.change else asked.phase

    def _assignment(self, plan: Plan) -> Assignment:
        """Return what the layers of the menu ended in."""
        found = tuple(precision_of(plan, n) for n in self.trials.menu.layers)
        for name in found:
            if name not in self.trials.menu.precisions:
                self.trials.menu = with_precision(self.trials.menu, name)
        return found

    # ------------------------------------------------------------------------------------------- layers

    def _free(self, solution: Solution) -> list[str]:
        """Return the layers that are quantized, and whose type no rule names, in graph order."""
        free = set(self.trials.menu.layers)
        quantized = {d.node for d in solution.plan.layers if d.quantized}
        return [n.name or "" for n in solution.model.graph if n.name in quantized & free]

    def _own_outputs(self, asked: OwnOutputs) -> Mapping[str, float]:
        bench, journal = self.trials.bench, self.trials.journal
        solution = bench.solve(asked.recipe)
        layers = sorted(self._free(solution))
        key = self._key("own outputs", asked.recipe, layers)
        known = journal.get(key)
        if known is None:
            start = time.perf_counter()
            samples = 0

            def feeds() -> Any:
                nonlocal samples
                for batch in bench.store.samples(asked.recipe).all():
                    samples += batch.size
                    yield batch.feeds

            with bench.store.progress.stage("layers alone"):
                found = own_outputs(solution, layers, feeds(), runtime=bench.store.runtime)
            known = {"layers": found, "samples": samples}
            journal.put(key, "layers", "own outputs", known, time.perf_counter() - start)
        self.trials.counts.partial_samples += int(known["samples"])
        self.trials.counts.passes += 2 * int(known["samples"])
        return {n: float(known["layers"][n]) for n in layers}

    def _alone(self, asked: Alone) -> tuple[LayerAlone, ...]:
        journal = self.trials.journal
        solution = self.trials.bench.solve(asked.recipe)
        layers = self._free(solution)
        if asked.half:
            fixed = fixed_layers(asked.recipe, solution.model, solution.plan)
            layers = [n for n in self.trials.menu.layers if n not in fixed]
        said = (layers, asked.half, self.trials.samples)
        key = self._key("alone", asked.recipe, said)
        known = journal.get(key)
        if known is None:
            start = time.perf_counter()
            known = self._measured(asked, solution, tuple(layers))
            journal.put(key, "layers", "alone", known, time.perf_counter() - start)
        self.trials.counts.partial_samples += int(known["samples"])
        self.trials.counts.passes += float(known["passes"])
        return tuple(LayerAlone(n, float(c), float(m)) for n, c, m in known["layers"])

    def _measured(
        self, asked: Alone, solution: Solution, layers: tuple[str, ...]
    ) -> dict[str, Any]:
        store = self.trials.bench.store
        probe = self.trials.bench.found(asked.recipe).probe
        assert probe is not None
        model = solution.model
        reading: Reading = QuantizedAlone(model, solution.plan, solution.params)
        if asked.half:
            reading = HalfAlone(model)
        feeds = take_feeds(
            store.samples(asked.recipe).first(), self.trials.samples, free=rows_are_free(model)
        )
        metric = ranked_by("cosine_similarity")
        losses = LossesOf(metric)
        with store.progress.stage("layers alone"):
            measured = measure(
                LayersOf(model, model, reading, layers, tuple(probe.reference[0])),
                feeds,
                metric,
                losses.worst,
                budget=None,
                journal=LayerFigures(self.trials.journal),
                progress=store.progress,
                runtime=store.runtime,
                workers=store.workers,
            )
        scores = {n: loss.score for n, loss in losses.all(measured).items()}
        rows = [[n, _number(scores[n]), measured.macs[n]] for n in layers]
        return {
            "layers": rows,
            "samples": measured.samples * len(layers),
            "passes": measured.passes * measured.samples,
        }

    def _seen(self, asked: Seen) -> dict[str, tuple[float, float]]:
        found = self.trials.bench.found(for_calibration(asked.recipe))
        plan, free = found.solution.plan, self._free(found.solution)
        weighted = {w.layer: w for w in plan.weights}
        seen = {}
        for layer in (n for n in free if n in weighted):
            read = plan.at((layer, 1 - weighted[layer].input_index))
            if read is not None and read.tensor in found.statistics:
                data = found.statistics[read.tensor]
                seen[layer] = float(data.min), float(data.max)
        return seen

    def _layers(self, asked: Layers) -> tuple[LayerFacts, ...]:
        bench = self.trials.bench
        recipe = for_calibration(asked.recipe)
        solution = bench.solve(recipe)
        parts = solution.model, build(solution).deploy, solution.plan, solution.params
        probe = bench.found(recipe).probe
        nodes, _ = look_at_nodes(*parts, probe, bench.store.runtime)
        cosines = {n.node: n.cosine for n in nodes}
        sizes = {w.layer: _size(solution.model, w.weight) for w in solution.plan.weights}
        first, last = ends(solution.model)
        return tuple(
            LayerFacts(n, n in first, n in last, sizes.get(n, 0), cosines.get(n))
            for n in self._free(solution)
        )

    def _narrow(self, asked: NarrowOperands) -> tuple[Operand, ...]:
        solution = self.trials.bench.solve(asked.recipe)
        free = set(self._free(solution))
        return tuple(
            (q.node, q.op_type, q.input)
            for q in quantizers_of(solution)
            if q.qtype == "int8" and q.node in free
        )

    def _decided(self, asked: Decided) -> Settings | None:
        search = self.trials.bench.found(asked.recipe).findings.search
        plan = self.trials.bench.solve(asked.recipe).plan
        if search is None or search.scope != "model":
            return None
        said = Counter(
            Settings(
                activation=d.settings.activation,
                activation_symmetric=d.settings.activation_symmetric,
                activation_per_channel=d.settings.activation_per_channel,
                candidates=(),
            )
            for d in plan.layers
            if d.quantized
        )
        return said.most_common(1)[0][0] if said else None

    def _key(self, what: str, recipe: Any, said: object) -> str:
        return text_digest(self.trials.context, what, repr(essence(recipe)), repr(said))


def _with_readers(solution: Solution, chosen: list[Quantizer]) -> list[Quantizer]:
    """Return quantizers with those that share a tensor which leaves its node as integers."""
    edges = {(q.node, q.input) for q in chosen}
    for d in solution.plan.activations:
        if d.producer is not None and edges & set(d.users):
            edges |= set(d.users)
    return [q for q in quantizers_of(solution) if (q.node, q.input) in edges]


def _size(model: ir.Model, weight: str) -> int:
    const = model.graph.initializers[weight].const_value
    assert const is not None
    return int(const.size)


def _number(value: float) -> float:
    return value if math.isfinite(value) else -1.0

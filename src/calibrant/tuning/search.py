"""Choose between the candidates of a recipe: for the model, or for each node.

Statistics are taken once for all of them, and what candidates ask of the statistics of a tensor is worked out
once. For the model, candidates are runs of one session that takes scales, zero points and the weights that
change with them as inputs. For a node, only what the node reads is quantized, and what lies behind it is run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from calibrant.analysis.judge import Judge, Verdict
from calibrant.analysis.probe import Probe
from calibrant.analysis.simulate import Simulator, taking_scales
from calibrant.choose import choose_for_each, choose_layers, with_biases
from calibrant.emit.parametric import form_of
from calibrant.findings import SearchReport, Trial
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.numerics.compensation import compensate
from calibrant.numerics.finite import as_quantized
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.progress import Progress
from calibrant.recipe import Recipe, Search, Settings
from calibrant.runtime.downstream import Downstream, Whole, Work
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.stats import TensorStats
from calibrant.tuning.driver import drive
from calibrant.tuning.space import (
    Candidate,
    candidate_of,
    candidates,
    observed,
    same_params,
    search_of,
)
from calibrant.tuning.strategies.by_layer import NodeCandidates, NodeQuestion, by_layer
from calibrant.tuning.strategies.by_model import by_model

__all__ = ["Searching", "prepare_search"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Searching:
    """A search before its statistics are there.

    Args:
        recipe: The recipe whose candidates they are.
        search: How candidates are chosen between.
        tried: The candidates.
        later: Settings of a candidate -> what is tried where it wins: itself with scales by channel.
        tensors: What has to be observed.
        axes: Tensor -> axes along which each channel is observed by itself.
    """

    recipe: Recipe
    search: Search
    tried: tuple[Candidate, ...]
    later: Mapping[Settings, Candidate]
    tensors: tuple[str, ...]
    axes: Mapping[str, tuple[int, ...]]

    def choose(
        self,
        model: ir.Model,
        decided: Plan,
        statistics: Mapping[str, TensorStats],
        probe: Probe,
        progress: Progress,
        runtime: Runtime = CPU,
    ) -> tuple[Plan, SearchReport, tuple[Trial, ...]]:
        """Return the plan with what was chosen, a report, and the trials of a search for the model."""
        start = time.perf_counter()
        judge = Judge.of(self.search, model, probe, runtime)
        report = SearchReport(self.search.scope, judge.metric.name, judge.samples)
        chosen = _Chosen(statistics)
        if self.search.good_enough is None:  # then all of them are tried
            chosen.prepare(self.tried)
        trials: tuple[Trial, ...] = ()
        if self.search.scope == "layer":
            plan, report = self._by_layer(model, decided, chosen, judge, report, progress, runtime)
        else:
            measure = _OfModel(Simulator(model, tuple(judge.names), runtime), judge, chosen)
            of = len(self.tried) + bool(self.later)
            strategy = by_model(self.tried, self.later, judge)
            best = drive(strategy, measure.verdict, progress=progress, of=of)
            trials = measure.trials(best)
            plan, report = best.plan, replace(report, selected=best.name)
        report = replace(report, seconds=time.perf_counter() - start)
        return replace(plan, notes=(*plan.notes, *judge.notes)), report, trials

    def _by_layer(
        self,
        model: ir.Model,
        decided: Plan,
        chosen: _Chosen,
        judge: Judge,
        report: SearchReport,
        progress: Progress,
        runtime: Runtime,
    ) -> tuple[Plan, SearchReport]:
        nodes = _nodes(model, self.tried, self.later, chosen)
        compensated = (d for d in self.tried[0].plan.activations if d.compensation)
        twice = frozenset(e for d in compensated for e in d.users)
        measure = _OfNode(Whole.of(model, judge.names, judge.feeds, runtime=runtime), judge, twice)
        found = drive(
            by_layer(nodes, judge, lambda done: progress.step(done, len(nodes))), measure.verdict
        )

        def change(edge: tuple[str, int | None], otherwise: Settings) -> Settings:
            return found.chosen.get(edge[0], otherwise)

        plan = candidate_of(self.recipe, model, decided, self.tried[0].settings, change).plan
        for row in found.rows:
            if row.chosen:
                logger.info("%s (%s): Select %s", row.node, row.op_type, row.candidate)
        work, full = measure.whole.work + measure.work, measure.whole.work * len(found.rows)
        return plan, replace(report, rows=found.rows, work=work, full=full)


@dataclass(slots=True, eq=False)
class _Chosen:
    """Parameters of candidates' activations by quantizer id, chosen when they are asked for."""

    statistics: Mapping[str, TensorStats]
    _known: dict[Settings, dict[str, QuantParams]] = field(default_factory=dict)

    def prepare(self, tried: Sequence[Candidate]) -> None:
        """Choose for several candidates at once."""
        chosen = choose_for_each([c.plan for c in tried], self.statistics)
        self._known |= {c.settings: p for c, p in zip(tried, chosen, strict=True)}

    def __call__(self, asked: Candidate) -> Mapping[str, QuantParams]:
        """Return those of one."""
        if asked.settings not in self._known:
            self.prepare((asked,))
        return self._known[asked.settings]


# --------------------------------------------------------------------------------------- for the model


@dataclass(slots=True, eq=False)
class _OfModel:
    """Says what candidates reach for the whole model; what was run before is not run again."""

    simulator: Simulator
    judge: Judge
    params: _Chosen
    scored: list[tuple[Candidate, Verdict, float]] = field(default_factory=list)
    _layers: dict[str, LayerParameters] = field(default_factory=dict)
    _seen: list[tuple[object, Mapping[str, QuantParams], Verdict]] = field(default_factory=list)

    def verdict(self, candidate: Candidate) -> Verdict:
        """Return what a candidate reaches."""
        start = time.perf_counter()
        verdict = self._verdict(candidate.plan, self.params(candidate))
        self.scored.append((candidate, verdict, time.perf_counter() - start))
        return verdict

    def trials(self, best: Candidate) -> tuple[Trial, ...]:
        """Return all that were tried, and write them to the log."""
        metric = self.judge.metric.name
        found = tuple(
            Trial("search", c.name, v.score, c is best, metric, v.outputs, s)
            for c, v, s in self.scored
        )
        _log(found, self.judge)
        return found

    def _verdict(self, plan: Plan, activations: Mapping[str, QuantParams]) -> Verdict:
        form = form_of(plan)
        for other, known, verdict in self._seen:
            if other == form and _same(known, activations):
                return verdict
        params = Parameters(activations, self._layer_parameters(plan, activations))
        params = with_biases(plan, self.simulator.model, params, self.params.statistics)
        verdict = self.judge.judge(self.simulator.simulate(plan, params, self.judge.feeds))
        self._seen.append((form, activations, verdict))
        return verdict

    def _layer_parameters(
        self, plan: Plan, activations: Mapping[str, QuantParams]
    ) -> dict[str, LayerParameters]:
        """Return the weights, which are rounded once where they do not depend on the candidate."""
        model, own = self.simulator.model, taking_scales(plan)
        fixed = [w for w in plan.weights if w.layer not in own]
        new = [w for w in fixed if w.layer not in self._layers]
        self._layers |= choose_layers(_of_weights(plan, new), model)
        free = _of_weights(plan, [w for w in plan.weights if w.layer in own])
        kept = {w.layer: self._layers[w.layer] for w in fixed}
        return {**kept, **choose_layers(free, model, activations)}


def _of_weights(plan: Plan, weights: Sequence[WeightDecision]) -> Plan:
    return replace(plan, weights=tuple(weights))


def _same(one: Mapping[str, QuantParams], other: Mapping[str, QuantParams]) -> bool:
    return one.keys() == other.keys() and all(same_params(one[k], other[k]) for k in one)


def _log(entries: Sequence[Trial], judge: Judge) -> None:
    """Write the table of candidates and the choice to the log."""
    width = max(len(e.name) for e in entries)
    columns = [f"{n:>14}" for n in (*judge.names, judge.search.aggregate)]
    logger.info("%-*s %s  seconds", width, judge.metric.name, " ".join(columns))
    for e in entries:
        cells = zip(columns, (*e.outputs.values(), e.score), strict=True)
        numbers = " ".join(f"{v:{len(c)}.8g}" for c, v in cells)
        logger.info("%-*s %s  %7.3f", width, e.name, numbers, e.seconds)
    logger.info("Select %s", next(e.name for e in entries if e.chosen))


# --------------------------------------------------------------------------------------- for each node


def _nodes(
    model: ir.Model,
    tried: Sequence[Candidate],
    later: Mapping[Settings, Candidate],
    params: _Chosen,
) -> list[NodeCandidates]:
    """Return the nodes that have candidates, in graph order."""
    every = [*tried, *later.values()]
    by_edge = {}
    for c in every:
        known = params(c)
        by_edge[c.settings] = {e: known[d.id] for d in c.plan.activations for e in d.users}
    inputs: dict[str, list[int]] = {}
    for reader, index in sorted({e for edges in by_edge.values() for e in edges}):
        if tried[0].listed((reader, index)):
            inputs.setdefault(reader, []).append(index)
    found = []
    for node in model.graph:
        name = node.name or ""
        if name not in inputs:
            continue
        listed = {c for i in inputs[name] for c in tried[0].listed((name, i))}
        means = {
            s: {i: edges[name, i] for i in inputs[name] if (name, i) in edges}
            for s, edges in by_edge.items()
        }
        own = tuple(c for c in tried if c.settings in listed)
        again = {s: c for s, c in later.items() if s in listed}
        found.append(NodeCandidates(name, node.op_type, own, again, means))
    return found


@dataclass(slots=True, eq=False)
class _OfNode:
    """Says what parameters at the inputs of one node reach, by running what lies behind it."""

    whole: Whole
    judge: Judge
    twice: frozenset[tuple[str, int]]
    work: Work = field(default_factory=Work)
    _part: tuple[str, Downstream] | None = None

    def __post_init__(self) -> None:
        self.judge = self.judge.against(self.whole.reference())

    def verdict(self, question: NodeQuestion) -> Verdict:
        """Return what the model's outputs are worth."""
        indices = sorted(question.inputs)
        known = self._part
        if known is None or known[0] != question.node or sorted(known[1].renamed) != indices:
            known = self._part = question.node, self.whole.part(question.node, indices)
        part = known[1]
        node = self.whole.model.graph.node(question.node)
        outputs = []
        for feed, values in enumerate(self.whole.values):
            changed = {}
            for i, p in question.inputs.items():
                source = node.inputs[i]
                assert source is not None
                grid = compensate if (question.node, i) in self.twice else fake_quantize
                changed[i] = grid(as_quantized(values[source.name or ""]), p).astype(np.float32)
            outputs.append(part.run(feed, changed))
        self.work += part.work
        return self.judge.judge(outputs)


# -------------------------------------------------------------------------------------------- candidates


def prepare_search(recipe: Recipe, model: ir.Model, decided: Plan) -> Searching | None:
    """Return the search that the recipe asks for, or None.

    Args:
        recipe: The recipe.
        model: The model that is quantized.
        decided: Its plan so far.
    """
    search = search_of(recipe)
    if search is None:
        return None
    tried = candidates(recipe, model, decided)
    if len(tried) < 2 and not search.then_per_channel:
        return None
    later: dict[Settings, Candidate] = {}
    if search.then_per_channel:
        known = {c.settings for c in tried}
        again = {c.settings: _by_channel(c, recipe, model, decided) for c in tried}
        later = {s: c for s, c in again.items() if c.settings not in known}
    tensors, axes = observed([c.plan for c in (*tried, *later.values())])
    return Searching(recipe, search, tuple(tried), later, tuple(tensors), axes)


def _by_channel(tried: Candidate, recipe: Recipe, model: ir.Model, decided: Plan) -> Candidate:
    """Return a candidate with a scale for each channel."""

    def change(_: tuple[str, int | None], settings: Settings) -> Settings:
        return replace(settings, activation_per_channel=True)

    found = candidate_of(recipe, model, decided, tried.settings, change)
    return replace(found, settings=replace(tried.settings, activation_per_channel=True))

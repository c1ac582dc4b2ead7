"""Choose a candidate for each node by itself, by the model's outputs.

Only the activations that one node reads are quantized; all else is float. The float model runs once; a trial
runs what lies behind the node (`runtime.downstream`), on inputs that were quantized here. Candidates with
equal numbers count as one, and where all are equal nothing is run.

Source: horizon.md 4.4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from calibrant.analysis.judge import Judge, Verdict
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.numerics.compensation import compensate
from calibrant.recipe import Settings
from calibrant.run import NodeChoice, Run
from calibrant.runtime.downstream import Downstream, Whole, Work
from calibrant.tuning.space import Trial
from calibrant.tuning.strategies.by_model import same_params

__all__ = ["Layerwise", "layerwise"]

logger = logging.getLogger(__name__)

#: A candidate, and the parameters that it means for inputs of a node.
Option = tuple[Trial, Mapping[int, QuantParams]]


@dataclass(frozen=True, slots=True)
class Layerwise:
    """What a search for each node found.

    Args:
        chosen: Node -> its best candidate.
        rows: Every candidate of every node, and what it reached.
        work: What was run, the float model among it.
        full: What running the whole model for each candidate of each node would have been.
    """

    chosen: dict[str, Settings]
    rows: tuple[NodeChoice, ...]
    work: Work
    full: Work


def layerwise(
    model: ir.Model,
    tried: Sequence[Trial],
    later: Mapping[Settings, Trial],
    params: Callable[[Trial], Mapping[str, QuantParams]],
    judge: Judge,
    r: Run,
    progress: Callable[[int, int], None],
) -> Layerwise:
    """Search node by node.

    Args:
        model: The model that is quantized.
        tried: All candidates.
        later: Candidate -> what is tried at the nodes where it wins.
        params: Gives the parameters of a candidate's activations by quantizer id.
        judge: The samples, and the metric.
        r: The run.
        progress: Called with nodes done, and how many there are.
    """
    by_edge = {t.candidate: _by_edge(t, params) for t in (*tried, *later.values())}
    inputs = _searched_inputs(tried, by_edge)
    nodes = [n for n in model.graph if n.name in inputs]
    compensated = (d for d in tried[0].plan.activations if d.compensation)
    twice = frozenset(e for d in compensated for e in d.users)
    whole = Whole.of(model, judge.names, judge.feeds, runtime=r.runtime)
    judge = judge.against(whole.reference())
    rows: list[NodeChoice] = []
    chosen: dict[str, Settings] = {}
    work, full = whole.work, Work()
    for done, node in enumerate(nodes):
        name = node.name or ""
        listed = {c for i in inputs[name] for c in tried[0].listed((name, i))}
        indices = inputs[name]

        def option(t: Trial, name: str = name, indices: Sequence[int] = indices) -> Option:
            edges = by_edge[t.candidate]
            return t, {i: edges[name, i] for i in indices if (name, i) in edges}

        options = [option(t) for t in tried if t.candidate in listed]
        again = {c: option(t) for c, t in later.items() if c in listed}
        table = _Table(whole, node, judge, twice)
        best = table.fill(options, again)
        chosen[name] = best.candidate
        rows += table.rows(best)
        work += table.work
        full += whole.work * len(table.tried)
        logger.info("%s (%s): Select %s", name, node.op_type, best.name)
        progress(done + 1, len(nodes))
    return Layerwise(chosen, tuple(rows), work, full)


def _by_edge(
    trial: Trial, params: Callable[[Trial], Mapping[str, QuantParams]]
) -> dict[tuple[str, int], QuantParams]:
    found = params(trial)
    return {edge: found[d.id] for d in trial.plan.activations for edge in d.users}


def _searched_inputs(
    tried: Sequence[Trial], by_edge: Mapping[Settings, Mapping[tuple[str, int], QuantParams]]
) -> dict[str, list[int]]:
    """Return the nodes that have candidates, and their inputs that some candidate quantizes."""
    found: dict[str, list[int]] = {}
    for reader, index in sorted({e for edges in by_edge.values() for e in edges}):
        if tried[0].listed((reader, index)):
            found.setdefault(reader, []).append(index)
    return found


@dataclass(slots=True, eq=False)
class _Table:
    """The candidates of one node, and what each reached."""

    whole: Whole
    node: ir.Node
    judge: Judge
    twice: frozenset[tuple[str, int]]
    tried: list[tuple[Option, Verdict | None]] = field(default_factory=list)
    work: Work = field(default_factory=Work)
    _part: Downstream | None = None

    def fill(self, options: Sequence[Option], again: Mapping[Settings, Option]) -> Trial:
        """Try candidates, and what is tried where the best of them wins; return the best."""
        second = again.get(options[0][0].candidate)
        compared = [*options, *([second] if second is not None else [])]
        if all(_same(options[0][1], other) for _, other in compared[1:]):
            self.tried = [(o, None) for o in compared]
            return options[0][0]
        best, reached = options[0], self._verdict(options[0])
        for other in options[1:]:
            if self.judge.is_enough(reached):
                break
            verdict = self._verdict(other)
            if self.judge.better(verdict, reached):
                best, reached = other, verdict
        second = again.get(best[0].candidate)
        if second is None or self.judge.is_enough(reached):
            return best[0]
        return second[0] if self.judge.better(self._verdict(second), reached) else best[0]

    def rows(self, best: Trial) -> list[NodeChoice]:
        """Return the table; no score where all candidates of the node have equal numbers."""
        return [
            NodeChoice(
                self.node.name or "",
                self.node.op_type,
                t.name,
                verdict.score if verdict is not None else None,
                t is best,
            )
            for (t, _), verdict in self.tried
        ]

    def _verdict(self, option: Option) -> Verdict:
        equal = (v for (_, p), v in self.tried if v is not None and _same(p, option[1]))
        verdict = next(equal, None)
        if verdict is None:
            verdict = self._measured(option[1])
        self.tried.append((option, verdict))
        return verdict

    def _measured(self, params: Mapping[int, QuantParams]) -> Verdict:
        indices = sorted(params)
        if self._part is None or sorted(self._part.renamed) != indices:
            self._part = self.whole.part(self.node.name or "", indices)
        outputs = []
        for feed, known in enumerate(self.whole.values):
            changed = {}
            for i, p in params.items():
                source = self.node.inputs[i]
                assert source is not None
                grid = compensate if (self.node.name, i) in self.twice else fake_quantize
                changed[i] = grid(known[source.name or ""], p).astype(np.float32)
            outputs.append(self._part.run(feed, changed))
        self.work += self._part.work
        return self.judge.judge(outputs)


def _same(one: Mapping[int, QuantParams], other: Mapping[int, QuantParams]) -> bool:
    return one.keys() == other.keys() and all(same_params(one[i], other[i]) for i in one)

"""Choose a candidate for each node by itself, by the model's outputs.

Only the activations that one node reads are quantized; all else is float. The float model runs once; a trial
runs what lies behind the node (`runtime.downstream`), on inputs that were quantized here. Candidates with
equal numbers count as one, and where all are equal nothing is run.

Source: horizon.md 4.4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.auto.candidates import Trial
from calibrant.auto.judge import Judge, Verdict
from calibrant.auto.modelwise import same_params
from calibrant.choose import choose_activations
from calibrant.graph.values import values_by_name
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.recipe import Settings
from calibrant.run import NodeChoice, Run
from calibrant.runtime.downstream import Downstream
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose
from calibrant.stats import TensorStats

__all__ = ["Layerwise", "layerwise"]

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layerwise:
    """What a search for each node found.

    Args:
        chosen: Node -> its best candidate.
        rows: Every candidate of every node, and what it reached.
        nodes_run: Nodes that were run for it.
        nodes_of_full_runs: Nodes that would have been run with the whole model for each candidate.
    """

    chosen: dict[str, Settings]
    rows: tuple[NodeChoice, ...]
    nodes_run: int
    nodes_of_full_runs: int


def layerwise(
    model: ir.Model,
    tried: Sequence[Trial],
    statistics: Mapping[str, TensorStats],
    judge: Judge,
    r: Run,
    progress: Callable[[int, int], None],
) -> Layerwise:
    """Search node by node.

    Args:
        model: The model that is quantized.
        tried: All candidates.
        statistics: What was seen of every tensor that some candidate quantizes.
        judge: The samples, and the metric.
        r: The run.
        progress: Called with nodes done, and how many there are.
    """
    by_edge = [_by_edge(t, statistics) for t in tried]
    inputs: dict[str, list[int]] = {}
    for reader, index in sorted({e for edges in by_edge for e in edges}):
        if any((t.lists.get((reader, index)) or t.lists.get((reader, None))) for t in tried):
            inputs.setdefault(reader, []).append(index)
    nodes = [n for n in model.graph if n.name in inputs]
    values = _float_values(model, judge, r)
    rows: list[NodeChoice] = []
    chosen: dict[str, Settings] = {}
    ran = full = 0
    size = len(model.graph)
    for done, node in enumerate(nodes):
        name = node.name or ""
        listed = tried[0].lists.get((name, inputs[name][0])) or tried[0].lists[name, None]
        options = [
            (t, {i: edges[name, i] for i in inputs[name] if (name, i) in edges})
            for t, edges in zip(tried, by_edge, strict=True)
            if t.candidate in listed
        ]
        verdicts, runs, behind = _verdicts(model, node, options, values, judge, r)
        ran += runs * behind
        full += len(options) * len(judge.feeds) * size
        best = 0
        for i, verdict in enumerate(verdicts):
            if verdict is not None and judge.better(verdict, verdicts[best] or verdict):
                best = i
        chosen[name] = options[best][0].candidate
        rows += [
            NodeChoice(name, node.op_type, t.name, v.score if v is not None else None, i == best)
            for i, ((t, _), v) in enumerate(zip(options, verdicts, strict=True))
        ]
        logger.info("%s (%s): Select %s", name, node.op_type, options[best][0].name)
        progress(done + 1, len(nodes))
    return Layerwise(chosen, tuple(rows), ran, full)


def _by_edge(
    trial: Trial, statistics: Mapping[str, TensorStats]
) -> dict[tuple[str, int], QuantParams]:
    params = choose_activations(trial.plan, statistics)
    return {edge: params[d.id] for d in trial.plan.activations for edge in d.users}


def _verdicts(
    model: ir.Model,
    node: ir.Node,
    options: Sequence[tuple[Trial, dict[int, QuantParams]]],
    values: Sequence[Mapping[str, Array]],
    judge: Judge,
    r: Run,
) -> tuple[list[Verdict | None], int, int]:
    """Return what each candidate of a node reaches (None where all are one), runs, and nodes of a run."""
    first_of = [
        next(j for j, (_, other) in enumerate(options) if _same(other, mine))
        for _, mine in options
    ]
    if len(set(first_of)) == 1:
        return [None] * len(options), 0, 0
    indices = sorted({i for _, params in options for i in params})
    part = Downstream.of(model, node.name or "", indices, **r.runtime)
    found: dict[int, Verdict] = {}
    for j in dict.fromkeys(first_of):
        outputs = []
        for known in values:
            changed = {}
            for i in indices:
                source = node.inputs[i]
                x = known[source.name or ""]  # type: ignore[union-attr]
                params = options[j][1].get(i)
                changed[i] = x if params is None else fake_quantize(x, params).astype(np.float32)
            outputs.append(part.run(known, changed))
        found[j] = judge.judge(outputs)
    return [found[j] for j in first_of], len(found) * len(values), part.nodes


def _same(one: Mapping[int, QuantParams], other: Mapping[int, QuantParams]) -> bool:
    return one.keys() == other.keys() and all(same_params(one[i], other[i]) for i in one)


def _float_values(model: ir.Model, judge: Judge, r: Run) -> list[dict[str, Array]]:
    """Run the float model once and keep every tensor, for each feed of the search."""
    names = [
        v.name or ""
        for node in model.graph
        for v in node.outputs
        if v.name and isinstance(v.type, (ir.TensorType, type(None)))
    ]
    session = open_session(expose(model, names), integers=False, **r.runtime)
    inputs = [i.name for i in session.get_inputs()]
    every = set(values_by_name(model.graph))
    found = []
    for feed in judge.feeds:
        outputs = infer(session, names, {n: feed[n] for n in inputs})
        kept = {n: x for n, x in feed.items() if n in every}
        found.append(kept | dict(zip(names, outputs, strict=True)))
    return found

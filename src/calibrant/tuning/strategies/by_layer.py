"""Choose a candidate for each node by itself, by the model's outputs.

Candidates of a node with equal numbers count as one, and where all are equal nothing is tried: the first stands.
Otherwise the rules are those of `by_model`, node after node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from calibrant.analysis.judge import Referee, Verdict
from calibrant.findings import NodeChoice
from calibrant.numerics import QuantParams
from calibrant.recipe import Settings
from calibrant.tuning.driver import Strategy
from calibrant.tuning.space import Candidate, same_params
from calibrant.tuning.strategies.by_model import by_model

__all__ = ["LayerChoices", "NodeCandidates", "NodeQuestion", "by_layer"]

#: The parameters that a candidate means for inputs of a node.
Inputs = Mapping[int, QuantParams]


@dataclass(frozen=True, slots=True, eq=False)
class NodeCandidates:
    """The candidates of one node.

    Args:
        node: Its name.
        op_type: Its operator.
        tried: Its candidates, in order.
        later: Settings of a candidate -> what is tried besides where it wins.
        inputs: Settings of a candidate -> the parameters it means for inputs of this node.
    """

    node: str
    op_type: str
    tried: tuple[Candidate, ...]
    later: Mapping[Settings, Candidate]
    inputs: Mapping[Settings, Inputs]


@dataclass(frozen=True, slots=True, eq=False)
class NodeQuestion:
    """One set of parameters at the inputs of one node, all else float."""

    node: str
    inputs: Inputs


@dataclass(frozen=True, slots=True)
class LayerChoices:
    """What a search for each node found.

    Args:
        chosen: Node -> its best candidate.
        rows: Every candidate of every node, and what it reached.
    """

    chosen: Mapping[str, Settings]
    rows: tuple[NodeChoice, ...]


@dataclass(slots=True, eq=False)
class _Known:
    """What was asked at one node, so that equal numbers are asked once."""

    asked: list[tuple[Candidate, Inputs, Verdict | None]] = field(default_factory=list)

    def verdict(self, inputs: Inputs) -> Verdict | None:
        return next(
            (v for _, i, v in self.asked if v is not None and same_inputs(i, inputs)), None
        )


def by_layer(
    nodes: Sequence[NodeCandidates],
    referee: Referee,
    done: Callable[[int], None] = lambda _: None,
) -> Strategy[NodeQuestion, Verdict, LayerChoices]:
    """Return the best candidate of every node.

    Args:
        nodes: The nodes with their candidates.
        referee: Says which of two verdicts is better, and which is good enough.
        done: Told how many nodes are decided.
    """
    chosen: dict[str, Settings] = {}
    rows: list[NodeChoice] = []
    for count, n in enumerate(nodes, 1):
        best, known = yield from _one(n, referee)
        chosen[n.node] = best.settings
        rows += [
            NodeChoice(n.node, n.op_type, c.name, v.score if v is not None else None, c is best)
            for c, _, v in known.asked
        ]
        done(count)
    return LayerChoices(chosen, tuple(rows))


def _one(
    n: NodeCandidates, referee: Referee
) -> Strategy[NodeQuestion, Verdict, tuple[Candidate, _Known]]:
    """Choose at one node."""
    known = _Known()
    first = n.tried[0]
    second = n.later.get(first.settings)
    compared = [*n.tried, *([second] if second is not None else [])]
    if all(same_inputs(n.inputs[first.settings], n.inputs[c.settings]) for c in compared[1:]):
        known.asked = [(c, n.inputs[c.settings], None) for c in compared]
        return first, known
    search = by_model(n.tried, n.later, referee)
    try:
        candidate = next(search)
        while True:
            inputs = n.inputs[candidate.settings]
            verdict = known.verdict(inputs)
            if verdict is None:
                verdict = yield NodeQuestion(n.node, inputs)
            known.asked.append((candidate, inputs, verdict))
            candidate = search.send(verdict)
    except StopIteration as end:
        return end.value, known


def same_inputs(one: Inputs, other: Inputs) -> bool:
    """Say whether two candidates mean the same for a node."""
    return one.keys() == other.keys() and all(same_params(one[i], other[i]) for i in one)

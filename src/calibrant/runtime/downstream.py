"""Run what lies behind one node, and nothing else.

A change at the inputs of a node reaches the nodes behind it alone. What they read from elsewhere is known
from one run of the whole model, so a trial costs the part of the model behind the node. That part is run segment by
segment (`runtime.segments`): a piece of its own as far as the node's segment goes, then segments that others share.

Operators are run as they stand in the graph, none fused with another: so the part gives the same bits as the
whole model does, wherever it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.multiplications import is_product, multiplications
from calibrant.graph.passes.half_nodes import round_node, unround_node
from calibrant.graph.values import Names
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.segments import Link, Segments
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose
from calibrant.runtime.walk import reads

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Downstream", "Gives", "Whole", "Work"]

Array = npt.NDArray[Any]

#: What becomes of what a changed node gives.
Gives = Literal["as computed", "rounded", "unrounded"]


@dataclass(frozen=True, slots=True)
class Work:
    """What runs cost: nodes that were run, and multiplications in layers and matrix products."""

    nodes: int = 0
    macs: int = 0

    def __add__(self, other: Work) -> Work:
        """Return both together."""
        return Work(self.nodes + other.nodes, self.macs + other.macs)

    def __mul__(self, times: int) -> Work:
        """Return the work of so many runs."""
        return Work(self.nodes * times, self.macs * times)


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A model that was run once, with the tensors that its parts read.

    Args:
        model: The model.
        outputs: Tensors that are looked at.
        values: Its tensors by name, for each feed.
        work: What one run on all feeds costs.
    """

    model: ir.Model
    outputs: tuple[str, ...]
    values: list[dict[str, Array]]
    work: Work
    _cost: dict[str, int]
    _run: _Run

    @classmethod
    def of(
        cls,
        model: ir.Model,
        outputs: Sequence[str],
        feeds: Sequence[Mapping[str, Array]],
        *,
        runtime: Runtime = CPU,
    ) -> Whole:
        """Run a model on each feed and keep every tensor.

        Raises:
            ModelError: ONNX Runtime cannot load or run the model.
        """
        names = [
            v.name or ""
            for node in model.graph
            for v in node.outputs
            if v.name and isinstance(v.type, (ir.TensorType, type(None)))
        ]
        session = open_session(
            expose(model, names), runtime=runtime, optimize=False, spinning=False
        )
        segments = Segments(model, tuple(outputs), runtime)
        run = _Run(session, tuple(names), segments, _Order.of(model, outputs))
        return cls(model, tuple(outputs), [], Work(), {}, run).on(feeds)

    def on(self, feeds: Sequence[Mapping[str, Array]]) -> Whole:
        """Run the same model on other feeds; sessions that were opened are used again.

        Raises:
            ModelError: ONNX Runtime cannot run the model.
        """
        inputs = [i.name for i in self._run.session.get_inputs()]
        values = []
        for feed in feeds:
            found = infer(self._run.session, self._run.names, {n: feed[n] for n in inputs})
            values.append({**feed, **dict(zip(self._run.names, found, strict=True))})
        if values and not self._run.segments.types:
            known = {n: np.asarray(x).dtype for n, x in values[0].items()}
            types = {n: ir.DataType.from_numpy(t) for n, t in known.items() if t.kind not in "OU"}
            self._run.segments.types.update(types)
        cost = {n.name or "": sum(_macs(n, known) for known in values) for n in self.model.graph}
        work = Work(len(cost) * len(values), sum(cost.values()))
        return replace(self, values=values, work=work, _cost=cost)

    @property
    def bytes(self) -> int:
        """What all tensors together take in memory."""
        return sum(np.asarray(x).nbytes for known in self.values for x in known.values())

    def reference(self) -> list[dict[str, Array]]:
        """Return what is looked at, for each feed."""
        return [{n: known[n] for n in self.outputs} for known in self.values]

    def macs_of(self, node: str) -> int:
        """Return the multiplications of one node on all feeds."""
        return self._cost[node]

    def behind(self, node: str) -> list[ir.Node]:
        """Return a node and those that depend on it and that an output depends on, in graph order."""
        return self._run.order.behind(node)

    def part(
        self, node: str, inputs: Sequence[int], *, gives: Gives = "as computed"
    ) -> Downstream:
        """Cut the model behind a node.

        Args:
            node: The node.
            inputs: Inputs of the node that will be fed with other values than the tensors they read have
                for everybody else.
            gives: What becomes of what the node gives: nothing, it is `rounded` to float16, or the rounding that the
                model has there is left out (`unrounded`).
        """
        nodes = self.behind(node)
        work = Work(len(nodes) * len(self.values), sum(self._cost[n.name or ""] for n in nodes))
        made = {v.name for n in nodes for v in n.outputs}
        outputs = tuple(n for n in self.outputs if n in made)
        if not outputs:
            return Downstream(self, work, outputs, None, {})
        segments = self._run.segments
        first, *others = segments.split(nodes)
        made_here = segments.gives(first)
        part = segments.cut(first, made_here)
        renamed = _with_own_inputs(part, node, inputs)
        if gives == "rounded":
            round_node(part, node)
        elif gives == "unrounded":
            unround_node(part, node)
        session = open_session(part, runtime=segments.runtime, optimize=False, spinning=False)
        links = tuple(segments.link(some) for some in others)
        return Downstream(self, work, outputs, Link(session, made_here), renamed, links)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A model ready to run, as a whole and in segments."""

    session: ort.InferenceSession
    names: tuple[str, ...]
    segments: Segments
    order: _Order


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Which node depends on which.

    Args:
        nodes: In graph order.
        place: Place of each node by name.
        readers: Places of the nodes that read what each node gives.
        leads: Whether what is looked at depends on each node.
    """

    nodes: list[ir.Node]
    place: dict[str, int]
    readers: list[list[int]]
    leads: list[bool]

    @classmethod
    def of(cls, model: ir.Model, outputs: Sequence[str]) -> _Order:
        """Look through the graph once."""
        nodes = list(model.graph)
        made = {v.name: i for i, n in enumerate(nodes) for v in n.outputs if v.name}
        readers: list[list[int]] = [[] for _ in nodes]
        for i, node in enumerate(nodes):
            for source in {made[name] for name in reads(node) if name in made}:
                readers[source].append(i)
        looked_at = {made[name] for name in outputs if name in made}
        leads = [i in looked_at for i in range(len(nodes))]
        for i in reversed(range(len(nodes))):
            leads[i] = leads[i] or any(leads[r] for r in readers[i])
        return cls(nodes, {n.name or "": i for i, n in enumerate(nodes)}, readers, leads)

    def behind(self, name: str) -> list[ir.Node]:
        """Return a node and those that depend on it and that an output depends on, in graph order."""
        stack = [self.place[name]]
        seen = set(stack)
        while stack:
            for reader in self.readers[stack.pop()]:
                if reader not in seen and self.leads[reader]:
                    seen.add(reader)
                    stack.append(reader)
        return [self.nodes[i] for i in sorted(seen) if self.leads[i]]


@dataclass(frozen=True, slots=True, eq=False)
class Downstream:
    """The part of a model behind a node.

    Args:
        whole: The model.
        work: What one run on all feeds costs.
        outputs: Tensors that are looked at and depend on the node.
        head: The node and what lies behind it in its segment; None where there are no such tensors.
        renamed: (input index of the node) -> name under which that input is fed.
        links: What lies behind, segment by segment.
    """

    whole: Whole
    work: Work
    outputs: tuple[str, ...]
    head: Link | None
    renamed: Mapping[int, str]
    links: tuple[Link, ...] = ()

    def run(self, feed: int, changed: Mapping[int, Array]) -> dict[str, Array]:
        """Return the outputs that depend on the node.

        Args:
            feed: Which feed of the model the other tensors are of.
            changed: Values of the node's inputs, by index.
        """
        if self.head is None:
            return {}
        known = self.whole.values[feed]
        state = self.head.run({self.renamed[i]: x for i, x in changed.items()}, known)
        for link in self.links:
            state |= link.run(state, known)
        return {n: state[n] for n in self.outputs}


def _with_own_inputs(part: ir.Model, name: str, inputs: Iterable[int]) -> dict[int, str]:
    """Give inputs of a node a name of their own, in place; inputs of the part that nobody reads now go."""
    graph = part.graph
    names = Names(graph)
    node = graph.node(name)
    renamed = {}
    for index in inputs:
        source = node.inputs[index]
        assert source is not None
        own = ir.Value(name=names.fresh(f"{source.name}__at_{index}"), type=source.type)
        graph.inputs.append(own)
        node.replace_input_with(index, own)
        renamed[index] = own.name or ""
    read = {name for n in graph for name in reads(n)}
    for value in [v for v in graph.inputs if v.name not in read]:
        graph.inputs.remove(value)
    return renamed


def _macs(node: ir.Node, known: Mapping[str, Array]) -> int:
    """Multiplications of one run of a node."""
    if not is_product(node):
        return 0
    x = known.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
    out = known.get(node.outputs[0].name or "")
    return multiplications(node, x.shape, out.shape) if x is not None and out is not None else 0

"""Run what lies behind one node, and nothing else.

A change at the inputs of a node reaches the nodes behind it alone. What they read from elsewhere is known
from one run of the whole model, so a trial costs the part of the model behind the node.

Operators are run as they stand in the graph, none fused with another: so the part gives the same bits as the
whole model does, wherever it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.values import Names
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose
from calibrant.runtime.walk import piece, reads

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Downstream", "Whole", "Work"]

Array = npt.NDArray[Any]

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


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
    _reads: dict[str, frozenset[str]]
    _cost: dict[str, int]
    _runtime: Runtime

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
        session = open_session(expose(model, names), runtime=runtime, optimize=False)
        inputs = [i.name for i in session.get_inputs()]
        values = []
        for feed in feeds:
            found = infer(session, names, {n: feed[n] for n in inputs})
            values.append({**feed, **dict(zip(names, found, strict=True))})
        order = list(model.graph)
        cost = {n.name or "": sum(_macs(n, known) for known in values) for n in order}
        work = Work(len(order) * len(values), sum(cost.values()))
        reading = {n.name or "": frozenset(reads(n)) for n in order}
        return cls(model, tuple(outputs), values, work, reading, cost, runtime)

    def reference(self) -> list[dict[str, Array]]:
        """Return what is looked at, for each feed."""
        return [{n: known[n] for n in self.outputs} for known in self.values]

    def macs_of(self, node: str) -> int:
        """Return the multiplications of one node on all feeds."""
        return self._cost[node]

    def behind(self, node: str) -> list[ir.Node]:
        """Return a node and those that depend on it and that an output depends on, in graph order."""
        made: set[str] = set()
        found = []
        for other in self.model.graph:
            if other.name == node or not made.isdisjoint(self._reads[other.name or ""]):
                found.append(other)
                made |= {v.name for v in other.outputs if v.name}
        needed = set(self.outputs)
        leading = []
        for other in reversed(found):
            if any(v.name in needed for v in other.outputs):
                leading.append(other)
                needed |= self._reads[other.name or ""]
        return leading[::-1]

    def part(self, node: str, inputs: Sequence[int]) -> Downstream:
        """Cut the model behind a node.

        Args:
            node: The node.
            inputs: Inputs of the node that will be fed with other values than the tensors they read have
                for everybody else.
        """
        nodes = self.behind(node)
        work = Work(len(nodes) * len(self.values), sum(self._cost[n.name or ""] for n in nodes))
        made = {v.name for n in nodes for v in n.outputs}
        outputs = tuple(n for n in self.outputs if n in made)
        if not outputs:
            return Downstream(self, work, outputs, None, {})
        part, _ = piece(self.model, nodes, outputs)
        renamed = _with_own_inputs(part, node, inputs)
        session = open_session(part, runtime=self._runtime, optimize=False)
        return Downstream(self, work, outputs, session, renamed)


@dataclass(frozen=True, slots=True, eq=False)
class Downstream:
    """The part of a model behind a node.

    Args:
        whole: The model.
        work: What one run on all feeds costs.
        outputs: Tensors that are looked at and depend on the node.
        session: A session of the part; None where there are no such tensors.
        renamed: (input index of the node) -> name under which that input is fed.
    """

    whole: Whole
    work: Work
    outputs: tuple[str, ...]
    session: ort.InferenceSession | None
    renamed: Mapping[int, str]

    def run(self, feed: int, changed: Mapping[int, Array]) -> dict[str, Array]:
        """Return the outputs that depend on the node.

        Args:
            feed: Which feed of the model the other tensors are of.
            changed: Values of the node's inputs, by index.
        """
        if self.session is None:
            return {}
        fed = {self.renamed[i]: x for i, x in changed.items()}
        known = self.whole.values[feed]
        feeds = {
            i.name: fed[i.name] if i.name in fed else known[i.name]
            for i in self.session.get_inputs()
        }
        return dict(zip(self.outputs, infer(self.session, self.outputs, feeds), strict=True))


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
    """Multiplications of one run of a node: for each output, one for each number that goes into it."""
    if node.op_type not in _PRODUCTS or node.inputs[0] is None or node.inputs[1] is None:
        return 0
    x = known.get(node.inputs[0].name or "")
    out = known.get(node.outputs[0].name or "")
    if node.op_type in ("Conv", "ConvTranspose"):
        shape = node.inputs[1].shape
        weight = [d for d in shape[1:] if isinstance(d, int)] if shape is not None else []
        per = out if node.op_type == "Conv" else x
        return int(per.size * np.prod(weight)) if per is not None and weight else 0
    if x is None or out is None or not x.ndim:
        return 0
    across = node.attributes.get("transA")
    return int(out.size * x.shape[0 if across is not None and across.as_int() else -1])

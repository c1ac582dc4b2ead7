"""Run what lies behind one node, and nothing else.

A change at the inputs of a node reaches the nodes behind it alone. What they read from elsewhere is known
from one run of the whole model, so a trial costs the part of the model behind the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.values import values_by_name
from calibrant.runtime.layerwise import piece, reads
from calibrant.runtime.session import infer, open_session

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Downstream", "behind"]

Array = npt.NDArray[Any]


def behind(model: ir.Model, node: str) -> list[ir.Node]:
    """Return a node and the nodes that depend on it, in graph order."""
    made: set[str] = set()
    found = []
    for other in model.graph:
        if other.name == node or made.intersection(reads(other)):
            found.append(other)
            made |= {v.name for v in other.outputs if v.name}
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Downstream:
    """The part of a model behind a node.

    Args:
        nodes: How many nodes it has.
        needed: Tensors that it reads from outside.
        outputs: Outputs of the model that depend on the node.
        session: A session of it.
        renamed: (input index of the node) -> name under which that input is fed.
    """

    nodes: int
    needed: tuple[str, ...]
    outputs: tuple[str, ...]
    session: ort.InferenceSession
    renamed: Mapping[int, str]

    @classmethod
    def of(
        cls,
        model: ir.Model,
        node: str,
        inputs: Sequence[int],
        *,
        provider: str = "cpu",
        threads: int | None = None,
        optimize: bool = True,
    ) -> Downstream:
        """Cut a model behind a node.

        Args:
            model: The model; it is not changed.
            node: The node.
            inputs: Inputs of the node that will be fed with other values than the tensors they read have
                for everybody else.
            provider: Execution provider.
            threads: Threads inside an operator.
            optimize: Let ONNX Runtime fuse operators.
        """
        model = model.clone()
        graph = model.graph
        taken = set(values_by_name(graph))
        first = graph.node(node)
        renamed: dict[int, str] = {}
        for index in inputs:
            source = first.inputs[index]
            assert source is not None
            name = f"{source.name}__at_{index}"
            while name in taken:
                name += "_"
            own = ir.Value(name=name, shape=source.shape, type=source.type)
            graph.inputs.append(own)
            first.replace_input_with(index, own)
            renamed[index] = name
        nodes = behind(model, node)
        made = {v.name for n in nodes for v in n.outputs}
        outputs = [v.name or "" for v in graph.outputs if v.name in made]
        part, needed = piece(model, nodes, outputs)
        session = open_session(
            part, provider=provider, threads=threads, optimize=optimize, integers=False
        )
        return cls(len(nodes), tuple(needed), tuple(outputs), session, renamed)

    def run(self, values: Mapping[str, Array], changed: Mapping[int, Array]) -> dict[str, Array]:
        """Return the outputs that depend on the node.

        Args:
            values: Tensors of the model by name; at least `needed`.
            changed: Values of the node's inputs, by index.
        """
        fed = {self.renamed[i]: x for i, x in changed.items()}
        feeds = {n: fed[n] if n in fed else values[n] for n in self.needed}
        return dict(zip(self.outputs, infer(self.session, self.outputs, feeds), strict=True))

"""A model cut into segments of consecutive nodes, whose sessions are opened once and run for whatever changed.

    | s0: a b c | s1: d e f | s2: g h |          b changed: run c of s0, then what depends on it in s1, in s2

Who changes one node after the other would otherwise open a session of all that lies behind each: for n nodes n**2 / 2
nodes are loaded. With segments of sqrt(n) nodes it is n**1.5 / 2 for the first pieces, and each segment once for each set
of its nodes that is run. Threads of a session do not spin while they wait: the session that runs next would wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.values import values_by_name
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.walk import piece, reads

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["SMALLEST", "Link", "Segments"]

Array = npt.NDArray[Any]

#: Nodes of a segment at the least: opening a session of fewer costs as much.
SMALLEST = 16

#: Sessions that are kept open, for each segment.
KEPT = 4


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """Some nodes of a segment, ready to run.

    Args:
        session: Their session.
        gives: Tensors that are read behind the segment, or looked at.
    """

    session: ort.InferenceSession
    gives: tuple[str, ...]

    def run(self, changed: Mapping[str, Array], known: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the nodes make of the changed tensors, and of the known ones where nothing changed."""
        feeds = {
            i.name: changed[i.name] if i.name in changed else known[i.name]
            for i in self.session.get_inputs()
        }
        return dict(zip(self.gives, infer(self.session, self.gives, feeds), strict=True))


@dataclass(slots=True, eq=False)
class Segments:
    """The segments of one model.

    Args:
        model: The model.
        outputs: Tensors that are looked at.
        runtime: Where it runs.
        types: Types of tensors, of those as well that the graph does not say.
    """

    model: ir.Model
    outputs: tuple[str, ...]
    runtime: Runtime
    types: dict[str, ir.DataType] = field(default_factory=dict)
    _place: dict[str, int] = field(default_factory=dict)
    _last_read: dict[str, int] = field(default_factory=dict)
    _links: dict[tuple[str, ...], Link] = field(default_factory=dict)
    _values: dict[str, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Cut the model."""
        nodes = list(self.model.graph)
        self._values = values_by_name(self.model.graph)
        size = max(SMALLEST, math.isqrt(len(nodes)))
        made: dict[str, int] = {}
        for i, node in enumerate(nodes):
            place = i // size
            if (
                node.op_type == "Cast"
            ):  # it belongs to what it rounds, so that it can be left out with it
                place = max([made[n] for n in reads(node) if n in made], default=place)
            self._place[node.name or ""] = place
            made |= dict.fromkeys((v.name or "" for v in node.outputs), place)
        for node in nodes:
            for name in reads(node):
                self._last_read[name] = self._place[node.name or ""]

    def split(self, nodes: Sequence[ir.Node]) -> list[list[ir.Node]]:
        """Return nodes in graph order by their segments, those without any left out."""
        found: dict[int, list[ir.Node]] = {}
        for node in nodes:
            found.setdefault(self._place[node.name or ""], []).append(node)
        return [found[i] for i in sorted(found)]

    def gives(self, nodes: Sequence[ir.Node]) -> tuple[str, ...]:
        """Return what nodes of one segment make for those behind it, or to be looked at."""
        place = self._place[nodes[0].name or ""]
        made = (v.name for n in nodes for v in n.outputs if v.name)
        return tuple(m for m in made if self._last_read.get(m, -1) > place or m in self.outputs)

    def link(
        self, nodes: Sequence[ir.Node], edit: Callable[[ir.Model], None] | None = None
    ) -> Link:
        """Return some nodes of one segment, ready to run; they stay open as long as others do not need the room.

        Args:
            nodes: The nodes.
            edit: Changes their model before it is opened; what was changed does not stay open.
        """
        if edit is not None:
            gives = self.gives(nodes)
            part = self.cut(nodes, gives)
            edit(part)
            return Link(self._open(part), gives)
        key = tuple(n.name or "" for n in nodes)
        if key not in self._links:
            if len(self._links) >= KEPT * (1 + max(self._place.values())):
                del self._links[next(iter(self._links))]
            gives = self.gives(nodes)
            self._links[key] = Link(self._open(self.cut(nodes, gives)), gives)
        return self._links[key]

    def _open(self, part: ir.Model) -> ort.InferenceSession:
        return open_session(part, runtime=self.runtime, optimize=False, spinning=False)

    def cut(self, nodes: Sequence[ir.Node], gives: Sequence[str]) -> ir.Model:
        """Return some nodes as a model of their own."""
        part, _ = piece(self.model, nodes, gives, self._values)
        for value in part.graph.inputs:
            if value.type is None and value.name in self.types:
                value.type = ir.TensorType(self.types[value.name])
        return part

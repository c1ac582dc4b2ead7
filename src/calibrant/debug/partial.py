"""A calibrated model in which each calibration node has a switch.

The float model runs once and all its tensors are kept. What lies behind the calibration nodes that are on is run again,
segment by segment (`runtime.segments`): segments that hold none of their readers are float and opened once for all;
into the others the nodes that are on are put again, with their own operators. So an answer has the bits that the whole
model with these nodes would give.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.alone.feeds import Feeds
from calibrant.debug.calibrations import Calibrated, Calibration
from calibrant.errors import ModelError
from calibrant.graph.values import Names, add_constant
from calibrant.runtime.downstream import Whole, Work
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.segments import Segments

__all__ = ["MEMORY_BYTES", "Partial", "insert", "with_nodes"]

Array = npt.NDArray[Any]

#: Bytes of activations that are kept at a time, at most; one feed is always kept.
MEMORY_BYTES = 2**30


@dataclass(slots=True, eq=False)
class Partial:
    """A calibrated model on some samples.

    Args:
        calibrated: The model.
        outputs: Tensors that are looked at.
        feeds: Samples.
        memory: Bytes of activations that are kept at a time.
        runtime: Where it runs.
        work: What was run so far.
    """

    calibrated: Calibrated
    outputs: tuple[str, ...]
    feeds: Feeds
    memory: int = MEMORY_BYTES
    runtime: Runtime = CPU
    work: Work = field(default_factory=Work)
    once: Work = field(default_factory=Work)
    _whole: Whole | None = None
    _segments: Segments | None = None
    _place: dict[str, int] = field(default_factory=dict)
    _outer: dict[str, str] = field(default_factory=dict)

    def groups(self) -> Iterator[range]:
        """Run the float model on as many feeds as fit the memory limit, and yield their numbers; then on the next."""
        whole = self._open()
        size = max(1, self.memory // max(1, whole.bytes))
        count = len(self.feeds.batches)
        for start in range(0, count, size):
            group = range(start, min(count, start + size))
            self._whole = whole = whole.on([self.feeds.batches[i].feeds for i in group])
            self.work += whole.work
            self.once += whole.work
            yield group

    def _open(self) -> Whole:
        """Open the float model; feeds whose activations do not fit are cut, unless the model insists on its batches."""

        def first(feeds: Feeds) -> Whole:
            one = [feeds.batches[0].feeds]
            return Whole.of(self.calibrated.model, self.outputs, one, runtime=self.runtime)

        try:
            whole = first(self.feeds)
        except ModelError:
            if not self.feeds.rows:
                raise
            self.feeds = self.feeds.uncut
            whole = first(self.feeds)
        rows = self.feeds.batches[0].size
        if whole.bytes > self.memory and self.feeds.rows and rows > 1:
            self.feeds = self.feeds.cut(max(1, rows * self.memory // whole.bytes))
        self._segments = _segments_of(whole, self.outputs, self.runtime)
        for i, node in enumerate(whole.model.graph):
            self._place[node.name or ""] = i
            for inner in _inside(node):
                self._outer[inner.name or ""] = node.name or ""
        return whole

    @property
    def values(self) -> list[dict[str, Array]]:
        """All tensors of the float model, for each feed of the group."""
        assert self._whole is not None
        return self._whole.values

    def truth(self) -> list[dict[str, Array]]:
        """What is looked at in the float model, for each feed of the group."""
        assert self._whole is not None
        return self._whole.reference()

    def macs_of(self, nodes: Collection[str]) -> int:
        """Multiplications of some ordinary nodes, on all feeds of the group."""
        assert self._whole is not None
        return sum(self._whole.macs_of(n) for n in nodes)

    def behind(self, enabled: Collection[str]) -> list[ir.Node]:
        """Return the nodes that change where some calibration nodes are on, in graph order."""
        assert self._whole is not None
        found: dict[str, ir.Node] = {}
        for name in enabled:
            for reader, _ in self.calibrated.nodes[name].readers:
                node = self._outer.get(reader, reader)
                if node not in found:
                    found |= {n.name or "": n for n in self._whole.behind(node)}
        return sorted(found.values(), key=lambda n: self._place[n.name or ""])

    def run(self, enabled: Collection[str], feeds: Sequence[int]) -> list[dict[str, Array]]:
        """Return what is looked at with some calibration nodes on, all others off.

        Args:
            enabled: Their names.
            feeds: Which feeds of the group.
        """
        assert self._whole is not None
        assert self._segments is not None
        nodes = self.behind(enabled)
        on = [self.calibrated.nodes[n] for n in enabled]
        links = []
        for some in self._segments.split(nodes):
            here = {n.name for n in some}
            put = [c for c in on if any(self._outer.get(r, r) in here for r, _ in c.readers)]
            edit = (lambda part, put=put: insert(part, put)) if put else None
            links.append(self._segments.link(some, edit))
        macs = sum(self._whole.macs_of(n.name or "") for n in nodes)
        share = len(feeds) / max(1, len(self._whole.values))
        self.work += Work(len(nodes) * len(feeds), round(macs * share))
        found = []
        for feed in feeds:
            known = self._whole.values[feed]
            state: dict[str, Array] = {}
            for link in links:
                state |= link.run(state, known)
            found.append({n: state.get(n, known[n]) for n in self.outputs})
        return found


def _segments_of(whole: Whole, outputs: tuple[str, ...], runtime: Runtime) -> Segments:
    """Return the segments of a model that was run."""
    types = {
        n: ir.DataType.from_numpy(np.asarray(x).dtype)
        for n, x in whole.values[0].items()
        if np.asarray(x).dtype.kind not in "OU"
    }
    return Segments(whole.model, outputs, runtime, types)


def with_nodes(calibrated: Calibrated, enabled: Collection[str]) -> ir.Model:
    """Return the whole float model with some calibration nodes in it."""
    model = calibrated.model.clone()
    insert(model, [calibrated.nodes[n] for n in enabled])
    return model


def insert(model: ir.Model, calibrations: Sequence[Calibration]) -> None:
    """Put calibration nodes in front of those of their readers that a model holds, in place."""
    graph = model.graph
    names = Names(graph)
    outer = {n.name or "": n for n in graph}
    place = {n: i for i, n in enumerate(graph)}
    inner = {m.name or "": (m, n) for n in graph for m in _inside(n)}
    for c in calibrations:
        edges = []
        for reader, index in c.readers:
            if reader in outer:
                edges.append((outer[reader], index, outer[reader]))
            elif reader in inner:
                edges.append((inner[reader][0], index, inner[reader][1]))
        if not edges:
            continue
        source = edges[0][0].inputs[edges[0][1]]
        assert source is not None
        first = min((e[2] for e in edges), key=place.__getitem__)
        built = _built(graph, names, c, source)
        graph.insert_before(first, built)
        for node, index, _ in edges:
            node.replace_input_with(index, built[-1].outputs[0])


def _built(graph: ir.Graph, names: Names, c: Calibration, source: ir.Value) -> list[ir.Node]:
    """Build the operators of a calibration node again."""
    nodes: list[ir.Node] = []
    for step in c.steps:
        inputs: list[ir.Value | None] = []
        for given in step.inputs:
            if given is None:
                inputs.append(None)
            elif isinstance(given, int):
                inputs.append(source if given < 0 else nodes[given].outputs[0])
            else:
                inputs.append(add_constant(graph, names.fresh(f"{c.name}__number"), given.numpy()))
        node = ir.Node("", step.op_type, inputs, list(step.attributes))
        node.name = names.fresh(f"{c.name}__{step.op_type}")
        node.outputs[0].name = names.fresh(f"{node.name}__output")
        nodes.append(node)
    nodes[-1].outputs[0].type, nodes[-1].outputs[0].shape = source.type, source.shape
    return nodes


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the nodes of a node's bodies."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()

"""What is born in each layer of a quantized graph, and of what: a walk from the float layer to the quantized one.

A layer f gives y = f(x, w, b). In the other model x' arrives in front of the quantizer that the layer reads, and q(x') is read.
Its weight is q(w), its bias q(b). What it gives, y', becomes Q(y') in the quantizer behind it, where all readers share that. With c for what is clipped to the ends of a grid and not rounded, the walk is

    y = f(x, w, b) -> f(x', w, b) -> f(c(x'), w, b) -> f(q(x'), w, b) -> f(q(x'), c(w), b) -> f(q(x'), q(w), b)
      -> f(q(x'), q(w), q(b)) -> C(y') -> Q(y')

and each step belongs to one cause (`analysis.origin`). So all that is off by the tensor that readers find is told, and the
shares add up to 1. What no step explains, such as a constant that is another one without being on a grid, is `other`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.compare.mapping import Mapped
from calibrant.analysis.compare.reads import Read, ReadLayer, Reads
from calibrant.analysis.held import Held, Seen, few_channels
from calibrant.analysis.origin import CAUSES, Tally
from calibrant.errors import ModelError
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.walk import alone

__all__ = ["OTHER", "Births"]

Array = npt.NDArray[Any]

#: What none of the causes explains.
OTHER = "other"
_STEPS = (*CAUSES, OTHER)
_PLACE = {name: i for i, name in enumerate(_STEPS)}

#: Where the quantizer behind a layer stands among what its quantizers read.
_TAIL = -1

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Walk:
    """The walks of one layer over all batches.

    Args:
        looks: What quantizers read: by input, and -1 for the one behind the layer.
        tally: What the walks add up to.
        seen: There was one.
        session: What computes the layer alone, once it was needed.
        own: What that calls the inputs of the layer.
    """

    looks: dict[int, Seen] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    seen: bool = False
    session: Any = None
    own: dict[int, str] = field(default_factory=dict)


class Births:
    """The walks of all layers that can be read, and what they add up to.

    Args:
        reads: What the layers of both models read. A layer that data shows to be two different ones is taken out of it.
        runtime: Where single layers run.
    """

    def __init__(self, reads: Reads, runtime: Runtime = CPU) -> None:
        """Begin with no walk."""
        self.reads = reads
        self._runtime = runtime
        self._walks = {layer: _Walk() for layer, _ in reads.items()}
        self._sessions: dict[tuple[object, ...], tuple[Any, dict[int, str]]] = {}

    def needs(self, layer: Mapped) -> tuple[list[str], list[str]]:
        """Return the tensors of both models that the walk of a layer reads."""
        found = self.reads.get(layer)
        if found is None:
            return [], []
        here = [r.truth for r in found.reads.values() if isinstance(r.truth, str)]
        there = [found.raw]
        for r in found.reads.values():
            if r.arrives is not None and isinstance(r.found, str):
                there += [r.arrives, r.found]
        return here if _runs(found) else [], there

    def add(self, layer: Mapped, truth: Mapping[str, Array], mine: Mapping[str, Array]) -> None:
        """Walk a layer on one batch.

        Args:
            layer: Which.
            truth: Tensors of the float model.
            mine: Tensors of the other model.
        """
        found = self.reads.get(layer)
        if found is None:
            return
        y, end = truth[layer.truth], mine[layer.mine]
        if y.shape != end.shape or mine[found.raw].shape != y.shape:
            self.reads.forget(layer)
            return
        walk = self._walks[layer]
        try:
            gives = list(self._gives(found, walk, y, truth, mine))
        except ModelError as e:
            logger.info("What is born in layer '%s' is not told by cause: %s", layer.name, e)
            self.reads.forget(layer)
            return
        if found.tail is not None:
            gives.append((_PLACE["activation_clipping"], found.tail.clip(gives[-1][1])))
        gives.append((_PLACE["activation_rounding"], end))
        walk.tally.axis = _channel_axis(found, y)
        walk.tally.add(y, gives, len(_STEPS))
        walk.seen = True
        for index, name in _watched(found):
            # as the float model has it: what was rounded away in front of a layer cannot be seen any more
            right = y if index == _TAIL else truth.get(str(found.reads[index].truth))
            x = mine[name] if right is None else right
            walk.looks.setdefault(index, Seen(_channel_axis(found, x))).add(x)

    def tally(self, layer: Mapped) -> Tally | None:
        """Return what a layer's walk adds up to; None where it could not be walked."""
        walk = self._walks.get(layer)
        known = self.reads.get(layer) is not None and walk is not None and walk.seen
        return walk.tally if walk is not None and known else None

    def held(self, layer: Mapped) -> dict[str, Held]:
        """Return what is wrong with the ranges of a layer, by `activation` and `weight`."""
        found = self.reads.get(layer)
        if found is None:
            return {}
        seen: list[Held] = []
        uneven = any(map(_is_held, found.reads.values()))
        for index, look in self._walks[layer].looks.items():
            grid = found.tail if index == _TAIL else found.reads[index].grid
            if grid is not None:
                seen.append(look.held(grid.low, grid.high))
            # the weights that meet such channels are as small as these are large, beside the others
            uneven |= index != _TAIL and look.by_few_channels
        return {
            "activation": "mask" if "mask" in seen else "range" if "range" in seen else "",
            "weight": "range" if uneven else "",
        }

    def inputs_seen(self) -> dict[str, tuple[tuple[float, float], tuple[float, float]]]:
        """Return the least and the largest value of each input of the float model, and the ends of the first grid on it."""
        found: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {}
        for layer, x in self.reads.items():
            for index, look in self._walks[layer].looks.items():
                value = layer.truth if index == _TAIL else x.reads[index].truth
                grid = x.tail if index == _TAIL else x.reads[index].grid
                name = self.reads.input_in(value)
                if name and grid is not None:
                    ends = float(grid.low.min()), float(grid.high.max())
                    found.setdefault(name, (look.ends, ends))
        return found

    def _gives(
        self,
        layer: ReadLayer,
        walk: _Walk,
        y: Array,
        truth: Mapping[str, Array],
        mine: Mapping[str, Array],
    ) -> Iterator[tuple[int, Array]]:
        """Yield what the layer gives after each step, up to what it gives in the other model."""
        raw = mine[layer.raw]
        if not _runs(layer):
            yield _PLACE["arrived"], raw
            return
        reads = layer.reads
        now: dict[int, Array] = {
            i: np.asarray(truth[r.truth] if isinstance(r.truth, str) else r.truth)
            for i, r in reads.items()
        }
        steps: list[tuple[str, dict[int, Array]]] = [
            ("arrived", {i: mine[r.arrives] for i, r in reads.items() if r.arrives is not None})
        ]
        changed = {i: r for i, r in reads.items() if r.changes}
        data = {i: r for i, r in changed.items() if not r.is_constant}
        steps += [
            (
                "activation_clipping",
                {i: r.grid.clip(mine[r.arrives or ""]) for i, r in data.items() if r.grid},
            ),
            ("activation_rounding", {i: mine[str(r.found)] for i, r in data.items()}),
        ]
        weights = {i: r for i, r in changed.items() if r.is_constant and r.grid and not r.is_bias}
        steps += [
            (
                "weight_clipping",
                {i: r.grid.clip(np.asarray(r.truth)) for i, r in weights.items() if r.grid},
            ),
            ("weight_rounding", {i: np.asarray(r.found) for i, r in weights.items()}),
            ("bias", {i: np.asarray(r.found) for i, r in changed.items() if r.is_bias}),
            (OTHER, {i: np.asarray(r.found) for i, r in changed.items() if r.is_constant}),
        ]
        value = y
        for name, change in steps:
            news = {i: x for i, x in change.items() if x is not now[i]}
            now |= news
            if news:
                value = self._run(layer, walk, now)
            yield _PLACE[name], value
        if not layer.function:
            yield _PLACE[OTHER], raw

    def _run(self, layer: ReadLayer, walk: _Walk, reads: Mapping[int, Array]) -> Array:
        assert layer.node is not None
        if walk.session is None:
            walk.session, walk.own = self._session(layer.model, layer.node)
        session = walk.session
        asked = {i.name for i in session.get_inputs()}
        fed = {n: reads[i] for i, n in walk.own.items() if n in asked}
        return infer(session, [o.name for o in session.get_outputs()], fed)[0]

    def _session(self, model: ir.Model, node: ir.Node) -> tuple[Any, dict[int, str]]:
        """Open one node whose every input is fed; nodes of a model that differ in their names alone share a session."""
        key = _computes(model, node)
        if key is None or key not in self._sessions:
            output = next(v.name or "" for v in node.outputs if v.name)
            part, own = alone(model, node, output)
            session = open_session(part, runtime=self._runtime, optimize=False, spinning=False)
            if key is None:
                return session, own
            self._sessions[key] = session, own
        return self._sessions[key]


def _runs(layer: ReadLayer) -> bool:
    """Whether the walk has steps between the layer's own answers in both models."""
    return layer.node is not None and (
        layer.function or any(r.changes for r in layer.reads.values())
    )


def _watched(layer: ReadLayer) -> Iterator[tuple[int, str]]:
    """Yield the tensors that quantizers of a layer read."""
    for i, r in layer.reads.items():
        if r.changes and r.arrives is not None and r.grid is not None:
            yield i, r.arrives
    if layer.tail is not None:
        yield _TAIL, layer.raw


def _computes(model: ir.Model, node: ir.Node) -> tuple[object, ...] | None:
    """Return what a node computes, whatever its inputs and outputs are called; None where that is not to be said in short.

    That is so within a model: another one may have the operator in another version, or another function of that name.
    """
    plain = (ir.AttributeType.TENSOR, ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(a.type in plain or a.is_ref() for a in node.attributes.values()):
        return None
    attributes = sorted((n, str(a.value)) for n, a in node.attributes.items())
    types = tuple(None if v is None or not v.name else str(v.type) for v in node.inputs)
    outputs = tuple(bool(v.name) for v in node.outputs)
    return model, node.domain, node.op_type, node.overload, *attributes, types, outputs


def _channel_axis(layer: ReadLayer, x: Array) -> int | None:
    """Return the axis of the channels of what a layer reads or gives, by what it is and how many axes there are."""
    if layer.axis is not None:
        return layer.axis
    return 1 if x.ndim == 4 else -1 if x.ndim > 1 else None


def _is_held(read: Read) -> bool:
    """Whether few channels of a weight hold the one range that all share."""
    if not read.is_constant or read.is_bias or read.grid is None or read.grid.low.size > 1:
        return False
    x = np.abs(np.asarray(read.truth))
    if x.ndim < 2:
        return False
    return any(
        few_channels(x.max(axis=tuple(a for a in range(x.ndim) if a != axis))) for axis in (0, 1)
    )

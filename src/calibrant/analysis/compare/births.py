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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.compare.grids import Constant, Grid, constant_of, grid_behind
from calibrant.analysis.compare.mapping import COMMUTATIVE, Mapped
from calibrant.analysis.compare.sides import Side
from calibrant.analysis.held import Held, Seen, few_channels
from calibrant.analysis.origin import CAUSES, Tally
from calibrant.errors import ModelError
from calibrant.graph.bodies import bodies
from calibrant.graph.ops import rule_of
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.walk import alone

__all__ = ["OTHER", "Births"]

Array = npt.NDArray[Any]

#: What none of the causes explains.
OTHER = "other"
_STEPS = (*CAUSES, OTHER)
_PLACE = {name: i for i, name in enumerate(_STEPS)}

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_PRODUCTS = ("Gemm", "MatMul")
_CLIPPING = ("Clip", "Relu")

#: Where the quantizer behind a layer stands among what its quantizers read.
_TAIL = -1

#: Constants that are off by more than this, relative to their norm, are other constants: 2 bits lose less.
_OTHER_CONSTANT = 0.75

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """One input of a layer: what it is in the float model, and in the other one.

    Args:
        truth: Tensor of the float model, or its values where they are constant.
        arrives: Tensor of the other model in front of the quantizer, or None for a constant.
        found: What the layer finds there; for a constant its values.
        grid: The grid in between; None where there is none, or none that can be read.
        is_bias: It is the bias.
    """

    truth: str | Array
    arrives: str | None
    found: str | Array
    grid: Grid | None
    is_bias: bool = False

    @property
    def is_constant(self) -> bool:
        return self.arrives is None

    @property
    def changes(self) -> bool:
        """Whether reading it changes more than what arrives."""
        if not self.is_constant:
            return self.arrives != self.found
        return not np.array_equal(np.asarray(self.truth), np.asarray(self.found))


@dataclass(slots=True, eq=False)
class _Layer:
    """One layer that can be walked.

    Args:
        model: The model that its node is taken from.
        node: The node; None for an input of the model.
        reads: Its inputs by index.
        raw: What the other model's layer gives, in front of the quantizer behind it.
        tail: The grid of that quantizer.
        axis: Axis of the channels.
        function: The node is a function that the other model has in the quantizer alone.
        turned: The float node has the inputs in the other order.
        looks: What quantizers read: by input, and -1 for the one behind the layer.
    """

    model: ir.Model
    node: ir.Node | None
    reads: dict[int, _Read]
    raw: str
    tail: Grid | None
    axis: int | None = None
    function: bool = False
    turned: bool = False
    looks: dict[int, Seen] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    seen: bool = False
    session: Any = None
    own: dict[int, str] = field(default_factory=dict)


class Births:
    """The walks of all layers that can be read, and what they add up to.

    Args:
        truth: The float model.
        mine: The other one.
        layers: What belongs together.
        runtime: Where single layers run.
    """

    def __init__(
        self, truth: Side, mine: Side, layers: Sequence[Mapped], runtime: Runtime = CPU
    ) -> None:
        """Read the quantizers around each layer."""
        self._truth, self._mine, self._runtime = truth, mine, runtime
        self._pairs = {
            truth.source(truth.values[x.truth]): mine.source(mine.values[x.mine]) for x in layers
        }
        self._sessions: dict[tuple[object, ...], tuple[Any, dict[int, str]]] = {}
        self._layers = {x: found for x in layers if (found := self._layer(x)) is not None}

    def needs(self, layer: Mapped) -> tuple[list[str], list[str]]:
        """Return the tensors of both models that the walk of a layer reads."""
        found = self._layers.get(layer)
        if found is None:
            return [], []
        here = [r.truth for r in found.reads.values() if isinstance(r.truth, str)]
        there = [found.raw]
        for r in found.reads.values():
            if r.arrives is not None and isinstance(r.found, str):
                there += [r.arrives, r.found]
        return here if self._runs(found) else [], there

    def add(self, layer: Mapped, truth: Mapping[str, Array], mine: Mapping[str, Array]) -> None:
        """Walk a layer on one batch.

        Args:
            layer: Which.
            truth: Tensors of the float model.
            mine: Tensors of the other model.
        """
        found = self._layers.get(layer)
        if found is None:
            return
        y, end = truth[layer.truth], mine[layer.mine]
        if y.shape != end.shape or mine[found.raw].shape != y.shape:
            del self._layers[layer]
            return
        try:
            gives = list(self._gives(found, y, truth, mine))
        except ModelError as e:
            logger.info("What is born in layer '%s' is not told by cause: %s", layer.name, e)
            del self._layers[layer]
            return
        if found.tail is not None:
            gives.append((_PLACE["activation_clipping"], found.tail.clip(gives[-1][1])))
        gives.append((_PLACE["activation_rounding"], end))
        steps = np.zeros((len(_STEPS), *y.shape))
        before = y.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            for place, value in gives:
                after = value.astype(np.float64)
                steps[place] += after - before
                before = after
        found.tally.axis = _channel_axis(found, y)
        found.tally.add(y, list(steps))
        found.seen = True
        for index, name in self._watched(found):
            # as the float model has it: what was rounded away in front of a layer cannot be seen any more
            right = y if index == _TAIL else truth.get(str(found.reads[index].truth))
            x = mine[name] if right is None else right
            found.looks.setdefault(index, Seen(_channel_axis(found, x))).add(x)

    def tally(self, layer: Mapped) -> Tally | None:
        """Return what a layer's walk adds up to; None where it could not be walked."""
        found = self._layers.get(layer)
        return found.tally if found is not None and found.seen else None

    def held(self, layer: Mapped) -> dict[str, Held]:
        """Return what is wrong with the ranges of a layer, by `activation` and `weight`."""
        found = self._layers.get(layer)
        if found is None:
            return {}
        seen: list[Held] = []
        uneven = any(map(_is_held, found.reads.values()))
        for index, look in found.looks.items():
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
        for layer, x in self._layers.items():
            for index, look in x.looks.items():
                value = layer.truth if index == _TAIL else x.reads[index].truth
                grid = x.tail if index == _TAIL else x.reads[index].grid
                name = self.input_in(value)
                if name and grid is not None:
                    ends = float(grid.low.min()), float(grid.high.max())
                    found.setdefault(name, (look.ends, ends))
        return found

    def reads_input(self, layer: Mapped) -> set[str]:
        """Return the inputs of the float model whose values a layer reads through a quantizer, or gives through one."""
        found = self._layers.get(layer)
        if found is None:
            return set()
        read = [r.truth for r in found.reads.values() if r.changes]
        names = [layer.truth, *read] if found.tail is not None else read
        return {name for n in names if (name := self.input_in(n))}

    def input_in(self, name: str | Array) -> str:
        """Return the input of the float model whose values a tensor holds, moved and nothing else; empty for other tensors."""
        if not isinstance(name, str) or name not in self._truth.values:
            return ""
        inputs = set(self._truth.inputs)
        stack, seen, found = [self._truth.values[name]], set[ir.Value](), set[str]()
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            node = value.producer()
            if value in inputs:
                found.add(value.name or "")
            elif node is None or not (node.op_type == "Concat" or _moves(node)):
                return ""
            else:
                stack += self._truth.data_inputs(node)
        return found.pop() if len(found) == 1 else ""

    # ----------------------------------------------------------------------------------- one layer in the float model

    def shared(self) -> dict[Mapped, Grid]:
        """Return the layers whose tensor goes through one quantizer that all its readers share, and the grid of that."""
        return {x: found.tail for x, found in self._ends().items() if found.tail is not None}

    def reads_shared(self, layer: Mapped) -> list[Mapped]:
        """Return the layers in `shared` whose tensors a layer reads."""
        found = self._layers.get(layer)
        return (
            [self._makers[r.arrives] for r in found.reads.values() if self._is_shared(r)]
            if found
            else []
        )

    def has_weight(self, layer: Mapped) -> bool:
        """Whether a layer multiplies what it reads with constants."""
        found = self._layers.get(layer)
        kinds = (*_CONVOLUTIONS, *_PRODUCTS)
        return (
            found is not None
            and layer.op_type in kinds
            and any(r.is_constant and not r.is_bias for r in found.reads.values())
        )

    def is_readable(self, layer: Mapped) -> bool:
        """Whether the float model can be run with what a layer alone reads in the other one."""
        found = self._layers.get(layer)
        if found is None or found.node is None or found.function:
            return False
        own = [r for r in found.reads.values() if r.changes and not r.is_constant]
        return all(r.grid is not None and isinstance(r.truth, str) for r in own)

    def constants(self, layer: Mapped) -> dict[int, Array]:
        """Return the weight and the bias of the other model by input of the float node; a bias that this has not is left out."""
        found = self._layers[layer]
        node = self._truth.values[layer.truth].producer()
        assert node is not None
        here = {i for i, v in enumerate(node.inputs) if v is not None}
        return {
            at: np.asarray(r.found)
            for i, r in found.reads.items()
            if r.is_constant and r.changes and (at := self._place(found, i)) in here
        }

    def inputs(self, layer: Mapped) -> list[int]:
        """Return the inputs of the float node in front of which the other model has a quantizer for it alone."""
        return [self._place(self._layers[layer], i) for i, _ in self._own(layer)]

    def values(self, layer: Mapped, known: Mapping[str, Array]) -> dict[int, Array]:
        """Return what a layer reads at these inputs, from all tensors of the float model."""
        return {
            self._place(self._layers[layer], i): r.grid.on(np.asarray(known[str(r.truth)]))
            for i, r in self._own(layer)
            if r.grid is not None
        }

    def _own(self, layer: Mapped) -> list[tuple[int, _Read]]:
        reads = self._layers[layer].reads.items()
        return [
            (i, r) for i, r in reads if r.changes and not r.is_constant and not self._is_shared(r)
        ]

    def _is_shared(self, read: _Read) -> bool:
        return read.changes and read.arrives in self._makers

    @cached_property
    def _makers(self) -> dict[str | None, Mapped]:
        """The layer whose tensor a shared quantizer takes, by that tensor in the other model; a function rather than what it reads."""
        found: dict[str | None, Mapped] = {}
        for layer, x in self._layers.items():
            if x.tail is not None and (x.raw not in found or x.function):
                found[x.raw] = layer
        return found

    def _ends(self) -> dict[Mapped, _Layer]:
        return {x: self._layers[x] for x in self._makers.values()}

    @staticmethod
    def _place(layer: _Layer, index: int) -> int:
        return len(layer.reads) - 1 - index if layer.turned else index

    def _watched(self, layer: _Layer) -> Iterator[tuple[int, str]]:
        """Yield the tensors that quantizers of a layer read."""
        for i, r in layer.reads.items():
            if r.changes and r.arrives is not None and r.grid is not None:
                yield i, r.arrives
        if layer.tail is not None:
            yield _TAIL, layer.raw

    # ----------------------------------------------------------------------------------- the walk

    def _gives(
        self, layer: _Layer, y: Array, truth: Mapping[str, Array], mine: Mapping[str, Array]
    ) -> Iterator[tuple[int, Array]]:
        """Yield what the layer gives after each step, up to what it gives in the other model."""
        raw = mine[layer.raw]
        if not self._runs(layer):
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
                value = self._run(layer, now)
            yield _PLACE[name], value
        if not layer.function:
            yield _PLACE[OTHER], raw

    def _runs(self, layer: _Layer) -> bool:
        """Whether the walk has steps between the layer's own answers in both models."""
        return layer.node is not None and (
            layer.function or any(r.changes for r in layer.reads.values())
        )

    def _run(self, layer: _Layer, reads: Mapping[int, Array]) -> Array:
        assert layer.node is not None
        if layer.session is None:
            layer.session, layer.own = self._session(layer.model, layer.node)
        session = layer.session
        asked = {i.name for i in session.get_inputs()}
        fed = {n: reads[i] for i, n in layer.own.items() if n in asked}
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

    # ----------------------------------------------------------------------------------- reading

    def _layer(self, layer: Mapped) -> _Layer | None:
        here = self._truth.source(self._truth.values[layer.truth])
        end = self._mine.values[layer.mine]
        raw = self._mine.source(end)
        tail = None if end is raw else grid_behind(raw, end)
        name = raw.name or ""
        node, other = here.producer(), raw.producer()
        if node is None or other is None:
            same = node is None and other is None
            return _Layer(self._truth.model, None, {}, name, tail) if same else None
        if layer.output != 0 or any(True for _ in bodies(other)):
            return None
        axis = 1 if node.op_type in _CONVOLUTIONS else -1 if node.op_type in _PRODUCTS else None
        if node.op_type in _CLIPPING and other.op_type != node.op_type:
            source = self._truth.data_inputs(node)
            if len(source) != 1 or self._pairs.get(source[0]) is not raw:
                return None
            reads = {0: _Read(source[0].name or "", name, name, None)}
            reads |= {
                i: _Read(c.values, None, c.values, None)
                for i, v in enumerate(node.inputs)
                if i and v is not None and (c := constant_of(v)) is not None
            }
            found = _Layer(self._truth.model, node, reads, name, tail, function=True)
        elif node.op_type == other.op_type and node.domain == other.domain:
            read, turned = self._reads(node.inputs, other), False
            if read is None and node.op_type in COMMUTATIVE:
                read, turned = self._reads(node.inputs[::-1], other), True
            if read is None:
                return None
            found = _Layer(self._mine.model, other, read, name, tail, turned=turned)
        else:
            return None
        found.axis = axis
        return found

    def _reads(self, inputs: Sequence[ir.Value | None], other: ir.Node) -> dict[int, _Read] | None:
        """Return the inputs of a layer side by side; None where they do not belong together."""
        bias = self._bias(other)
        found: dict[int, _Read] = {}
        for index, value in enumerate(other.inputs):
            here = inputs[index] if index < len(inputs) else None
            if value is None:
                if here is not None:
                    return None
                continue
            read = (
                self._data(here, value)
                if self._mine.is_data(value)
                else _constant(here, value, is_bias=index == bias)
            )
            if read is None:
                return None
            found[index] = read
        if len([v for v in inputs if v is not None]) > len(found):
            return None
        return found

    def _bias(self, node: ir.Node) -> int | None:
        """Return the input of a node that is a bias: its own, or that of the MatMul in front of an Add; None for none."""
        index = rule_of(node).bias
        if index is not None and len(node.inputs) > index:
            return index
        if node.op_type != "Add":
            return None
        here = [
            i for i, v in enumerate(node.inputs) if v is not None and not self._mine.is_data(v)
        ]
        data = self._mine.data_inputs(node)
        maker = data[0].producer() if len(data) == 1 else None
        is_bias = maker is not None and maker.op_type == "MatMul" and len(here) == 1
        return here[0] if is_bias else None

    def _data(self, here: ir.Value | None, value: ir.Value) -> _Read | None:
        source = self._mine.source(value)
        if here is None or not self._truth.is_data(here):
            return None
        truth = self._truth.source(here)
        there = self._pairs.get(truth)
        if there is not None and there is not source:
            return None
        if there is None and not (truth.producer() is None and source.producer() is None):
            return None
        if value is source or self._is_absorbed(truth, source):
            return _Read(here.name or "", value.name or "", value.name or "", None)
        grid = grid_behind(source, value)
        return _Read(here.name or "", source.name or "", value.name or "", grid)

    @staticmethod
    def _is_absorbed(truth: ir.Value, source: ir.Value) -> bool:
        """Whether the quantizer behind a tensor stands for a function that clips: its row tells of both."""
        here, there = truth.producer(), source.producer()
        types = here.op_type if here else "", there.op_type if there else ""
        return types[0] in _CLIPPING and types[0] != types[1]


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


def _moves(node: ir.Node) -> bool:
    """Whether a node gives values that it reads, and no others."""
    return rule_of(node).kind == "pass_through"


def _channel_axis(layer: _Layer, x: Array) -> int | None:
    """Return the axis of the channels of what a layer reads or gives, by what it is and how many axes there are."""
    if layer.axis is not None:
        return layer.axis
    return 1 if x.ndim == 4 else -1 if x.ndim > 1 else None


def _is_held(read: _Read) -> bool:
    """Whether few channels of a weight hold the one range that all share."""
    if not read.is_constant or read.is_bias or read.grid is None or read.grid.low.size > 1:
        return False
    x = np.abs(np.asarray(read.truth))
    if x.ndim < 2:
        return False
    return any(
        few_channels(x.max(axis=tuple(a for a in range(x.ndim) if a != axis))) for axis in (0, 1)
    )


def _constant(here: ir.Value | None, value: ir.Value, *, is_bias: bool) -> _Read | None:
    there = constant_of(value)
    if there is None:
        return None
    if here is None:
        return _added(there) if is_bias else None
    mine = constant_of(here)
    if mine is None or mine.values.shape != there.values.shape:
        return None
    if mine.values.dtype.kind != "f":
        same = np.array_equal(mine.values, there.values)
        return _Read(mine.values, None, mine.values, None) if same else None
    found = there.values.astype(mine.values.dtype)
    is_other = not is_bias and _far(mine.values, found)
    return _Read(mine.values, None, found, None if is_other else there.grid, is_bias)


def _added(there: Constant) -> _Read:
    """Return the bias of a layer that has none in the float model."""
    return _Read(np.zeros_like(there.values), None, there.values, there.grid, is_bias=True)


def _far(truth: Array, mine: Array) -> bool:
    """Whether a weight is another one, by more than quantization explains."""
    norm = float(np.linalg.norm(truth.astype(np.float64)))
    return norm > 0 and float(np.linalg.norm(mine.astype(np.float64) - truth)) > (
        _OTHER_CONSTANT * norm
    )

"""What the layers of two models read, side by side: a tensor, the grid in front of the layer, a weight, a bias.

A layer of the second model reads a tensor through a quantizer, which is its own or one that all readers share; its weight and bias
are constants that lie on grids. This is read once from the two graphs. `births` walks each layer with it, and `losing` puts what
one layer reads into the first model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.compare.grids import Constant, Grid, constant_of, grid_behind
from calibrant.analysis.compare.mapping import COMMUTATIVE, Mapped
from calibrant.analysis.compare.sides import Side
from calibrant.graph.bodies import bodies
from calibrant.graph.ops import rule_of

__all__ = ["Read", "ReadLayer", "Reads"]

Array = npt.NDArray[Any]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_PRODUCTS = ("Gemm", "MatMul")
_CLIPPING = ("Clip", "Relu")

#: Constants that are off by more than this, relative to their norm, are other constants: 2 bits lose less.
_OTHER_CONSTANT = 0.75


@dataclass(frozen=True, slots=True, eq=False)
class Read:
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
        """Whether its values are known without running a model."""
        return self.arrives is None

    @property
    def changes(self) -> bool:
        """Whether reading it changes more than what arrives."""
        if not self.is_constant:
            return self.arrives != self.found
        return not np.array_equal(np.asarray(self.truth), np.asarray(self.found))


@dataclass(frozen=True, slots=True, eq=False)
class ReadLayer:
    """One layer of both models.

    Args:
        model: The model that its node is taken from.
        node: The node; None for an input of the model.
        reads: Its inputs by index.
        raw: What the other model's layer gives, in front of the quantizer behind it.
        tail: The grid of that quantizer.
        axis: Axis of the channels; None where the operator does not say.
        function: The node is a function that the other model has in the quantizer alone.
        turned: The float node has the inputs in the other order.
    """

    model: ir.Model
    node: ir.Node | None
    reads: Mapping[int, Read]
    raw: str
    tail: Grid | None
    axis: int | None = None
    function: bool = False
    turned: bool = False


class Reads:
    """What each layer reads in both models.

    Args:
        truth: The float model.
        mine: The other one.
        layers: What belongs together.
    """

    def __init__(self, truth: Side, mine: Side, layers: Sequence[Mapped]) -> None:
        """Read the quantizers around each layer."""
        self._truth, self._mine = truth, mine
        self._pairs = {
            truth.source(truth.values[x.truth]): mine.source(mine.values[x.mine]) for x in layers
        }
        self._layers = {x: found for x in layers if (found := self._layer(x)) is not None}

    def get(self, layer: Mapped) -> ReadLayer | None:
        """Return a layer; None where what it reads in both models does not belong together."""
        return self._layers.get(layer)

    def items(self) -> Iterator[tuple[Mapped, ReadLayer]]:
        """Yield all layers that can be read."""
        yield from self._layers.items()

    def forget(self, layer: Mapped) -> None:
        """Take a layer out: with data it turned out that its two sides do not belong together."""
        del self._layers[layer]

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

    def _own(self, layer: Mapped) -> list[tuple[int, Read]]:
        reads = self._layers[layer].reads.items()
        return [
            (i, r) for i, r in reads if r.changes and not r.is_constant and not self._is_shared(r)
        ]

    def _is_shared(self, read: Read) -> bool:
        return read.changes and read.arrives in self._makers

    @cached_property
    def _makers(self) -> dict[str | None, Mapped]:
        """The layer whose tensor a shared quantizer takes, by that tensor in the other model; a function rather than what it reads."""
        found: dict[str | None, Mapped] = {}
        for layer, x in self._layers.items():
            if x.tail is not None and (x.raw not in found or x.function):
                found[x.raw] = layer
        return found

    def _ends(self) -> dict[Mapped, ReadLayer]:
        return {x: self._layers[x] for x in self._makers.values()}

    @staticmethod
    def _place(layer: ReadLayer, index: int) -> int:
        return len(layer.reads) - 1 - index if layer.turned else index

    # ----------------------------------------------------------------------------------- reading

    def _layer(self, layer: Mapped) -> ReadLayer | None:
        here = self._truth.source(self._truth.values[layer.truth])
        end = self._mine.values[layer.mine]
        raw = self._mine.source(end)
        tail = None if end is raw else grid_behind(raw, end)
        name = raw.name or ""
        node, other = here.producer(), raw.producer()
        if node is None or other is None:
            same = node is None and other is None
            return ReadLayer(self._truth.model, None, {}, name, tail) if same else None
        if layer.output != 0 or any(True for _ in bodies(other)):
            return None
        axis = 1 if node.op_type in _CONVOLUTIONS else -1 if node.op_type in _PRODUCTS else None
        if node.op_type in _CLIPPING and other.op_type != node.op_type:
            source = self._truth.data_inputs(node)
            if len(source) != 1 or self._pairs.get(source[0]) is not raw:
                return None
            reads = {0: Read(source[0].name or "", name, name, None)}
            reads |= {
                i: Read(c.values, None, c.values, None)
                for i, v in enumerate(node.inputs)
                if i and v is not None and (c := constant_of(v)) is not None
            }
            return ReadLayer(self._truth.model, node, reads, name, tail, axis, function=True)
        if node.op_type != other.op_type or node.domain != other.domain:
            return None
        read, turned = self._reads(node.inputs, other), False
        if read is None and node.op_type in COMMUTATIVE:
            read, turned = self._reads(node.inputs[::-1], other), True
        if read is None:
            return None
        return ReadLayer(self._mine.model, other, read, name, tail, axis, turned=turned)

    def _reads(self, inputs: Sequence[ir.Value | None], other: ir.Node) -> dict[int, Read] | None:
        """Return the inputs of a layer side by side; None where they do not belong together."""
        bias = self._bias(other)
        found: dict[int, Read] = {}
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

    def _data(self, here: ir.Value | None, value: ir.Value) -> Read | None:
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
            return Read(here.name or "", value.name or "", value.name or "", None)
        grid = grid_behind(source, value)
        return Read(here.name or "", source.name or "", value.name or "", grid)

    @staticmethod
    def _is_absorbed(truth: ir.Value, source: ir.Value) -> bool:
        """Whether the quantizer behind a tensor stands for a function that clips: its row tells of both."""
        here, there = truth.producer(), source.producer()
        types = here.op_type if here else "", there.op_type if there else ""
        return types[0] in _CLIPPING and types[0] != types[1]


def _moves(node: ir.Node) -> bool:
    """Whether a node gives values that it reads, and no others."""
    return rule_of(node).kind == "pass_through"


def _constant(here: ir.Value | None, value: ir.Value, *, is_bias: bool) -> Read | None:
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
        return Read(mine.values, None, mine.values, None) if same else None
    found = there.values.astype(mine.values.dtype)
    is_other = not is_bias and _far(mine.values, found)
    return Read(mine.values, None, found, None if is_other else there.grid, is_bias)


def _added(there: Constant) -> Read:
    """Return the bias of a layer that has none in the float model."""
    return Read(np.zeros_like(there.values), None, there.values, there.grid, is_bias=True)


def _far(truth: Array, mine: Array) -> bool:
    """Whether a weight is another one, by more than quantization explains."""
    norm = float(np.linalg.norm(truth.astype(np.float64)))
    return norm > 0 and float(np.linalg.norm(mine.astype(np.float64) - truth)) > (
        _OTHER_CONSTANT * norm
    )

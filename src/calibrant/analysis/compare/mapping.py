"""Which tensor of one model is which of another: through fusion, renaming, and quantizers between the layers.

Both graphs are walked from their inputs to their outputs and back, as often as something new is found:

1. inputs belong together by name, or by position where there are as many;
2. **by structure**: two nodes of one operator, with equal attributes, whose inputs belong together, and no other of that
   kind. Of several, those with the same name, else those whose weights are alike;
3. **by name**: two tensors of one name, made by one operator. Where nearly all tensors of one name are made by one
   operator, names can be trusted, and a fused layer is found by the name of the last of its nodes;
4. outputs belong together by name, or by position, and from them the nodes in front, where one operator leads to one.

A MatMul and an Add may be one Gemm, and an activation function may be part of the quantizer behind a layer. What is not
found so is listed with the reason, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from calibrant.analysis.compare.sides import Side
from calibrant.graph.ops import rule_of

__all__ = ["COMMUTATIVE", "Mapped", "Mapping", "Unmapped", "map_layers"]

How = Literal["name", "structure", "position"]

#: Share of tensors of one name that one operator makes, from which on names are trusted.
_TRUSTED = 0.9

#: Weights are alike up to this relative difference, if the next ones differ at least twice as much: what 4 bits lose.
_ALIKE = 0.25

#: From this relative difference on they are other weights: 2 bits lose less.
_OTHER = 0.75

#: Functions that a quantizer can stand for, since it clips.
_CLIPPING = frozenset({"Clip", "Relu"})

#: Operators whose inputs may stand in any order.
COMMUTATIVE = frozenset({"Add", "Max", "Min", "Mul", "Sum"})


@dataclass(frozen=True, slots=True)
class Mapped:
    """A tensor of the true model, and where it is in the other one.

    Args:
        name: The node that makes it; of an input, the input.
        op_type: Its operator; `Input` for an input.
        output: Which output of the node.
        truth: The tensor.
        mine: What stands for it in the other model: what its readers find there.
        copies: Other tensors there that have the same values.
        how: How it was found.
    """

    name: str
    op_type: str
    output: int
    truth: str
    mine: str
    copies: tuple[str, ...]
    how: How


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A node without a counterpart.

    Args:
        name: The node.
        op_type: Its operator.
        reason: Why.
    """

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Mapping:
    """What belongs together.

    Args:
        layers: In the order in which the true model computes them.
        unmapped: Nodes of the true model that have no counterpart.
        only_mine: Nodes of the other model that are none of the true one's.
        inputs: Input of the true model -> input of the other one.
        outputs: Output of the true model -> output of the other one.
        other_weights: Layers whose weights differ by more than quantization explains.
    """

    layers: tuple[Mapped, ...]
    unmapped: tuple[Unmapped, ...]
    only_mine: tuple[Unmapped, ...]
    inputs: dict[str, str]
    outputs: dict[str, str]
    other_weights: tuple[str, ...] = ()


def map_layers(truth: Side, mine: Side) -> Mapping:
    """Return which layers of two models belong together."""
    return _Matching(truth, mine).run()


class _Matching:
    """The search, and what it has found so far."""

    def __init__(self, truth: Side, mine: Side) -> None:
        self.truth, self.mine = truth, mine
        self.found: dict[ir.Value, ir.Value] = {}  # source -> source
        self.how: dict[ir.Value, How] = {}
        self.taken: set[ir.Value] = set()
        self.in_quantizer: set[ir.Value] = set()
        self.absorbed: set[ir.Node] = set()
        self.reasons: dict[ir.Node, str] = {}
        self.trusts_names = self._share_of_names() >= _TRUSTED

    def run(self) -> Mapping:
        inputs = _together(self.truth.inputs, self.mine.inputs)
        for value, other in inputs:
            self._pair(value, other, "name" if value.name == other.name else "position")
        outputs = _together(
            list(self.truth.model.graph.outputs), list(self.mine.model.graph.outputs)
        )
        before = -1
        while len(self.found) > before:
            before = len(self.found)
            for node in self.truth.layers:
                if node.outputs[0] not in self.found and node not in self.absorbed:
                    self._forward(node)
            self._outputs(outputs)
            for node in reversed(self.truth.layers):
                self._backward(node)
        return Mapping(
            tuple(self._layers()),
            tuple(self._unmapped()),
            tuple(self._only_mine()),
            {a.name or "": b.name or "" for a, b in inputs},
            {a.name or "": b.name or "" for a, b in outputs},
            tuple(self._other_weights()),
        )

    # ------------------------------------------------------------------------------------ search

    def _share_of_names(self) -> float:
        """Return how many tensors that both models have by name are made by one operator."""
        made = {v.name: node.op_type for node in self.mine.layers for v in node.outputs if v.name}
        common = [
            made[v.name] == node.op_type
            for node in self.truth.layers
            for v in node.outputs
            if v.name in made
        ]
        return sum(common) / len(common) if common else 0.0

    def _forward(self, node: ir.Node) -> None:
        """Look for a node's counterpart behind those of its inputs, then by its name."""
        inputs = [self.found.get(v) for v in self.truth.data_inputs(node)]
        known = [v for v in inputs if v is not None]
        if known and len(known) == len(inputs):
            other = self._behind(node, known)
            if other is not None:
                self._pair_outputs(node, other)
                return
            if self._fused(node, known) or self._clipped(node, known):
                return
        self._named(node)

    def _behind(self, node: ir.Node, inputs: Sequence[ir.Value]) -> ir.Node | None:
        """Return the node that does the same to the same tensors, if there is one and no doubt."""
        found = [n for n in self._readers(self.mine, inputs) if self._same(node, n)]
        found = [n for n in found if n.outputs[0] not in self.taken]
        twins = [
            n
            for n in self._readers(self.truth, self.truth.data_inputs(node))
            if _alike(node, n) and n.outputs[0] not in self.found
        ]
        if not found:
            self.reasons[node] = f"No {node.op_type} reads the same tensors in the other model."
            return None
        if len(found) == len(twins) == 1:
            return found[0]
        for same in (
            [n for n in found if n.outputs[0].name == node.outputs[0].name],
            [n for n in found if n.name == node.name],
            [n for n in found if n is self._nearest(node, found)],
        ):
            if len(same) == 1:
                return same[0]
        self.reasons[node] = (
            f"{len(found)} nodes of type {node.op_type} read the same tensors in the other model, "
            f"{len(twins)} in this one, and neither names nor weights tell them apart."
        )
        return None

    def _readers(self, side: Side, inputs: Sequence[ir.Value]) -> list[ir.Node]:
        """Return the nodes that read these tensors and no others, in this order."""
        return [n for n in side.readers.get(inputs[0], []) if side.data_inputs(n) == list(inputs)]

    def _same(self, node: ir.Node, other: ir.Node) -> bool:
        return _alike(node, other) and _fits(node.outputs[0], other.outputs[0])

    def _nearest(self, node: ir.Node, others: Sequence[ir.Node]) -> ir.Node | None:
        """Return the node whose weights are alike, if those of the others clearly are not."""
        wanted = [_array(v) for v in self.truth.constants(node)]
        distances = []
        for other in others:
            there = [_array(v) for v in self.mine.constants(other)]
            distances.append((_distance(wanted, there), other))
        distances.sort(key=lambda x: x[0])
        if not distances or not distances[0][0] < _ALIKE:
            return None
        if len(distances) > 1 and distances[1][0] <= 2 * distances[0][0]:
            return None
        return distances[0][1]

    def _fused(self, node: ir.Node, inputs: Sequence[ir.Value]) -> bool:
        """Find the Gemm that a MatMul and the Add behind it have become."""
        readers = self.truth.readers.get(node.outputs[0], [])
        if node.op_type != "MatMul" or [n.op_type for n in readers] != ["Add"]:
            return False
        if len(self.truth.data_inputs(readers[0])) != 1:
            return False
        found = [n for n in self._readers(self.mine, inputs) if n.op_type == "Gemm"]
        found = [n for n in found if _fits(readers[0].outputs[0], n.outputs[0])]
        if len(found) != 1 or found[0].outputs[0] in self.taken:
            return False
        self._pair(readers[0].outputs[0], found[0].outputs[0], "structure")
        self.absorbed.add(node)
        self.reasons[node] = f"It is part of '{found[0].name}' (Gemm) in the other model."
        return True

    def _clipped(self, node: ir.Node, inputs: Sequence[ir.Value]) -> bool:
        """Find the quantizer that clips where an activation function did."""
        if node.op_type not in _CLIPPING or len(inputs) != 1:
            return False
        value = inputs[0]
        readers = self.mine.readers.get(value, [])
        wanted = self.truth.readers.get(node.outputs[0], [])
        if self.mine.ends(value)[0] is value or not readers:
            return False
        if sorted(n.op_type for n in readers) != sorted(n.op_type for n in wanted):
            return False
        self.found[node.outputs[0]], self.how[node.outputs[0]] = value, "structure"
        self.in_quantizer.add(node.outputs[0])
        return True

    def _named(self, node: ir.Node) -> None:
        """Look for a tensor of the same name."""
        for value in node.outputs:
            other = self.mine.values.get(value.name or "")
            if other is None or not self.mine.is_data(other):
                continue
            other = self.mine.source(other)
            maker = other.producer()
            if maker is None or other in self.taken or not _fits(value, other):
                continue
            if maker.op_type == node.op_type or self.trusts_names:
                self._pair(value, other, "name")

    def _outputs(self, outputs: Sequence[tuple[ir.Value, ir.Value]]) -> None:
        for value, other in outputs:
            value, other = self.truth.source(value), self.mine.source(other)
            if value in self.found or other in self.taken or not _fits(value, other):
                continue
            makers = value.producer(), other.producer()
            types = {n.op_type for n in makers if n is not None}
            if len(types) == 1:
                self._pair(value, other, "name" if value.name == other.name else "position")

    def _backward(self, node: ir.Node) -> None:
        """Match what is read by two nodes that belong together."""
        other = self.found.get(node.outputs[0])
        maker = other.producer() if other is not None else None
        if maker is None or maker.op_type != node.op_type or node.outputs[0] in self.in_quantizer:
            return
        here, there = self.truth.data_inputs(node), self.mine.data_inputs(maker)
        if len(here) != len(there):
            return
        if node.op_type in COMMUTATIVE:  # in any order: what is known is taken out first
            known = {self.found[v] for v in here if v in self.found}
            here = [v for v in here if v not in self.found]
            there = [v for v in there if v not in known]
            if len(here) != 1 or len(there) != 1:
                return
        for value, candidate in zip(here, there, strict=True):
            makers = value.producer(), candidate.producer()
            if value in self.found or candidate in self.taken or None in makers:
                continue
            types = {n.op_type for n in makers if n is not None}
            if len(types) == 1 and _fits(value, candidate):
                self._pair(value, candidate, "structure")

    def _pair_outputs(self, node: ir.Node, other: ir.Node) -> None:
        for value, there in zip(node.outputs, other.outputs, strict=False):
            if value.name and there.name and value not in self.found and there not in self.taken:
                self._pair(value, there, "name" if value.name == there.name else "structure")

    def _pair(self, value: ir.Value, other: ir.Value, how: How) -> None:
        self.found[value], self.how[value] = other, how
        self.taken.add(other)

    # ----------------------------------------------------------------------------------- results

    def _layers(self) -> Iterator[Mapped]:
        clipped = {self.found[v] for v in self.in_quantizer}
        for value in self.truth.inputs:
            if (
                value in self.found
                and self.mine.ends(self.found[value])[0] is not self.found[value]
            ):
                yield self._mapped(value, clipped, value.name or "", "Input", 0)
        for node in self.truth.layers:
            for i, value in enumerate(node.outputs):
                if value in self.found and self._reason(value) == "":
                    yield self._mapped(value, clipped, node.name or "", node.op_type, i)

    def _mapped(
        self, value: ir.Value, clipped: set[ir.Value], name: str, op_type: str, output: int
    ) -> Mapped:
        there = self.found[value]
        raw = there in clipped and value not in self.in_quantizer
        ends = [there] if raw else self.mine.ends(there)
        mine, *copies = (v.name or "" for v in ends)
        truth = self.truth.ends(value)[0].name or ""
        return Mapped(name, op_type, output, truth, mine, tuple(copies), self.how[value])

    def _reason(self, value: ir.Value) -> str:
        """Return why a tensor that was found cannot be compared, or nothing."""
        if not self.truth.is_float(value):
            return "It is no floating point tensor."
        end = self.mine.ends(self.found[value])[0]
        if end in self.mine.steps or not self.mine.is_float(end):
            return "It holds integers in the other model; what is behind its dequantization is compared."
        return ""

    def _unmapped(self) -> Iterator[Unmapped]:
        for node in self.truth.layers:
            value = node.outputs[0]
            if any(v in self.found for v in node.outputs):
                reason = self._reason(value) if value in self.found else ""
            else:
                reason = (
                    self.reasons.get(node) or "What it reads was not found in the other model."
                )
            if reason:
                yield Unmapped(node.name or "", node.op_type, reason)

    def _other_weights(self) -> Iterator[str]:
        for node in self.truth.layers:
            there = self.found.get(node.outputs[0])
            other = there.producer() if there is not None else None
            if other is None or other.op_type != node.op_type or there in self.mine.steps:
                continue
            arrays = [
                [_array(v) for v in side.constants(n) if v is not _bias_of(n)]
                for side, n in ((self.truth, node), (self.mine, other))
            ]
            distance = _distance(*arrays)
            if _OTHER < distance < float("inf"):
                yield node.name or ""

    def _only_mine(self) -> Iterator[Unmapped]:
        for node in self.mine.layers:
            if not any(v in self.taken for v in node.outputs):
                yield Unmapped(
                    node.name or "", node.op_type, "It was not found in the true model."
                )


def _together(
    values: Sequence[ir.Value], others: Sequence[ir.Value]
) -> list[tuple[ir.Value, ir.Value]]:
    """Put inputs or outputs together by name, and the rest by position where there are as many."""
    names = {v.name: v for v in others}
    pairs = [(v, names[v.name]) for v in values if v.name in names]
    rest = [v for v in values if v.name not in names]
    known = {v.name for v in values}
    free = [v for v in others if v.name not in known]
    if len(rest) == len(free):
        pairs += zip(rest, free, strict=True)
    return pairs


def _alike(node: ir.Node, other: ir.Node) -> bool:
    """Whether two nodes are of one operator, with equal attributes where both have them."""
    if (node.op_type, node.domain or "") != (other.op_type, other.domain or ""):
        return False
    return all(
        _plain(a) == _plain(other.attributes[name])
        for name, a in node.attributes.items()
        if name in other.attributes
    )


def _plain(attribute: ir.Attr) -> object:
    if attribute.type in (
        ir.AttributeType.TENSOR,
        ir.AttributeType.GRAPH,
        ir.AttributeType.GRAPHS,
    ):
        return None
    value = attribute.value
    return tuple(value) if isinstance(value, list | tuple) else value


def _fits(value: ir.Value, other: ir.Value) -> bool:
    """Whether known shapes do not contradict each other."""
    if value.shape is None or other.shape is None:
        return True
    if len(value.shape) != len(other.shape):
        return False
    pairs = zip(value.shape, other.shape, strict=True)
    return all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def _array(value: ir.Value) -> np.ndarray | None:
    """Return a constant, or what a constant is dequantized to."""
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type not in ("DequantizeLinear", "Identity", "Cast"):
        return None
    arrays = [_array(v) if v is not None else None for v in node.inputs]
    x = arrays[0]
    if x is None or node.op_type != "DequantizeLinear":
        return x
    scale = arrays[1]
    if scale is None:
        return None
    zero = arrays[2] if len(arrays) > 2 and arrays[2] is not None else np.zeros_like(scale)
    axis = node.attributes.get("axis")
    if scale.size > 1 and scale.ndim == 1:
        shape = [1] * x.ndim
        shape[axis.as_int() if axis is not None else 1] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (x.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)


def _bias_of(node: ir.Node) -> ir.Value | None:
    """Return the bias of a node, which may be corrected by any amount."""
    place = rule_of(node).bias
    return node.inputs[place] if place is not None and place < len(node.inputs) else None


def _distance(arrays: Sequence[np.ndarray | None], others: Sequence[np.ndarray | None]) -> float:
    """Return the largest relative difference of constants; inf where they cannot be compared."""
    pairs = [
        (a, b) for a, b in zip(arrays, others, strict=False) if a is not None and b is not None
    ]
    pairs = [(a, b) for a, b in pairs if a.dtype.kind == "f" and a.size > 1]
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    found = 0.0
    for a, b in pairs:
        x, y = a.astype(np.float64), b.astype(np.float64)
        norm = float(np.sqrt((x * x).sum()))
        found = max(found, float(np.sqrt(((x - y) ** 2).sum())) / norm if norm else float("inf"))
    return found

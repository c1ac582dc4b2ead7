"""Where each channel of an activation can have a scale of its own, and what the reader makes of it.

    q_c = round(x_c / s_c) + z_c                                    what the quantizer writes, channel by channel

An operator that looks at one channel at a time reads these as they are. One that adds up channels multiplies
integers of different units, which no integer kernel does; so the units go into its weight, before that is
quantized:

    sum_c W_c x_c  =  sum_c (W_c s_c / t) * t (q_c - z_c),          t = max_c s_c

Now every channel is read at the one scale t, and the operator stays one product of integers with a constant
behind it. The identity is exact; what changes is that the rounding of the weight is shared out anew: columns
of quiet channels become small.

| reader | axis | |
|---|---|---|
| Conv, ConvTranspose, with any groups | 1 | folded |
| depthwise Conv whose weight has one scale | 1 | as it is: folding would spread that scale |
| Gemm; MatMul with a constant on the right | the last, which is contracted | folded |
| elementwise operators, activation functions, pools over positions | 1 | as it is |
| anything else: two activations multiplied, Softmax, Resize, GridSample, shape changes | | one scale a tensor |

For a MatMul of rank 3 and more the contracted axis is the channel axis, since its scales can go into the
weight and those of axis 1 (positions of a sequence, as a rule) cannot.

A quantizer that a producer needs serves all readers of its tensor, so they have to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from calibrant.graph.ops import is_depthwise, rule_of
from calibrant.graph.points import ActivationPoint
from calibrant.graph.targets import Target
from calibrant.plan.decisions import Spot, WeightDecision
from calibrant.recipe import Note

__all__ = ["Channels", "Granularity"]


#: Operators other than elementwise ones and activation functions that work on each channel by itself.
_CHANNELWISE = frozenset(
    {"AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "Identity"}
)

#: Operators that move values and leave the channels where they are.
_KEEP_CHANNELS = frozenset({"MaxPool", "Identity"})


#: Why a tensor keeps one scale where a device wants one quantizer for all its readers.
_TWO = "another reader of the tensor takes one scale, and the device wants one quantizer a tensor"


@dataclass(frozen=True, slots=True)
class Channels:
    """How a reader takes a tensor whose channels have scales of their own.

    Args:
        axis: Axis of the channels.
        count: How many there are.
        folded: The scales go into the reader's weight.
    """

    axis: int
    count: int
    folded: bool


class Granularity:
    """Decides, reader by reader, and remembers where one scale a tensor has to do.

    Args:
        nodes: The model's nodes by name.
        weights: Weight quantizers by layer.
        target: The device.
        wanted: Answers with the rule that asks for scales by channel at an edge, or None.
    """

    def __init__(
        self,
        nodes: Mapping[str, ir.Node],
        weights: Mapping[str, WeightDecision],
        target: Target,
        wanted: Callable[[Spot], str | None],
    ) -> None:
        """Remember nothing yet."""
        self._nodes, self._weights, self._target, self._wanted = nodes, weights, target, wanted
        self._refused: dict[tuple[str, str], list[str]] = {}

    def of(self, point: ActivationPoint, edges: tuple[Spot, ...]) -> dict[Spot, Channels]:
        """Return the readers of a tensor that take it with scales by channel."""
        asking = {e: rule for e in edges if (rule := self._wanted(e)) is not None}
        if not asking:
            return {}
        found: dict[Spot, Channels] = {}
        for edge, rule in asking.items():
            reading = self._reading(point, edge)
            if isinstance(reading, Channels):
                found[edge] = reading
            else:
                self._refuse(rule, reading, edge)
        if found:
            reason = self._disagreement(point, edges, found)
            if reason:
                for edge in found:
                    self._refuse(asking[edge], reason, edge)
                return {}
        return found

    def notes(self) -> list[Note]:
        """Return one note for each reason, with the inputs that it holds for."""
        return [
            Note(
                rule,
                f"Activations keep one scale a tensor at {', '.join(dict.fromkeys(where))}: {reason}.",
            )
            for (rule, reason), where in self._refused.items()
        ]

    def group(self, point: ActivationPoint, channels: Channels) -> str:
        """Name the quantizers that share the ranges of channels with a point's.

        Values that are moved share one range where the device wants it; channels stay what they are
        behind a MaxPool and an Identity alone.
        """
        value = self._value(point)
        while value is not None:
            producer = value.producer()
            if producer is None or producer.op_type not in _KEEP_CHANNELS & self._target.shared:
                break
            value = producer.inputs[0]
        root = value.name if value is not None else point.tensor
        return f"{root}|{channels.count} channels on {channels.axis}"

    def _refuse(self, rule: str, reason: str, edge: Spot) -> None:
        node, index = edge
        where = f"'{node}'" if index is None else f"'{node}' input {index}"
        self._refused.setdefault((rule, reason), []).append(where)

    def _value(self, point: ActivationPoint) -> ir.Value | None:
        for name, index in point.users:
            return self._nodes[name].inputs[index]
        return None

    def _reading(self, point: ActivationPoint, edge: Spot) -> Channels | str:
        """Say how one reader takes the channels, or why it cannot."""
        name, index = edge
        node = self._nodes[name]
        if index is None:
            return "no quantized operator reads its output"
        if point.fixed_range is not None:
            return "the values have a range by definition"
        value = node.inputs[index]
        shape = value.shape if value is not None else None
        if shape is None:
            return "the shape of the tensor is not known"
        if len(shape) < 2:
            return "the tensor has no channels"
        rule = rule_of(node)
        if rule.kind == "compute":
            return _contracted(node, index, shape, self._weights.get(name))
        if rule.kind in ("elementwise", "activation") or node.op_type in _CHANNELWISE:
            count = shape[1]
            if not isinstance(count, int):
                return "the number of channels is not fixed"
            return Channels(1, count, folded=False)
        return f"{node.op_type} mixes or moves channels, and has no weight that could take their scales"

    def _disagreement(
        self, point: ActivationPoint, edges: tuple[Spot, ...], found: Mapping[Spot, Channels]
    ) -> str:
        """Say why the readers of one quantizer cannot all take scales by channel; empty where they can."""
        if point.producer is None:
            return self._two(point, edges, found) if self._target.one_quantizer else ""
        if set(found) != set(edges):
            return "another reader of the same integers takes one scale"
        if len(set(found.values())) > 1:
            return "the readers of the same integers need them in different forms"
        producer = self._nodes[point.producer]
        if producer.op_type in self._target.shared:
            return "the operator before it hands on integers of one scale"
        value = self._value(point)
        if value is not None and next(iter(found.values())).folded:
            read = {(use.node.name, use.idx) for use in value.uses()}
            if value.is_graph_output() or read != set(edges):
                return "what reads the tensor in float has no weight to take the scales"
        return ""

    def _two(
        self, point: ActivationPoint, edges: tuple[Spot, ...], found: Mapping[Spot, Channels]
    ) -> str:
        """Say what else than scales by channel a tensor would have, which is to have one quantizer."""
        value = self._value(point)
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type in self._target.fused:
            source = producer.inputs[0]
            producer = source.producer() if source is not None else None
        if producer is not None and producer.op_type in self._target.shared:
            return "the operator before it hands on integers of one scale"
        alike = set(found) == set(edges) and len(set(found.values())) == 1
        return "" if alike else _TWO


def _contracted(
    node: ir.Node, index: int, shape: ir.Shape, weight: WeightDecision | None
) -> Channels | str:
    """Say how an operator that adds up channels takes them."""
    if weight is None:
        return f"the other side of the {node.op_type} is no quantized constant that could take the scales"
    if weight.input_index != 1 or index != 0 or _flag(node, "transA"):
        return "the contracted axis is not the last"
    axis = 1 if node.op_type in ("Conv", "ConvTranspose") else len(shape) - 1
    count = shape[axis]
    if not isinstance(count, int):
        return "the number of channels is not fixed"
    as_it_is = node.op_type == "Conv" and is_depthwise(node) and weight.spec.axis is None
    return Channels(axis, count, folded=not as_it_is)


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and attribute.as_int() != 0

"""Where the error of each layer of a quantized model comes from: a walk from the float layer to the quantized one.

A layer f gives y = f(x, w, b) in the float model. In the quantized model x' arrives; it is quantized to q(x'), the weight to
q(w) and the bias to q(b). In between stand what is clipped to the range of the grid, c(x') and c(w). The walk

    f(x, w, b) -> f(x', w, b) -> f(c(x'), w, b) -> f(q(x'), w, b) -> f(q(x'), c(w), b) -> f(q(x'), q(w), b) -> f(q(x'), q(w), q(b))

takes one step for each cause. The steps v add up to the error e of the layer's output, and so do their energies, taken as

    share of v = sum v e / sum e**2            sum of all shares = 1

A share is below 0 where a cause cancels what others do. The first step is the error that arrived; the rest is born here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.origin import CAUSES, Origin, Tally
from calibrant.analysis.readings import QuantizedAlone
from calibrant.graph.ops import bias_of
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.walk import alone

__all__ = ["CAUSES", "Origin", "Tally", "Walk"]

Array = npt.NDArray[Any]


class Arrives(Protocol):
    """What arrives at a layer in the quantized model, where that is another tensor than in the float model."""

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        """Return it by input index, from all tensors of the quantized model."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The walk of one layer.

    Args:
        layer: Its name.
        reading: What it reads when it is quantized.
        left: What arrives: `LeftInFloat` reads it in front of the quantizers of the quantized model.
        runtime: Where it runs.
    """

    layer: str
    reading: QuantizedAlone
    left: Arrives
    runtime: Runtime

    def walks(
        self, truth: Whole, mine: Whole, feeds: Sequence[int]
    ) -> Iterator[tuple[Array, list[tuple[int, Array]]]]:
        """Yield what the layer gives in the float model, and the walk to what it gives in the quantized one.

        A walk has each step, by its place in `CAUSES`, and what the layer gives after it.

        Args:
            truth: The float model, run once.
            mine: The quantized model, run on the same feeds.
            feeds: Which of the feeds.
        """
        model = self.reading.model
        node = model.graph.node(self.layer)
        output = next(v.name or "" for v in node.outputs if v.name)
        inputs = {i: v.name or "" for i, v in enumerate(node.inputs) if v is not None and v.name}
        part, own = alone(model, node, output)
        session = open_session(part, runtime=self.runtime, optimize=False, spinning=False)
        asked = [i.name for i in session.get_inputs()]
        weight, bias = self._constants(node)
        for feed in feeds:
            known, other = truth.values[feed], mine.values[feed]
            right = self._arrays(inputs, known)
            arrived = right | self._seen(inputs, other)
            arrived |= self.left.values(self.layer, other)
            rounded = self._rounded(arrived)
            reads = [
                right,
                arrived,
                arrived | self._clipped(arrived),
                arrived | rounded,
                arrived | rounded | {i: c for i, (c, _) in weight.items()},
                arrived | rounded | {i: q for i, (_, q) in weight.items()},
                arrived | rounded | {i: q for i, (_, q) in weight.items()} | bias,
            ]
            surrounding = {n: known[n] for n in asked if n in known and n not in own.values()}
            gives: list[Array] = []
            for i, read in enumerate(reads):
                if i and all(read[k] is reads[i - 1][k] for k in read):
                    gives.append(gives[-1])
                    continue
                fed = {own[k]: x for k, x in read.items() if own[k] in asked}
                gives.append(infer(session, [output], surrounding | fed)[0])
            yield gives[0], list(enumerate(gives[1:]))

    def _arrays(self, inputs: Mapping[int, str], known: Mapping[str, Array]) -> dict[int, Array]:
        constants = self.reading.model.graph.initializers
        found = {}
        for index, name in inputs.items():
            if name in known:
                found[index] = known[name]
                continue
            value = constants[name].const_value
            assert value is not None
            found[index] = value.numpy()
        return found

    def _seen(self, inputs: Mapping[int, str], known: Mapping[str, Array]) -> dict[int, Array]:
        """Return inputs that are read as they arrive, without a quantizer."""
        return {i: known[n] for i, n in inputs.items() if n in known}

    def _rounded(self, arrived: Mapping[int, Array]) -> dict[int, Array]:
        grids = self.reading.grids(self.layer)
        return {i: self.reading.on_grid(self.layer, i, arrived[i]) for i in grids}

    def _clipped(self, arrived: Mapping[int, Array]) -> dict[int, Array]:
        grids = self.reading.grids(self.layer)
        return {i: self.reading.clip(self.layer, i, arrived[i]) for i in grids}

    def _constants(self, node: ir.Node) -> tuple[dict[int, tuple[Array, Array]], dict[int, Array]]:
        """Return the weight, clipped and on its grid, and the bias as it is added."""
        constants = self.reading.constants(self.layer)
        place = bias_of(node)
        index = place[1] if place is not None and place[0] is node else None
        bias = {i: x for i, x in constants.items() if i == index}
        weight = {
            i: (self.reading.clipped_weight(self.layer), x)
            for i, x in constants.items()
            if i != index
        }
        return weight, bias

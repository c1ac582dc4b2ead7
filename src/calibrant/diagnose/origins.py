"""Where the error of each layer of a quantized model comes from: a walk from the float layer to the quantized one.

A layer f gives y = f(x, w, b) in the float model. In the quantized model x' arrives; it is quantized to q(x'), the weight to
q(w) and the bias to q(b). In between stand what is clipped to the range of the grid, c(x') and c(w). The walk

    f(x, w, b) -> f(x', w, b) -> f(c(x'), w, b) -> f(q(x'), w, b) -> f(q(x'), c(w), b) -> f(q(x'), q(w), b) -> f(q(x'), q(w), q(b))

takes one step for each cause. The steps v add up to the error e of the layer's output, and so do their energies, taken as

    share of v = sum v e / sum e**2            sum of all shares = 1

A share is below 0 where a cause cancels what others do. The first step is the error that arrived; the rest is born here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.parts import Part
from calibrant.analysis.readings import LeftInFloat, QuantizedAlone
from calibrant.graph.ops import bias_of
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.walk import piece

__all__ = ["CAUSES", "Origin", "Tally", "Walk"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: Causes in the order of the walk: the error that arrived, and what is born here.
CAUSES = (
    "arrived",
    "activation_clipping",
    "activation_rounding",
    "weight_clipping",
    "weight_rounding",
    "bias",
)


#: Channels that are named.
WORST_CHANNELS = 5


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the error of a tensor comes from, in shares of its energy, which add up to 1 (all 0 where there is no error).

    Args:
        sqnr_db: SQNR of the tensor in the quantized model [dB].
        arrived: Came with what the layer reads.
        born: Is made here: the sum of those below.
        activation_clipping: Values beyond the range of the grid of an input.
        activation_rounding: Steps of that grid.
        weight_clipping: Weights beyond the range of their grid.
        weight_rounding: Steps of that grid.
        bias: The bias as it is added: rounded, or corrected.
    """

    sqnr_db: float
    arrived: float
    born: float
    activation_clipping: float
    activation_rounding: float
    weight_clipping: float
    weight_rounding: float
    bias: float

    @property
    def activations(self) -> float:
        """What quantizing the inputs makes."""
        return self.activation_clipping + self.activation_rounding

    @property
    def weights(self) -> float:
        """What quantizing the weight makes."""
        return self.weight_clipping + self.weight_rounding

    @property
    def cause(self) -> str:
        """The largest share of what is born here."""
        return max(CAUSES[1:], key=lambda name: getattr(self, name))


@dataclass(slots=True, eq=False)
class Tally:
    """Energies of one tensor, added up over samples.

    Args:
        part: What is looked at of it; None for all.
        axis: Axis of its channels; None where it has none.
    """

    part: Part | None = None
    axis: int | None = None
    signal: float = 0.0
    error: float = 0.0
    steps: Floats = field(default_factory=lambda: np.zeros(len(CAUSES)))
    _channels: Floats | None = None

    def add(self, truth: Array, steps: Sequence[Array]) -> None:
        """Add the steps of one feed; where the float model is not finite, nothing is said."""
        self._add_channels(truth, steps)
        if self.part is not None:
            truth, steps = self.part.take(truth), [self.part.take(s) for s in steps]
        said = np.isfinite(truth)
        y = truth[said].astype(np.float64)
        each = [s[said].astype(np.float64) for s in steps]
        error = np.sum(each, axis=0)
        with np.errstate(invalid="ignore", over="ignore"):
            self.signal += float((y * y).sum())
            self.error += float((error * error).sum())
            self.steps += [float((s * error).sum()) for s in each]

    def _add_channels(self, truth: Array, steps: Sequence[Array]) -> None:
        """Add up the energy of what is born, channel by channel."""
        if self.axis is None or truth.ndim < 2:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            born = np.where(np.isfinite(truth), np.sum(steps[1:], axis=0), 0.0)
            others = tuple(a for a in range(truth.ndim) if a != self.axis % truth.ndim)
            found = np.square(born).sum(axis=others)
        same = self._channels is not None and self._channels.shape == found.shape
        self._channels = self._channels + found if same else found

    @property
    def channels(self) -> dict[int, float]:
        """The channels that most of what is born here is born in, and the share of each, largest first."""
        if self._channels is None or not self._channels.sum() > 0:
            return {}
        shares = self._channels / self._channels.sum()
        worst = np.argsort(-shares, kind="stable")[:WORST_CHANNELS]
        return {int(c): float(shares[c]) for c in worst if shares[c] > 0}

    @property
    def origin(self) -> Origin:
        """The shares."""
        if self.error == 0:
            return Origin(math.inf, *[0.0] * 7)
        arrived, *born = (self.steps / self.error).tolist()
        ratio = self.signal / self.error
        db = 10 * math.log10(ratio) if ratio > 0 else -math.inf if ratio == 0 else math.nan
        return Origin(db, arrived, sum(born), *born)


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The walk of one layer.

    Args:
        layer: Its name.
        reading: What it reads when it is quantized.
        left: The same layers, read in front of the quantizers of the quantized model.
        runtime: Where it runs.
    """

    layer: str
    reading: QuantizedAlone
    left: LeftInFloat
    runtime: Runtime

    def steps(
        self, truth: Whole, mine: Whole, feeds: Sequence[int]
    ) -> Iterator[tuple[Array, list[Array]]]:
        """Yield what the layer gives in the float model and the steps to what it gives in the quantized one.

        Args:
            truth: The float model, run once.
            mine: The quantized model, run on the same feeds.
            feeds: Which of the feeds.
        """
        model = self.reading.model
        node = model.graph.node(self.layer)
        output = next(v.name or "" for v in node.outputs if v.name)
        inputs = {i: v.name or "" for i, v in enumerate(node.inputs) if v is not None and v.name}
        part, _ = piece(model, [node], [output])
        own = _as_inputs(part, node.name or "", inputs)
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
            with np.errstate(invalid="ignore", over="ignore"):
                each = [
                    b.astype(np.float64) - a.astype(np.float64)
                    for a, b in itertools.pairwise(gives)
                ]
            yield gives[0], each

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


def _as_inputs(part: ir.Model, name: str, inputs: Mapping[int, str]) -> dict[int, str]:
    """Make every input of the node an input of the model, in place; return their names by index."""
    graph = part.graph
    node = graph.node(name)
    own = {}
    for index in inputs:
        source = node.inputs[index]
        assert source is not None
        kind = source.type or ir.TensorType(ir.DataType.FLOAT)
        value = ir.Value(name=f"read__{index}", type=kind)
        graph.inputs.append(value)
        node.replace_input_with(index, value)
        own[index] = value.name or ""
    for value in [v for v in graph.inputs if not v.uses()]:
        graph.inputs.remove(value)
    for unused, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[unused]
    return own

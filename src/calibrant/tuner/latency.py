"""What layers cost in time on this machine, by precision: a table that is measured once.

The model is run with all layers in one precision after the other, under ONNX Runtime's own profile. What a kernel takes is
booked on the layer that it belongs to: its own node, or the layer in front of what it computes (an activation function, a
pooling). Each column is scaled so that its sum is the time of the whole model, measured beside the float model's in turn.

Where a layer in integers meets one in floats, a conversion stands: what it takes for a tensor of that size is measured, too.

Numbers are those of this machine at this moment. So each trial is timed as a whole, beside the float model, and that is its
cost; the table only says what to try.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.runtime.downstream import Whole
from calibrant.runtime.kernels import kernel_seconds
from calibrant.runtime.measure import measure_latency
from calibrant.runtime.runtime import Runtime
from calibrant.tuning.menu import Floats

__all__ = ["Latencies", "Neighbours", "measured_latencies"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Latencies:
    """Time by layer and precision.

    Args:
        cost: (layers, precisions) [ms].
        borders: (layer, layer, ms): what the conversions between the two take where one is in integers alone.
        whole: Precision -> the whole model with all layers in it [ms].
    """

    cost: Floats
    borders: tuple[tuple[int, int, float], ...]
    whole: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Which layer each node and each tensor belongs to, and which layers meet.

    Args:
        owner: Node or tensor -> the layer; a node that no layer stands in front of belongs to the first layer behind it.
        meets: (layer in front, layer behind) -> the tensor that the one behind reads.
    """

    owner: dict[str, str]
    meets: dict[tuple[str, str], str]

    @classmethod
    def of(cls, model: ir.Model, layers: Sequence[str]) -> Neighbours:
        """Walk through a graph.

        Args:
            model: The float model.
            layers: Names of nodes.
        """
        own = set(layers)
        front: dict[str, set[str]] = {}  # tensor -> layers in front of it
        owner: dict[str, str] = {}
        meets: dict[tuple[str, str], str] = {}
        waiting: list[str] = []
        for node in model.graph:
            name = node.name or ""
            read = [v.name or "" for v in node.inputs if v is not None]
            sources = set[str]().union(*(front.get(n, set()) for n in read))
            outputs = [v.name or "" for v in node.outputs]
            if name in own:
                meets.update({(s, name): n for n in read for s in front.get(n, ())})
                sources = {name}
                for early in waiting:
                    owner[early] = name
                waiting = []
            mine = max(sources, key=layers.index) if sources else None
            for part in (name, *outputs):
                front[part] = sources
                if mine is not None:
                    owner[part] = mine
                else:
                    waiting.append(part)
        return cls(owner, meets)

    def of_kernel(self, kernel: str) -> str | None:
        """Return the layer that a kernel belongs to: by the longest name of a node or tensor in its name."""
        found = [n for n in self.owner if n and n in kernel]
        return self.owner[max(found, key=len)] if found else None


def measured_latencies(
    models: Mapping[str, ir.Model],
    float_model: ir.Model,
    layers: Sequence[str],
    precisions: Sequence[str],
    feed: Mapping[str, Array],
    runtime: Runtime,
) -> Latencies:
    """Measure what each layer takes in each precision.

    Args:
        models: Precision -> the model to deploy with all layers in it; float32 is the float model.
        float_model: The float model.
        layers: Names, in graph order.
        precisions: Precisions, in the order of the columns.
        feed: Inputs, of one batch.
        runtime: Where models run.

    Raises:
        ModelError: A model does not run.
    """
    around = Neighbours.of(float_model, layers)
    place = {n: i for i, n in enumerate(layers)}
    table = np.zeros((len(layers), len(precisions)))
    whole = {}
    for column, precision in enumerate(precisions):
        model = models[precision]
        rest = 0.0
        for kernel, taken in kernel_seconds(model, feed, runtime=runtime).items():
            layer = around.of_kernel(kernel)
            if layer is None:
                rest += taken
            else:
                table[place[layer], column] += taken
        total = table[:, column].sum() + rest
        timed = measure_latency(float_model, model, feed, runtime=runtime)
        milliseconds = timed.float_ms if precision == "float32" else timed.quantized_ms
        whole[precision] = milliseconds
        table[:, column] *= milliseconds / total if total > 0 else 0.0
    sizes = _sizes(float_model, feed, set(around.meets.values()), runtime)
    borders = tuple(
        (place[a], place[b], _conversion(sizes[tensor], runtime))
        for (a, b), tensor in around.meets.items()
        if sizes.get(tensor)
    )
    return Latencies(table, borders, whole)


def _sizes(
    model: ir.Model, feed: Mapping[str, Array], tensors: set[str], runtime: Runtime
) -> dict[str, int]:
    """Return how many values tensors have."""
    outputs = [v.name or "" for v in model.graph.outputs]
    values = Whole.of(model, outputs, [feed], runtime=runtime).values[0]
    return {n: int(np.size(x)) for n, x in values.items() if n in tensors}


@cache
def _conversion(size: int, runtime: Runtime) -> float:
    """Return what quantizing a tensor takes, or reading it as floats again, whichever is longer [ms]."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([size]))
    constants = {"scale": np.float32(0.02), "zero": np.uint8(128)}
    scale, zero = (
        ir.Value(name=n, const_value=ir.tensor(np.asarray(v), name=n))
        for n, v in constants.items()
    )
    quantize = ir.Node("", "QuantizeLinear", [x, scale, zero], name="quantize")
    quantize.outputs[0].name = "q"
    read = ir.Node("", "DequantizeLinear", [quantize.outputs[0], scale, zero], name="read")
    read.outputs[0].name = "y"
    for node, dtype in ((quantize, ir.DataType.UINT8), (read, ir.DataType.FLOAT)):
        node.outputs[0].type = ir.TensorType(dtype)
        node.outputs[0].shape = ir.Shape([size])
    graph = ir.Graph(
        [x],
        [*quantize.outputs, *read.outputs],
        nodes=[quantize, read],
        initializers=[scale, zero],
        opset_imports={"": 17},
    )
    feed = {"x": np.random.default_rng(0).normal(size=size).astype(np.float32)}
    taken = kernel_seconds(
        ir.Model(graph, ir_version=8), feed, runtime=runtime, seconds=0.02, most_runs=30
    )
    return 1e3 * max(taken.values(), default=0.0)

"""How like its float output is what a layer alone gives for the same float inputs: no layer before it is quantized.

For each batch b, with y the float layer's output and q that of the layer with its quantizers,

    similarity = mean over b of (1 + cos(y_b, q_b)) / 2          all values of a batch as one vector

1 where y is zero everywhere, 0 where q alone is. A bias that an Add behind a product brings belongs to the layer.

Source: the ranking of accuracy_based_auto_calibration of the Ascend Model Compression Toolkit, as its public documentation
describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.readings import QuantizedAlone
from calibrant.graph.ops import bias_of
from calibrant.plan.biases import final_bias
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.walk import alone
from calibrant.solution import Solution

__all__ = ["half_cosine", "own_outputs"]

Array = npt.NDArray[Any]

#: (float output, quantized output), each as a vector -> how like they are.
Compare = Callable[[Array, Array], float]


def half_cosine(data: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return (1 + cosine) / 2 of two arrays of equal size.

    Args:
        data: What is right.
        other: What is compared with it.

    Example:
        >>> half_cosine([1.0, 0.0], [0.0, 1.0])
        0.5
        >>> half_cosine([0.0, 0.0], [0.0, 1.0]), half_cosine([1.0, 0.0], [0.0, 0.0])
        (1.0, 0.0)
    """
    x = np.asarray(data, dtype=np.float64).ravel()
    y = np.asarray(other, dtype=np.float64).ravel()
    if not x.any():
        return 1.0
    if not y.any():
        return 0.0
    return float(0.5 + 0.5 * (x @ y) / (np.linalg.norm(x) * np.linalg.norm(y)))


def own_outputs(
    solution: Solution,
    layers: Sequence[str],
    batches: Iterable[Mapping[str, Array]],
    compare: Compare = half_cosine,
    runtime: Runtime = CPU,
) -> dict[str, float]:
    """Return how like its float output each layer's own output is.

    Args:
        solution: What was decided.
        layers: Quantized layers.
        batches: Feeds; what `compare` says is averaged over them.
        compare: Called with the float output and the quantized one, flattened.
        runtime: Where models run.

    Returns:
        Layer -> similarity, in the order of `layers`.

    Raises:
        ModelError: The model does not run on a batch.
    """
    reading = QuantizedAlone(solution.model, solution.plan, solution.params)
    pairs = {n: _Pair(solution, reading, n, runtime) for n in layers}
    found: dict[str, list[float]] = {n: [] for n in layers}
    whole: Whole | None = None
    outputs = [v.name or "" for v in solution.model.graph.outputs]
    for feed in batches:
        if whole is None:
            whole = Whole.of(solution.model, outputs, [feed], runtime=runtime)
        else:
            whole = whole.on([feed])
        for name, pair in pairs.items():
            right, mine = pair.outputs(whole.values[0])
            found[name].append(float(compare(right.ravel(), mine.ravel())))
    return {n: float(np.mean(x)) for n, x in found.items()}


class _Pair:
    """One layer in float and with its quantizers."""

    def __init__(
        self, solution: Solution, reading: QuantizedAlone, layer: str, runtime: Runtime
    ) -> None:
        """Open the layer as a model of its own."""
        model = solution.model
        node = model.graph.node(layer)
        self._layer, self._reading, self._model = layer, reading, model
        self._output = next(v.name or "" for v in node.outputs if v.name)
        part, self._own = alone(model, node, self._output)
        self._session = open_session(part, runtime=runtime, optimize=False, spinning=False)
        self._asked = [i.name for i in self._session.get_inputs()]
        self._node = node
        self._added = _bias_behind(solution, node)

    def outputs(self, known: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return what both give, from all tensors of the float model."""
        right = dict(self._inputs(known))
        mine = right | self._reading.values(self._layer, known)
        mine |= self._reading.constants(self._layer)
        y, q = self._run(right, known), self._run(mine, known)
        if self._added is None:
            return y, q
        return y + self._added[0], q + self._added[1]

    def _inputs(self, known: Mapping[str, Array]) -> Iterator[tuple[int, Array]]:
        for index, value in enumerate(self._node.inputs):
            if value is None or not value.name:
                continue
            if value.name in known:
                yield index, known[value.name]
            else:
                const = self._model.graph.initializers[value.name].const_value
                assert const is not None
                yield index, const.numpy()

    def _run(self, read: Mapping[int, Array], known: Mapping[str, Array]) -> Array:
        around = {n: known[n] for n in self._asked if n in known and n not in self._own.values()}
        fed = {self._own[i]: x for i, x in read.items() if self._own.get(i) in self._asked}
        return np.asarray(infer(self._session, [self._output], around | fed)[0])


def _bias_behind(solution: Solution, node: ir.Node) -> tuple[Array, Array] | None:
    """Return the bias that an Add behind the layer brings, in float and as it is added; None where there is none."""
    weight = next((w for w in solution.plan.weights if w.layer == node.name), None)
    place = bias_of(node)
    if weight is None or place is None or place[0] is node:
        return None
    source = place[0].inputs[place[1]]
    final = final_bias(solution.model, solution.plan, solution.params, weight)
    if source is None or source.const_value is None or final is None:
        return None
    return source.const_value.numpy(), final.floats

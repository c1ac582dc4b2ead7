"""Lend weights to a session: the message that it is opened from holds none, and the session reads the arrays themselves.

A message with all weights in it is a second copy of them, and the runtime makes a third one. For a network of 100 MB that is
most of the time that opening a session takes. The message says that a weight lies outside; in the place of a file, the runtime
is given the array. It copies the array for its optimizations and drops the copy; told that the array is also what other
sessions share, it computes with the array itself. So a weight of the float model is in memory once, however many sessions
are open, and nobody may write into it while one is.

Source: ONNX Runtime, `AddExternalInitializers` and `AddInitializer` in onnxruntime_c_api.h.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from calibrant.graph.bodies import dependencies

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Lent", "lend"]

#: Models with fewer bytes of weights are written whole.
LENT_BYTES = 8 * 2**20

#: Smaller weights stay in the message, where passes of the runtime read them [bytes].
_SMALL = 4096

#: Types that numpy and the runtime write alike.
_TYPES = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT32,
        ir.DataType.INT64,
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Lent:
    """Large weights of a model, that it says to lie outside.

    Args:
        weights: The weights by name.
    """

    weights: dict[str, Any] = field(default_factory=dict)

    def give(self, options: ort.SessionOptions, *, share: bool) -> Sequence[ort.OrtValue]:
        """Let a session that is opened with these options take the weights.

        Args:
            options: The options.
            share: Let it compute with the arrays themselves: it runs on the CPU.

        Returns:
            What has to live as long as the session does.
        """
        import onnxruntime as ort

        values = [ort.OrtValue.ortvalue_from_numpy(w) for w in self.weights.values()]
        if not values:
            return ()
        options.add_external_initializers([*self.weights], values)
        if not share:
            return ()
        for name, value in zip(self.weights, values, strict=True):
            options.add_initializer(name, value)
        return values


@contextmanager
def lend(model: ir.Model) -> Iterator[Lent]:
    """Let a model say for the time of a block that its large weights lie outside; nothing is lent where it has few.

    A copy of its nodes would take longer than the rest of opening a session.
    """
    lent = {v: v.const_value for v in model.graph.initializers.values() if _is_lent(v)}
    if sum(w.nbytes for w in lent.values() if w is not None) >= LENT_BYTES:
        # what no output needs is dropped by the runtime, which then finds no place for it
        read = _read(model.graph)
        lent = {v: w for v, w in lent.items() if v.name in read}
    if sum(w.nbytes for w in lent.values() if w is not None) < LENT_BYTES:
        yield Lent()
        return
    weights = {}
    try:
        for value, w in lent.items():
            assert w is not None
            weights[value.name or ""] = np.ascontiguousarray(w.numpy())
            value.const_value = ir.ExternalTensor(
                "lent",
                0,
                w.nbytes,
                w.dtype,
                shape=ir.Shape(w.shape.numpy()),
                name=value.name or "",
            )
        yield Lent(weights)
    finally:
        for value, w in lent.items():
            value.const_value = w


def _is_lent(value: ir.Value) -> bool:
    """Whether a weight can be lent: it is large, of a type that numpy has, and nobody may feed it."""
    w = value.const_value
    return w is not None and w.dtype in _TYPES and w.nbytes > _SMALL and not value.is_graph_input()


def _read(graph: ir.Graph) -> set[str]:
    """Return the names of the values that the outputs of a graph depend on."""
    found: set[str] = set()
    left = list(graph.outputs)
    while left:
        value = left.pop()
        if value.name in found:
            continue
        found.add(value.name or "")
        node = value.producer()
        if node is not None:
            left += dependencies(node)
    return found

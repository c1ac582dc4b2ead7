"""Count the values that a node in float16 could not hold, by what the float model computes.

Source: docs/explanation/grid.md, "Float16 beside it".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.ops import is_constant
from calibrant.graph.passes.half import HALF_MAX
from calibrant.runtime.measure import run
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.tap import expose

__all__ = ["half_overflows"]

Array = npt.NDArray[Any]


def half_overflows(
    model: ir.Model,
    names: Collection[str],
    feeds: Sequence[Mapping[str, Array]],
    *,
    runtime: Runtime = CPU,
) -> dict[str, int]:
    """Return how many values of each node's inputs and outputs are beyond the range of float16.

    Infinity (a mask) is a number of float16, too, and does not count.

    Args:
        model: The float model.
        names: Nodes that are to compute in float16.
        feeds: Samples.
        runtime: Where it runs.

    Returns:
        Node -> count; nodes without such values are left out.
    """
    tensors: dict[str, list[str]] = {}
    for node in model.graph:
        if node.name in names:
            values = [
                *(v for v in node.inputs if v is not None and not is_constant(v)),
                *node.outputs,
            ]
            floats = [v.name or "" for v in values if v.dtype == ir.DataType.FLOAT]
            tensors[node.name or ""] = list(dict.fromkeys(floats))
    every = list(dict.fromkeys(t for listed in tensors.values() for t in listed))
    computed = [t for t in every if t not in {v.name for v in model.graph.inputs}]
    counts = dict.fromkeys(every, 0)
    exposed = expose(model, computed) if computed else None
    for feed in feeds:
        found: dict[str, Array] = dict(feed)
        if exposed is not None:
            found |= run(exposed, [feed], runtime=runtime)[0]
        for t in every:
            large = (np.abs(found[t]) > HALF_MAX) & np.isfinite(found[t])
            counts[t] += int(large.sum())
    totals = {name: sum(counts[t] for t in listed) for name, listed in tensors.items()}
    return {name: n for name, n in totals.items() if n}

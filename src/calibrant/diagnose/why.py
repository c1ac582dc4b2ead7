"""Why a layer loses: what of it is clipped, what rounded, and whether something holds the range, from one sample.

The layer alone is quantized and reads what it reads in the float model; the walk of `diagnose.origins` then has no first step, and
the largest of the others is the cause. `analysis.held` says what is wrong with a range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.analysis.held import Held, Seen
from calibrant.analysis.origin import Tally
from calibrant.analysis.readings import QuantizedAlone
from calibrant.data.batch import Batch
from calibrant.diagnose.advice.noise import weight_noise
from calibrant.diagnose.origins import CAUSES, Walk
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import Runtime
from calibrant.solution import Solution

__all__ = ["WHY", "causes_of"]

Array = npt.NDArray[Any]

#: Layers that are looked at, the worst ones.
WHY = 10


def causes_of(
    solution: Solution, layers: Iterable[str], sample: Batch, runtime: Runtime
) -> dict[str, str]:
    """Return the cause of each layer's loss: `clipping`, `rounding`, `range`, `mask` or `bias`; none where nothing is lost.

    Args:
        solution: How layers are quantized.
        layers: Which.
        sample: What the float model is run on, once.
        runtime: Where it runs.
    """
    model = solution.model
    alone = QuantizedAlone(model, solution.plan, solution.params)
    whole = Whole.of(model, [], [sample.feeds], runtime=runtime)
    found = {}
    for layer in layers:
        tally = Tally()
        for truth, walk in Walk(layer, alone, _Right(), runtime).walks(whole, whole, [0]):
            tally.add(truth, walk, len(CAUSES))
        if tally.error > 0:
            found[layer] = _said(tally.origin.cause, _held(solution, alone, layer, whole))
    return found


@dataclass(frozen=True, slots=True)
class _Right:
    """Everything arrives as it is in the float model."""

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        return {}


def _said(part: str, held: Mapping[str, Held]) -> str:
    kind, _, cause = part.rpartition("_")
    wrong = held.get(kind, "")
    return wrong if wrong == "mask" or (wrong and cause == "rounding") else cause


def _held(solution: Solution, alone: QuantizedAlone, layer: str, whole: Whole) -> dict[str, Held]:
    """Return what is wrong with the ranges of a layer, by `activation` and `weight`."""
    node = solution.model.graph.node(layer)
    products = node.op_type in ("Gemm", "MatMul")
    seen: list[Held] = []
    for index in alone.grids(layer):
        value, (grid, _) = node.inputs[index], alone.grids(layer)[index]
        x = whole.values[0].get(value.name or "") if value is not None else None
        if x is None:
            continue
        axis = -1 if products or x.ndim == 3 else 1 if x.ndim > 1 else None
        look = Seen(axis)
        look.add(np.asarray(x))
        low, high = grid.range
        seen.append(look.held(np.asarray(low), np.asarray(high)))
    weight = solution.plan.weight_of(layer)
    coarse = weight is not None and (
        weight_noise(solution.model, solution.plan, solution.params, weight).cause == "range"
    )
    return {
        "activation": "mask" if "mask" in seen else "range" if "range" in seen else "",
        "weight": "range" if coarse else "",
    }

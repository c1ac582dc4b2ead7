"""Masks of -inf or -1e9 that a quantizer would have to carry.

A mask puts a value far below all others in front of a Softmax, whose answer there is 0. A range that holds it leaves no steps for
the values that count. Any value that lies enough below these does as well: behind a Softmax, exp(-15) is 3e-7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrant.analysis.held import mask_in
from calibrant.diagnose.triage.finding import Finding
from calibrant.graph.values import values_by_name
from calibrant.plan.decisions import Edge
from calibrant.stats import TensorStats
from calibrant.tuning.solved import Solved

__all__ = ["BELOW", "Mask", "check_masks", "masks_of"]

#: So far below the other values a mask is 0 behind a Softmax.
BELOW = 15.0

#: Operators between a mask and its Softmax, at most.
_STEPS = 6

_SOFTMAX = ("Softmax", "LogSoftmax")


@dataclass(frozen=True, slots=True)
class Mask:
    """A quantizer whose tensor holds a mask.

    Args:
        tensor: The tensor.
        edges: Inputs that read it quantized.
        value: The mask's value; -inf where it is not finite.
        low: Least of the other values.
        high: Largest of them.
        reaches: Whether a Softmax lies behind it.
    """

    tensor: str
    edges: tuple[Edge, ...]
    value: float
    low: float
    high: float
    reaches: bool

    @property
    def range(self) -> tuple[float, float]:
        """The range that a quantizer should have: that of the other values, and room for the mask below."""
        return self.low - BELOW, max(self.high, 0.0)


def masks_of(solved: Solved) -> list[Mask]:
    """Return the quantizers that would have to carry a mask."""
    model, found = solved.solution.model, []
    values = values_by_name(model.graph)
    for d in solved.solution.plan.activations:
        stats = solved.statistics.get(d.tensor)
        seen = _mask(stats) if stats is not None and d.fixed_range is None else None
        if seen is not None:
            edges = tuple((n, i) for n, i in d.users if i is not None)
            found.append(Mask(d.tensor, edges, *seen, _reaches(values[d.tensor])))
    return found


def check_masks(masks: list[Mask]) -> Iterator[Finding]:
    """Tell of the masks."""
    if not masks:
        return
    value = min(m.value for m in masks)
    low = min(m.low for m in masks)
    names = ", ".join(f"'{m.tensor}'" for m in masks[:3])
    more = f" and {len(masks) - 3} more" if len(masks) > 3 else ""
    yield Finding(
        "mask",
        "mask",
        f"A mask of {value:.3g} is quantized at {names}{more}; the values that count lie above {low:.3g}.",
        f"Put a moderate value in its place in the model ({low - BELOW:.3g} is 0 behind a Softmax, too), or clamp the range of "
        "its quantizers.",
        0.97 if any(m.reaches for m in masks) else 0.7,
        tuple(dict.fromkeys(n for m in masks for n, _ in m.edges)),
    )


def _mask(stats: TensorStats) -> tuple[float, float, float] | None:
    """Return the value of a mask, and the least and the largest of the other values; None without a mask."""
    x, _ = stats.points()
    return mask_in(np.asarray(x), minus_inf=bool(stats.nonfinite) and stats.count > 0)


def _reaches(value: ir.Value) -> bool:
    """Whether a Softmax lies a few operators behind a tensor."""
    front = [value]
    for _ in range(_STEPS):
        nodes = [use.node for v in front for use in v.uses()]
        if any(n.op_type in _SOFTMAX for n in nodes):
            return True
        front = [v for n in nodes for v in n.outputs]
    return False

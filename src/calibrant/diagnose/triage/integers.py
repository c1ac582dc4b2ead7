"""Inputs that hold whole numbers which no grid of so few steps can tell apart: identities, positions, counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from calibrant.diagnose.triage.finding import Finding
from calibrant.diagnose.triage.sketch import Sketch
from calibrant.plan import Plan

__all__ = ["check_integers"]

#: Fewer different values are kinds of something, which a grid tells apart.
_DIFFERENT = 16


def check_integers(
    data: Sequence[Sketch], plan: Plan, masked: Collection[str] = ()
) -> Iterator[Finding]:
    """Look at the inputs of the model that are quantized.

    Args:
        data: What is known of each input.
        plan: How they are quantized.
        masked: Inputs that hold a mask.
    """
    bits = {d.tensor: d.spec.bits for d in plan.activations}
    for s in data:
        if s.name not in bits or s.name in masked or not s.is_float:
            continue
        x = np.concatenate([a.reshape(-1) for a in s.samples]).astype(np.float64)
        x = x[np.isfinite(x)]
        if not x.size or (x != np.rint(x)).any():
            continue
        span, steps = float(x.max() - x.min()), 2 ** bits[s.name]
        if span < steps or len(np.unique(x)) < _DIFFERENT:
            continue
        yield Finding(
            "integer input",
            "integers",
            f"Input '{s.name}' holds whole numbers from {x.min():.0f} to {x.max():.0f}, and is quantized to {steps} steps.",
            "Where these are identities or positions, leave the nodes that read them in float, or feed integers.",
            0.7,
            (s.name,),
        )

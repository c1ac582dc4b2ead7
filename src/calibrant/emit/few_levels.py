"""What weights of few levels take to store, against int8."""

from __future__ import annotations

from typing import Any

from calibrant.numerics.levels import index_bits, packed_bytes
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters

__all__ = ["few_levels"]


def few_levels(plan: Plan, params: Parameters) -> dict[str, Any]:
    """Return the bytes of each weight of few levels, and of all of them.

    `packed_bytes` is what a device takes that packs indices of 4 or 5 bits and keeps the levels beside them,
    one byte each; `stored` says what the deployable model has.

    Returns:
        `layers`, one entry for each such weight, and the sums `int8_bytes` and `packed_bytes`; plain values.
    """
    layers = []
    for w in plan.weights:
        layer = params.layers[w.layer]
        if layer.levels is None:
            continue
        layers.append(
            {
                "layer": w.layer,
                "levels": len(layer.levels),
                "index_bits": index_bits(layer.levels),
                "stored": "indices" if w.stores_indices else "int8",
                "int8_bytes": layer.stored.size,
                "packed_bytes": packed_bytes(layer.stored.size, layer.levels),
            }
        )
    return {
        "layers": layers,
        "int8_bytes": sum(x["int8_bytes"] for x in layers),
        "packed_bytes": sum(x["packed_bytes"] for x in layers),
    }

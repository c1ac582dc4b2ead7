"""Say why a plan has nothing to quantize."""

from __future__ import annotations

from collections.abc import Sequence

from calibrant.graph.targets import Target
from calibrant.plan.decisions import LayerDecision
from calibrant.plan.in_bodies import Inside

__all__ = ["why_nothing"]


def why_nothing(
    layers: Sequence[LayerDecision], target: Target, inside: Sequence[Inside] = ()
) -> str:
    """Say why nothing is quantized: one sentence for each reason, with how many layers it is for.

    Args:
        layers: The layers of the main graph.
        target: The device.
        inside: Layers in bodies.
    """
    if not layers and inside:
        count = sum(i.layers for i in inside)
        return (
            f"All layers of the model ({count}) stand in the bodies of If, Loop or Scan nodes, and the main graph "
            f"alone is quantized. {' '.join(map(str, inside))}"
        )
    if not layers:
        return (
            f"The model has no operator that target '{target.name}' quantizes "
            f"({', '.join(sorted(target.anchors))}) outside of If, Loop and Scan bodies."
        )
    reasons: dict[str, list[str]] = {}
    for layer in layers:
        reasons.setdefault(layer.reason, []).append(layer.node)
    listed = "; ".join(
        f"{len(names)} stay in float ('{names[0]}'{', …' if len(names) > 1 else ''}): {reason}"
        for reason, names in reasons.items()
    )
    return f"Nothing is left to quantize. Of the model's {len(layers)} layers, {listed}."

"""What quantization rounded to 0 although it was not: weight channels, and tensors. One sentence each.

A channel is lost where its scale does not follow it: one scale for a whole weight, a scale that a large bias needs
(`plan.biases`), or a vendor's rule that makes scales below 2**-23 one (`tiny_scales`). A tensor is lost by that rule
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from calibrant.plan import WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.solution import Solution
from calibrant.stats import TensorStats

__all__ = ["lost_channels", "lost_tensors"]

#: Beside a bias that hides it, a channel is dead that has less than this share of the weight's largest number: such numbers
#: (1e-38 and the like) are left by training with decay, and are below the last digit of what they are added to in float32.
_DEAD = 2.0**-24
#: So many channels are named in one sentence.
_NAMED = 8


def lost_channels(solution: Solution) -> list[str]:
    """Return a sentence for each weight of which a channel became 0, with the channels.

    A weight without channels (a vector, a stack of matrices) counts as one.
    """
    return list(_lost_channels(solution))


def _lost_channels(solution: Solution) -> Iterator[str]:
    params = solution.params
    for w in solution.plan.weights:
        layer = params.layers[w.layer]
        if layer.stored.all():
            continue
        floats = float_weight(solution.model, solution.plan, w, params.activations)
        axis = w.channel_axis
        rows = floats.reshape(1, -1) if axis is None else np.moveaxis(floats, axis, 0)
        kept = layer.values if layer.residual is None else (layer.values | layer.residual)
        steps = kept.reshape(1, -1) if axis is None else np.moveaxis(kept, axis, 0)
        others = tuple(range(1, rows.ndim))
        sizes = np.abs(rows).max(axis=others)
        said = sizes > (0 if _by_rule(w) else _DEAD * sizes.max())
        lost = np.flatnonzero(said & ~steps.any(axis=others))
        if not lost.size:
            continue
        largest = float(sizes[lost].max())
        which = f"Channels {_listed(lost.tolist())} of" if axis is not None else "All of"
        yield (
            f"{which} weight '{w.weight}' of layer '{w.layer}' became 0: up to {largest:.3g} is less than half a step of "
            f"{float(np.max(layer.weight.scale)):.3g}. {_why(solution, w.layer)}"
        )


def _by_rule(w: WeightDecision) -> bool:
    """Whether something else than a bias makes channels 0: a rule of a vendor, or one scale for all of them."""
    return w.spec.tiny_to_one or (w.spec.axis is None and w.channel_axis is not None)


def _why(solution: Solution, layer: str) -> str:
    w = solution.plan.weight_of(layer)
    assert w is not None
    if w.spec.tiny_to_one:
        return "The configuration's tool makes a scale below 1.19e-7 one; `tiny_scales: kept` does not."
    if w.spec.axis is None and w.channel_axis is not None:
        return "One scale serves the whole weight; scales by channel keep them."
    return "Its bias needs that step to fit 32 bits, and hides what is lost."


def _listed(channels: Sequence[int]) -> str:
    more = f" and {len(channels) - _NAMED} more" if len(channels) > _NAMED else ""
    return ", ".join(map(str, channels[:_NAMED])) + more


def lost_tensors(solution: Solution, statistics: Mapping[str, TensorStats]) -> list[str]:
    """Return a sentence for each tensor whose scale a vendor's rule made 1, so that all of it becomes 0."""
    lost = []
    for d in solution.plan.activations:
        stats = statistics.get(d.tensor)
        scale = solution.params.activations[d.id].scale
        if stats is None or not d.spec.tiny_to_one or not (scale == 1.0).all():
            continue
        largest = max(abs(stats.min), abs(stats.max))
        if 0 < largest < 0.5:
            lost.append(
                f"Tensor '{d.tensor}' has values up to {largest:.3g} only: its scale fell below 1.19e-7 and became 1, as "
                "the configuration's tool has it, so it is quantized to 0. Leave its readers in float, use 8 bits, or set "
                "`tiny_scales: kept`."
            )
    return lost

"""How fast a network should learn, from how coarsely it is rounded.

What there is to win back is what rounding takes: noise whose size, over the size of what is rounded, is

    n(layer)**2 = mean (s_w / rms w)**2 + (s_x / rms x)**2

A range of activations is about six of their root mean squares, so s_x / rms x = 6 / (2**bits - 1). Weights are trained
over their size, scales as logarithms and ranges as shares, so a rate is a share of each, too. It is half a percent of the
noise of the network, the root mean square over its layers:

    rate = 0.005 rms n

With less the run ends before the weights that have to change their step have done so; with more, a network that loses
little moves further than what it loses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from calibrant.plan.folding import float_weight
from calibrant.solution import Solution

__all__ = ["float_groups", "suggested_rate"]

#: Share of the noise that a step moves.
SHARE = 0.005
#: Root mean squares of an activation in its range.
RANGE = 6.0
#: Rates that are suggested at least and at most.
LOWEST, HIGHEST = 1e-5, 1e-2


def suggested_rate(solution: Solution) -> float:
    """Return the largest learning rate that suits the widths of a network.

    Args:
        solution: What calibration decided.
    """
    model, plan, params = solution.model, solution.plan, solution.params
    found = []
    for w in plan.weights:
        chosen = params.layers[w.layer].weight
        floats = float_weight(model, plan, w, params.activations).astype(np.float64)
        noise = float(np.mean(np.square(chosen.scale / _rms(floats, chosen.axis))))
        read = plan.at((w.layer, 1 - w.input_index))
        if read is not None:
            dtype = params.activations[read.id].dtype
            noise += (RANGE / (dtype.qmax - dtype.qmin)) ** 2
        found.append(noise)
    if not found:
        return LOWEST
    return min(max(SHARE * math.sqrt(float(np.mean(found))), LOWEST), HIGHEST)


def _rms(w: npt.NDArray[np.float64], axis: int | None) -> Any:
    rows = w.reshape(1, -1) if axis is None else np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
    size = np.sqrt(np.square(rows).mean(axis=1))
    size[size == 0] = np.inf  # an empty channel has no noise
    return size if axis is not None else size[0]


def float_groups(
    parameters: list[nn.Parameter], lr: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return groups for an optimizer in which a rate is a share of the size of each parameter.

    Parameters that stand in a network as they are in its file, without a quantizer, have sizes of their own.

    Args:
        parameters: They.
        lr: Learning rate, as a share.
        weight_decay: Decay of those that are matrices or kernels.
    """
    groups: list[dict[str, Any]] = []
    for i, p in enumerate(parameters):
        size = float(p.detach().float().square().mean().sqrt()) if p.numel() else 0.0
        groups.append(
            {
                "params": [p],
                "lr": lr * (size if size > 0 else 1.0),
                "weight_decay": weight_decay if p.ndim > 1 else 0.0,
                "name": f"learned.{i}",
            }
        )
    return groups

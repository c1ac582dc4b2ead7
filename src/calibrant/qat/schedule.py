"""The learning rate over a run, as a share of the largest: a warm-up, then half a wave of a cosine down to 0.

    step < warm-up      (step + 1) / warm-up
    behind it           (1 + cos(pi (step - warm-up) / (steps - warm-up))) / 2

Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017 (the cosine).
"""

from __future__ import annotations

import math

__all__ = ["rate_share"]

#: Share of the steps in which the rate rises.
WARM_UP = 0.05


def rate_share(step: int, steps: int) -> float:
    """Return the learning rate at a step, over the largest.

    Args:
        step: Steps that were done.
        steps: Steps of the whole run.

    Example:
        >>> [round(rate_share(i, 40), 3) for i in (0, 1, 2, 21, 39)]
        [0.5, 1.0, 1.0, 0.5, 0.002]
    """
    rising = max(1, round(WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(steps - rising, 1)
    return (1 + math.cos(math.pi * min(done, 1.0))) / 2

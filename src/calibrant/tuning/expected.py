"""The noise that a layer is expected to have, from what its weight and its input look like: is a change of their channels worth a try?

    input     step**2 / 12 for each value, times the squares of the weights that read it
    weight    step**2 / 12 for each value, times the squares of the inputs that it reads

Errors of rounding are taken as even over a step, and independent of each other and of the values. What the layer is worth to the
outputs, and what other layers lose, is left out: so this says what is not worth a try, and not what is.

Source: Widrow and Kollár, "Quantization Noise", 2008, chapter 5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["expected_noise"]

FloatArray = npt.NDArray[np.float64]


def expected_noise(
    weight: npt.ArrayLike,
    largest: FloatArray,
    energy: FloatArray,
    *,
    input_steps: float,
    weight_steps: float,
    per_channel: bool,
) -> float:
    """Return the noise of a layer's outputs over their power.

    Args:
        weight: (groups, inputs, outputs, positions).
        largest: max |x| of each input channel (groups * inputs,).
        energy: Mean of x**2 of each (groups * inputs,).
        input_steps: Steps of the input's grid from 0 to the largest magnitude.
        weight_steps: Steps of the weight's.
        per_channel: Each output has a scale of its own.

    Example:
        >>> even = expected_noise(np.ones((1, 2, 1, 1)), np.ones(2), np.ones(2) / 3,
        ...                       input_steps=255, weight_steps=127, per_channel=True)
        >>> round(-10 * np.log10(even), 1)
        47.1
    """
    w = np.asarray(weight, dtype=np.float64)
    groups, inputs, _, positions = w.shape
    power = energy.reshape(groups, inputs)
    squares = (w**2).sum(axis=(2, 3))
    tops = np.abs(w).max(axis=(1, 3))  # (groups, outputs)
    if not per_channel:
        tops = np.full_like(tops, tops.max())
    input_step = largest.max() / input_steps
    of_input = input_step**2 / 12 * squares.sum()
    of_weight = ((tops / weight_steps) ** 2 / 12).sum(axis=1) @ power.sum(axis=1) * positions
    return float((of_input + of_weight) / max(1e-300, (power * squares).sum()))

"""The noise that a layer is expected to have, from what its weight and its input look like: is a change of their channels worth a try?

    input     step**2 / 12 for each value, times the squares of the weights that read it
    weight    step**2 / 12 for each value, times the squares of the inputs that it reads

Errors of rounding are taken as even over a step, and independent of each other and of the values. What the layer is worth to the
outputs, and what other layers lose, is left out: so this says what is not worth a try, and not what is.

Source: Widrow and Kollár, "Quantization Noise", 2008, chapter 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.passes.balance import weight_by_channels
from calibrant.plan import Plan
from calibrant.stats import TensorStats

__all__ = ["Gains", "expected_noise", "gains", "pays"]

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
        >>> round(float(-10 * np.log10(even)), 1)
        50.5
    """
    w = np.asarray(weight, dtype=np.float32)
    groups, inputs, _, positions = w.shape
    power = energy.reshape(groups, inputs)
    squares = np.einsum("giok,giok->gi", w, w).astype(np.float64)
    tops = np.maximum(w.max(axis=(1, 3)), -w.min(axis=(1, 3))).astype(np.float64)
    if not per_channel:
        tops = np.full_like(tops, tops.max())
    input_step = largest.max() / input_steps
    of_input = input_step**2 / 12 * squares.sum()
    of_weight = ((tops / weight_steps) ** 2 / 12).sum(axis=1) @ power.sum(axis=1) * positions
    return float((of_input + of_weight) / max(1e-300, (power * squares).sum()))


class Gains(NamedTuple):
    """What even channels are expected to bring.

    Args:
        of_one: To the layer that gains most [dB].
        of_all: To the noise of all quantizers together [dB].
    """

    of_one: float
    of_all: float


def pays(
    model: ir.Model,
    plan: Plan,
    layers: tuple[str, ...],
    largest: FloatArray,
    factors: FloatArray,
    stats: TensorStats,
) -> bool:
    """Whether layers that read one tensor are expected to have less noise when it is divided by factors, and they multiplied.

    Args:
        model: The model.
        plan: Where quantizers stand.
        layers: The layers.
        largest: max |x| of each channel (channels,).
        factors: The factors (channels,).
        stats: What was seen of the tensor.
    """
    before = after = 0.0
    for name in layers:
        energy = _energy(largest, stats)
        one = _noise(model, plan, name, largest, energy, stats)
        other = _noise(model, plan, name, largest, energy, stats, factors)
        if one is None or other is None:
            return True  # nothing can be said
        before, after = before + one, after + other
    return not after >= before  # what is no number says nothing


def gains(
    plain: ir.Model,
    even: ir.Model,
    plan: Plan,
    magnitudes: Mapping[str, FloatArray],
    factors: Mapping[str, FloatArray],
    statistics: Callable[[str], TensorStats | None],
) -> Gains | None:
    """Return what layers are expected to gain from even channels; None where nothing can be said.

    Args:
        plain: The model.
        even: The same with tensors divided by factors, and what reads them multiplied.
        plan: Where quantizers stand in both.
        magnitudes: Tensor -> max |x| of each channel in the plain model (channels,).
        factors: Tensor -> what its channels are divided by (channels,).
        statistics: Says what was seen of a tensor of the plain model.
    """
    before = after = _elsewhere(plan, statistics)
    most = 0.0
    for weight in plan.weights:
        reader = plan.at((weight.layer, 0)) if weight.input_index == 1 else None
        stats = statistics(reader.tensor) if reader is not None else None
        node = plain.graph.node(weight.layer)
        w, source = weight_by_channels(node), node.inputs[0]
        read = source.name if source is not None else None
        if reader is None or stats is None or w is None or read != reader.tensor:
            if read in factors:
                return None
            continue  # what it loses is left out: the others count for more
        f = factors.get(reader.tensor)
        channels = w.shape[0] * w.shape[1]
        top = max(abs(stats.min), abs(stats.max))
        largest = magnitudes[reader.tensor] if f is not None else np.full(channels, top)
        energy = _energy(largest, stats)
        one = _noise(plain, plan, weight.layer, largest, energy, stats)
        if f is None and _weight(plain, weight.weight) is _weight(even, weight.weight):
            other = one
        elif f is None:
            other = _noise(even, plan, weight.layer, largest, energy, stats)
        else:
            other = _noise(even, plan, weight.layer, largest / f, energy / f**2, stats)
        if one is None or other is None:
            return None
        before, after = before + one, after + other
        most = max(most, _gain(one, other))
    if not np.isfinite([before, after, most]).all():
        return None
    return Gains(most, _gain(before, after))


def _elsewhere(plan: Plan, statistics: Callable[[str], TensorStats | None]) -> float:
    """Return the noise, over their power, of tensors that no layer with a weight reads quantized."""
    layers = {w.layer for w in plan.weights}
    found = 0.0
    for d in plan.activations:
        stats = statistics(d.tensor) if d.fixed_range is None else None
        if stats is not None and not any(n in layers for n, _ in d.users):
            step = (max(stats.max, 0.0) - min(stats.min, 0.0)) / (2**d.spec.bits - 1)
            found += step**2 / 12 / max(1e-300, _power(stats))
    return found


def _power(stats: TensorStats) -> float:
    points, counts = stats.points()
    return float(np.average(points**2, weights=counts))


def _weight(model: ir.Model, name: str) -> ir.TensorProtocol | None:
    return model.graph.initializers[name].const_value


def _gain(before: float, after: float) -> float:
    return float(10 * np.log10(max(before, 1e-300) / max(after, 1e-300)))


def _energy(largest: FloatArray, stats: TensorStats) -> FloatArray:
    """Return the mean square of each channel, which is taken to go with the square of its largest value (channels,)."""
    return largest**2 * (_power(stats) / max(1e-300, float(np.mean(largest**2))))


def _noise(
    model: ir.Model,
    plan: Plan,
    layer: str,
    largest: FloatArray,
    energy: FloatArray,
    stats: TensorStats,
    factors: FloatArray | None = None,
) -> float | None:
    """Return the noise of a layer over its power; None where nothing can be said.

    Args:
        model: The model.
        plan: Where quantizers stand.
        layer: The layer.
        largest: max |x| of each channel of its input (channels,).
        energy: Mean of x**2 of each (channels,).
        stats: What was seen of the input.
        factors: Divide the input by these, and multiply the weight.
    """
    reader, weight = plan.at((layer, 0)), plan.weight_of(layer)
    w = weight_by_channels(model.graph.node(layer))
    if reader is None or weight is None or w is None:
        return None
    if factors is not None:
        w = w * factors.reshape(*w.shape[:2], 1, 1)
        largest, energy = largest / factors, energy / factors**2
    return expected_noise(
        w,
        largest,
        energy,
        input_steps=(2**reader.spec.bits - 1) / (1 if stats.min >= 0 else 2),
        weight_steps=2 ** (weight.spec.bits - 1) - 1,
        per_channel=weight.spec.axis is not None,
    )

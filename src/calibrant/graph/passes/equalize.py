"""Even out the channels of a tensor by moving scale between the layers on its two sides.

A tensor has one activation scale for all its channels, so a channel of small range is quantized coarsely
beside one of large range. Dividing channel j by f_j (`passes.pairs` says where that is free) evens them out;
the weights that read the channel are multiplied by f_j, and may become uneven instead. With

    X_j = max |activation| of channel j,    W_j = max |weight| that reads it,

the factors are  f_j = X_j**a / W_j**(1 - a),  normalised to a geometric mean of 1. A depthwise layer has a
weight scale for each channel of its own, so there evening out costs nothing and a = 1.

A channel is never made more than twice as large (f_j >= 1/2): channels that were quiet in the calibration
data are the ones that are louder in other data, and a channel blown up to the full range clips first. On
a MobileNetV1 of width 0.25 a limit of 2 gives 22.3 dB, and one of 64 gives 20.0 dB.

That holds where the data makes a channel quiet. Where the weights in front of it do, it is quiet in any data. With l_j the
logarithm of the largest weight that makes channel j, less the mean of all l, and v the mean of l_j**2, the limits are

    exp(min(0, s l_j)) / 2  <=  f_j  <=  64 exp(max(0, s l_j)),    s = max(0, 1 - 1 / v)

Weights of networks as they are trained mostly have v below 1, and then s is 0. Networks whose channels were scaled up and
down, which changes nothing of what they compute, have more; s is the share of v that is not usual, and that is undone.

Sources: the DMQ balancer of Ascend's tools (factors, strength a; docs/explanation/equalization.md); Nagel, van
Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.1 (moving scale across a homogeneous function: cross-layer equalization). The limit is ours;
the share s is the positive-part estimate of James and Stein, "Estimation with quadratic loss", Berkeley Symposium 1961.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.passes.pairs import Pair

__all__ = ["Equalized", "equalize", "limited", "rescale"]

#: A channel is made at most so many times larger, and at most so many times smaller …
GROW_LIMIT, SHRINK_LIMIT = 2.0, 64.0
#: … beyond what its weights say: variance of the logarithm of their sizes by channel, as networks are trained.
USUAL = 1.0

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Equalized:
    """What was done to one tensor.

    Args:
        source: Node before it.
        readers: Nodes behind it.
        spread: Largest factor over the smallest.
        tensor: Tensor whose channels were divided.
        factors: By what (channels,).
    """

    source: str
    readers: tuple[str, ...]
    spread: float
    tensor: str
    factors: tuple[float, ...]


def equalize(
    model: ir.Model,
    pairs: Sequence[Pair],
    magnitudes: Mapping[str, FloatArray],
    *,
    strength: float = 0.5,
) -> list[Equalized]:
    """Rescale the channels of each pair, in place.

    Args:
        model: A prepared model with batch normalization folded.
        pairs: From `find_pairs` of this model (or of the one it is a copy of).
        magnitudes: Tensor -> max |x| of each channel (channels,).
        strength: How much of the difference moves from activations to weights, 0 to 1.

    Returns:
        One entry for each pair that changed.
    """
    done = []
    initializers = model.graph.initializers
    for pair in pairs:
        f = _factors(pair, magnitudes[pair.tensor], initializers, strength)
        if f is None:
            continue
        done.append(rescale(model, pair, f))
    return done


def rescale(model: ir.Model, pair: Pair, f: FloatArray) -> Equalized:
    """Divide the channels of one tensor by f (channels,), in place, and multiply what reads them."""
    initializers = model.graph.initializers
    for name, axis in pair.source_values:
        _multiply(initializers[name], 1.0 / f, axis)
    for sink in pair.sinks:
        _multiply(initializers[sink.weight], f, sink.axis)
    spread = float(f.max() / f.min())
    return Equalized(pair.source, pair.readers, spread, pair.tensor, tuple(f.tolist()))


def _factors(
    pair: Pair, x: FloatArray, initializers: Mapping[str, ir.Value], strength: float
) -> FloatArray | None:
    """Return f (channels,); None where the tensor or its weights are all zero."""
    w = np.zeros_like(x)
    for sink in pair.sinks:
        const = initializers[sink.weight].const_value
        assert const is not None
        rows = np.abs(np.moveaxis(const.numpy(), sink.axis, 0)).reshape(x.size, -1)
        largest = rows.max(axis=1).astype(np.float64)
        w = np.maximum(w, largest / max(float(largest.max()), 1e-30))
    alive = np.isfinite(x) & (x > 0) & (w > 0)
    if not alive.any():
        return None
    a = 1.0 if all(sink.is_depthwise for sink in pair.sinks) else strength
    f = np.ones_like(x)
    f[alive] = x[alive] ** a / w[alive] ** (1 - a)
    return limited(f, alive, _made_by(pair, initializers, x.size))


def _made_by(pair: Pair, initializers: Mapping[str, ir.Value], channels: int) -> FloatArray:
    """Return the largest weight that makes each channel (channels,); 0 where no weight does."""
    found = np.zeros(channels)
    for name, axis in pair.source_values:
        const = initializers[name].const_value
        if const is None or len(const.shape) < 2:  # a bias says little of the size of a channel
            continue
        rows = np.abs(np.moveaxis(const.numpy(), axis, 0)).reshape(channels, -1)
        found = np.maximum(found, rows.max(axis=1))
    return found


def limited(
    f: FloatArray, alive: npt.NDArray[np.bool_], made_by: FloatArray | None = None
) -> FloatArray:
    """Normalise factors to a geometric mean of 1 over the channels that live, and limit them.

    Args:
        f: Factors (channels,).
        alive: Channels that live (channels,).
        made_by: The largest weight that makes each channel (channels,); 0 and None say nothing.
    """
    normal = f.copy()
    normal[alive] /= np.exp(np.log(f[alive]).mean())
    r = np.zeros_like(f)  # logarithms
    known = alive & (made_by > 0) if made_by is not None else np.zeros_like(alive)
    if made_by is not None and known.any():
        r[known] = np.log(made_by[known])
        r[known] -= r[known].mean()
        variance = float(np.mean(r[known] ** 2))
        r *= 1 - USUAL / max(variance, USUAL)
    return np.clip(
        normal, np.exp(np.minimum(0, r)) / GROW_LIMIT, np.exp(np.maximum(0, r)) * SHRINK_LIMIT
    )


def _multiply(value: ir.Value, factor: FloatArray, axis: int) -> None:
    assert value.const_value is not None
    data = value.const_value.numpy()
    shape = [1] * data.ndim
    shape[axis] = -1
    scaled = (data * factor.reshape(shape)).astype(data.dtype)
    value.const_value = ir.tensor(scaled, name=value.name)

"""Networks that compute the same with channels of very different size: hostile to one scale a tensor or a weight.

Output channels of one layer are multiplied by factors, and the layer behind divides its input channels by them. Between
the two stands nothing, or a Relu, which lets a positive factor through.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["rescaled"]


def rescaled(
    model: onnx.ModelProto,
    first: str,
    second: str,
    *,
    decades: float = 3.0,
    seed: int = 0,
) -> onnx.ModelProto:
    """Return a copy of a model in which channels between two convolutions are `decades` decades apart.

    Args:
        model: A model; batch normalization is folded.
        first: Initializer (out, in, …) whose output channels grow; its bias is `first` with `w` replaced by `b`, if any.
        second: Initializer (out, in, …) whose input channels shrink.
        decades: Factors lie between 1 and 10**decades.
        seed: Of the factors.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held = {t.name: t for t in copy.graph.initializer}
    one, other = (numpy_helper.to_array(held[n]) for n in (first, second))
    factors = 10.0 ** np.random.default_rng(seed).uniform(0, decades, one.shape[0])
    factors[0], factors[-1] = 1.0, 10.0**decades
    changed = {
        first: one * factors[(slice(None), *[None] * (one.ndim - 1))],
        second: other / factors[(None, slice(None), *[None] * (other.ndim - 2))],
    }
    bias = first.replace("w", "b")
    if bias in held:
        changed[bias] = numpy_helper.to_array(held[bias]) * factors
    for name, value in changed.items():
        held[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return copy

"""Hypothesis strategies that several test files share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibrant.numerics import QuantSpec
from calibrant.numerics.dtype import INT_BITS

FloatArray = npt.NDArray[np.float32]


def floats32(limit: float = 1e30) -> st.SearchStrategy[float]:
    """Finite float32 values up to a magnitude, with zeros of both signs and subnormals."""
    bound = float(np.float32(limit))
    return st.floats(-bound, bound, width=32)


def arrays(
    *, min_size: int = 1, max_size: int = 60, elements: st.SearchStrategy[float] | None = None
) -> st.SearchStrategy[FloatArray]:
    """Arrays of one axis of finite float32 values."""
    sizes = st.integers(min_size, max_size)
    values = floats32() if elements is None else elements
    return hnp.arrays(np.float32, sizes, elements=values)


def tame_arrays(*, min_size: int = 1, max_size: int = 60) -> st.SearchStrategy[FloatArray]:
    """Arrays of values in [2**-10, 2**10] of either sign, or zero: no guard against tiny scales."""
    magnitude = st.floats(2.0**-10, 2.0**10, width=32)
    value = st.one_of(magnitude, magnitude.map(lambda v: -v), st.just(0.0))
    return arrays(min_size=min_size, max_size=max_size, elements=value)


def batches(data: st.DataObject, values: FloatArray) -> list[FloatArray]:
    """Draw a partition of values in a new order."""
    order = data.draw(st.permutations(range(values.size)))
    cuts = sorted(data.draw(st.lists(st.integers(0, values.size), max_size=4)))
    return np.split(values[np.array(order, dtype=np.int64)], cuts)


def specs(*, symmetric: bool | None = None) -> st.SearchStrategy[QuantSpec]:
    """Specs of one scale a tensor."""
    either = st.booleans() if symmetric is None else st.just(symmetric)
    return st.builds(
        QuantSpec, bits=st.sampled_from(INT_BITS), symmetric=either, narrow=st.booleans()
    )


def distributions(size: int, seed: int = 0) -> dict[str, Any]:
    """Return samples (size,) float32 of the shapes that activations come in, by name."""
    rng = np.random.default_rng(seed)
    logits = np.exp(3 * rng.normal(size=(size // 10, 10)))
    wide = 3 * rng.normal(size=size)
    found = {
        "normal": rng.normal(size=size),
        "shifted": rng.normal(3, 1, size=size),
        "laplace": rng.laplace(size=size),
        "relu": np.maximum(rng.normal(size=size), 0),
        "relu6": np.clip(4 * rng.normal(size=size), 0, 6),
        "lognormal": rng.lognormal(size=size),
        "negative": -rng.lognormal(size=size),
        "student-t": rng.standard_t(2, size=size),
        "cauchy": rng.standard_t(1, size=size),
        "uniform": rng.uniform(-1, 1, size=size),
        "positive uniform": rng.uniform(0, 1, size=size),
        "bimodal": np.where(
            rng.random(size) < 0.5, rng.normal(-4, 0.3, size), rng.normal(5, 0.1, size)
        ),
        "constant": np.full(size, 2.7),
        "sparse": np.where(rng.random(size) < 0.001, rng.normal(size=size), 0),
        "outlier": np.append(rng.normal(size=size - 1), 1e4),
        "image": (rng.integers(0, 256, size) / 255 - 0.485) / 0.229,
        "silu": wide / (1 + np.exp(-wide)),
        "softmax": (logits / logits.sum(axis=1, keepdims=True)).reshape(-1),
        "small": rng.normal(size=size) * 1e-2,
    }
    return {name: x.astype(np.float32) for name, x in found.items()}

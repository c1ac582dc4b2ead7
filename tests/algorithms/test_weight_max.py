from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calibrant import QuantSpec, algorithms

W = np.array([[0.5, -1, 0.25], [0.1, 0.2, -0.05], [0, 0, 0]], dtype=np.float32)


def test_the_scale_is_the_largest_magnitude_over_127() -> None:
    p = algorithms.weight("max")(W, QuantSpec(bits=8, symmetric=True, axis=0))
    np.testing.assert_allclose(p.scale, [1 / 127, 0.2 / 127, 1.0], rtol=1e-6)
    one = algorithms.weight("max")(W, QuantSpec(bits=8, symmetric=True))
    np.testing.assert_allclose(one.scale, 1 / 127, rtol=1e-6)


@given(st.floats(0.01, 10), st.sampled_from([4, 8, 16]))
def test_the_sign_of_the_weights_does_not_matter(size: float, bits: int) -> None:
    w = np.array([-size, size / 3], dtype=np.float32)
    spec = QuantSpec(bits=bits, symmetric=True)
    assert algorithms.weight("max")(w, spec).scale == algorithms.weight("max")(-w, spec).scale
    assert algorithms.weight("arq")(w, spec).scale != algorithms.weight("arq")(-w, spec).scale

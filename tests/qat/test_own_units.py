"""Quantizers of weights that train a weight as it is: those of other packages, too."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.numerics import QuantParams
from calibrant.numerics.dtype import IntType
from calibrant.qat.functional import along
from calibrant.qat.quantizers import WEIGHTS, WeightQuantizer

GRID = IntType(4)


class Halving(WeightQuantizer):
    """A quantizer of another package: half of the gradient passes."""

    def _begin(self, scale):
        self.step = torch.nn.Parameter(scale)

    def quantized(self):
        s = along(self.step, self.axis, self.weight.ndim)
        steps = torch.clamp(torch.round(self.weight.detach() / s), GRID.qmin, GRID.qmax)
        half = 0.5 * self.weight
        return half + (steps * s - half).detach(), steps, self.step


def quantizer(kind):
    w = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    scale = (np.abs(w).max(axis=1) / 7).astype(np.float32)
    p = QuantParams(scale, np.zeros(3, dtype=np.int32), GRID, 0)
    return w, kind(w, np.clip(np.rint(w / scale[:, None]), -8, 7).astype(np.int32), p)


@pytest.mark.parametrize("kind", [*WEIGHTS.values(), Halving])
def test_every_kind_stays_what_it_is(kind):
    w, first = quantizer(kind)
    own = first.in_own_units(w, first.params()[0], gains=False)
    assert type(own) is kind
    np.testing.assert_array_equal(own.weight.detach(), w)
    assert not own.log_gain.requires_grad
    y, scale = own()
    np.testing.assert_allclose(scale, first.params()[0].scale, rtol=1e-6)
    steps = np.clip(np.rint(w / scale.numpy()[:, None]), GRID.qmin, GRID.qmax)
    np.testing.assert_array_equal(y.detach(), steps.astype(np.float32) * scale.numpy()[:, None])
    y.sum().backward()
    assert own.weight.grad.max() == (0.5 if kind is Halving else 1.0)


def test_a_gain_moves_the_scale_and_leaves_the_integers():
    w, first = quantizer(WEIGHTS["arq"])
    own = first.in_own_units(w, first.params()[0], gains=True)
    p, integers = own.params()
    with torch.no_grad():
        own.log_gain += 0.5
    moved, same = own.params()
    np.testing.assert_array_equal(same, integers)
    np.testing.assert_allclose(moved.scale, p.scale * np.exp(0.5), rtol=1e-6)
    own()[0].sum().backward()
    assert own.log_gain.grad.abs().min() > 0

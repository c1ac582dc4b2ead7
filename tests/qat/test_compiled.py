"""Compiled loops compute what their oracles in torch operations compute, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.numerics.dtype import IntType
from calibrant.qat import kernels
from calibrant.qat.functional import grid_of, usable_clips
from calibrant.qat.quantizers import dense
from calibrant.qat.quantizers.activation import ActivationQuantizer, ActivationSpec
from calibrant.qat.quantizers.lsq import _Compiled, _Plain, lsq

CLIPS = [(2.5, -1.0), (3.0, 0.5), (-0.5, -2.0), (1.0, 1.0), (0.7, -3.1), (0.0, 0.0), (np.nan, 0.0)]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("fixed_min", [False, True])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_grid_is_that_of_the_functions(bits, fixed_min, symmetric):
    dtype = IntType(bits)
    unit, last = np.float32(1.7), np.array([2.0, -2.0], dtype=np.float32)
    for high, low in CLIPS:
        ends = np.array([high, low], dtype=np.float32)
        found = np.empty(4, dtype=np.float32)
        asked = np.float32(dtype.qmin), np.float32(dtype.qmax), symmetric, fixed_min
        kernels.grid(ends, last, unit, asked, found)
        mine = torch.from_numpy(ends) * torch.tensor(unit)
        before = torch.from_numpy(last)
        used = usable_clips(
            *mine, fixed_min=fixed_min, clip_max_pre=before[0], clip_min_pre=before[1]
        )
        wanted = [*used, *grid_of(*used, bits=bits, symmetric=symmetric)]
        np.testing.assert_array_equal(found, [float(v) for v in wanted])


def answer(quantizer, x, *, compiled, monkeypatch):
    """Return the result of a quantizer and the gradients of its input and its ends."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    quantizer.ends.grad = None
    with monkeypatch.context() as patch:
        if not compiled:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
        y = quantizer(x)
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    return y.detach(), x.grad, quantizer.ends.grad


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fixed_min", [False, True])
def test_an_activation_is_quantized_the_same_way(fixed_min, layout, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(dense, "WORTH", 1)
    torch.manual_seed(0)
    x = (3 * torch.randn(5, 8, 40, 37)).to(memory_format=layout)  # about 4 blocks
    quantizer = ActivationQuantizer(2.3, -1.1, ActivationSpec(4, fixed_min=fixed_min)).train()
    fast, plain = (
        answer(quantizer, x, compiled=c, monkeypatch=monkeypatch) for c in (True, False)
    )
    assert torch.equal(fast[0], plain[0])
    assert torch.equal(fast[1], plain[1])
    torch.testing.assert_close(fast[2], plain[2], rtol=1e-4, atol=1e-2)
    assert bool(fast[2][1] == 0) is fixed_min


@pytest.mark.parametrize(
    ("shape", "axis", "channels"),
    [((6, 4, 3, 3), 0, 6), ((6, 4), 1, 4), ((5, 7), None, 0), ((3, 2, 5), 0, 3)],
)
def test_a_weight_is_quantized_the_same_way(shape, axis, channels):
    torch.manual_seed(0)
    v = torch.randn(shape)
    scale = torch.rand(channels) * 0.3 + 0.05 if channels else torch.tensor(0.2)
    gain = torch.rand_like(scale) + 0.5
    g, found = torch.randn(shape), []
    functions = [lsq, _Plain.apply]
    for function in functions:
        leaves = [t.clone().requires_grad_() for t in (v, scale, gain)]
        y = function(*leaves, IntType(4), axis)
        y.backward(g)
        found.append([y.detach(), *(t.grad for t in leaves)])
    assert torch.equal(found[0][0], found[1][0])
    for mine, theirs in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_gradients_of_a_weight_are_those_of_rounding_passed_straight_through():
    torch.manual_seed(1)
    v, scale, gain = torch.randn(4, 9), torch.rand(4) * 0.2 + 0.1, torch.rand(4) + 0.5
    g = torch.randn(4, 9)
    leaves = [t.clone().requires_grad_() for t in (v, scale, gain)]
    _Compiled.apply(*leaves, IntType(4), 0).backward(g)
    by_hand = [t.clone().requires_grad_() for t in (v, scale, gain)]
    s = by_hand[1].reshape(-1, 1)
    inside = torch.clamp(by_hand[0] / s, -8, 7)
    (
        ((inside + (torch.round(inside) - inside).detach()) * s) * by_hand[2].reshape(-1, 1)
    ).backward(g)
    for mine, wanted in zip(leaves, by_hand, strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [3, 40, 961, 5000])
def test_sums_do_not_depend_on_where_values_lie_in_memory(size):
    rng = np.random.default_rng(0)
    pool = np.empty(4 * size + 200, dtype=np.float32)
    x, g = rng.normal(size=(2, size)).astype(np.float32)
    scale, ends, one = (
        np.float32(0.1),
        (np.float32(-1), np.float32(1)),
        np.full(1, 0.1, np.float32),
    )
    grid = np.float32(-8), np.float32(7)
    found = set()
    for _ in range(300):  # three arrays in some order, one close behind the other
        starts, at = {}, 0
        for which in rng.permutation(3):
            starts[which] = at = at + int(rng.integers(0, 20))
            at += size
        values, given, result = (pool[starts[i] : starts[i] + size] for i in range(3))
        values[:], given[:] = x, g
        sums, of_scale, of_gain = np.empty((1, 3)), *np.empty((2, 1), dtype=np.float32)
        kernels.backward(values, given, result, sums, scale, ends, ends)
        first = sums.tobytes() + result.tobytes()
        results = result[None], of_scale, of_gain
        kernels.weight_backward(values[None], given[None], (one, one), grid, results)
        found.add(first + result.tobytes() + of_scale.tobytes() + of_gain.tobytes())
    assert len(found) == 1

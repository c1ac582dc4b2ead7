"""Quantizers that learn: values and gradients worked out from their formulas."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.errors import ConfigValueError
from calibrant.qat.functional import grid_of, ulq, ulq_weight, usable_clips


def number(value: float):
    return torch.tensor(float(value), requires_grad=True)


def test_ulq_gives_the_worked_example():
    x = torch.tensor([-2.0, -0.3, 0.0, 0.7, 5.0], requires_grad=True)
    high, low = number(2.55), number(-0.5)
    y = ulq(x, high, low, bits=8, symmetric=False, fixed_min=False)
    y.sum().backward()
    scale, zero_point = grid_of(high.detach(), low.detach(), bits=8, symmetric=False)
    assert (round(scale.item(), 9), zero_point.item()) == (0.011960784, -86)
    wanted = [-0.502352953, -0.299019605, 0.0, 0.705686271, 2.547647]
    np.testing.assert_allclose(y.detach().numpy(), wanted, rtol=2e-7)
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    assert high.grad.item() == pytest.approx(1.0006429, abs=1e-7)
    assert low.grad.item() == pytest.approx(0.9993570, abs=1e-7)


def reference(x, g, high, low, bits, *, symmetric):
    """Compute y and the gradients value by value, in float32 as the formulas say."""
    f = np.float32
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        levels = -qmin if abs(low) > abs(high) else qmax
        scale, offset = max(abs(high), abs(low)) / f(levels), f(0)
    else:
        scale = (max(high, f(0)) - min(low, f(0))) / f(2**bits - 1)
        offset = np.rint(f(qmin) - min(low, f(0)) / scale)
    y, of_x, of_high, of_low = [], [], 0.0, 0.0
    for value, slope in zip(x, g, strict=True):
        q = min(max(np.rint(value / scale + offset), qmin), qmax)
        y.append((q - offset) * scale)
        up, down = value > scale * (qmax - offset), value < scale * (qmin - offset)
        v = (high if up else low if down else value) / scale
        e = (np.rint(v) - v) / f(2**bits - 1)
        of_x.append(0.0 if up or down else slope)
        of_high += (e + up) * slope
        of_low += (down - e) * slope
    return y, of_x, of_high, of_low


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("top", "bottom"), [(2.5, -1.3), (1.0, -3.0), (6.0, 0.0), (3.0, 1.0)])
def test_ulq_is_what_the_formulas_say_value_by_value(bits, symmetric, top, bottom):
    rng = np.random.default_rng(0)
    x, g = (rng.normal(0, 2, 300).astype(np.float32) for _ in range(2))
    high, low = number(top), number(bottom)
    given = torch.tensor(x, requires_grad=True)
    pre = torch.tensor(top), torch.tensor(-0.25)
    y = ulq(
        given,
        high,
        low,
        bits=bits,
        symmetric=symmetric,
        fixed_min=False,
        clip_max_pre=pre[0],
        clip_min_pre=pre[1],
    )
    y.backward(torch.tensor(g))
    used = -0.25 if bottom > 0 else bottom
    expected = reference(x, g, np.float32(top), np.float32(used), bits, symmetric=symmetric)
    np.testing.assert_array_equal(y.detach().numpy(), np.array(expected[0], dtype=np.float32))
    np.testing.assert_array_equal(given.grad.numpy(), np.array(expected[1], dtype=np.float32))
    assert high.grad.item() == pytest.approx(expected[2], rel=1e-4, abs=1e-4)
    assert low.grad.item() == pytest.approx(expected[3], rel=1e-4, abs=1e-4)


def test_a_fixed_lower_end_is_0_and_gets_no_gradient():
    x = torch.linspace(-1, 2, 50)
    high, low = number(1.5), number(-0.75)
    y = ulq(x, high, low, fixed_min=True)
    y.sum().backward()
    assert y.min() == 0
    assert low.grad.item() == 0
    assert high.grad.item() != 0


@pytest.mark.parametrize(
    ("clips", "used"),
    [
        ((1.0, -2.0), (1.0, -2.0)),
        ((0.5, 0.5), (3.0, -3.0)),
        ((0.5, 0.5 - 1e-8), (3.0, -3.0)),
        ((-0.1, -1.0), (3.0, -1.0)),
        ((2.0, 0.1), (2.0, -3.0)),
        ((float("nan"), -1.0), (3.0, -3.0)),
        ((1.0, 2.0), (3.0, -3.0)),
    ],
)
def test_clips_that_cannot_be_used_give_way_to_the_last_ones(clips, used):
    high, low = (torch.tensor(v) for v in clips)
    found = usable_clips(
        high, low, clip_max_pre=torch.tensor(3.0), clip_min_pre=torch.tensor(-3.0)
    )
    assert tuple(v.item() for v in found) == used


def test_an_input_of_one_value_or_of_zeros_gives_no_nan():
    for value in (0.0, 5.0, -5.0):
        x = torch.full((8,), value, requires_grad=True)
        high, low = number(0.0), number(0.0)
        y = ulq(x, high, low, clip_max_pre=torch.tensor(0.0), clip_min_pre=torch.tensor(0.0))
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert all(torch.isfinite(t.grad).all() for t in (x, high, low))


def test_ulq_weight_rounds_to_its_grid_and_passes_the_gradient_on():
    w = torch.tensor([[0.5, -1.0, 0.25], [0.1, 0.2, -0.05], [0.0, 0.0, 0.0]], requires_grad=True)
    scale = torch.tensor([1 / 128, 0.2 / 127, 1.0], requires_grad=True)
    y = ulq_weight(w, scale, bits=8, axis=0)
    steps = torch.round(y.detach() / scale.detach()[:, None])
    assert steps.tolist() == [[64, -128, 32], [64, 127, -32], [0, 0, 0]]
    g = torch.arange(9.0).reshape(3, 3)
    y.backward(g)
    assert torch.equal(w.grad, g)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_the_gradient_of_a_weights_scale_is_what_the_formula_says(bits, axis):
    rng = np.random.default_rng(1)
    w, g = (rng.normal(0, 1, (5, 6, 3)).astype(np.float32) for _ in range(2))
    count = 1 if axis is None else w.shape[axis]
    scale = rng.uniform(0.05, 0.2, count).astype(np.float32)
    s = torch.tensor(scale if axis is not None else scale[0], requires_grad=True)
    ulq_weight(torch.tensor(w), s, bits=bits, axis=axis).backward(torch.tensor(g))
    half = 2 ** (bits - 1)
    found = np.zeros(count)
    for c in range(count):
        row, slope = (
            (a if axis is None else np.take(a, c, axis)).astype(np.float64).ravel() for a in (w, g)
        )
        step = float(scale[c])
        inside = np.rint(row / step) - row / step
        t = np.where(
            row < -half * step, -half, np.where(row > (half - 1) * step, half - 1, inside)
        )
        found[c] = (t * slope).sum() / np.sqrt(row.size * (half - 1))
    np.testing.assert_allclose(s.grad.numpy().reshape(-1), found, rtol=1e-4, atol=1e-5)


def test_scales_that_do_not_fit_the_weight_are_refused():
    with pytest.raises(ConfigValueError, match="2 scales for 3 channels on axis 0"):
        ulq_weight(torch.zeros(3, 4), torch.ones(2), bits=8, axis=0)
    with pytest.raises(ConfigValueError, match="clip_max has 2 values"):
        ulq(torch.zeros(3), torch.ones(2), torch.zeros(2))
    with pytest.raises(ConfigValueError, match="bits is 5"):
        ulq(torch.zeros(3), torch.tensor(1.0), torch.tensor(0.0), bits=5)


def test_a_weight_on_the_end_of_the_grid_is_inside_it():
    w = torch.from_numpy(np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)).abs()
    scale = w.amax(1) / 7
    s = scale.clone().requires_grad_()
    ulq_weight(w, s, bits=4, axis=0).sum().backward()
    steps = w / scale[:, None]
    beyond = w > 7 * scale[:, None]  # as it is defined; w / s > 7 says so of others
    t = torch.where(beyond, 7.0, torch.round(steps) - steps)
    torch.testing.assert_close(s.grad, t.sum(1) / (3 * 7) ** 0.5, rtol=1e-6, atol=1e-7)
    assert (beyond != (steps > 7)).any()

"""Functions of one value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.qat.operators.registry import floats, operator

__all__: list[str] = []


@operator("Relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    y: Tensor = torch.relu(x)
    return y


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """X where it is positive, alpha x elsewhere."""
    y: Tensor = F.leaky_relu(x, alpha)
    return y


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """X where it is positive, slope x elsewhere; the slope broadcasts."""
    y: Tensor = torch.where(x < 0, slope * x, x)
    return y


@operator("Clip", static=(1, 2))
def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Keep values between two bounds."""
    ends = [v if v is None or isinstance(v, Tensor) else floats(v)[0] for v in (low, high)]
    if low is None and high is None:
        return x
    if any(isinstance(v, Tensor) for v in ends):
        ends = [v if v is None or isinstance(v, Tensor) else x.new_tensor(v) for v in ends]
    y: Tensor = torch.clamp(x, *ends)
    return y


@operator("Sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    y: Tensor = torch.sigmoid(x)
    return y


@operator("Tanh")
def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent."""
    y: Tensor = torch.tanh(x)
    return y


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Alpha x + beta, within [0, 1]."""
    y: Tensor = torch.clamp(alpha * x + beta, 0.0, 1.0)
    return y


@operator("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    """X hard_sigmoid(x) with alpha 1/6."""
    return x * torch.clamp(x / 6 + 0.5, 0.0, 1.0)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X where it is positive, alpha (exp(x) - 1) elsewhere."""
    y: Tensor = F.elu(x, alpha)
    return y


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    y: Tensor = F.celu(x, alpha)
    return y


@operator("Selu")
def selu(
    x: Tensor,
    *,
    alpha: float = 1.67326319217681884765625,
    gamma: float = 1.05070102214813232421875,
) -> Tensor:
    """Gamma times Elu."""
    y: Tensor = gamma * F.elu(x, alpha)
    return y


@operator("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """X times the normal distribution at x."""
    y: Tensor = F.gelu(x, approximate=approximate)
    return y


@operator("Mish")
def mish(x: Tensor) -> Tensor:
    """X tanh(softplus(x))."""
    y: Tensor = F.mish(x)
    return y


@operator("Softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    y: Tensor = F.softplus(x)
    return y


@operator("Softsign")
def softsign(x: Tensor) -> Tensor:
    """X / (1 + |x|)."""
    y: Tensor = F.softsign(x)
    return y


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X where it is above alpha, 0 elsewhere."""
    y: Tensor = torch.where(x > alpha, x, torch.zeros_like(x))
    return y


@operator("Softmax")
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """exp(x) over their sum along an axis."""
    y: Tensor = torch.softmax(x, dim=axis)
    return y


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Return the logarithm of Softmax."""
    y: Tensor = torch.log_softmax(x, dim=axis)
    return y

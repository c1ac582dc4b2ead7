"""Arithmetic of one or several tensors, value by value."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from calibrant.qat.operators.registry import operator

__all__: list[str] = []


@operator("Add")
def add(a: Tensor, b: Tensor) -> Tensor:
    """Add."""
    return a + b


@operator("Sub")
def sub(a: Tensor, b: Tensor) -> Tensor:
    """Subtract."""
    return a - b


@operator("Mul")
def mul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply."""
    return a * b


@operator("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """Divide; integers towards zero."""
    if a.is_floating_point():
        return a / b
    y: Tensor = torch.div(a, b, rounding_mode="trunc")
    return y


@operator("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Return the rest of a division, with the sign of the divisor, or with `fmod` that of the dividend."""
    y: Tensor = torch.fmod(a, b) if fmod else torch.remainder(a, b)
    return y


@operator("Pow")
def power(a: Tensor, b: Tensor) -> Tensor:
    """Raise to a power; the type is that of the base."""
    y: Tensor = torch.pow(a, b).to(a.dtype)
    return y


@operator("Sum")
def total(*inputs: Tensor) -> Tensor:
    """Add all inputs."""
    return reduce(torch.add, inputs)


@operator("Mean")
def mean(*inputs: Tensor) -> Tensor:
    """Return the mean of all inputs."""
    return reduce(torch.add, inputs) / len(inputs)


@operator("Max")
def largest(*inputs: Tensor) -> Tensor:
    """Return the largest of all inputs, value by value."""
    return reduce(torch.maximum, inputs)


@operator("Min")
def smallest(*inputs: Tensor) -> Tensor:
    """Return the smallest of all inputs, value by value."""
    return reduce(torch.minimum, inputs)


@operator("Abs")
def magnitude(x: Tensor) -> Tensor:
    """Return the magnitude."""
    y: Tensor = torch.abs(x)
    return y


@operator("Neg")
def neg(x: Tensor) -> Tensor:
    """Change the sign."""
    y: Tensor = torch.neg(x)
    return y


@operator("Exp")
def exp_of(x: Tensor) -> Tensor:
    """Return e to the power of x."""
    y: Tensor = torch.exp(x)
    return y


@operator("Log")
def log_of(x: Tensor) -> Tensor:
    """Return the natural logarithm."""
    y: Tensor = torch.log(x)
    return y


@operator("Sqrt")
def sqrt(x: Tensor) -> Tensor:
    """Return the square root."""
    y: Tensor = torch.sqrt(x)
    return y


@operator("Reciprocal")
def reciprocal(x: Tensor) -> Tensor:
    """Return 1 / x."""
    y: Tensor = torch.reciprocal(x)
    return y


@operator("Floor")
def floor(x: Tensor) -> Tensor:
    """Round down."""
    y: Tensor = torch.floor(x)
    return y


@operator("Ceil")
def ceil(x: Tensor) -> Tensor:
    """Round up."""
    y: Tensor = torch.ceil(x)
    return y


@operator("Round")
def rounded(x: Tensor) -> Tensor:
    """Round half to even."""
    y: Tensor = torch.round(x)
    return y


@operator("Sign")
def sign(x: Tensor) -> Tensor:
    """Return -1, 0 or 1."""
    y: Tensor = torch.sign(x)
    return y


@operator("Sin")
def sin(x: Tensor) -> Tensor:
    """Return the sine."""
    y: Tensor = torch.sin(x)
    return y


@operator("Cos")
def cos(x: Tensor) -> Tensor:
    """Return the cosine."""
    y: Tensor = torch.cos(x)
    return y


@operator("Tan")
def tan(x: Tensor) -> Tensor:
    """Return the tangent."""
    y: Tensor = torch.tan(x)
    return y


@operator("Asin")
def asin(x: Tensor) -> Tensor:
    """Return the inverse of the sine."""
    y: Tensor = torch.asin(x)
    return y


@operator("Acos")
def acos(x: Tensor) -> Tensor:
    """Return the inverse of the cosine."""
    y: Tensor = torch.acos(x)
    return y


@operator("Atan")
def atan(x: Tensor) -> Tensor:
    """Return the inverse of the tangent."""
    y: Tensor = torch.atan(x)
    return y


@operator("Sinh")
def sinh(x: Tensor) -> Tensor:
    """Return the hyperbolic sine."""
    y: Tensor = torch.sinh(x)
    return y


@operator("Cosh")
def cosh(x: Tensor) -> Tensor:
    """Return the hyperbolic cosine."""
    y: Tensor = torch.cosh(x)
    return y


@operator("Erf")
def erf(x: Tensor) -> Tensor:
    """Return the error function."""
    y: Tensor = torch.erf(x)
    return y


@operator("Not")
def negation(x: Tensor) -> Tensor:
    """Turn true and false around."""
    y: Tensor = torch.logical_not(x)
    return y


@operator("IsNaN")
def is_nan(x: Tensor) -> Tensor:
    """Return whether it is no number."""
    y: Tensor = torch.isnan(x)
    return y


@operator("Where")
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Choose between two tensors."""
    y: Tensor = torch.where(condition, a, b)
    return y


@operator("Equal")
def equal(a: Tensor, b: Tensor) -> Tensor:
    """Compare."""
    y: Tensor = torch.eq(a, b)
    return y


@operator("Greater")
def greater(a: Tensor, b: Tensor) -> Tensor:
    """Compare."""
    return a > b


@operator("GreaterOrEqual")
def greater_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """Compare."""
    return a >= b


@operator("Less")
def less(a: Tensor, b: Tensor) -> Tensor:
    """Compare."""
    return a < b


@operator("LessOrEqual")
def less_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """Compare."""
    return a <= b


@operator("And")
def both(a: Tensor, b: Tensor) -> Tensor:
    """Return whether both are true."""
    y: Tensor = torch.logical_and(a, b)
    return y


@operator("Or")
def either(a: Tensor, b: Tensor) -> Tensor:
    """Return whether one is true."""
    y: Tensor = torch.logical_or(a, b)
    return y


@operator("Identity")
def identity(x: Any) -> Any:
    """Hand on."""
    return x

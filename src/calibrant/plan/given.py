"""A plan whose scales are given beforehand: by the quantizers of a trained model, or by a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from calibrant.numerics import QuantParams
from calibrant.plan.decisions import Plan

__all__ = ["Given"]


@dataclass(frozen=True, slots=True)
class Given:
    """A plan, and the parameters that nothing chooses again.

    Args:
        plan: Where quantizers stand.
        activations: Parameters by quantizer id.
        weights: Parameters by layer; layers whose weight has none are left out.
    """

    plan: Plan
    activations: Mapping[str, QuantParams]
    weights: Mapping[str, QuantParams]

"""What was chosen: scales and zero points of a whole model, integer weights and final biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from calibrant.numerics import QuantParams, dequantize
from calibrant.numerics.compensation import residual_params

__all__ = ["LayerParameters", "Parameters"]


@dataclass(frozen=True, slots=True, eq=False)
class LayerParameters:
    """The weight of one layer on its grid, and its bias.

    Args:
        weight: Scale of the weight.
        stored: The weight on the grid, in the smallest of int8, int16 and int32 that holds it, of the weight's shape
            [steps].
        bias: The bias after correction, float32 (out,), or None for the bias the model has.
        levels: The values of the grid that the weight keeps, sorted; None where it may take all.
        residual: What the first values leave, int32 in [-128, 127] on a grid 254 times as fine
            (`numerics.compensation`); None where it is not compensated.
    """

    weight: QuantParams
    stored: npt.NDArray[np.signedinteger]
    bias: npt.NDArray[np.float32] | None = None
    levels: tuple[int, ...] | None = None
    residual: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        """Store few bytes: large models have several sets of weights at a time."""
        kind = np.int8 if self.weight.dtype.bits <= 8 else np.int16
        small = self.stored.astype(kind)
        if self.stored.dtype != kind and np.array_equal(small, self.stored):
            object.__setattr__(self, "stored", small)

    @property
    def values(self) -> npt.NDArray[np.int32]:
        """The weight on the grid, int32 [steps]; made anew each time."""
        return self.stored.astype(np.int32)

    @property
    def floats(self) -> npt.NDArray[np.float32]:
        """The weight that the integers stand for."""
        first = dequantize(self.stored, self.weight)
        if self.residual is None:
            return first
        rest = dequantize(self.residual, residual_params(self.weight))
        both: npt.NDArray[np.float32] = (first + rest).astype(np.float32)
        return both


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """Parameters of a model: by quantizer id for activations, by node name for layers.

    Args:
        activations: Scale and zero point by quantizer id.
        layers: Weight and bias by node name.
        balance: What the input of a balanced layer is divided by, channel by channel, float32 (in,), by
            node name; the division is a node of the model.
    """

    activations: Mapping[str, QuantParams] = field(default_factory=dict)
    layers: Mapping[str, LayerParameters] = field(default_factory=dict)
    balance: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Parameters({len(self.activations)} activations, {len(self.layers)} layers)"

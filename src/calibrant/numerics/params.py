"""Scale and zero point of one quantizer, and the kernel that makes them from a range.

    q     = clip(round(x / scale) + zero_point, qmin, qmax)         [steps]
    x_hat = (q - zero_point) * scale                                [units of x]

A scale is proportional to the unit of what it is the scale of. Vendors' kernels put a limit on that (`SCALE_EPS`),
which a spec may ask for; without it the limits are those of float32 itself.

Source: docs/explanation/grid.md; the public code of AMCT for the rules of 128 steps and of small scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.errors import DataError
from calibrant.numerics.dtype import IntType
from calibrant.numerics.spec import QuantSpec

__all__ = [
    "SCALE_EPS",
    "SMALLEST_SCALE",
    "FloatArray",
    "QuantParams",
    "smallest_scale",
    "step_of",
    "usable_scale",
]

FloatArray = npt.NDArray[np.floating]

#: In vendors' kernels a scale below this becomes 1.0 (float32 epsilon; docs/explanation/grid.md).
SCALE_EPS = np.float32(1.192092896e-07)

#: The smallest normal float32: below it a scale would lose digits, and its inverse is no float32 any more.
SMALLEST_SCALE = np.float32(2.0**-126)


def step_of(low: npt.ArrayLike, high: npt.ArrayLike, steps: int) -> npt.NDArray[np.float32]:
    """Return (high - low) / steps in float32, also where the difference is beyond float32.

    Example:
        >>> float(step_of(-3.0, 3.0, 3)), bool(np.isfinite(step_of(-3e38, 3e38, 255)))
        (2.0, True)
    """
    a, b = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    n = np.float32(steps)
    with np.errstate(over="ignore"):
        step = (b - a) / n
    return np.where(np.isfinite(step), step, b / n - a / n)


def smallest_scale(spec: QuantSpec) -> np.float32:
    """Return the limit below which a scale is not as it came out of a range."""
    return SCALE_EPS if spec.tiny_to_one else SMALLEST_SCALE


def usable_scale(scale: npt.ArrayLike, spec: QuantSpec) -> npt.NDArray[np.float32]:
    """Return scales that a quantizer can have, in the place of those that came out of a range.

    A scale of 0 (nothing but zeros was seen) becomes 1, one below `SMALLEST_SCALE` becomes that. Where the spec says
    `tiny_to_one`, all below `SCALE_EPS` become 1.

    Example:
        >>> usable_scale([0.0, 1e-9, 0.5], QuantSpec()).tolist()
        [1.0, 9.999999717180685e-10, 0.5]
        >>> usable_scale([0.0, 1e-9, 0.5], QuantSpec(tiny_to_one=True)).tolist()
        [1.0, 1.0, 0.5]
    """
    s = np.asarray(scale, dtype=np.float32)
    if spec.tiny_to_one:
        return np.where(s < SCALE_EPS, np.float32(1), s)
    return np.where(s == 0, np.float32(1), np.maximum(s, SMALLEST_SCALE))


#: Scales lie above the first, whose inverse would be infinite, and up to the second, the largest float32.
_SMALLEST, _LARGEST = np.float32(2.0**-128), np.finfo(np.float32).max


@dataclass(frozen=True, slots=True, eq=False)
class QuantParams:
    """Parameters of one quantizer.

    Args:
        scale: Units of x per step, float32, > 0: shape () per tensor, (channels,) per axis.
        zero_point: Where zero lies on the signed grid, int32, shape of `scale`. It is added after
            scaling (the vendors call it offset).
        dtype: The integer grid.
        axis: Axis the channels lie on; None per tensor.

    Raises:
        DataError: A scale is not finite and positive, or its inverse is not finite.
    """

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    dtype: IntType
    axis: int | None = None

    def __post_init__(self) -> None:
        scale = np.asarray(self.scale, dtype=np.float32)
        zero_point = np.asarray(self.zero_point, dtype=np.int32)
        if zero_point.shape != scale.shape:
            zero_point = np.broadcast_to(zero_point, scale.shape).copy()
        usable = (scale > _SMALLEST) & (scale <= _LARGEST)
        if not usable.all():
            bad = scale[~usable].flat[0]
            raise DataError(f"A quantization scale is {bad}; it must be finite and above 0.")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero_point)

    @classmethod
    def from_range(cls, lo: npt.ArrayLike, hi: npt.ArrayLike, spec: QuantSpec) -> QuantParams:
        """Make the parameters whose grid covers [lo, hi].

        Asymmetric, the range is first widened to contain zero:

            scale      = (hi - lo) / (2**bits - 1)
            zero_point = round(qmin - lo / scale)

        Symmetric:

            bound = max(|hi|, |lo|);  levels = 2**(bits-1) if |lo| > |hi| else 2**(bits-1) - 1
            scale = bound / levels;   zero_point = 0

        so data in [-128, 127] has scale exactly 1. Data that is all zero has scale 1 (and the asymmetric zero point
        qmin); other limits are those of `usable_scale`.

        Args:
            lo: Lower end, a scalar or (channels,).
            hi: Upper end, of the same shape.
            spec: Grid and symmetry; `axis` is carried over.

        Raises:
            DataError: An end is NaN or infinite.

        Example:
            >>> p = QuantParams.from_range(-1.0, 3.0, QuantSpec(symmetric=True))
            >>> round(float(p.scale) * 127, 6), int(p.zero_point)
            (3.0, 0)
        """
        low = np.asarray(lo, dtype=np.float32)  # () or (channels,)
        high = np.asarray(hi, dtype=np.float32)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise DataError("A quantization range is not finite: the data holds NaN or Inf.")
        dtype = spec.dtype
        if spec.symmetric:
            bound = np.maximum(np.abs(high), np.abs(low))
            negative_levels = dtype.qmax if spec.narrow else dtype.qmax + 1
            levels = np.where(np.abs(low) > np.abs(high), negative_levels, dtype.qmax)
            scale = usable_scale(bound / levels.astype(np.float32), spec)
            zero_point = np.zeros(scale.shape, dtype=np.int32)
        else:
            high = np.maximum(high, np.float32(0))
            low = np.minimum(low, np.float32(0))
            plain = step_of(low, high, dtype.qmax - dtype.qmin)
            scale = usable_scale(plain, spec)
            zero = np.float32(dtype.qmin) - low / scale
            tiny = plain < SCALE_EPS if spec.tiny_to_one else plain == 0
            zero = np.where(tiny, np.float32(dtype.qmin), zero)
            zero_point = np.rint(zero).astype(np.int32)
        return cls(scale, zero_point, dtype, spec.axis)

    @property
    def range(self) -> tuple[FloatArray, FloatArray]:
        """Ends of what the grid can represent, each of the shape of `scale`, in float64."""
        scale = self.scale.astype(np.float64)
        return (
            (self.dtype.qmin - self.zero_point) * scale,
            (self.dtype.qmax - self.zero_point) * scale,
        )

    @property
    def common_scale(self) -> np.float32:
        """The largest scale: that of all channels once what sets them apart is folded into a weight."""
        return np.float32(self.scale.max())

    @property
    def is_symmetric(self) -> bool:
        """Whether every zero point is 0."""
        return not self.zero_point.any()

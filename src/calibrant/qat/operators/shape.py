"""Operators that move values, and that work with shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.errors import UnsupportedError
from calibrant.qat.operators.registry import floats, ints, operator

__all__: list[str] = []

#: ONNX's number of a type -> torch's type.
TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


@operator("Reshape", static=(1,))
def reshape(x: Tensor, shape: Any, *, allowzero: int = 0) -> Tensor:
    """Give another shape; 0 keeps a length, -1 is worked out."""
    wanted = list(ints(shape))
    if not allowzero:
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    y: Tensor = x.reshape(wanted)
    return y


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Make a matrix of what lies before an axis and from it on."""
    axis = axis + x.ndim if axis < 0 else axis
    rows = 1
    for n in x.shape[:axis]:
        rows *= n
    y: Tensor = x.reshape(rows, -1)
    return y


@operator("Transpose")
def transpose(x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    """Change the order of the axes."""
    y: Tensor = x.permute(perm if perm is not None else tuple(reversed(range(x.ndim))))
    return y


@operator("Squeeze", static=(1,))
def squeeze(x: Tensor, axes: Any = None) -> Tensor:
    """Take out axes of length 1."""
    y: Tensor = x.squeeze() if axes is None else x.squeeze(ints(axes))
    return y


@operator("Unsqueeze", static=(1,))
def unsqueeze(x: Tensor, axes: Any) -> Tensor:
    """Put in axes of length 1."""
    wanted = ints(axes)
    rank = x.ndim + len(wanted)
    for axis in sorted(a + rank if a < 0 else a for a in wanted):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(*inputs: Tensor, axis: int) -> Tensor:
    """Join along an axis."""
    y: Tensor = torch.cat(inputs, dim=axis)
    return y


@operator("Slice", static=(1, 2, 3, 4))
def cut(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    """Take ranges along axes; a negative step walks backwards."""
    first, last = ints(starts), ints(ends)
    along = ints(axes) if axes is not None else tuple(range(len(first)))
    stride = ints(steps) if steps is not None else (1,) * len(first)
    for a, b, axis, step in zip(first, last, along, stride, strict=True):
        n = x.shape[axis]
        where = range(*slice(_bounded(a, n), _end(b, n, step), step).indices(n))
        if step > 0:
            y = x.narrow(axis, where.start, max(where.stop - where.start, 0)) if where else None
            if y is None:
                x = x.narrow(axis, 0, 0)
            elif step > 1:
                x = y[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)]
            else:
                x = y
        else:
            index = torch.tensor(list(where), dtype=torch.int64, device=x.device)
            x = x.index_select(axis, index)
    return x


def _bounded(start: int, n: int) -> int:
    return max(start, -n) if start < 0 else start


def _end(end: int, n: int, step: int) -> int | None:
    """Return the end of a range as Python has it: before the first value is None for a walk backwards."""
    return None if step < 0 and end < -n else end


@operator("Split", static=(1,), several=True)
def split(
    x: Tensor, sizes: Any = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> tuple[Tensor, ...]:
    """Cut into pieces along an axis."""
    if sizes is not None:
        return tuple(torch.split(x, list(ints(sizes)), dim=axis))
    count = num_outputs or outputs
    return tuple(torch.split(x, -(-x.shape[axis] // count), dim=axis))


@operator("Expand", static=(1,))
def expand(x: Tensor, shape: Any) -> Tensor:
    """Repeat along axes of length 1."""
    y: Tensor = x.expand(torch.broadcast_shapes(x.shape, ints(shape)))
    return y


@operator("Tile", static=(1,))
def tile(x: Tensor, repeats: Any) -> Tensor:
    """Repeat."""
    y: Tensor = x.repeat(ints(repeats))
    return y


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move channels into blocks of positions."""
    n, c, h, w = x.shape
    s = blocksize
    if mode == "CRD":
        y: Tensor = F.pixel_shuffle(x, s)
        return y
    y = x.reshape(n, s, s, c // s**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // s**2, h * s, w * s)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Move blocks of positions into channels."""
    n, c, h, w = x.shape
    s = blocksize
    y: Tensor = x.reshape(n, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * s**2, h // s, w // s)


@operator("Gather", static=(1,))
def gather(x: Tensor, indices: Any, *, axis: int = 0) -> Tensor:
    """Take slices along an axis."""
    if not isinstance(indices, Tensor):
        if isinstance(indices, int):
            return x.select(axis, indices)
        indices = torch.tensor(indices, dtype=torch.int64, device=x.device)
    n = x.shape[axis]
    flat = torch.where(indices < 0, indices + n, indices).reshape(-1)
    axis = axis % x.ndim
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, flat).reshape(shape)


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Take values along an axis, an index for each."""
    n = x.shape[axis]
    y: Tensor = torch.gather(x, axis, torch.where(indices < 0, indices + n, indices))
    return y


@operator("Pad", static=(1, 2, 3))
def pad(
    x: Tensor, pads: Any, value: Any = None, axes: Any = None, *, mode: str = "constant"
) -> Tensor:
    """Put values around; a negative number takes values away."""
    both = ints(pads)
    along = ints(axes) if axes is not None else tuple(range(x.ndim))
    before, behind = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(along):
        before[axis], behind[axis] = both[i], both[i + len(along)]
    if mode == "constant":
        number = floats(value)[0] if value is not None else 0.0
        flat = [n for pair in zip(reversed(before), reversed(behind), strict=True) for n in pair]
        y: Tensor = F.pad(x, flat, value=number)
        return y
    for axis, (first, last) in enumerate(zip(before, behind, strict=True)):
        if first or last:
            x = x.index_select(axis, _around(x, axis, first, last, mode))
    return x


def _around(x: Tensor, axis: int, first: int, last: int, mode: str) -> Tensor:
    """Return which values lie where, with padding that repeats what is inside."""
    n = x.shape[axis]
    at = torch.arange(-first, n + last, device=x.device)
    if mode == "edge":
        return at.clamp(0, n - 1)
    if mode == "wrap":
        return at % n
    if mode == "reflect":
        turned = at.abs()
        return torch.where(turned > n - 1, 2 * (n - 1) - turned, turned)
    raise UnsupportedError(f"Pad with mode '{mode}'.")


@operator("Shape")
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Return the lengths of the axes."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@operator("Size")
def size_of(x: Tensor) -> Tensor:
    """Return how many values there are."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("ConstantOfShape", static=(0,))
def constant_of_shape(shape: Any, *, value: Any = None) -> Tensor:
    """Return one number again and again."""
    if value is None:
        return torch.zeros(ints(shape))
    y: Tensor = value.reshape(()).expand(ints(shape)).clone()
    return y


@operator("Range")
def arange(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Count."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Change the type."""
    if to not in TYPES:
        raise UnsupportedError(f"Cast to type {to} of ONNX.")
    y: Tensor = x.to(TYPES[to])
    return y


@operator("CastLike")
def cast_like(x: Tensor, y: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Change the type to that of another tensor."""
    return x.to(y.dtype)


@operator("CumSum", static=(1,))
def cumulative_sum(x: Tensor, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Add up along an axis."""
    dim = ints(axis)[0]
    x = x.flip(dim) if reverse else x
    y: Tensor = x.cumsum(dim)
    y = y - x if exclusive else y
    return y.flip(dim) if reverse else y


@operator("Trilu", static=(1,))
def triangle(x: Tensor, k: Any = None, *, upper: int = 1) -> Tensor:
    """Keep one triangle of a matrix."""
    diagonal = ints(k)[0] if k is not None else 0
    y: Tensor = torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)
    return y


@operator("Dropout", several=True)
def dropout(
    x: Tensor,
    ratio: Any = None,
    training_mode: Any = None,
    *,
    seed: int | None = None,
    outputs: int,
) -> tuple[Tensor, ...]:
    """Hand on: a model that is deployed drops nothing."""
    return (x, torch.ones_like(x, dtype=torch.bool))[:outputs]

"""Layers as matrix products: what a layer reads at one position as a row, its weight as a matrix.

    z[g, row, :] = x[g, row, :] @ w[g].T        x (groups, rows, K),  w (groups, out/groups, K)

A transposed convolution is the convolution of its input, spread with zeros, with the mirrored kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["LayerRows"]

Array = npt.NDArray[Any]  # float32


@dataclass(frozen=True, slots=True)
class LayerRows:
    """How one Conv, ConvTranspose, Gemm or MatMul becomes a matrix product.

    Args:
        node: The layer; its weight is input 1.
        shape: Shape of the weight.
    """

    node: ir.Node
    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self._int("group", 1) if self._is_conv else 1

    @property
    def _is_conv(self) -> bool:
        return self.node.op_type in ("Conv", "ConvTranspose")

    def _int(self, name: str, default: int) -> int:
        attribute = self.node.attributes.get(name)
        return attribute.as_int() if attribute is not None else default

    def _ints(self, name: str, default: list[int]) -> list[int]:
        attribute = self.node.attributes.get(name)
        return list(attribute.as_ints()) if attribute is not None else default

    def weight(self, w: Array) -> Array:
        """Return a weight-shaped array as (groups, out/groups, K)."""
        g = self.groups
        if self.node.op_type == "Conv":
            return w.reshape(g, self.shape[0] // g, -1)
        if self.node.op_type == "ConvTranspose":
            split = w.reshape(g, self.shape[0] // g, *self.shape[1:])
            mirrored = np.flip(split, axis=tuple(range(3, split.ndim)))
            return np.ascontiguousarray(np.moveaxis(mirrored, 2, 1)).reshape(g, self.shape[1], -1)
        out_first = self.node.op_type == "Gemm" and self._int("transB", 0)
        return np.ascontiguousarray(w if out_first else w.T)[None]

    def unweight(self, rows: Array) -> Array:
        """Return (groups, out/groups, K) as an array of the weight's shape."""
        g = self.groups
        if self.node.op_type == "Conv":
            return rows.reshape(self.shape)
        if self.node.op_type == "ConvTranspose":
            split = rows.reshape(g, self.shape[1], self.shape[0] // g, *self.shape[2:])
            mirrored = np.flip(split, axis=tuple(range(3, split.ndim)))
            return np.ascontiguousarray(np.moveaxis(mirrored, 1, 2)).reshape(self.shape)
        out_first = self.node.op_type == "Gemm" and self._int("transB", 0)
        return np.ascontiguousarray(rows[0] if out_first else rows[0].T)

    def count(self, y: Array) -> int:
        """Return how many rows an output (batch, out, …) or (…, out) has."""
        return y.size // self.channels(y)

    def channels(self, y: Array) -> int:
        """Return the number of output channels."""
        return int(y.shape[1] if self._is_conv else y.shape[-1])

    def outputs(self, y: Array, which: npt.NDArray[np.int64]) -> Array:
        """Return chosen rows of an output, (groups, rows, out/groups)."""
        rows = (np.moveaxis(y, 1, -1) if self._is_conv else y).reshape(-1, self.channels(y))
        chosen = rows[which].reshape(which.size, self.groups, -1)
        return np.ascontiguousarray(np.moveaxis(chosen, 1, 0))

    def inputs(self, x: Array, which: npt.NDArray[np.int64]) -> Array:
        """Return what chosen rows of the output are made of, (groups, rows, K)."""
        if not self._is_conv:
            if self.node.op_type == "Gemm" and self._int("transA", 0):
                x = x.T
            alpha = self.node.attributes.get("alpha")
            rows = x.reshape(-1, x.shape[-1])[which]
            return (rows * np.float32(alpha.as_float() if alpha is not None else 1))[None]
        windows = self._windows(x)  # (batch, channels, positions…, kernel…)
        rank = len(self.shape) - 2
        places = np.unravel_index(which, (windows.shape[0], *windows.shape[2 : 2 + rank]))
        index: Any = (places[0], slice(None), *places[1:])
        taken = windows[index]  # (rows, channels, kernel…)
        split = taken.reshape(which.size, self.groups, -1)
        return np.ascontiguousarray(np.moveaxis(split, 1, 0))

    def _windows(self, x: Array) -> Array:
        """Return a view (batch, channels, positions…, kernel…) of a padded input."""
        kernel = self.shape[2:]
        rank = len(kernel)
        strides = self._ints("strides", [1] * rank)
        dilations = self._ints("dilations", [1] * rank)
        reach = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
        pads = self._pads(x.shape[2:], reach, strides)
        if self.node.op_type == "ConvTranspose":
            x = _spread(x, strides)
            more = self._ints("output_padding", [0] * rank)
            pads = [(r - a, r - b + m) for r, (a, b), m in zip(reach, pads, more, strict=True)]
            strides = [1] * rank
        x = np.pad(x, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in pads)])
        cut = tuple(
            slice(max(-a, 0), x.shape[2 + i] - max(-b, 0)) for i, (a, b) in enumerate(pads)
        )
        x = x[(slice(None), slice(None), *cut)]
        windows = np.lib.stride_tricks.sliding_window_view(
            x, tuple(r + 1 for r in reach), axis=tuple(range(2, 2 + rank))
        )
        every = (slice(None), slice(None))
        positions = tuple(slice(None, None, s) for s in strides)
        taps = tuple(slice(None, None, d) for d in dilations)
        return windows[every + positions + taps]

    def _pads(
        self, size: tuple[int, ...], reach: list[int], strides: list[int]
    ) -> list[tuple[int, int]]:
        """Return the padding (begin, end) of each axis, as the layer's attributes say it."""
        rank = len(size)
        auto = self.node.attributes.get("auto_pad")
        mode = auto.as_string() if auto is not None else "NOTSET"
        if mode == "NOTSET":
            pads = self._ints("pads", [0] * 2 * rank)
            return list(zip(pads[:rank], pads[rank:], strict=True))
        if mode == "VALID":
            return [(0, 0)] * rank
        found = []
        for n, r, s in zip(size, reach, strides, strict=True):
            if self.node.op_type == "Conv":
                total = max((-(-n // s) - 1) * s + r + 1 - n, 0)
            else:
                total = max((n - 1) * s + r + 1 - n * s, 0)
            small, large = total // 2, total - total // 2
            found.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return found


def _spread(x: Array, strides: list[int]) -> Array:
    """Put zeros between the values of each spatial axis."""
    shape = [*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))]
    wide = np.zeros(shape, x.dtype)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    return wide

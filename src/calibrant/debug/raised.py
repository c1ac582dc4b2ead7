"""Calibration nodes of a higher type, without calibrating again: the range stays, the steps get finer.

    float32    the node is off
    float16    values are rounded to float16, and none is quantized
    int16      the same range in 65536 steps: s' = s * 2**-8 from 8 bits, the zero point moves with it

Source: `calibrant.set_calib_qtype`, which does the same to a result.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from calibrant.debug.calibrations import Calibrated, Calibration, Step
from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.numerics import QuantParams
from calibrant.numerics.dtype import IntType

__all__ = ["HIGHER", "check_qtype", "raised"]

#: Types that nodes can be raised to.
HIGHER = ("float32", "float16", "int16")


def raised(calibrated: Calibrated, names: Collection[str], qtype: str) -> Calibrated:
    """Return a calibrated model with some calibration nodes of another type; those of `float32` are to be left off.

    Args:
        calibrated: The model.
        names: Its calibration nodes.
        qtype: One of `HIGHER`.

    Raises:
        ConfigValueError: Another type.
    """
    check_qtype(qtype)
    if qtype == "float32":
        return calibrated
    change = _half if qtype == "float16" else _wide
    nodes = {n: change(c) if n in names else c for n, c in calibrated.nodes.items()}
    model = calibrated.model
    if qtype == "int16" and main_opset(model) < WIDE_OPSET:
        model = raise_opset(model.clone(), WIDE_OPSET)
    return replace(calibrated, nodes=nodes, model=model)


def check_qtype(qtype: str) -> None:
    """Raise where nodes cannot be raised to a type.

    Raises:
        ConfigValueError: They cannot.
    """
    if qtype not in HIGHER:
        raise ConfigValueError(
            f"qtype is {qtype!r}; it is one of {', '.join(HIGHER)}.{did_you_mean(str(qtype), HIGHER)}"
        )


def _half(c: Calibration) -> Calibration:
    def cast(source: int, to: ir.DataType) -> Step:
        return Step("Cast", (source,), (ir.AttrInt64("to", int(to)),))

    return replace(c, steps=(cast(-1, ir.DataType.FLOAT16), cast(0, ir.DataType.FLOAT)))


def _wide(c: Calibration) -> Calibration:
    """Return a node of 16 bits; one that has as many, or a second value for the rest, stays as it is."""
    p = c.grid
    more = 16 - p.dtype.bits
    if more <= 0 or c.compensated:
        return c
    scale = (p.scale * np.float32(2.0**-more)).astype(np.float32)
    zero = p.zero_point.astype(np.int32) << more
    grid = QuantParams(scale, zero, IntType(16), p.axis)
    axis = () if p.axis is None else (ir.AttrInt64("axis", p.axis),)
    numbers = ir.tensor(scale), ir.tensor(zero.astype(np.int16))
    return replace(
        c,
        grid=grid,
        steps=(
            Step("QuantizeLinear", (-1, *numbers), axis),
            Step("DequantizeLinear", (0, *numbers), axis),
        ),
    )

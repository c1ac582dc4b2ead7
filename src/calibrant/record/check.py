"""Check an entry of a record by itself and against its layer.

Source: docs/how-to/records.md, "What is checked".
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import ConfigRuntimeError, ConfigValueError, UnsupportedError
from calibrant.graph.ops import weight_axis, weight_index
from calibrant.graph.passes.balance import weight_magnitudes
from calibrant.numerics import QuantParams
from calibrant.numerics.dtype import IntType
from calibrant.numerics.half_scale import through_float16
from calibrant.record.read import Entry

__all__ = ["activation_params", "balance_factors", "check_entry", "weight_params"]

EPS = 1.192092896e-07


def check_entry(entry: Entry, *, by_channel: bool = False) -> None:
    """Check what can be checked without the model.

    Args:
        entry: The entry.
        by_channel: Its input has a scale for each channel; otherwise the last of several counts.

    Raises:
        ConfigValueError: A number that is not allowed.
        ConfigRuntimeError: `scale_d` is missing.
        UnsupportedError: An entry of a recurrent layer.
    """
    v = entry.value
    if any(x is not None for x in (v.scale_h, v.offset_h, v.scale_r, v.offset_r)):
        raise UnsupportedError(
            f"{entry.where}: '{entry.key}' is a recurrent layer, which calibrant does not quantize."
        )
    if not v.scale_d:
        raise ConfigRuntimeError(
            f"{entry.where}: layer '{entry.key}' has no scale_d. The calibration was not finished: run as many "
            "batches as batch_num says."
        )
    scales = {"scale_d": v.scale_d if by_channel else v.scale_d[-1:], "scale_w": v.scale_w}
    for field, values in scales.items():
        for s in values:  # a float32 whose inverse is one too
            if not (math.isfinite(s) and s > 0 and math.isfinite(_inverse(s))):
                raise _wrong(entry, field, s, "finite and above 0")
    dtype = IntType(entry.act_bits)
    for o in v.offset_d if by_channel else v.offset_d[-1:]:
        if not dtype.qmin <= o <= dtype.qmax:
            raise _wrong(entry, "offset_d", o, f"in [{dtype.qmin}, {dtype.qmax}]")
    for o in v.offset_w:
        if o != 0:
            raise _wrong(entry, "offset_w", o, "0")
    if len(v.offset_w) != len(v.scale_w):
        count = f"{len(v.offset_w)} values"
        raise _wrong(entry, "offset_w", count, f"as many as scale_w, {len(v.scale_w)}, all 0")
    for f in v.tensor_balance_factor:
        if not EPS <= f <= 1 / EPS:
            raise _wrong(entry, "tensor_balance_factor", f, f"in [{EPS:.4g}, {1 / EPS:.4g}]")
    if v.cluster and len(v.cluster) not in (16, 32):
        raise _wrong(entry, "cluster", f"{len(v.cluster)} values", "16 or 32 values")
    for c in v.cluster:
        if not -128 <= c <= 127:
            raise _wrong(entry, "cluster", c, "in [-128, 127]")
    if any(v.shift_bit) and not all(1 <= b <= 16 for b in v.shift_bit):
        bad = next(b for b in v.shift_bit if not 1 <= b <= 16)
        raise _wrong(entry, "shift_bit", bad, "in [1, 16], or all are 0")
    mode = v.fakequant_precision_mode
    if mode not in (None, "DEFAULT", "FORCE_FP16_QUANT"):
        allowed = "DEFAULT or FORCE_FP16_QUANT"
        raise _wrong(entry, "fakequant_precision_mode", repr(mode), allowed)


def _inverse(s: float) -> float:
    with np.errstate(over="ignore", divide="ignore"):
        return float(np.float32(1) / np.float32(s))


def _wrong(entry: Entry, field: str, value: object, allowed: str) -> ConfigValueError:
    where = entry.places.get(field, entry.where)
    return ConfigValueError(
        f"{where}: {field} of layer '{entry.key}' is {value}; it is {allowed}."
    )


def activation_params(entry: Entry, axis: int | None) -> QuantParams:
    """Return scale and zero point of an input.

    Args:
        entry: A checked entry. Of several values the last counts, unless there is one for each channel.
        axis: Axis of the channels, or None.
    """
    v, dtype = entry.value, IntType(entry.act_bits)
    if axis is None:
        zero = np.array(v.offset_d[-1] if v.offset_d else 0, dtype=np.int32)
        return QuantParams(_scale(entry, v.scale_d[-1]), zero, dtype)
    scale = _scale(entry, v.scale_d)
    zero = np.array(v.offset_d or [0] * scale.size, dtype=np.int32)
    if zero.size != scale.size:
        raise _wrong(
            entry, "offset_d", f"{zero.size} values", f"{scale.size}, one for each scale_d"
        )
    return QuantParams(scale, zero, dtype, axis)


def _scale(entry: Entry, values: float | list[float]) -> npt.NDArray[np.float32]:
    scale = np.array(values, dtype=np.float32)
    forced = entry.value.fakequant_precision_mode == "FORCE_FP16_QUANT"
    return through_float16(scale) if forced else scale


def weight_params(entry: Entry, node: ir.Node) -> QuantParams:
    """Return the scales of a layer's weight.

    Raises:
        ConfigRuntimeError: There are none.
        ConfigValueError: Their number fits neither the tensor nor its output channels.
        UnsupportedError: Recurrent layers.
    """
    v = entry.value
    if node.op_type in ("LSTM", "GRU", "RNN"):
        raise UnsupportedError(
            f"{entry.where}: layer '{entry.key}' is a {node.op_type}, which calibrant does not quantize."
        )
    if not v.scale_w:
        raise ConfigRuntimeError(
            f"{entry.where}: layer '{entry.key}' ({node.op_type}) has a weight, and no scale_w."
        )
    index, axis = weight_index(node), weight_axis(node)
    assert index is not None
    value = node.inputs[index]
    shape = (
        tuple(value.const_value.shape)
        if value is not None and value.const_value is not None
        else ()
    )
    channels = int(str(shape[axis])) if axis is not None else 1
    if len(v.scale_w) not in (1, channels):
        raise _wrong(
            entry,
            "scale_w",
            f"{len(v.scale_w)} values",
            f"1 value, or one for each of {channels} channels",
        )
    dtype = IntType(entry.wts_bits)
    scale = np.array(v.scale_w, dtype=np.float32)
    if scale.size == 1 and (channels != 1 or axis is None):
        return QuantParams(scale.reshape(()), np.zeros((), np.int32), dtype)
    return QuantParams(scale, np.zeros(scale.shape, np.int32), dtype, axis)


def balance_factors(entry: Entry, node: ir.Node) -> npt.NDArray[np.float32]:
    """Return what the input of a layer is divided by, (in,) float32.

    Raises:
        ConfigValueError: The layer cannot be balanced, or has another number of input channels.
    """
    factors = np.array(entry.value.tensor_balance_factor, dtype=np.float32)
    magnitudes = weight_magnitudes(node)
    if magnitudes is None:
        raise ConfigValueError(
            f"{entry.where}: layer '{entry.key}' ({node.op_type}) has a tensor_balance_factor; layers with a "
            "constant weight (Conv, ConvTranspose, Gemm, MatMul) can be balanced."
        )
    if magnitudes.size != factors.size:
        raise _wrong(
            entry,
            "tensor_balance_factor",
            f"{factors.size} values",
            f"{magnitudes.size} values, one for each input channel",
        )
    return factors

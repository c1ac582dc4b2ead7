"""The rival in every table: the quantizer that comes with ONNX Runtime, called as its documentation says."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Feeds = dict[str, np.ndarray]

#: Method -> its calibrator, whether activations are symmetric, and the type of activations.
METHODS = {
    "minmax": ("MinMax", True, "QInt8"),
    "minmax_asym": ("MinMax", False, "QInt8"),
    "percentile": ("Percentile", True, "QInt8"),
    "entropy": ("Entropy", True, "QInt8"),
    "minmax_u8s8": ("MinMax", False, "QUInt8"),
}


def quantize(model: str | Path, batches: list[Feeds], out: Path, method: str) -> None:
    """Write `out`, a QDQ model with int8 weights per channel.

    Includes `quant_pre_process` (shape inference and fusion), which the documentation asks for. Prints
    nothing.

    Args:
        model: The float model.
        batches: Calibration feeds.
        out: Where the quantized model goes.
        method: A key of METHODS.
    """
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ort.set_default_logger_severity(3)
    calibrator, symmetric, kind = METHODS[method]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(out),
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType[kind],
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[calibrator],
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
        )


class _Reader:
    """Batches, one after another, then None."""

    def __init__(self, batches: list[Feeds]) -> None:
        self._batches = batches
        self._iterator: Iterator[Feeds] = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self._iterator, None)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Feeds:
        batch = self.get_next()
        if batch is None:
            raise StopIteration
        return batch

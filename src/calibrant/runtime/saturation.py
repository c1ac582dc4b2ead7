"""Whether the 8-bit kernels of this CPU saturate, and what that costs a model.

On x86-64 without VNNI, ONNX Runtime multiplies unsigned by signed 8-bit numbers with `vpmaddubsw`, which adds two
products in 16 bits:

    255 * 127 + 255 * 127 = 64770 > 32767

A sum beyond 16 bits is cut off, so a layer with large weights and large inputs answers too small. The model is not
wrong, and another CPU (with VNNI, Arm, a GPU, an NPU) computes it as it is meant. Weights of 7 bits never get there
(2 * 255 * 64 = 32640), and the session option `session.x64quantprecision` chooses kernels that do not saturate. It is
not used here, because with it ONNX Runtime cannot load or run some models (two layers with one weight; a MatMul with a
constant on the left that has a scale a row): figures are taken without integer kernels instead.

Source: ONNX Runtime, "Quantize ONNX models", section "When and why do I need to try U8U8?"; Intel, "Intel 64 and IA-32
Architectures Software Developer's Manual", vol. 2, PMADDUBSW.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import parser

from calibrant.runtime.measure import Answered, OutputQuality, compare, run
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["Saturation", "kernels_are_exact", "kernels_saturate", "saturation", "saturation_note"]

Array = npt.NDArray[Any]

#: Session option that chooses kernels that do not saturate.
#: Source: ONNX Runtime, onnxruntime_session_options_config_keys.h.
EXACT_KERNELS = "session.x64quantprecision"

#: Where two runs of one model agree less than so [dB], more than the rounding of kernels sets them apart.
ALIKE_DB = 30.0

#: An output that is worse by more than this is worth a word [dB].
CLEARLY_DB = 1.0
#: … unless it is as good as this all the same: the error is a hundredth of the output [dB].
GOOD_DB = 40.0

#: One dense layer; with these numbers every sum of two products is beyond 16 bits.
_LAYER = """<ir_version: 8, opset_import: ["" : 13]>
layer (float[1,16] x) => (float[1,2] y) <float one = {1.0}, uint8 zero = {0}, int8 signed_zero = {0}> {
    quantized = QuantizeLinear (x, one, zero)
    read = DequantizeLinear (quantized, one, zero)
    w = DequantizeLinear (weight, one, signed_zero)
    y = MatMul (read, w)
}"""


_HERE = "The 8-bit kernels of this CPU saturate (ONNX Runtime, x86-64 without VNNI)"
_WAY_OUT = (
    f"To run it here, quantize for target onnxruntime, set the session option {EXACT_KERNELS} to 1, or quantize with weights "
    "of 7 bits."
)


@dataclass(frozen=True, slots=True)
class Saturation:
    """One output that this CPU's integer kernels spoil.

    Args:
        name: Name of the output.
        sqnr_db: SQNR against the float model as this CPU computes it [dB].
        exact_sqnr_db: SQNR where nothing saturates, on the same samples [dB].
        samples: How many samples were looked at.
    """

    name: str
    sqnr_db: float
    exact_sqnr_db: float
    samples: int

    @property
    def message(self) -> str:
        """What it means, in words."""
        return (
            f"{_HERE}: on {self.samples} samples output '{self.name}' reaches {self.sqnr_db:.1f} dB here, and "
            f"{self.exact_sqnr_db:.1f} dB where they do not, as the model is meant. {_WAY_OUT}"
        )


@cache
def kernels_saturate() -> bool:
    """Return whether ONNX Runtime's 8-bit kernels saturate on this CPU; a layer is run to see it."""
    model = parser.parse_model(_LAYER)
    weight = onnx.numpy_helper.from_array(np.full((16, 2), 127, np.int8), "weight")
    model.graph.initializer.append(weight)
    feed = {"x": np.full((1, 16), 255, np.float32)}
    (found,) = run(ir.from_proto(model), [feed], runtime=Runtime(threads=1))
    return not np.array_equal(found["y"], np.full((1, 2), 16 * 255 * 127, np.float32))


def kernels_are_exact(runtime: Runtime = CPU) -> bool:
    """Return whether integer kernels may be used where a figure is taken: they compute what the model says."""
    return runtime.provider != "cpu" or not kernels_saturate()


def saturation(
    model: ir.Model | bytes,
    feeds: Sequence[Mapping[str, Array]],
    reference: Answered,
    exact: Sequence[OutputQuality],
    *,
    samples: int,
    runtime: Runtime = CPU,
) -> list[Saturation]:
    """Return the outputs that are clearly worse with the kernels that this CPU takes by itself.

    Args:
        model: The deployable model.
        feeds: Samples.
        reference: The outputs of the float model for each of them.
        exact: How good the model is where nothing saturates.
        samples: How many samples the feeds hold.
        runtime: Where the model runs.
    """
    if kernels_are_exact(runtime):
        return []
    answers = run(model, feeds, runtime=runtime)
    here = {q.name: q for q in compare(reference, answers)}
    return [
        Saturation(q.name, here[q.name].sqnr_db, q.sqnr_db, samples)
        for q in exact
        if q.name in here and here[q.name].sqnr_db < min(q.sqnr_db - CLEARLY_DB, GOOD_DB)
    ]


def saturation_note(
    model: str | Path | bytes | onnx.ModelProto | ir.Model,
    feeds: Mapping[str, Array],
    outputs: Mapping[str, Array],
    *,
    runtime: Runtime = CPU,
) -> str | None:
    """Return a sentence where a model answers clearly otherwise with the kernels that this CPU takes by itself.

    Args:
        model: A model, float or quantized.
        feeds: Its inputs.
        outputs: What it answers where nothing saturates.
        runtime: Where it runs.
    """
    if kernels_are_exact(runtime):
        return None
    alike = compare([dict(outputs)], run(model, [feeds], runtime=runtime))
    worst = min(alike, key=lambda q: q.sqnr_db, default=None)
    if worst is None or worst.sqnr_db >= ALIKE_DB:
        return None
    return (
        f"{_HERE}: its own answers are {worst.sqnr_db:.1f} dB from those of the model at output '{worst.name}'. The "
        f"figure is that of the model. {_WAY_OUT}"
    )

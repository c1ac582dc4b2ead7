"""A Solution: all that is decided about one model, before any file of it is written.

    calibration ─┐
    a trained model's own quantizers ─┤
    a record ─┼─► Solution ─► build, measure, summarize, the vendors' files
    training ─┘

Nothing is changed in a Solution later. Who wants another type at a quantizer makes a new one (`retype`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir

from calibrant.emit.fake_quant import emit_fake_quant
from calibrant.emit.qdq import emit_qdq
from calibrant.graph.form import ModelForm
from calibrant.graph.interface import check_interface
from calibrant.graph.passes.fix_inputs import with_kept_inputs
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.record.recording import Recording

__all__ = ["CALIBRATION", "NOT_FOR_ACCURACY", "Built", "Solution", "build"]

#: Said in every file of a run on random values.
NOT_FOR_ACCURACY = "Calibrated on random values: for structure and speed, not for accuracy."

#: Key of a quantized model's metadata that says where its ranges come from, where they mean nothing.
CALIBRATION = "calibrant.calibration"


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What is decided.

    Args:
        original: The float model as it was given, loaded and checked.
        model: The float model that the plan belongs to: `original` in its form.
        form: What was done to `original` to make `model`.
        plan: Where quantizers stand, and which rule decided each.
        params: Scales and zero points by quantizer, integer weights and biases by layer.
        source: What the parameters come from.
        random: They come from random values, so they say nothing about accuracy.
        kept: Fields of a record that are kept as they were read, by key of the entry.
    """

    original: ir.Model
    model: ir.Model
    form: ModelForm
    plan: Plan
    params: Parameters
    source: Literal["calibration", "model", "record", "training"] = "calibration"
    random: bool = False
    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def record(self) -> Recording:
        """The content of its record."""
        return Recording.of(self.model, self.form, self.plan, self.params, self.kept)


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """The two models of a solution.

    Args:
        deploy: Standard ONNX with QuantizeLinear and DequantizeLinear.
        fake_quant: Float arithmetic with one function call a quantizer.
    """

    deploy: ir.Model
    fake_quant: ir.Model


def build(solution: Solution) -> Built:
    """Write both models.

    Raises:
        ModelError: One of them lacks an input or output of the float model, which is a fault of calibrant.
    """
    parts = solution.model, solution.plan, solution.params
    models = emit_qdq(*parts), emit_fake_quant(*parts)
    built = Built(*(with_kept_inputs(model, solution.original) for model in models))
    given = with_kept_inputs(solution.original, solution.original)
    check_interface(built.deploy, given, "deployable model")
    check_interface(built.fake_quant, given, "fake-quant model")
    if solution.random:
        for model in (built.deploy, built.fake_quant):
            model.metadata_props[CALIBRATION] = NOT_FOR_ACCURACY
    return built

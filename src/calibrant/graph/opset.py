"""The version of the operator set: which one quantization needs, and how a model is brought to it."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx import helper

from calibrant.errors import ModelError
from calibrant.graph.quiet import quiet
from calibrant.graph.values import own_copy

__all__ = [
    "MIN_IR_VERSION",
    "MIN_OPSET",
    "WIDE_OPSET",
    "main_opset",
    "needed_ir_version",
    "raise_opset",
]

logger = logging.getLogger(__name__)

#: QuantizeLinear has an axis since opset 13; 16 bits and 4 bits came with opset 21.
MIN_OPSET = 13
WIDE_OPSET = 21

#: The file format: functions came with IR version 8, 4-bit types with 10.
MIN_IR_VERSION = 8
WIDE_IR_VERSION = 10


def needed_ir_version(model: ir.Model) -> int:
    """Return the version of the file format that a model needs: what its operator sets came with.

    A writer that is newer than the runtime stamps its own version on every file, whatever is in it, and the runtime
    refuses the file. Types that came later than an operator set stand in the operator set that came with them.

    Example:
        >>> needed_ir_version(ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 17}), ir_version=14))
        10
    """
    sets = [
        helper.make_opsetid(d, v) for d, v in model.opset_imports.items() if d in ("", "ai.onnx")
    ]
    known = helper.find_min_ir_version_for(sets, ignore_unknown=True) if sets else WIDE_IR_VERSION
    return min(model.ir_version, max(WIDE_IR_VERSION, known))


def main_opset(model: ir.Model) -> int:
    """Return the version of the default operator set."""
    version = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx"))
    if version is None:
        raise ModelError("The model imports no version of the ONNX operator set.")
    return version


def raise_opset(model: ir.Model, version: int) -> ir.Model:
    """Convert a model to a higher version of the default operator set, as a copy.

    Raises:
        ModelError: The model holds an operator that the converter does not know.
    """
    if main_opset(model) >= version:
        return model
    from onnxscript import version_converter

    before = main_opset(model)
    model = own_copy(model)
    said = dict(model.graph.meta)  # the converter may put another graph in its place
    logger.info("raising the opset from %d to %d", before, version)
    try:
        with quiet("onnxscript.version_converter"):
            version_converter.convert_version(model, target_version=version, fallback=True)
    except Exception as e:
        raise ModelError(
            f"The model's opset {before} cannot be raised to {version}, which quantization needs: "
            f"{str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__}"
        ) from e
    if main_opset(model) < version:
        raise ModelError(
            f"The model's opset {before} cannot be raised to {version}, which quantization needs. "
            "Export the model with a newer opset."
        )
    model.graph.meta.update(said)
    if before < 11:
        _keep_resize(model)
    newest = WIDE_IR_VERSION if version >= WIDE_OPSET else MIN_IR_VERSION
    model.ir_version = max(model.ir_version, newest)
    return model


def _keep_resize(model: ir.Model) -> None:
    """Say of each Resize how it found its points before opset 11, where this could not be chosen.

    The converter leaves the default of opset 11, half a pixel away. `nearest` rounds as ONNX Runtime does:
    down for a larger image, up for a smaller one.
    """
    for node in model.graph.all_nodes():
        if node.op_type != "Resize":
            continue
        scales = node.inputs[2].const_value if node.inputs[2] is not None else None
        shrinks = scales is not None and bool((scales.numpy() < 1).any())
        for attribute in (
            ir.AttrString("coordinate_transformation_mode", "asymmetric"),
            ir.AttrString("nearest_mode", "ceil" if shrinks else "floor"),
        ):
            node.attributes[attribute.name] = attribute

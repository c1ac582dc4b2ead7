"""The float model in the form that the other model was made from, so that tensors of one name hold the same values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

from calibrant.analysis.compare.sides import opened
from calibrant.graph.load import prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.record.form import form_of
from calibrant.record.read import Record

__all__ = ["float_forms"]

_BATCH_NORM = "BatchNormalization"


def float_forms(model: ir.Model, mine: ir.Model, record: Record | None) -> Iterator[ir.Model]:
    """Yield forms of the float model that the other one may have been made from.

    With a record, the one that it tells of: batch normalizations folded, channels rescaled, Muls put in; what it says of
    float16 is left out, since that is a loss to be seen. Else the model as it is, and with batch normalizations folded:
    all, or those that the other model lacks by name.

    Args:
        model: The float model, loaded.
        mine: The other one, opened.
        record: What the quantizer wrote.
    """
    if record is not None:
        prepared = prepare(model)
        form = form_of(record, prepared)
        replace(form, half=(), half_later=(), half_outputs=False).apply(prepared)
        yield opened(prepared)
        return
    plain = opened(model)
    there = {n.outputs[0].name for n in mine.graph if n.op_type == _BATCH_NORM}
    here = {n.outputs[0].name for n in plain.graph if n.op_type == _BATCH_NORM}
    if there or not here:
        yield plain
    if here:
        kept = [
            n.inputs[0].producer()
            for n in plain.graph
            if n.op_type == _BATCH_NORM and n.outputs[0].name in there and n.inputs[0] is not None
        ]
        for skip in dict.fromkeys(((), tuple(n.name or "" for n in kept if n is not None))):
            folded = opened(model)
            fuse_batchnorm(folded, skip=tuple(s for s in skip if _foldable(folded, s)))
            yield folded


def _foldable(model: ir.Model, name: str) -> bool:
    node = model.graph.node(name)
    return node.op_type in ("Conv", "ConvTranspose", "Gemm")

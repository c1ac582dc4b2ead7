"""Some nodes of a model in float16."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.graph.passes.half import Island, to_half
from calibrant.runtime.overflow import half_overflows
from calibrant.tuning.store import Store

__all__ = ["in_half"]


def in_half(
    model: ir.Model, names: tuple[str, ...], probe: Probe, store: Store
) -> tuple[ir.Model, tuple[Island, ...]]:
    """Return the model with some nodes in float16, and what became of them."""
    if not names:
        return model, ()
    over = half_overflows(model, names, probe.feeds, runtime=store.runtime)
    changed = model.clone()
    return changed, tuple(to_half(changed, names, over))

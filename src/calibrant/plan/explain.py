"""What a recipe means for a model, layer by layer, whether or not all of it can be run."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from calibrant.graph.passes.lift_qdq import lift_quantizers
from calibrant.plan.decisions import LayerDecision
from calibrant.plan.loaded import keeps_scales, resolve_loaded
from calibrant.plan.resolve import resolve
from calibrant.recipe import Note, Recipe
from calibrant.recipe.unsupported import unsupported

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The effective settings of every layer, and what is not done as asked.

    Args:
        layers: One entry a layer; `origin` says which rule decided each field of `settings`.
        notes: Requests that are not met, or met in another way, with the reason.
        unsupported: What is asked for and not implemented.
    """

    layers: tuple[LayerDecision, ...]
    notes: tuple[Note, ...]
    unsupported: tuple[str, ...]


def explain(recipe: Recipe, model: ir.Model) -> Explanation:
    """Explain a recipe for a prepared model; for a recipe that keeps a model's scales, one with quantizers.

    Raises:
        ConfigError: The recipe names what the model does not have, requires what the device cannot do, or
            leaves nothing to quantize.
    """
    if keeps_scales(recipe):
        model = model.clone()
        plan = resolve_loaded(recipe, model, lift_quantizers(model)).plan
    else:
        plan = resolve(recipe, model, check=False)
    return Explanation(plan.layers, plan.notes, tuple(unsupported(recipe)))

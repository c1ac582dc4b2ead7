"""A model in the shape in which the rules of a recipe see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.recipe import Recipe

__all__ = ["prepared_for"]


def prepared_for(recipe: Recipe, model: Path) -> ir.Model:
    """Load a model and fold what the recipe folds, as the pipeline does before it decides.

    Raises:
        ModelError: The file is not a model that can be quantized.
    """
    from calibrant.graph.load import load, prepare
    from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
    from calibrant.plan.loaded import keeps_scales

    if keeps_scales(recipe):
        return prepare(load(model, quantizers=True))
    prepared = prepare(load(model))
    if recipe.fusion.batch_norm:
        fuse_batchnorm(prepared, skip=recipe.fusion.skip, check=False)
    return prepared

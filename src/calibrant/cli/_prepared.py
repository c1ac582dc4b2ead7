"""A model in the shape in which the rules of a recipe see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.graph.load import ModelLike
    from calibrant.recipe import Recipe

__all__ = ["prepared_for"]


def prepared_for(recipe: Recipe, model: ModelLike) -> ir.Model:
    """Load a model and fold what the recipe folds, as the pipeline does before it decides.

    Raises:
        ModelError: The file is not a model that can be quantized.
        ConfigError: A layer that keeps its batch normalization, or an input that is fixed, is not in the model.
    """
    from calibrant.graph.load import load, prepare
    from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
    from calibrant.plan.fixed import with_fixed
    from calibrant.plan.loaded import keeps_scales

    if keeps_scales(recipe):
        return prepare(with_fixed(load(model, quantizers=True), recipe))
    prepared = prepare(with_fixed(load(model), recipe))
    if recipe.fusion.batch_norm:
        fuse_batchnorm(prepared, skip=recipe.fusion.skip, check=False)
    return prepared

"""The model that a recipe is for: the one that was given, with the inputs that the recipe fixes as constants."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.passes.fix_inputs import fix_inputs
from calibrant.recipe import Recipe

__all__ = ["with_fixed"]


def with_fixed(model: ir.Model, recipe: Recipe) -> ir.Model:
    """Return a loaded model with the inputs fixed that a recipe fixes; itself where it fixes none, else a copy.

    Raises:
        ConfigError: The model has no such input, or a value does not fit it.
    """
    if not recipe.fix:
        return model
    return fix_inputs(
        model,
        {f.name: f.value for f in recipe.fix},
        keep=recipe.keep_fixed_inputs,
        origins={f.name: f.origin for f in recipe.fix},
    )

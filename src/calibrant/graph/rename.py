"""Names of the inputs and outputs of a model, as a script gives them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from calibrant.errors import ConfigValueError

__all__ = ["rename"]


def rename(model: ir.Model, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> None:
    """Give inputs and outputs of a model names, in place.

    Args:
        model: The model.
        inputs: A name for each input, in their order; None or none keeps those that there are.
        outputs: The same for the outputs.

    Raises:
        ConfigValueError: More or fewer names than there are inputs or outputs, or a name twice; nothing is renamed.
    """
    asked = (
        ("input", [v for v in model.graph.inputs if not v.is_initializer()], inputs),
        ("output", list(model.graph.outputs), outputs),
    )
    for what, values, names in asked:
        if names and len(names) != len(values):
            held = ", ".join(f"'{v.name}'" for v in values)
            raise ConfigValueError(
                f"{what}_names has {len(names)} names; the model has {len(values)} {what}s: {held}."
            )
        if names and len(set(names)) < len(names):
            raise ConfigValueError(f"{what}_names has a name twice: {', '.join(names)}.")
    for _, values, names in asked:
        for value, name in zip(values, names or (), strict=bool(names)):
            value.name = name

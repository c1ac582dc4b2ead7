"""The model of a command: a file, or a function of the user's that makes a module of torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.data.imports import import_function, is_function_name

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["model_of"]


def model_of(model: str | Path, data: Any = None) -> str | Path | ir.Model:
    """Return the model that a command was given.

    Args:
        model: An ONNX file; or `module:function`, which is called with nothing and returns a module of torch, or that and
            what it is called with.
        data: The command's data; the example comes from it where the function returns the module alone.

    Raises:
        ModelError: The function cannot be imported, fails, or returns something else.
        ConfigValueError: There is no example.
    """
    from calibrant.errors import ModelError
    from calibrant.graph.modules import as_model
    from calibrant.graph.proto import TorchModule

    name = str(model)
    if not is_function_name(name) or Path(name).exists():
        return model
    function = import_function(name, what="The model", error=ModelError)
    try:
        made = function()
    except Exception as e:  # the user's code may raise anything
        raise ModelError(f"The model '{name}' cannot be made: {type(e).__name__}: {e}") from e
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, TorchModule):
        raise ModelError(
            f"The model '{name}' is a {type(module).__name__}; the function returns a module of torch, or a pair of that "
            "and what it is called with."
        )
    found: ir.Model = as_model(module, example, data)
    return found

"""Functions of the user's own, named `module:function`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibrant.errors import CalibrantError, did_you_mean

__all__ = ["import_function", "is_function_name"]

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_function_name(text: str) -> bool:
    """Tell whether a text reads as `module:function`.

    Example:
        >>> is_function_name("my.data:batches"), is_function_name("calib.npz")
        (True, False)
    """
    return _FUNCTION.fullmatch(text) is not None


def import_function(text: str, *, what: str, error: type[CalibrantError]) -> Callable[..., Any]:
    """Import `module:function`; modules of the current directory are found too.

    The current directory is put on `sys.path` and stays there, for what the function imports later.

    Args:
        text: `module:function`.
        what: What the function is for, to begin a message.
        error: The error to raise.

    Raises:
        CalibrantError: The module cannot be imported, or has no such function (of type `error`).
    """
    module_name, _, attribute = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as e:  # an import runs the user's code, which may raise anything
        raise error(
            f"{what} '{text}': module '{module_name}' cannot be imported: {type(e).__name__}: {e}."
        ) from e
    for part in attribute.split("."):
        if not hasattr(target, part):
            known = (
                [n for n in vars(target) if not n.startswith("_")]
                if hasattr(target, "__dict__")
                else []
            )
            raise error(
                f"{what} '{text}': '{module_name}' has no '{attribute}'."
                + did_you_mean(part, known)
            )
        target = getattr(target, part)
    if not callable(target):
        raise error(f"{what} '{text}' is a {type(target).__name__}; it has to be a function.")
    function: Callable[..., Any] = target
    return function

"""Samples that are changed each time they are shown: a function of yours.

    augment(inputs, extras, generator) ─► inputs, extras

The float network is asked anew about each changed sample, so a step costs one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from calibrant.data.imports import import_function, is_function_name
from calibrant.errors import ConfigValueError

__all__ = ["Augment", "augment_of"]

#: Inputs in their order, other arrays by name, and a generator that the seed and the step decide -> the same, changed.
Augment = Callable[
    [tuple[Tensor, ...], dict[str, Tensor], np.random.Generator],
    tuple[tuple[Tensor, ...], dict[str, Tensor]],
]


def augment_of(name: str | Augment | None) -> Augment | None:
    """Return a function by its name.

    Args:
        name: `module:function`, the function itself, or None.

    Raises:
        ConfigValueError: There is no such function.
    """
    if name is None or callable(name):
        return name
    if not is_function_name(name):
        raise ConfigValueError(f"augment is '{name}'; it is module:function.")
    function: Augment = import_function(name, what="Augmentation", error=ConfigValueError)
    return function

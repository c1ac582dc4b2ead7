"""What a network is called with: by place and by name, as the module that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor

from calibrant.errors import ConfigTypeError, ConfigValueError

__all__ = ["feeds_of", "in_order"]


def in_order(
    names: Sequence[str], inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Return inputs in the order of a network.

    Args:
        names: Names of the inputs of the network, in their order.
        inputs: Those that are given by place; they come first.
        named: Those that are given by name.

    Raises:
        ConfigTypeError: A name that there is not, an input that is given twice, or one that is missing.
    """
    if not named:
        return inputs
    by_place = names[: len(inputs)]
    wrong = [n for n in named if n not in names or n in by_place]
    missing = [n for n in names if n not in by_place and n not in named]
    if wrong or missing or len(inputs) > len(names):
        raise ConfigTypeError(
            f"The network is called with {len(inputs)} inputs by place and {', '.join(named)} by name; "
            f"its inputs are {', '.join(names)}, each given once."
        )
    return (*inputs, *(named[n] for n in names[len(inputs) :]))


def feeds_of(model: ir.Model, example: Any) -> dict[str, Any]:
    """Return what a module is called with as arrays, by the names of the model's inputs.

    Args:
        model: The model that was exported with it.
        example: A tensor, a sequence of tensors, or a mapping by argument.

    Raises:
        ConfigValueError: It does not fit the inputs of the model.
    """
    names = [v.name or "" for v in model.graph.inputs]
    if isinstance(example, Mapping):
        given = dict(example)
    else:
        held = example if isinstance(example, Sequence) else (example,)
        given = dict(zip(names, held, strict=False)) if len(held) == len(names) else {}
    if set(given) != set(names):
        raise ConfigValueError(
            f"The example does not fit the inputs of the exported module, which are {', '.join(names)}: give a tensor "
            "for each, by place or by name."
        )
    return {n: given[n].detach().cpu().numpy() for n in names}

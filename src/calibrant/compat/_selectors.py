"""Which quantizers of a model are meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import onnx_ir as ir

from calibrant.errors import ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.graph.ops import matches_type
from calibrant.retype import Quantizer

__all__ = ["Selector", "selected_by"]


#: A node's name, a type of operator, `weight`, `activation`, (node, input), a function, or several of these.
Selector = str | tuple[str, int] | Callable[[Quantizer], bool] | Iterable[Any]


def selected_by(
    selector: Selector, every: list[Quantizer], nodes: dict[str, ir.Node]
) -> list[Quantizer]:
    """Return what a selector selects.

    Raises:
        ConfigValueError: Nothing.
        ConfigTypeError: A selector of another form.
    """
    if isinstance(selector, str):
        if selector in ("weight", "activation"):
            found = [q for q in every if q.kind == selector]
        elif selector in nodes:
            found = [q for q in every if q.node == selector]
        else:
            found = _of_type(selector, every, nodes)
        what = f"'{selector}'"
    elif isinstance(selector, tuple) and len(selector) == 2 and isinstance(selector[1], int):
        found = [q for q in every if (q.node, q.input) == selector]
        what = f"input {selector[1]} of '{selector[0]}'"
    elif callable(selector):
        found = [q for q in every if selector(q)]
        what = "The function"
    elif isinstance(selector, Iterable):
        parts = [q for s in cast(Iterable[Any], selector) for q in selected_by(s, every, nodes)]
        found, what = list(dict.fromkeys(parts)), "The list"
    else:
        raise ConfigTypeError(
            f"The selector is a {type(selector).__name__}; it is a name, a type, 'weight', 'activation', (node, input), "
            "a function, or a list of these."
        )
    if not found:
        raise ConfigValueError(
            f"{what} selects no quantizer of the model."
            + (did_you_mean(selector, nodes) if isinstance(selector, str) else "")
        )
    return found


def _of_type(name: str, every: list[Quantizer], nodes: dict[str, ir.Node]) -> list[Quantizer]:
    try:
        return [q for q in every if matches_type(nodes[q.node], name)]
    except ConfigValueError as e:
        raise ConfigValueError(
            f"The model has no node '{name}', and no operator is called so."
            + did_you_mean(name, [*nodes, "weight", "activation"])
        ) from e

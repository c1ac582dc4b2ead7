"""A module of torch as a float model: exported to ONNX, each node named after the module of yours that it comes from.

    layer1.0.conv1    the node of that convolution, in plans, recipes and reports
    layer1.0.conv1/1  a second node of the same module

The module is exported as it answers in evaluation: dropout hands on, batch normalizations use what they have seen.

Source: PyTorch, `torch.onnx.export(dynamo=True)`; the names stand in the metadata `pkg.torch.onnx.name_scopes`.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from calibrant.errors import ConfigValueError, ModelError

__all__ = ["exported"]

#: Metadata of a node: the names of the modules around the call that it comes from, and last that of the call.
_SCOPES = "pkg.torch.onnx.name_scopes"


def exported(module: nn.Module, example: Any) -> ir.Model:
    """Return a module as a float model with a free batch.

    Args:
        module: The network; it is not changed.
        example: What it is called with: a tensor, a sequence of tensors, or a mapping by argument; samples on axis 0.

    Raises:
        ConfigValueError: The example holds something else than tensors.
        ModelError: torch cannot export the module.
    """
    args, kwargs = _call(example)
    was_training = module.training
    module.eval()
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, about versions of its own parts
            program = torch.onnx.export(
                module,
                args,
                kwargs=kwargs,
                dynamo=True,
                verbose=False,
                optimize=False,
                dynamic_shapes=_free(args, kwargs, batch),
            )
    except Exception as e:  # the exporter and the user's code may raise anything
        text = " ".join(str(e).split())
        raise ModelError(
            f"torch cannot export the module {type(module).__name__}: {text[:600]}"
        ) from e
    finally:
        module.train(was_training)
    assert program is not None
    model: ir.Model = program.model
    _name_nodes(model)
    return model


def _call(example: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    elif isinstance(example, Sequence):
        args = tuple(example)
    else:
        args = (example,)
    wrong = [type(v).__name__ for v in (*args, *kwargs.values()) if not isinstance(v, Tensor)]
    if wrong or not (args or kwargs):
        raise ConfigValueError(
            f"The example is {', '.join(wrong) or 'empty'}; it is a tensor, a sequence of tensors, or a mapping of "
            "tensors by argument."
        )
    return args, kwargs


def _free(
    args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], batch: Any
) -> tuple[Any, ...] | dict[str, Any]:
    """Say that axis 0 of every input is free."""

    def of(x: Tensor) -> dict[int, Any] | None:
        return {0: batch} if x.ndim else None

    if kwargs:
        return {k: of(x) for k, x in kwargs.items()}
    return tuple(of(x) for x in args)


def _name_nodes(model: ir.Model) -> None:
    """Name each node after the innermost module around it, in place."""
    taken: dict[str, int] = {}
    for node in model.graph:
        scope = _scope(node)
        if not scope:
            continue
        count = taken.get(scope, 0)
        taken[scope] = count + 1
        node.name = scope if count == 0 else f"{scope}/{count}"


def _scope(node: ir.Node) -> str:
    said = node.metadata_props.get(_SCOPES)
    if not said:
        return ""
    try:
        scopes = ast.literal_eval(said)
    except (ValueError, SyntaxError):
        return ""
    inner = [s for s in scopes[:-1] if s]
    return str(inner[-1]) if inner else str(scopes[-1])

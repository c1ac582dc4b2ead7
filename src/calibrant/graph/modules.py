"""A module of torch as a float model: exported to ONNX, each node named after the module of yours that it comes from.

    layer1.0.conv1    the node of that convolution, in plans, recipes and reports
    layer1.0.conv1/1  a second node of the same module

The module is exported as it answers in evaluation: dropout hands on, batch normalizations use what they have seen.
torch is imported where a module is given, and not before.

Source: PyTorch, `torch.onnx.export(dynamo=True)`; the names stand in the metadata `pkg.torch.onnx.name_scopes`.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from calibrant.errors import ConfigValueError, MissingPackageError, ModelError
from calibrant.graph.ops import rule_of
from calibrant.graph.proto import TorchModule
from calibrant.graph.quiet import quiet

__all__ = ["as_model", "exported", "unwrapped"]

#: Metadata of a node: the names of the modules around the call that it comes from, and last that of the call.
_SCOPES = "pkg.torch.onnx.name_scopes"

#: Samples of an example that is taken from data.
_SAMPLES = 2

#: Packages that torch exports with; any other that is missing is one of the module's own.
_EXPORTERS = frozenset({"onnx", "onnxscript", "onnx_ir"})

#: Colours that torch writes into its messages.
_COLOURS = re.compile(r"\x1b\[\d*m")

M = TypeVar("M")


def as_model(model: M | TorchModule, example: Any = None, data: Any = None) -> M | ir.Model:
    """Return a model as it is, and a module of torch as a float model.

    Args:
        model: Any model.
        example: What a module is called with; None takes it from the data, where that has arrays by argument.
        data: Calibration data.

    Raises:
        ConfigValueError: There is no example, or it holds something else than tensors.
        ModelError: torch cannot export the module.
        MissingPackageError: A package that torch exports with is not installed.
    """
    if not isinstance(model, TorchModule):
        return model
    return exported(model, example if example is not None else _example(model, data))


def unwrapped(module: Any) -> Any:
    """Return the module that a wrapper of torch's own stands around: data parallel, or compiled; else the module itself."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    while True:
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif (inner := vars(module).get("_modules", {}).get("_orig_mod")) is not None:
            module = inner
        else:
            return module


def exported(module: Any, example: Any) -> ir.Model:
    """Return a module of torch as a float model with a free batch.

    Args:
        module: The network, or torch's wrapper around it (`unwrapped`); it is not changed.
        example: What it is called with: a tensor, a sequence of tensors, or a mapping by argument; samples on axis 0.

    Raises:
        ConfigValueError: The example holds something else than tensors.
        ModelError: torch cannot export the module, or it answers at random or by its batch in evaluation.
        MissingPackageError: A package that torch exports with is not installed.
    """
    import torch

    module = unwrapped(module)
    args, kwargs = _call(example)
    kwargs = _as_declared(module, kwargs)
    try:
        with _evaluating(module), quiet("torch", "onnxscript", "onnx_ir"):
            program = torch.onnx.export(
                module,
                args,
                kwargs=kwargs,
                dynamo=True,
                verbose=False,
                optimize=False,
                dynamic_shapes=_free(args, kwargs, torch.export.Dim("batch", min=1)),
            )
    except Exception as e:  # the exporter and the user's code may raise anything
        if isinstance(e, ModuleNotFoundError) and e.name in _EXPORTERS:
            raise MissingPackageError(
                f'torch exports modules with the package {e.name}, which is not installed: pip install "calibrant[torch]".'
            ) from e
        where = _culprit(module, args, kwargs)
        raise ModelError(f"torch cannot export the module {where}: {_reason(e)}") from e
    assert program is not None
    model: ir.Model = program.model
    _name_nodes(model)
    _refuse_training(model)
    _without_zeros(model)
    return model


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Put a module and all in it into evaluation, and each part back as it was."""
    import torch

    was = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, about versions of its own parts
            yield
    finally:
        for part, training in was.items():
            part.training = training


# --------------------------------------------------------------------------------------------- examples


def _example(module: TorchModule, data: Any) -> dict[str, Any]:
    """Return the first samples of data that has arrays by the names of the module's arguments."""
    import torch

    if isinstance(data, str | Path) and str(data).endswith(".npz") and Path(data).is_file():
        with np.load(data, allow_pickle=False) as stored:
            data = {k: stored[k] for k in stored.files}
    if isinstance(data, Sequence) and not isinstance(data, str) and data:
        data = data[0]
    names = [
        n
        for n, p in inspect.signature(module.forward).parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if not isinstance(data, Mapping) or not names or any(n not in data for n in names):
        raise ConfigValueError(
            "A module of torch needs an example of what it is called with (example=…), or data that has arrays by "
            f"the names of its arguments ({', '.join(names)})."
        )
    arrays = {n: np.asarray(data[n]) for n in names}
    return {
        n: torch.from_numpy(x[:_SAMPLES].copy() if x.ndim else x.copy()) for n, x in arrays.items()
    }


def _call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    from torch import Tensor

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


def _as_declared(module: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by name in the order in which a module declares them, which becomes that of the inputs."""
    declared = [n for n in inspect.signature(module.forward).parameters if n in kwargs]
    return {n: kwargs[n] for n in dict.fromkeys((*declared, *kwargs))}


def _free(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Any
) -> tuple[Any, ...] | dict[str, Any]:
    """Say that axis 0 of every input is free."""

    def of(x: Any) -> dict[int, Any] | None:
        return {0: batch} if x.ndim else None

    if kwargs:
        return {k: of(x) for k, x in kwargs.items()}
    return tuple(of(x) for x in args)


# ------------------------------------------------------------------------------------------------ names


def _name_nodes(model: ir.Model) -> None:
    """Name each node after the innermost module around it, in place; a layer goes before what is no layer."""
    scopes: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if (scope := _scope(node)) and node.op_type != "Constant":
            scopes.setdefault(scope, []).append(node)
    for scope, nodes in scopes.items():
        nodes.sort(key=lambda n: rule_of(n).kind != "compute")
        for count, node in enumerate(nodes):
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


def _without_zeros(model: ir.Model) -> None:
    """Take out the biases of zeros that the exporter writes for convolutions that have none, in place."""
    dead: set[ir.Node] = set()
    for node in model.graph:
        if node.op_type == "Conv" and len(node.inputs) > 2 and (made := _zeros(node.inputs[2])):
            node.resize_inputs(2)
            dead |= made
    waiting = [n for n in reversed(list(model.graph)) if n in dead]
    for node in waiting:
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            model.graph.remove(node, safe=True)


def _zeros(value: ir.Value | None) -> set[ir.Node]:
    """Return the nodes that make a value of zeros, `Expand(CastLike(0, x), shape)`; none where it is something else."""
    found: set[ir.Node] = set()
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Constant":
            held = ir.convenience.get_const_tensor(value)
            return found if held is not None and not held.numpy().any() else set()
        if node.op_type not in ("Expand", "CastLike", "Cast"):
            return set()
        found.add(node)
        value = node.inputs[0]
    return set()


# --------------------------------------------------------------------------------------------- refusals


def _refuse_training(model: ir.Model) -> None:
    """Refuse what answers at random, or by its batch, in evaluation too."""
    for node in model.graph:
        if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
            what = "drops values in evaluation, too (dropout with training=True)"
        elif (
            node.op_type == "BatchNormalization"
            and node.inputs[3] is not None
            and (node.inputs[3].producer() is not None)
        ):
            what = "normalizes by the batch in evaluation, too (track_running_stats=False)"
        else:
            continue
        raise ModelError(
            f"The module '{_scope(node) or node.name}' {what}; a deployed network cannot. Let it follow the training "
            "flag of the module, or keep running statistics."
        )


def _culprit(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the class of a module, and which module in it torch cannot export, as far in as it can be told."""
    import torch

    name, part = "", module
    while True:
        seen = _inputs_of_children(part, args, kwargs)
        for child, inner in part.named_children():
            if child not in seen:
                continue
            try:
                with _evaluating(inner), quiet("torch"):
                    torch.export.export(inner, *seen[child])
            except Exception:  # that one, or one inside
                name, part = f"{name}.{child}".lstrip("."), inner
                args, kwargs = seen[child]
                break
        else:
            break
    kind = type(module).__name__
    return kind if not name else f"{kind}, in '{name}' ({type(part).__name__})"


def _inputs_of_children(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return what each child is called with first; nothing where the module does not run."""
    seen: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(name: str) -> Any:
        return lambda _, a, k: seen.setdefault(name, (a, k)) and None

    handles = [
        c.register_forward_pre_hook(note(n), with_kwargs=True) for n, c in module.named_children()
    ]
    try:
        with _evaluating(module):
            module(*args, **kwargs)
    except Exception:  # the user's code; what was seen before stays
        return seen
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _reason(error: BaseException) -> str:
    """Return what lies at the bottom of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = _COLOURS.sub("", str(error)).strip().split("\n\n")[0]
    return " ".join(text.split())[:400] or type(error).__name__

"""Trained weights put back into the user's module of torch, under the names of its own parameters.

A layer of the deployed graph has the name of the module that it comes from. A batch normalization that was folded into
it stays in the module as it is, but for its shift: with g = gamma / sqrt(var + eps),

    weight := trained weight / g            by output channel
    shift  := trained bias - (bias - mean) g

so the module computes in evaluation what the trained float model computes. That is checked; where it does not hold, the
module is left as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from calibrant.errors import ConfigValueError
from calibrant.graph.ops import bias_of, rule_of
from calibrant.graph.passes.fuse_batchnorm import FOLDED
from calibrant.numerics.metrics import sqnr_db
from calibrant.runtime.measure import run
from calibrant.runtime.runtime import Runtime

__all__ = ["put_back"]

#: What the module and the trained float model agree to, at least [dB].
AGREES = 60.0

State = dict[str, Tensor]


def put_back(
    module: nn.Module, trained: ir.Model, feed: Mapping[str, Any], runtime: Runtime
) -> None:
    """Put trained weights into the module that the model was exported from, in place.

    Args:
        module: The user's module.
        trained: The float model with trained weights.
        feed: A sample that both are compared on.
        runtime: Where the model runs.

    Raises:
        ConfigValueError: The module is another one, or holds its weights in a way that they cannot be put back into.
    """
    before = {k: v.clone() for k, v in module.state_dict().items()}
    try:
        with torch.no_grad():
            for node in trained.graph:
                _layer(module, node)
            _others(module, trained)
        _check(module, trained, feed, runtime)
    except BaseException:  # whatever goes wrong, the module is left as it was
        module.load_state_dict(before)
        raise


def _layer(module: nn.Module, node: ir.Node) -> None:
    """Put back what a layer multiplies with and adds."""
    constants = [v for v in node.inputs if v is not None and v.const_value is not None]
    if rule_of(node).kind != "compute" or not constants:
        return
    part = _part(module, (node.name or "").rsplit("/", 1)[0])
    own = getattr(part, "weight", None)
    if not isinstance(own, Tensor):
        return  # a weight of another name, which `_others` finds
    weight = _array(constants[0])
    bias = _bias(node)
    norms = [_part(module, n.rsplit("/", 1)[0]) for n in node.meta.get(FOLDED, ())]
    if len(norms) > 1 or any(not isinstance(n, _BatchNorm) for n in norms):
        raise ConfigValueError(
            f"More than a batch normalization is folded into layer '{node.name}'; its weight cannot be put back."
        )
    if norms:
        weight, bias = _without(norms[0], weight, bias, part)
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not _transposed(node)):
        weight = weight.T
    _copy(own, weight, node)
    if isinstance(held := getattr(part, "bias", None), Tensor) and bias is not None and not norms:
        _copy(held, bias, node)


def _without(
    norm: Any, weight: Tensor, bias: Tensor | None, part: nn.Module
) -> tuple[Tensor, None]:
    """Return a weight as it is in front of its batch normalization, whose shift is set."""
    gain = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight
    axis = 1 if isinstance(part, nn.modules.conv._ConvTransposeNd) else 0
    if bool((gain == 0).any()) or weight.shape[axis] != gain.numel():
        raise ConfigValueError(
            "A batch normalization multiplies a channel with 0, or has another number of channels than its layer; "
            "the weight in front of it cannot be put back."
        )
    shape = [1] * weight.ndim
    shape[axis] = -1
    if bias is not None and norm.bias is not None:
        own = getattr(part, "bias", None)
        added = own if own is not None else torch.zeros_like(norm.running_mean)
        norm.bias.copy_(bias - (added - norm.running_mean) * gain)
    return weight / gain.reshape(shape), None


def _others(module: nn.Module, trained: ir.Model) -> None:
    """Put back parameters that the model has under their own names."""
    constants = trained.graph.initializers
    for name, parameter in module.named_parameters():
        value = constants.get(name)
        if value is not None and value.const_value is not None:
            array = _array(value)
            if array.shape == parameter.shape and not _is_layers(value):
                parameter.copy_(array.to(parameter))


def _is_layers(value: ir.Value) -> bool:
    """Whether a constant is what a layer with a folded normalization reads."""
    return any(use.node.meta.get(FOLDED) for use in value.uses())


def _check(
    module: nn.Module, trained: ir.Model, feed: Mapping[str, Any], runtime: Runtime
) -> None:
    """Compare the module with the trained float model."""
    inputs = [
        v.name or "" for v in trained.graph.inputs if v.name not in trained.graph.initializers
    ]
    device = next(module.parameters()).device
    was = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            answer = module(*(torch.from_numpy(np.asarray(feed[n])).to(device) for n in inputs))
    except Exception as e:  # the user's code
        raise ConfigValueError(
            f"The module cannot be called with the inputs of the model: {type(e).__name__}: {e}"
        ) from e
    finally:
        for part, training in was.items():
            part.training = training
    answers = _flat(answer)
    wanted = run(trained, [dict(feed)], runtime=runtime)[0]
    names = [v.name or "" for v in trained.graph.outputs]
    if len(answers) != len(names):
        raise ConfigValueError(
            f"The module has {len(answers)} outputs, and the model {len(names)}; it is another one."
        )
    for name, mine in zip(names, answers, strict=True):
        truth = np.asarray(wanted[name])
        near = mine.shape == truth.shape and sqnr_db(truth, mine.cpu().numpy()) >= AGREES
        if not near:
            raise ConfigValueError(
                f"With the trained weights the module does not compute what the trained model does (output '{name}'): it "
                "is another module than the one that was prepared, or it holds its weights in a way that they cannot be "
                "put back into. It was left as it was."
            )


def _flat(answer: Any) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    values = answer.values() if isinstance(answer, Mapping) else answer
    return [t for v in values if v is not None for t in _flat(v)]


def _part(module: nn.Module, name: str) -> Any:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _bias(node: ir.Node) -> Tensor | None:
    found = bias_of(node)
    if found is None:
        return None
    value = found[0].inputs[found[1]]
    return None if value is None or value.const_value is None else _array(value)


def _transposed(node: ir.Node) -> bool:
    attribute = node.attributes.get("transB")
    return attribute is not None and attribute.as_int() == 1


def _array(value: ir.Value) -> Tensor:
    assert value.const_value is not None
    return torch.from_numpy(np.array(value.const_value.numpy()))


def _copy(own: Tensor, value: Tensor, node: ir.Node) -> None:
    if own.shape != value.shape:
        raise ConfigValueError(
            f"Layer '{node.name}' has a weight of shape {tuple(value.shape)}, and the module one of {tuple(own.shape)}; "
            "it is another module than the one that was prepared."
        )
    own.copy_(value.to(own))

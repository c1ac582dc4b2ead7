"""The trained module and the deployed file in integers: what a device with integer accumulators computes, exactly.

Both add up integers in their layers and scale each sum once (`graph.passes.integer_sums`), the module from what it learned,
the file from what it holds. So sums no longer depend on their order, and what differs is not due to rounding in float32.
Between layers both compute in float32 as before; an operator that torch and ONNX Runtime compute in another order
(a mean, an exponential) may still put a value on the other side of an edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from calibrant.graph.passes.integer_sums import with_integer_sums
from calibrant.plan.biases import LARGEST
from calibrant.qat.functional import along
from calibrant.qat.graph import item_of
from calibrant.qat.operators.conv import conv, conv_transpose, gemm, matmul
from calibrant.qat.quantizers import (
    ActivationQuantizer,
    BiasQuantizer,
    ChannelQuantizer,
    WeightQuantizer,
)
from calibrant.runtime.measure import run
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["IntegerSums", "integer_outputs"]

Array = npt.NDArray[Any]

#: Function -> axis of the output channels in its answer.
_CHANNELS = {conv: 1, conv_transpose: 1, gemm: -1, matmul: -1}


class IntegerSums(Interpreter):
    """Runs a trained graph with integer sums in its quantized layers; `done` names them as they are met."""

    def __init__(self, module: GraphModule) -> None:
        """Begin with no layer."""
        super().__init__(module)
        self.done: set[str] = set()

    def run_node(self, n: Node) -> Any:
        """Run a node; a layer that multiplies what was quantized adds up integers."""
        weight = None
        if n.op == "call_function" and n.target in _CHANNELS:
            weight = self._weight(n.args[1])
        if weight is None:
            return super().run_node(n)
        read = self._read(n.args[0])
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x, w, bias = (*args, None)[:3]
        of_x = None if read is None else _by_output(n, read, w)
        if (
            read is None
            or of_x is None
            or any(n.kwargs.get(k, 1.0) != 1.0 for k in ("alpha", "beta"))
        ):
            return super().run_node(n)
        self.done.add(str(n.meta.get("node", "")))
        s_w, axis = weight
        q_x = torch.round(x.double() / along(read.double(), 1 if read.ndim else None, x.ndim))
        q_w = torch.round(w.double() / along(s_w.double(), axis, w.ndim))
        step = (of_x.double() * s_w.double()).float()
        if n.target is conv_transpose and step.numel() > 1:
            step = step.repeat(int(kwargs.get("group", 1)))
        shape = [-1, *[1] * (w.ndim - 2)] if n.target in (conv, conv_transpose) else [-1]
        whole = bias is not None and self._is_whole(n.args[2])
        function: Any = n.target
        total = function(q_x, q_w, None, **kwargs) if n.target is not matmul else q_x @ q_w
        if whole:
            q_b = torch.round(bias.double() / step.double())
            whole = bool((q_b.abs() <= LARGEST).all())  # a larger one stays in float
            total = total + q_b.reshape(shape) if whole else total
        y = total.float() * (step.reshape(shape) if step.numel() > 1 else step.reshape(()))
        return y if bias is None or whole else y + bias.reshape(shape)

    def _read(self, arg: Any) -> Tensor | None:
        """Return the scale of what is read, () or (channels,), where a quantizer made it."""
        if not isinstance(arg, Node) or arg.op != "call_module":
            return None
        quantizer = self.module.get_submodule(str(arg.target))
        known = isinstance(quantizer, ActivationQuantizer | ChannelQuantizer)
        return quantizer()[0] if known else None

    def _weight(self, arg: Any) -> tuple[Tensor, int | None] | None:
        """Return scale and axis of a weight that was quantized."""
        call = item_of(arg)
        quantizer = self.module.get_submodule(str(call.target)) if call is not None else None
        if not isinstance(quantizer, WeightQuantizer):
            return None
        return quantizer()[1], quantizer.axis

    def _is_whole(self, arg: Any) -> bool:
        """Whether a bias is whole steps of both scales."""
        if not isinstance(arg, Node) or arg.op != "call_module":
            return False
        made = self.module.get_submodule(str(arg.target))
        return isinstance(made, BiasQuantizer) and made.integers and not made.wide


def _by_output(n: Node, read: Tensor, w: Tensor) -> Tensor | None:
    """Return the scale of what an output adds up, () or (out,); None where channels of different scales are added up."""
    if not read.ndim:
        return read
    depthwise = n.target is conv and w.shape[1] == 1
    return read.repeat_interleave(w.shape[0] // len(read)) if depthwise else None


def integer_outputs(
    deploy: ir.Model, feeds: Sequence[Mapping[str, Array]], runtime: Runtime = CPU
) -> tuple[list[dict[str, Array]], tuple[str, ...]]:
    """Return what a deployed model answers with integer sums, and the names of the layers that have them.

    Args:
        deploy: The deployed model.
        feeds: Samples.
        runtime: Where it runs.
    """
    changed, layers = with_integer_sums(deploy)
    found = run(changed, feeds, optimize=False, integers=False, runtime=runtime)
    return [{n: np.asarray(x) for n, x in each.items()} for each in found], layers

"""What a network is trained for: to answer as the float network does, to give the labels, or a function of yours.

    distill     outputs like those of the float network; needs no labels
    labels      cross entropy with an array `labels` beside the inputs (`labels`)
    module:function   called with outputs, the float network's outputs and the extras; returns a number to make small

An output that ranks classes, (samples, classes) or behind a Softmax, is compared as a distribution:

    T**2 KL(softmax(teacher / T) || softmax(student / T)),   T = 2

any other by its error over its power, for each part of an output that is judged by itself:

    sum (student - teacher)**2 / sum teacher**2

Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.analysis.parts import Part
from calibrant.data.imports import import_function, is_function_name
from calibrant.errors import ConfigValueError
from calibrant.qat.labels import Labels

__all__ = ["Distill", "Loss", "check_loss", "loss_of"]

#: Outputs, the float network's outputs, and what else the source has of the samples -> what is made small.
Loss = Callable[[tuple[Tensor, ...], tuple[Tensor, ...], Mapping[str, Tensor]], Tensor]

#: Softness of the compared distributions.
TEMPERATURE = 2.0


def loss_of(name: str | Loss, model: ir.Model, parts: Sequence[Sequence[Part]]) -> Loss:
    """Return a loss by its name.

    Args:
        name: `distill`, `labels`, `module:function`, or the function itself.
        model: The float model.
        parts: The parts of each output.

    Raises:
        ConfigValueError: There is no such loss.
    """
    if callable(name):
        return name
    if is_function_name(name):
        function: Loss = import_function(name, what="Loss", error=ConfigValueError)
        return function
    check_loss(name)
    kinds = [_kind(v) for v in model.graph.outputs]
    if name == "labels":
        return Labels(probabilities=kinds[0] == "probabilities")
    return Distill(tuple(kinds), tuple(tuple(p) for p in parts))


def check_loss(name: str | Loss) -> None:
    """Check the name of a loss.

    Raises:
        ConfigValueError: There is no such loss.
    """
    if callable(name) or name in ("distill", "labels"):
        return
    if not is_function_name(name):
        raise ConfigValueError(
            f"The loss is '{name}'; it is 'distill', 'labels', or module:function."
        )
    import_function(name, what="Loss", error=ConfigValueError)


@dataclass(frozen=True, slots=True)
class Distill:
    """How far outputs are from those of the float network.

    Args:
        kinds: Of each output: `logits`, `probabilities`, or `values`.
        parts: Of each output: what is judged by itself.
    """

    kinds: tuple[str, ...]
    parts: tuple[tuple[Part, ...], ...]

    def __call__(
        self,
        outputs: tuple[Tensor, ...],
        wanted: tuple[Tensor, ...],
        extras: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the mean over outputs and parts."""
        losses = []
        for kind, parts, mine, theirs in zip(self.kinds, self.parts, outputs, wanted, strict=True):
            if not mine.is_floating_point():
                continue
            if kind == "values":
                losses += [_error(_taken(p, mine), _taken(p, theirs)) for p in parts]
            else:
                losses.append(_divergence(mine, theirs, logits=kind == "logits"))
        if not losses:
            raise ConfigValueError("No output of the model is a floating point number.")
        return torch.stack(losses).mean()


def _kind(value: ir.Value) -> str:
    producer = value.producer()
    if producer is not None and producer.op_type == "Softmax":
        return "probabilities"
    if value.shape is not None and len(value.shape) == 2 and value.shape[1] != 1:
        return "logits"
    return "values"


def _divergence(mine: Tensor, theirs: Tensor, *, logits: bool) -> Tensor:
    if not logits:
        mine, theirs = (torch.log(t.clamp(min=1e-8)) for t in (mine, theirs))
    mine, theirs = mine.flatten(0, -2), theirs.flatten(0, -2)
    return TEMPERATURE**2 * F.kl_div(
        F.log_softmax(mine / TEMPERATURE, dim=-1),
        F.log_softmax(theirs / TEMPERATURE, dim=-1),
        log_target=True,
        reduction="batchmean",
    )


def _error(mine: Tensor, theirs: Tensor) -> Tensor:
    return (mine - theirs).square().sum() / theirs.square().sum().clamp(min=1e-12)


def _taken(part: Part, x: Tensor) -> Tensor:
    for axis, ranges in part.where:
        blocks = [x[(slice(None),) * axis + (slice(a, b),)] for a, b in ranges]
        x = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=axis)
    return x

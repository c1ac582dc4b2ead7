"""The two networks that one loop trains: that with quantizers, and beside it the float one.

The float network sees the same samples in the same order, with the same loss, rates and number of steps, its mean over the
last steps is scored as well, and its best state is chosen by the same scores. So what it gains is what a gain of the other one
does not owe to quantizers. Its batch normalizations keep the statistics of the file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Protocol

import onnx_ir as ir
from torch import Tensor
from torch.fx import GraphModule

from calibrant.progress import Progress
from calibrant.qat.learned import with_learned
from calibrant.qat.rates import float_groups
from calibrant.qat.trainable import Trainable
from calibrant.solution import build

__all__ = ["FloatNetwork", "Network", "QuantizedNetwork"]

#: Batches that live statistics are measured on, before a network is scored.
RESTATED = 20


class Network(Protocol):
    """What a loop trains.

    Args:
        module: The network.
        teacher: The float network; it is not trained.
        inputs: Names of the inputs, in the order in which both take them.
        progress: Told what is going on.
    """

    module: GraphModule
    teacher: GraphModule
    inputs: tuple[str, ...]
    progress: Progress

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameters for an optimizer."""

    def as_scored(self, samples: Iterable[tuple[Tensor, ...]]) -> ir.Model:
        """Return the model of the state that the module is in.

        Args:
            samples: Inputs of training samples, for statistics.
        """


class QuantizedNetwork:
    """A network with its quantizers, scored as it is deployed.

    Args:
        qat: It.
    """

    def __init__(self, qat: Trainable) -> None:
        """Begin with what calibration left."""
        self.qat, self.module, self.teacher = qat, qat.module, qat.teacher
        self.inputs, self.progress = qat.inputs, qat.progress

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameters for an optimizer."""
        return self.qat.parameter_groups(lr, weight_decay=weight_decay)

    def as_scored(self, samples: Iterable[tuple[Tensor, ...]]) -> ir.Model:
        """Return the deployed model of the state that the module is in."""
        if any(s.live for s in self.qat.statistics):
            self.qat.reestimate_bn(samples, RESTATED)
        return build(self.qat.to_solution()).deploy


class FloatNetwork:
    """The float network that one with quantizers was made from.

    Args:
        qat: The network with quantizers.
    """

    def __init__(self, qat: Trainable) -> None:
        """Begin with the weights of the file."""
        self.qat, self.teacher = qat, qat.teacher
        self.module: GraphModule = copy.deepcopy(qat.teacher)
        self.module.requires_grad_(True)
        self.inputs, self.progress = qat.inputs, qat.progress

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameters for an optimizer; a rate is a share of the size of each."""
        return float_groups(list(self.module.parameters()), lr, weight_decay)

    def as_scored(self, samples: Iterable[tuple[Tensor, ...]]) -> ir.Model:
        """Return the float model with the weights that the module has."""
        model = self.qat.solution.model.clone()
        with_learned(model, self.module)
        return model

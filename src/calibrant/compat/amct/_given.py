"""What the functions are given as a model: a module of torch, or an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from calibrant.compat.amct.net import Net
from calibrant.graph.load import load
from calibrant.graph.modules import exported
from calibrant.graph.proto import TorchModule
from calibrant.graph.rename import rename

__all__ = ["Given", "given_model"]

Feed = dict[str, npt.NDArray[Any]]


class Batches(list[Feed]):
    """Batches that a model is called with; behind the last one that is needed something is done, once.

    Args:
        count: So many are needed.
        then: Called with them.
    """

    def __init__(self, count: int, then: Callable[[list[Feed]], None]) -> None:
        """Begin with none."""
        super().__init__()
        self.wanted, self.then = count, then

    def append(self, feed: Feed) -> None:
        """Take a batch; more than are needed count nothing."""
        if len(self) == self.wanted:
            return
        super().append(feed)
        if len(self) == self.wanted:
            self.then(list(self))


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A model as ONNX, and as it was given.

    Args:
        model: The float model.
        source: What was given.
    """

    model: ir.Model
    source: Any

    @property
    def is_module(self) -> bool:
        """Whether a module of torch was given."""
        return isinstance(self.source, TorchModule)

    def watched(self, count: int, then: Callable[[list[Feed]], None]) -> Any:
        """Return a model that is called as the given one is: a module of torch, or a `Net`.

        Args:
            count: Batches that are needed.
            then: Called with them.
        """
        return self.seen_by(Batches(count, then))

    def seen_by(self, batches: list[Feed]) -> Any:
        """Return a model that answers as the given one does, and is called as it is; what it is called with is kept.

        Args:
            batches: Gets what it is called with.
        """
        if not self.is_module:
            return Net(self.model, seen=batches)
        from calibrant.qat.amct.watched import WatchedModule

        names = [v.name or "" for v in self.model.graph.inputs]
        return WatchedModule(self.source, names, batches)

    def called(self, model: ir.Model | None = None) -> Any:
        """Return a model as an evaluator calls it: a module of torch where one was given, else a `Net`.

        Args:
            model: A model with the same inputs; None for the given one itself.
        """
        if not self.is_module:
            return Net(self.model if model is None else model)
        if model is None:
            return self.source
        from calibrant.qat.amct.deployed import DeployedModule

        return DeployedModule(Net(model))


def given_model(
    model: Any,
    input_data: Any,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Given:
    """Read or export a model.

    Args:
        model: A module of torch, or an ONNX model.
        input_data: What a module is called with.
        input_names: Names for the inputs of a module.
        output_names: Names for its outputs.

    Raises:
        ConfigValueError: More or fewer names than inputs or outputs.
    """
    if not isinstance(model, TorchModule):
        return Given(load(model), model)
    made = exported(model, input_data)
    rename(made, input_names, output_names)
    return Given(made, model)

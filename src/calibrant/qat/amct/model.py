"""A network that trains as the toolkit's does: ranges of the first batches, and a record with the first pass in evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from calibrant import algorithms
from calibrant.dialects import load_recipe
from calibrant.numerics import QuantSpec
from calibrant.plan import resolve
from calibrant.qat.arguments import in_order
from calibrant.qat.own_units import set_clips
from calibrant.qat.quantizers import ActivationQuantizer
from calibrant.qat.trainable import Trainable
from calibrant.save.whole import write_whole
from calibrant.stats import TensorStats

__all__ = ["RetrainModel"]


class RetrainModel(nn.Module):
    """A network that trains with its quantizers, called as the module that it was made from.

    Args:
        qat: The network.
        config: Text of its configuration.
        record_file: Where the record goes, at the first pass in evaluation behind a step of training.
        batch_num: Batches that the first ranges come from.
    """

    def __init__(self, qat: Trainable, config: str, record_file: Path, batch_num: int) -> None:
        """Begin with ranges that wait for their batches."""
        super().__init__()
        self.graph, self.inputs = qat.module, qat.inputs
        self.qat, self.config, self.record_file = qat, config, record_file
        self.due = False
        self.starts: list[_Start] = []
        for path, clips in _clips(qat, config).items():
            quantizer: Any = qat.module.get_submodule(path)
            if clips is not None:
                set_clips(quantizer, *clips)
            elif quantizer.spec.learns:
                self.starts.append(_Start(quantizer, batch_num))

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Answer as the module does."""
        answer = self.graph(*in_order(self.inputs, inputs, named))
        if self.training:
            self.due = True
        elif self.due:
            self.due = False
            if _writes():
                self.write_record()
        return answer

    def write_record(self) -> None:
        """Write scales and zero points as they are now."""
        write_whole(self.record_file, self.qat.to_solution().record.text(), folders=True)


def _writes() -> bool:
    """Whether this process writes files: the first of those that train together, which have the same ranges."""
    together = distributed.is_available() and distributed.is_initialized()
    return not together or distributed.get_rank() == 0


class _Start:
    """The first range of a quantizer: of each batch, and with the last of the first batches that of them together."""

    def __init__(self, quantizer: ActivationQuantizer, batches: int) -> None:
        self.quantizer, self.left = quantizer, batches
        self.seen: TensorStats | None = None
        self.handle = quantizer.register_forward_pre_hook(self)

    @torch.no_grad()
    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args:
            return
        x = args[0].detach()
        stats = TensorStats.of(x.float().cpu().numpy())
        self.seen = stats if self.seen is None else self.seen.merge(stats)
        self.left -= 1
        if self.left:
            set_clips(self.quantizer, float(x.max()), float(x.min()))
        else:
            self._end()

    def _end(self) -> None:
        """Take the clips that IFMR finds over all of the first batches."""
        self.handle.remove()
        assert self.seen is not None
        spec = QuantSpec(self.quantizer.spec.bits, symmetric=True)
        low, high = algorithms.activation("ifmr")(self.seen, spec).range
        set_clips(self.quantizer, float(high), float(low))


def _clips(qat: Trainable, config: str) -> dict[str, tuple[float, float] | None]:
    """Return clip_max and clip_min of each quantizer as the configuration gives them, by path; None where it does not."""
    plan = resolve(load_recipe(config), qat.solution.model, check=False)
    given: dict[str, tuple[float, float]] = {}
    for layer in plan.layers:
        if layer.settings.activation is not None:
            said = dict(layer.settings.activation.options)
            if "clip_max" in said:
                given[layer.node] = float(said["clip_max"]), float(said["clip_min"])
    found: dict[str, tuple[float, float] | None] = {}
    for d in qat.solution.plan.activations:
        if d.spec.axis is None:
            clips = next((given[node] for node, _ in d.users if node in given), None)
            found.setdefault(qat.trained.activations[d.id], clips)
    return found

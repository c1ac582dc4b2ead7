"""Statistics of batches while a network trains, and their way into scales and biases: live batch normalization.

A batch normalization behind a layer is folded into it: the gain of a channel is its gamma over the standard deviation, the bias
holds the rest. Folded so, its statistics are those of the file and stay (frozen). Live, what a layer answers is
normalized anew with every batch, and then given the mean and the size that it is to have:

    y' = (y - mean_batch) / std_batch * size + mean
    size = size of the float network's answers * learned gain;   mean = theirs + learned change of the bias

Running means of the statistics go into the gain and the bias of the layer when the network is deployed (`settle`), so the
integers of its weight do not change:

    gain := gain * size / std_running;   bias := (bias - mean_running) * size / std_running + mean

Source: Ioffe, Szegedy, "Batch normalization", 2015; re-estimation as Nagel et al., "Overcoming oscillations in
quantization-aware training", ICML 2022.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from calibrant.qat.quantizers import BiasQuantizer, WeightQuantizer

__all__ = ["LiveStatistics", "answers_of", "as_inputs", "inserted", "reestimated"]

#: Share of a running mean that a batch changes.
MOMENTUM = 0.1
#: A standard deviation counts at least as this share of the size that is wanted.
LEAST = 1e-3


class LiveStatistics(nn.Module):
    """Stands behind a layer; passes on what it is given while it is not `live`.

    Args:
        parts: The quantizers of the layer's weight and bias, which learn gain and mean.
        size: Standard deviations that the layer's answers are to have (channels,).
        mean: Their means.
        axis: Axis of the channels.
    """

    def __init__(
        self, parts: tuple[WeightQuantizer, BiasQuantizer], size: Tensor, mean: Tensor, axis: int
    ) -> None:
        """Begin with the statistics that are wanted."""
        super().__init__()
        self.parts, self.axis, self.live, self.momentum = parts, axis, False, MOMENTUM
        weight, bias = parts
        self.register_buffer("size", size.clone())
        self.register_buffer("mean", mean.clone())
        self.register_buffer("log_gain", weight.log_gain.detach().clone())
        self.register_buffer("change", bias.change.detach().clone())
        self.register_buffer("running_mean", mean.clone())
        self.register_buffer("running_var", size.square())

    def wanted(self) -> tuple[Tensor, Tensor]:
        """Return size and mean that answers are to have, as they are learned."""
        weight, bias = self.parts
        size = self.size * torch.exp(weight.log_gain - self.log_gain)
        return size, self.mean + (bias.change - self.change) * bias.size

    def line(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return ratio and shift that bring answers of these statistics to those that are wanted."""
        size, middle = self.wanted()
        least = (LEAST * size.detach()).square()
        alive = (size > 0) & torch.isfinite(var) & torch.isfinite(mean)
        std = torch.where(alive, torch.maximum(var, least), torch.ones_like(var)).sqrt()
        ratio = torch.where(alive, size / std, torch.ones_like(size))
        return ratio, torch.where(alive, middle - mean * ratio, torch.zeros_like(middle))

    def forward(self, y: Tensor) -> Tensor:
        """Normalize; in evaluation with running means."""
        if not self.live:
            return y
        mean, var = self.running_mean, self.running_var
        if self.training:
            axis = self.axis % y.ndim
            others = [d for d in range(y.ndim) if d != axis]
            var, mean = torch.var_mean(y, dim=others, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
        shape = [1] * y.ndim
        shape[self.axis] = -1
        ratio, shift = self.line(mean, var)
        return y * ratio.reshape(shape) + shift.reshape(shape)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring running means into gain and bias of the layer; it then answers the same without them.

        Where statistics are not live, they are there already.
        """
        if not self.live:
            return
        weight, bias = self.parts
        ratio, shift = self.line(self.running_mean, self.running_var)
        size, mean = self.wanted()
        changed = bias.bias * ratio + shift
        weight.size.mul_(ratio)
        bias.start.copy_(changed - bias.change * bias.size)
        self.size.copy_(size)
        self.mean.copy_(mean)
        self.log_gain.copy_(weight.log_gain)
        self.change.copy_(bias.change)
        self.running_mean.copy_(mean)
        self.running_var.copy_(size.square())


class _Measuring(Interpreter):
    """Runs a graph, and adds up what some of its nodes answer, channel by channel."""

    def __init__(self, module: GraphModule, nodes: dict[Node, int]) -> None:
        super().__init__(module)
        self.nodes = nodes
        self.sums: dict[Node, tuple[int, Tensor, Tensor]] = {}

    def run_node(self, n: Node) -> Any:
        y = super().run_node(n)
        if n in self.nodes:
            others = [d for d in range(y.ndim) if d != self.nodes[n] % y.ndim]
            wide = y.detach().double()
            count = wide.numel() // wide.shape[self.nodes[n]]
            had = self.sums.get(n, (0, torch.zeros(1), torch.zeros(1)))
            first, second = wide.sum(dim=others), wide.square().sum(dim=others)
            self.sums[n] = (
                had[0] + count,
                had[1].to(first) + first,
                had[2].to(second) + second,
            )
        return y


@torch.no_grad()
def answers_of(
    module: GraphModule, nodes: dict[Node, int], batches: Iterable[Sequence[Tensor]]
) -> dict[Node, tuple[Tensor, Tensor]]:
    """Return standard deviation and mean of what nodes answer, channel by channel.

    Args:
        module: A graph.
        nodes: Nodes -> axis of their channels.
        batches: Inputs.
    """
    measuring = _Measuring(module, nodes)
    for inputs in batches:
        measuring.run(*inputs)
    found = {}
    for node, (count, first, second) in measuring.sums.items():
        mean = first / count
        std = (second / count - mean.square()).clamp(min=0).sqrt()
        found[node] = std.float(), mean.float()
    return found


def inserted(module: GraphModule, behind: dict[Node, nn.Module]) -> None:
    """Call modules on what nodes answer; all that read the answers read theirs."""
    if not hasattr(module, "statistics"):
        module.add_module("statistics", nn.Module())
    folder = module.get_submodule("statistics")
    for i, (node, made) in enumerate(behind.items()):
        folder.add_module(f"at_{i}", made)
        with module.graph.inserting_after(node):
            call = module.graph.call_module(f"statistics.at_{i}", (node,))
        node.replace_all_uses_with(call, lambda user, own=call: user is not own)
    module.graph.lint()
    module.recompile()


@torch.no_grad()
def reestimated(
    module: GraphModule, live: Sequence[LiveStatistics], batches: Iterable[Sequence[Tensor]]
) -> int:
    """Measure statistics anew, as the mean over batches, and settle them; return how many batches there were."""
    was_training, were_live = module.training, [s.live for s in live]
    module.train()
    count = 0
    for inputs in batches:
        count += 1
        for s in live:
            s.live, s.momentum = True, 1.0 / count
        module(*inputs)
    for s, was in zip(live, were_live, strict=True):
        if count:
            s.settle()
        s.live, s.momentum = was, MOMENTUM
    module.train(was_training)
    return count


def as_inputs(loader: Iterable[Any], count: int, device: Any) -> Iterator[tuple[Tensor, ...]]:
    """Yield what a module of `count` inputs is called with, of batches that may hold labels behind the inputs."""
    for batch in loader:
        parts = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        yield tuple(torch.as_tensor(p).to(device) for p in parts[:count])

"""Which layers have live statistics, and what their answers are to look like.

Layers behind which the file has a batch normalization; in a file that holds none, since it came folded, all layers. A layer
needs a bias, and a weight with a scale for each channel that no other layer shares: a scale for all channels has no
room for statistics of single channels.

What its answers are to look like is measured on the float network, moved by what gain and bias learned until then.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from calibrant.errors import ConfigValueError
from calibrant.qat.build import Trained
from calibrant.qat.operators.conv import conv, conv_transpose, gemm
from calibrant.qat.quantizers import WeightQuantizer
from calibrant.qat.statistics import LiveStatistics, answers_of, inserted

__all__ = ["with_statistics"]

#: Function that computes a layer -> axis of its channels.
_AXES = {conv: 1, conv_transpose: 1, gemm: -1}


def with_statistics(
    trained: Trained, teacher: GraphModule, original: ir.Model, batches: Sequence[Sequence[Tensor]]
) -> list[LiveStatistics]:
    """Put statistics behind the layers of a network that can have them; they are not live yet.

    Args:
        trained: The network.
        teacher: The float network.
        original: The model as it was given.
        batches: Inputs that answers are measured on.

    Raises:
        ConfigValueError: There is no layer that can have them.
    """
    behind = _layers(trained, original)
    theirs = _by_name(teacher)
    pairs = {layer: (node, theirs[layer]) for layer, node in behind.items() if layer in theirs}
    if not pairs:
        raise ConfigValueError(
            "No layer of the model can have live statistics: these need a bias, and a weight with a scale for each channel."
        )
    measured = answers_of(teacher, {t: _AXES[t.target] for _, t in pairs.values()}, batches)
    made = {}
    for layer, (node, reference) in pairs.items():
        weight, bias = trained.weight(layer), trained.bias(layer)
        with torch.no_grad():
            ratio = torch.exp(weight.log_gain)
            size, mean = measured[reference]
            moved = mean + bias.change * bias.size + (ratio - 1) * (mean - bias.start)
        made[node] = LiveStatistics((weight, bias), size * ratio, moved, _AXES[node.target])
    inserted(trained.module, dict(made))
    return list(made.values())


def _layers(trained: Trained, original: ir.Model) -> dict[str, Node]:
    """Return the layers that can have statistics, and their nodes."""
    biases = {path: layer for layer, path in trained.biases.items()}
    paths = list(trained.weights.values())
    found = {}
    for node in trained.module.graph.nodes:
        if node.op != "call_function" or node.target not in _AXES:
            continue
        called = [a.target for a in node.all_input_nodes if a.op == "call_module"]
        layer = next((biases[t] for t in called if t in biases), None)
        if layer is None or paths.count(trained.weights[layer]) > 1:
            continue
        weight: WeightQuantizer = trained.weight(layer)
        if weight.log_gain.shape == trained.bias(layer).change.shape:
            found[layer] = node
    normalized = {
        n.inputs[0].producer().name  # type: ignore[union-attr]
        for n in original.graph
        if n.op_type == "BatchNormalization"
        and n.inputs[0] is not None
        and n.inputs[0].producer() is not None
    }
    return {k: v for k, v in found.items() if k in normalized} if normalized else found


def _by_name(teacher: GraphModule) -> dict[str, Node]:
    """Return the nodes of the float network by the names of its model's nodes."""
    found = {}
    for node in teacher.graph.nodes:
        said = node.meta.get("onnx", "")
        if node.op == "call_function" and node.target in _AXES and said.startswith("node '"):
            found[said.removeprefix("node '").rsplit("' (", 1)[0]] = node
    return found

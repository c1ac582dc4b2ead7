"""Channels that the second model has rescaled, found from the weights of both models.

Tools even out channels before they quantize: a tensor's channel j is divided by f_j in the layer in front of it, and multiplied by
f_j in the layers that read it (`graph.passes.pairs`). Seldom does a file say so. Then tensors of one name hold other values in the
two models, and what such layers are off by says nothing. So the factors are taken from the weights w of the layer in front, and
those of the second model, w', as the least squares have it:

    1 / f_j = sum w_j w'_j / sum w_j**2        over all weights that make channel j

They are believed where the layers behind say the same: with f, at most half as much is left of the difference between their weights
as without it. A depthwise layer behind has a scale of its own for each channel, and fits any f; so it is asked together with the
layers behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.compare.mapping import Mapping as Layers
from calibrant.analysis.compare.reads import Reads
from calibrant.analysis.compare.sides import Side
from calibrant.graph.passes.equalize import rescale
from calibrant.graph.passes.pairs import Pair, Sink, find_pairs
from calibrant.graph.values import own_copy

__all__ = ["as_rescaled"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: What may be left of a difference between weights behind rescaled channels, as a share of what it is without the factors.
_LEFT = 0.5


def as_rescaled(form: ir.Model, mine: Side, layers: Layers) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the float model with its channels rescaled as those of the second model are, and the tensors that this changed.

    Args:
        form: The float model, opened.
        mine: The second model.
        layers: What belongs together.
    """
    truth = Side(form)
    there = _constants(truth, Reads(truth, mine, layers.layers), layers)
    copy = own_copy(form)
    changed: list[str] = []
    for group in _groups(find_pairs(copy)):
        sinks = [s for pair in group for s in pair.sinks if not s.is_depthwise]
        weights = {p.source_values[0][0] for p in group} | {
            s.weight for p in group for s in p.sinks
        }
        if not sinks or not weights <= there.keys():
            continue
        before = {
            name: copy.graph.initializers[name].const_value
            for name in weights | {n for p in group for n, _ in p.source_values}
        }
        apart = [_apart(_values(copy, s.weight), there[s.weight], s) for s in sinks]
        for pair in group:
            rescale(copy, pair, _factors(copy, pair, there))
        left = [_apart(_values(copy, s.weight), there[s.weight], s) for s in sinks]
        if all(a > 0 and b <= _LEFT * a for a, b in zip(apart, left, strict=True)):
            changed += [p.tensor for p in group]
            continue
        for name, value in before.items():
            copy.graph.initializers[name].const_value = value
    return (copy, tuple(changed)) if changed else (form, ())


def _constants(truth: Side, reads: Reads, layers: Layers) -> dict[str, Array]:
    """Return constants of the second model by the name of the float model's initializer."""
    found: dict[str, Array] = {}
    for layer in layers.layers:
        node = truth.source(truth.values[layer.truth]).producer()
        both = reads.get(layer)
        if node is None or both is None or both.node is None or both.function:
            continue
        own = reads.constants(layer)
        for i, value in enumerate(node.inputs):
            held = value.const_value if value is not None else None
            if value is not None and value.name and held is not None:
                found[value.name] = own[i] if i in own else held.numpy()
    return found


def _groups(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Return pairs in their order; one behind a depthwise layer stands with the pair in front of that."""
    group_of: dict[str, list[Pair]] = {}  # by a weight of a depthwise layer behind
    found: list[list[Pair]] = []
    for pair in pairs:
        group = next((group_of[n] for n, _ in pair.source_values if n in group_of), None)
        if group is None:
            group = []
            found.append(group)
        group.append(pair)
        for sink in pair.sinks:
            if sink.is_depthwise:
                group_of[sink.weight] = group
    return found


def _values(model: ir.Model, name: str) -> Floats:
    held = model.graph.initializers[name].const_value
    assert held is not None
    return held.numpy().astype(np.float64)


def _factors(model: ir.Model, pair: Pair, there: Mapping[str, Array]) -> Floats:
    """Return f (channels,); 1 for a channel whose weights do not say."""
    name, axis = pair.source_values[0]
    w, other = _values(model, name), there[name].astype(np.float64)
    others = tuple(a for a in range(w.ndim) if a != axis)
    across, along = (w * other).sum(axis=others), (w * w).sum(axis=others)
    said = (across > 0) & (along > 0)
    f = np.ones(len(said))
    f[said] = along[said] / across[said]
    return f


def _apart(w: Floats, other: Array, sink: Sink) -> float:
    """Return how far the weights of two layers are apart, whatever scale each output has."""
    a, b = (
        np.moveaxis(x, sink.output_axis, 0).reshape(x.shape[sink.output_axis], -1)
        for x in (w, other.astype(np.float64))
    )
    energy = (a * a).sum(axis=1)
    scale = np.divide((a * b).sum(axis=1), energy, out=np.zeros_like(energy), where=energy > 0)
    return float(np.square(b - scale[:, None] * a).sum())

"""Run float layers beside their quantized twins, and return the means of both by channel.

The means are taken inside the model (`emit.channel_means`), so that what leaves it is a few numbers a layer. Where they
are not finite, the feed is run again and the tensors themselves are looked at: positions where the float layer is not
finite are left out of both means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit.channel_means import ChannelSums
from calibrant.graph.values import drop_weights, values_by_name
from calibrant.numerics.finite import finite_mask, mean_square, means_by_channel
from calibrant.runtime.arena import shrink_arena
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import with_outputs

__all__ = ["Means", "SideBySide"]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]


class Means(NamedTuple):
    """What a layer makes of one feed.

    Args:
        mean: Mean of the float layer (out,).
        alone: Mean of its twin (out,).
        square: Mean square of the float layer.
    """

    mean: FloatArray
    alone: FloatArray
    square: float


class SideBySide:
    """A model with twins of some layers, ready to run.

    Args:
        make: Makes the model (`emit.layers_alone`). It is not kept, since a large one has two sets of weights.
        pairs: Layer -> tensor of the layer, that of its twin, and the axis of the channels.
        runtime: Where it runs.
    """

    def __init__(
        self,
        make: Callable[[], ir.Model],
        pairs: Mapping[str, tuple[str, str, int]],
        runtime: Runtime,
    ) -> None:
        """Open the model with the sums as outputs."""
        self._make, self._pairs, self._runtime = make, pairs, runtime
        self._sums: dict[str, tuple[str, str, str, str]] = {}
        model = make()
        sums, values = ChannelSums(model), values_by_name(model.graph)
        for layer, (name, alone, axis) in pairs.items():
            y, twin = values[name], values[alone]
            twin.shape = y.shape
            found = sums.mean(y, axis), sums.mean(twin, axis), sums.square(y, axis)
            if found[0] is not None and found[1] is not None and found[2] is not None:
                self._sums[layer] = found[0], found[1], found[2], sums.size(y)
        model.graph.sort()
        others = [t for n, pair in pairs.items() if n not in self._sums for t in pair[:2]]
        wanted = [t for names in self._sums.values() for t in names] + others
        self._session = open_session(with_outputs(model, wanted), integers=False, runtime=runtime)
        drop_weights(model)
        self._whole: Any = None

    def means(self, feed: Mapping[str, Array], *, last: bool = False) -> dict[str, Means]:
        """Return what each layer makes of a feed.

        Args:
            feed: The feed.
            last: No other feed follows soon: the memory of tensors is given back.
        """
        shrinking = shrink_arena() if last and self._runtime.provider == "cpu" else None
        found = _run(self._session, feed, shrinking)
        means = {n: _of_sums(*(found[t] for t in names)) for n, names in self._sums.items()}
        if any(m is None for m in means.values()):
            if self._whole is None:
                tensors = [t for pair in self._pairs.values() for t in pair[:2]]
                both = with_outputs(self._make(), list(dict.fromkeys(tensors)))
                self._whole = open_session(both, integers=False, runtime=self._runtime)
            found = _run(self._whole, feed)
        return {
            n: means.get(n) or _of_values(found[y], found[twin], axis)
            for n, (y, twin, axis) in self._pairs.items()
        }


def _run(session: Any, feed: Mapping[str, Array], options: Any = None) -> dict[str, Array]:
    names = [o.name for o in session.get_outputs()]
    inputs = {i.name: feed[i.name] for i in session.get_inputs()}
    return dict(zip(names, infer(session, names, inputs, options), strict=True))


def _of_sums(mean: Array, alone: Array, squares: Array, size: Array) -> Means | None:
    """Return what the sums of a layer (samples, out) say; None where they are not finite."""
    if not all(np.isfinite(x).all() for x in (mean, alone, squares)):
        return None
    one, other = (x.mean(axis=0, dtype=np.float64) for x in (mean, alone))
    return Means(one, other, float(squares.sum(dtype=np.float64)) / max(1, int(size)))


def _of_values(y: Array, twin: Array, axis: int) -> Means:
    mask = finite_mask(y)
    means = means_by_channel(y, axis), means_by_channel(twin, axis, mask)
    return Means(*means, mean_square([y]))

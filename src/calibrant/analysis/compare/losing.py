"""What the outputs lose by each layer of the second model: what is its own is put into the first model, and nothing else.

Put in are, one by one, what rounds values in the second model,

    quantizers of activations      where all readers of a tensor share one; else that of one reader
    weights and biases             of one layer

and all else is the first model, so nothing arrives that is not right. What the outputs are then off by is in the same units for
all layers, whatever the metric. A quantizer counts for the layers with weights that read it, and where functions alone read it, or
nobody does, for the layer that makes the tensor. Of several places of a layer the worst one counts.

Measured are the places with the layers around them in which most is born, by energy and by channels, since what is small beside
other channels may be what the reader looks at. The others lose little. All are measured on the first samples, the worst on more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.alone.journal import Journal
from calibrant.analysis.alone.losses import Loss, Losses
from calibrant.analysis.alone.measuring import Question, measure
from calibrant.analysis.alone.metric import RankedBy
from calibrant.analysis.compare.grids import Grid
from calibrant.analysis.compare.mapping import Mapped
from calibrant.analysis.compare.reads import Reads
from calibrant.data.batch import Batch
from calibrant.errors import CalibrantError
from calibrant.graph.values import Names, own_copy, values_by_name
from calibrant.progress import Progress
from calibrant.runtime.downstream import Gives
from calibrant.runtime.runtime import Runtime

__all__ = ["PLACES", "SAMPLES", "lost_by"]

Array = npt.NDArray[Any]

#: Places that are measured, and samples that they are measured on, at most.
PLACES, SAMPLES = 64, 8

#: Of these, so many by the channels that are lost.
BY_CHANNELS = 24

#: Passes of these samples that a place may cost on average: all are measured on the first ones, the worst on all.
BUDGET = 0.25


class Harm(NamedTuple):
    """What is born in a layer.

    Args:
        energy: Its energy, over that of what the layer gives.
        channels: The same as the mean over channels (`analysis.origin.Tally.lost_channels`).
    """

    energy: float
    channels: float


def lost_by(
    model: ir.Model,
    reads: Reads,
    harms: Mapping[Mapped, Harm],
    batches: Sequence[Batch],
    metric: RankedBy,
    *,
    free: bool,
    progress: Progress,
    runtime: Runtime,
) -> tuple[dict[str, Loss], list[str]]:
    """Return what the outputs lose by each layer, by node, and notes on what could not be measured.

    Args:
        model: The first model.
        reads: What each layer reads in the second one.
        harms: What is born in each layer.
        batches: The first samples.
        metric: How the outputs are compared.
        free: Rows of the model's inputs are samples.
        progress: Told of places.
        runtime: Where the model runs.
    """
    places = _chosen(_places(reads, harms))
    if not places or not batches:
        return {}, []
    base, nodes = _with_ends(model, [p.layer for p in places if p.grid is not None])
    reading = _Second.of(reads, places, nodes)
    outputs = tuple(v.name or "" for v in base.graph.outputs)
    losses = Losses(metric)
    try:
        feeds = take_feeds(iter(batches), SAMPLES, free=free)
        with progress.stage("layers alone"):
            measured = measure(
                Question(base, base, reading, tuple(reading.places), outputs),
                feeds,
                metric,
                losses.worst,
                budget=BUDGET,
                journal=Journal(None),
                progress=progress,
                runtime=runtime,
            )
    except CalibrantError as e:
        return {}, [f"What the outputs lose by each layer was not measured: {e}"]
    found: dict[str, Loss] = {}
    for node, loss in losses.all(measured).items():
        for name in reading.places[node].names:
            if name not in found or found[name].loss < loss.loss:
                found[name] = loss
    return found, []


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the second model rounds.

    Args:
        layer: A layer with its weight and what it alone reads so; with `grid`, the layer whose tensor is taken.
        names: The layers that it counts for.
        harm: The most that is born in a layer around it.
        grid: The grid that all readers of the tensor share.
    """

    layer: Mapped
    names: tuple[str, ...]
    harm: Harm
    grid: Grid | None = None


def _places(reads: Reads, harms: Mapping[Mapped, Harm]) -> list[_Place]:
    found = []
    nothing = Harm(0.0, 0.0)
    readers_of: dict[Mapped, list[Mapped]] = {}
    for x in harms:
        for maker in reads.reads_shared(x):
            readers_of.setdefault(maker, []).append(x)
    for layer, grid in reads.shared().items():
        readers = readers_of.get(layer, [])
        weighted = tuple(x.name for x in readers if reads.has_weight(x))
        around = [harms.get(x, nothing) for x in (layer, *readers)]
        harm = Harm(max(h.energy for h in around), max(h.channels for h in around))
        found.append(_Place(layer, weighted or (layer.name,), harm, grid))
    for layer, harm in harms.items():
        if reads.is_readable(layer) and (reads.inputs(layer) or reads.constants(layer)):
            found.append(_Place(layer, (layer.name,), harm))
    return [p for p in found if max(p.harm) > 0]


def _chosen(places: Sequence[_Place]) -> list[_Place]:
    """Return the places that are measured: most by energy, some by the channels that are lost."""
    ways = (
        (lambda i: -places[i].harm.energy, PLACES - BY_CHANNELS),
        (lambda i: -places[i].harm.channels, PLACES),
    )
    found: dict[int, None] = {}
    for key, count in ways:
        rest = [i for i in range(len(places)) if i not in found]
        found |= dict.fromkeys(sorted(rest, key=key)[: count - len(found)])
    return [places[i] for i in found]


def _with_ends(model: ir.Model, layers: Sequence[Mapped]) -> tuple[ir.Model, dict[Mapped, str]]:
    """Copy a model and put a node behind tensors, through which all readers and the model's outputs read them."""
    copy = own_copy(model)
    values, names = values_by_name(copy.graph), Names(copy.graph)
    nodes: dict[Mapped, str] = {}
    outputs = copy.graph.outputs
    for layer in layers:
        value = values[layer.truth]
        name = names.fresh(f"{layer.name}__end")
        node = ir.node("Identity", [value], name=name)
        end = node.outputs[0]
        end.name, end.type, end.shape = names.fresh(f"{layer.truth}__end"), value.type, value.shape
        uses = [u for u in value.uses() if u.node is not node]
        maker = value.producer()
        if maker is None:
            copy.graph.insert_before(copy.graph[0], node)
        else:
            copy.graph.insert_after(maker, node)
        for use in uses:
            use.node.replace_input_with(use.idx, end)
        for i, output in enumerate(outputs):
            if output is value:
                end.name, value.name = value.name, end.name
                outputs[i] = end
        nodes[layer] = name
    return copy, nodes


@dataclass(frozen=True, slots=True, eq=False)
class _Second:
    """What a place reads in the second model; see `analysis.readings.Reading`."""

    reads: Reads
    places: Mapping[str, _Place]
    gives: Gives = "as computed"

    @classmethod
    def of(cls, reads: Reads, places: Sequence[_Place], nodes: Mapping[Mapped, str]) -> _Second:
        named = {p.layer.name if p.grid is None else nodes[p.layer]: p for p in places}
        return cls(reads, named)

    def identity(self, layer: str) -> str:
        return self.places[layer].layer.mine

    def constants(self, layer: str) -> dict[int, Array]:
        place = self.places[layer]
        return {} if place.grid is not None else self.reads.constants(place.layer)

    def inputs(self, layer: str) -> list[int]:
        place = self.places[layer]
        return [0] if place.grid is not None else self.reads.inputs(place.layer)

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        place = self.places[layer]
        if place.grid is not None:
            return {0: place.grid.on(np.asarray(known[place.layer.truth]))}
        return self.reads.values(place.layer, known)

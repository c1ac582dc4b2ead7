"""The places where a model is rounded, one by one: quantizers of activations and weights, and what each loses alone.

A layer's figure cannot say what to change: it has several quantizers, and a quantizer may serve readers that are no layers (the
function behind a convolution). So what is ranked here are quantizers. One that shares its range with others stands for them.

    loss of a quantizer ~ sum over its readers of what the outputs lose where that reader alone finds rounded values

in energy of the error over energy of the signal, in the part of the outputs that loses most. What a reader with several
quantized inputs loses is shared out by the energy that each quantizer makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy.typing as npt

from calibrant.analysis.alone.feeds import Feeds
from calibrant.analysis.alone.journal import Journal
from calibrant.analysis.alone.losses import Losses
from calibrant.analysis.alone.measuring import MEMORY_BYTES, Question, measure
from calibrant.analysis.alone.metric import SQNR, ranked_by
from calibrant.analysis.readings import QuantizedAlone
from calibrant.diagnose.advice.noise import Noise, activation_noise, weight_noise
from calibrant.plan.decisions import Edge
from calibrant.progress import Progress
from calibrant.runtime.downstream import Gives
from calibrant.runtime.runtime import Runtime
from calibrant.tuning.solved import Solved

__all__ = ["Unit", "units_of"]

Array = npt.NDArray[Any]

#: Passes of the samples through the model that a reader may cost on average.
_BUDGET = 0.45


@dataclass(frozen=True, slots=True)
class Unit:
    """One quantizer, or several that share one range.

    Args:
        kind: Of what.
        name: The tensor, or the weight.
        edges: Inputs that read it: (node, index).
        layers: Nodes to name it by: the layer that reads it, or the one that makes it where only functions read it.
        noise: What it makes of its values.
        loss: What the outputs lose by it alone, energy of the error over energy of the signal.
        masked: Its tensor holds a mask of -inf or -1e9.
    """

    kind: Literal["activation", "weight"]
    name: str
    edges: tuple[Edge, ...]
    layers: tuple[str, ...]
    noise: Noise
    loss: float = 0.0
    masked: bool = False

    @property
    def cause(self) -> str:
        """What is wrong with it: `mask`, `clipping`, `range` or `rounding`."""
        return "mask" if self.masked else self.noise.cause

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that read it."""
        return tuple(dict.fromkeys(n for n, _ in self.edges))


def units_of(
    solved: Solved,
    feeds: Feeds,
    outputs: Sequence[str],
    progress: Progress,
    runtime: Runtime,
    journal: Journal | None = None,
) -> list[Unit]:
    """Return every quantizer of a solution, the one that loses most first.

    Args:
        solved: A solution, with what was seen of its tensors.
        feeds: Samples that losses are measured on.
        outputs: Tensors that are compared.
        progress: Told of quantizers.
        runtime: Where models run.
        journal: Keeps what was measured; None keeps nothing.
    """
    found = [*_activations(solved), *_weights(solved)]
    solution = solved.solution
    alone = QuantizedAlone(solution.model, solution.plan, solution.params)
    losses: dict[str, dict[str, float]] = {}
    for kind, reading in (("activation", _Activations(alone)), ("weight", _Weights(alone))):
        readers = {n for u in found if u.kind == kind for n in u.nodes}
        names = tuple(n.name or "" for n in solution.model.graph if n.name in readers)
        if not names:
            continue
        by = ranked_by(SQNR)
        ranking = Losses(by)
        with progress.stage(f"{kind}s alone"):
            measured = measure(
                Question(solution.model, solution.model, reading, names, tuple(outputs)),
                feeds,
                by,
                ranking.worst,
                budget=_BUDGET,
                journal=journal if journal is not None else Journal(None),
                memory=MEMORY_BYTES,
                progress=progress,
                runtime=runtime,
            )
        losses[kind] = {n: x.loss for n, x in ranking.all(measured).items()}
    shared: dict[tuple[str, str], float] = {}
    for u in found:
        for n in u.nodes:
            shared[u.kind, n] = shared.get((u.kind, n), 0.0) + u.noise.energy
    done = [replace(u, loss=_loss(u, losses.get(u.kind, {}), shared)) for u in found]
    return sorted(done, key=lambda u: -u.loss)


def _loss(
    unit: Unit, losses: Mapping[str, float], shared: Mapping[tuple[str, str], float]
) -> float:
    total = 0.0
    for node in unit.nodes:
        of_all = shared[unit.kind, node]
        share = unit.noise.energy / of_all if of_all > 0 else 1.0
        total += losses.get(node, 0.0) * share
    return total


def _activations(solved: Solved) -> list[Unit]:
    plan, params = solved.solution.plan, solved.solution.params
    weights = {w.layer for w in plan.weights}
    groups: dict[str, list[Unit]] = {}
    for d in plan.activations:
        edges = tuple((n, i) for n, i in d.users if i is not None)
        stats = solved.statistics.get(d.tensor)
        noise = activation_noise(stats, params.activations[d.id]) if stats else Noise()
        read = tuple(dict.fromkeys(n for n, _ in edges if n in weights))
        made = (d.producer,) if d.producer is not None else ()
        layers = read or made or tuple(dict.fromkeys(n for n, _ in edges))
        if edges:
            unit = Unit("activation", d.tensor, edges, layers, noise)
            groups.setdefault(d.group, []).append(unit)
    return [_joined(units) for units in groups.values()]


def _joined(units: Sequence[Unit]) -> Unit:
    first = max(units, key=lambda u: u.noise.energy)
    edges = tuple(dict.fromkeys(e for u in units for e in u.edges))
    layers = tuple(dict.fromkeys([*first.layers, *(n for u in units for n in u.layers)]))
    return replace(first, edges=edges, layers=layers)


def _weights(solved: Solved) -> list[Unit]:
    solution = solved.solution
    return [
        Unit(
            "weight",
            w.weight,
            ((w.layer, w.input_index),),
            (w.layer,),
            weight_noise(solution.model, solution.plan, solution.params, w),
        )
        for w in solution.plan.weights
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Activations:
    """A node alone reads quantized activations; its weight is float."""

    alone: QuantizedAlone
    gives: Gives = "as computed"

    def identity(self, layer: str) -> str:
        return self.alone.identity(layer)

    def constants(self, layer: str) -> dict[int, Array]:
        return {}

    def inputs(self, layer: str) -> list[int]:
        return self.alone.inputs(layer)

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        return self.alone.values(layer, known)


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """A layer alone has a quantized weight; what it reads is float."""

    alone: QuantizedAlone
    gives: Gives = "as computed"

    def identity(self, layer: str) -> str:
        return "weight"

    def constants(self, layer: str) -> dict[int, Array]:
        return self.alone.constants(layer)

    def inputs(self, layer: str) -> list[int]:
        return []

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        return {}

"""Say of each layer of a quantized model how much of its error arrived, how much is born in it, and of what."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.analysis.alone.feeds import Feeds, take_feeds
from calibrant.analysis.alone.measuring import MEMORY_BYTES
from calibrant.analysis.parts import Part, parts_of
from calibrant.analysis.probe import rows_are_free
from calibrant.analysis.readings import LeftInFloat, QuantizedAlone
from calibrant.data.batch import Batch
from calibrant.diagnose.origins import CAUSES, Origin, Tally, Walk
from calibrant.diagnose.rank import PLAIN, SAMPLES
from calibrant.dialects.asked import RecipeLike, asked
from calibrant.emit.qdq import emit_simulated
from calibrant.errors import ConfigValueError, ModelError
from calibrant.graph.load import ModelLike
from calibrant.plan.loaded import keeps_scales
from calibrant.progress import Callback, Progress
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import Runtime
from calibrant.solution import Solution
from calibrant.text.json_out import json_of
from calibrant.tuning.road import solve
from calibrant.tuning.store import Store

__all__ = ["Attribution", "LayerOrigin", "attribution", "attribution_of"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class LayerOrigin:
    """Where the error of one layer's output comes from.

    Args:
        name: The node.
        op_type: Its operator.
        output: Its output.
        origin: Shares of all of it.
        energy: Energy of what is born here, over that of the float layer's output.
        channels: Channels that most of what is born here is born in, and the share of each.
        parts: Shares of each part, where the output is an output of the model.
    """

    name: str
    op_type: str
    output: str
    origin: Origin
    energy: float
    channels: dict[int, float]
    parts: dict[str, Origin]


@dataclass(frozen=True, slots=True)
class Attribution:
    """All quantized layers.

    Args:
        samples: Samples that were looked at.
        layers: In graph order.
    """

    samples: int
    layers: tuple[LayerOrigin, ...]

    @property
    def worst_first(self) -> tuple[LayerOrigin, ...]:
        """Layers, those first in which most is born for what they give; NaN first."""
        return tuple(sorted(self.layers, key=_badness))

    def content(self) -> dict[str, Any]:
        """Return it as plain values, layers worst first."""
        return {
            "samples": self.samples,
            "layers": [
                {
                    "name": row.name,
                    "op_type": row.op_type,
                    "output": row.output,
                    "energy": row.energy,
                    "cause": row.origin.cause,
                    "shares": asdict(row.origin),
                    "channels": [[c, share] for c, share in row.channels.items()],
                    "parts": {n: asdict(o) for n, o in row.parts.items()},
                }
                for row in self.worst_first
            ],
        }

    def json(self) -> str:
        """Return it as JSON; numbers that JSON does not have are texts (`nan`, `inf`, `-inf`)."""
        return json_of(self.content())


def attribution(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None = None,
    *,
    samples: int | None = SAMPLES,
    memory_bytes: int = MEMORY_BYTES,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    progress: Callback | None = None,
) -> Attribution:
    """Say of each layer how much of its error arrived, and how much is born in it: of weights, activations and bias.

    What is born of a weight or of activations is told apart into clipping and rounding. The shares add up to 1, in energy of
    the error of the layer's output.

    Args:
        model: The float model, as `calibrant.quantize` takes it.
        data: Samples, as `calibrant.quantize` takes them.
        recipe: How it is quantized; None for the defaults with nothing tried, as in `calibrant.sensitivity`.
        samples: How many samples to look at; None for all.
        memory_bytes: Activations that are kept at a time, at most.
        batch_size: Samples in a batch of the calibration.
        preprocess: File that says how stored samples become inputs.
        provider: Where models run.
        threads: Threads inside an operator.
        progress: Called with a stage, what is done of it, and how much there is.

    Raises:
        ModelError: The model cannot be read, quantized or run.
        DataError: The data is empty or does not fit.
        ConfigError: The recipe asks for what does not exist.
    """
    if samples is not None and samples < 1:
        raise ConfigValueError(f"samples is {samples}; it is 1 or more.")
    wanted = PLAIN if recipe is None else asked(recipe, None)
    if keeps_scales(wanted):
        raise ConfigValueError(
            "The recipe keeps the scales that the model has; here they are chosen from data."
        )
    runtime = Runtime(provider, threads)
    store = Store(
        model,
        data,
        runtime=runtime,
        batch_size=batch_size,
        preprocess=preprocess,
        progress=Progress(progress),
    )
    solution = solve(store, wanted).solution
    stream = store.samples(wanted).first()
    return attribution_of(
        solution,
        stream,
        samples=samples,
        memory_bytes=memory_bytes,
        progress=store.progress,
        runtime=runtime,
    )


def attribution_of(
    solution: Solution,
    stream: Iterator[Batch],
    *,
    samples: int | None = SAMPLES,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress,
    runtime: Runtime,
) -> Attribution:
    """Say it of a solution that is there already; see `attribution`.

    Args:
        solution: What was decided.
        stream: Samples; no more of it is read than is looked at.
        samples: How many samples to look at; None for all.
        memory_bytes: Activations that are kept at a time, at most.
        progress: Told what is going on.
        runtime: Where models run.
    """
    names = [d.node for d in solution.plan.layers if d.quantized]
    if not names:
        raise ModelError("No layer of the model is quantized, so no error is born in one.")
    feeds = take_feeds(stream, samples, free=rows_are_free(solution.model))
    with progress.stage("origins"):
        layers = _layers(solution, names, feeds, memory_bytes, progress, runtime)
    return Attribution(feeds.samples, layers)


def _layers(
    solution: Solution,
    names: list[str],
    feeds: Feeds,
    memory: int,
    progress: Progress,
    runtime: Runtime,
) -> tuple[LayerOrigin, ...]:
    model = solution.model
    alone = QuantizedAlone(model, solution.plan, solution.params)
    base = emit_simulated(model, solution.plan, solution.params)
    left = LeftInFloat(alone, base)
    order = [n for n in model.graph if n.name in set(names)]
    outputs = {n.name or "": next(v.name or "" for v in n.outputs if v.name) for n in order}
    tallies: dict[str, tuple[Tally, list[Tally]]] = {}
    done = 0
    for truth, mine in _groups(model, base, feeds, memory, runtime):
        for node in order:
            name = node.name or ""
            for right, walk in Walk(name, alone, left, runtime).walks(
                truth, mine, range(len(truth.values))
            ):
                if name not in tallies:
                    parts = _parts(model, outputs[name], truth)
                    tallies[name] = Tally(axis=_axis(node)), [Tally(p) for p in parts]
                whole, each = tallies[name]
                for tally in (whole, *each):
                    tally.add(right, walk, len(CAUSES))
            done += 1
            progress.step(done)
    return tuple(_row(node, outputs[node.name or ""], *tallies[node.name or ""]) for node in order)


def _groups(
    model: ir.Model, base: ir.Model, feeds: Feeds, memory: int, runtime: Runtime
) -> Iterator[tuple[Whole, Whole]]:
    """Yield both models, run on as many feeds as fit the memory limit."""
    outputs = [v.name or "" for v in model.graph.outputs]
    try:
        truth, mine = _first(model, base, feeds, outputs, runtime)
    except ModelError:
        if not feeds.rows:
            raise
        feeds = feeds.uncut
        truth, mine = _first(model, base, feeds, outputs, runtime)
    size = max(1, memory // max(1, truth.bytes + mine.bytes))
    for start in range(0, len(feeds.batches), size):
        group = [b.feeds for b in feeds.batches[start : start + size]]
        yield truth.on(group), mine.on(group)


def _first(
    model: ir.Model, base: ir.Model, feeds: Feeds, outputs: list[str], runtime: Runtime
) -> tuple[Whole, Whole]:
    first = [feeds.batches[0].feeds]
    return (
        Whole.of(model, outputs, first, runtime=runtime),
        Whole.of(base, outputs, first, runtime=runtime),
    )


def _parts(model: ir.Model, output: str, truth: Whole) -> tuple[Part, ...]:
    """Return the parts of a tensor where it is an output of the model."""
    if output not in {v.name for v in model.graph.outputs}:
        return ()
    return parts_of(model, output, [known[output] for known in truth.values])


def _axis(node: ir.Node) -> int | None:
    if node.op_type in _CONVOLUTIONS:
        return 1
    return -1 if node.op_type in _PRODUCTS else None


def _row(node: ir.Node, output: str, whole: Tally, parts: list[Tally]) -> LayerOrigin:
    origin = whole.origin
    born = origin.born * whole.error
    energy = born / whole.signal if whole.signal > 0 else math.inf if born > 0 else 0.0
    found = {p.part.name: p.origin for p in parts if p.part is not None}
    return LayerOrigin(
        node.name or "", node.op_type, output, origin, energy, whole.channels, found
    )


def _badness(row: LayerOrigin) -> float:
    return -math.inf if math.isnan(row.energy) else -row.energy

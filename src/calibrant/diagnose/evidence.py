"""What a report shows of a result beyond its summary: where errors come from, what each layer loses, how channels are spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.probe import rows_are_free
from calibrant.data.batch import Batch
from calibrant.diagnose.attribute import attribution_of
from calibrant.diagnose.rank import SAMPLES, ranking_of
from calibrant.diagnose.ranking import JSON_FILE as RANKING_FILE
from calibrant.errors import DataError, ModelError
from calibrant.progress import Callback, Progress
from calibrant.recipe import Recipe
from calibrant.report.evidence.distributions import (
    DISTRIBUTIONS_FILE,
    distributions_of,
    shown_channels,
)
from calibrant.report.evidence.files import text_of
from calibrant.report.evidence.network import GRAPH_FILE, network_of
from calibrant.report.evidence.spread import Boxes, boxes_of
from calibrant.results import QuantizedModel
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.tap import Tap
from calibrant.tuning.samples import open_samples

__all__ = ["ATTRIBUTION_FILE", "evidence_of"]

Array = npt.NDArray[Any]

ATTRIBUTION_FILE = "attribution.json"

#: Layers times samples that are measured, about, and samples at the least: a report is worth minutes, not an hour.
MEASUREMENTS, LEAST_SAMPLES = 4000, 4

#: Operators whose first input and output have the channels on axis 1.
_WITH_POSITIONS = frozenset(
    {"AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxPool"}
)


def evidence_of(
    result: QuantizedModel,
    data: Any,
    recipe: Recipe | None = None,
    *,
    samples: int | None = None,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    progress: Callback | None = None,
) -> dict[str, str]:
    """Return what a report shows beyond the summary, as texts by file name.

    Args:
        result: A quantized model.
        data: Samples, as `calibrant.quantize` takes them; None takes those that the recipe names. Without any, what has to
            be measured is left out.
        recipe: What the result was made from.
        samples: How many samples to measure on; None for 16, and fewer for networks of more than 250 layers.
        batch_size: Samples in a batch.
        preprocess: File that says how stored samples become inputs.
        provider: Where models run.
        threads: Threads inside an operator.
        progress: Called with a stage, what is done of it, and how much there is.

    What cannot be measured is named in the notes of `distributions.json`, which the page shows.
    """
    solution, wanted = result.solution, recipe if recipe is not None else Recipe()
    seen = distributions_of(solution, result.statistics)
    files = {GRAPH_FILE: text_of(network_of(solution.model))}
    named = wanted.calibration.random or wanted.calibration.sources
    quantized = sum(d.quantized for d in solution.plan.layers)
    if samples is None:
        samples = max(LEAST_SAMPLES, min(SAMPLES, MEASUREMENTS // max(1, quantized)))
    if (data is not None or named) and quantized:
        runtime, told = Runtime(provider, threads), Progress(progress)
        inputs = model_inputs(solution.original)
        held = open_samples(inputs, data, wanted, batch_size=batch_size, preprocess=preprocess)
        options: dict[str, Any] = {"samples": samples, "progress": told, "runtime": runtime}
        name = str(result.summary.get("model", ""))
        try:
            origins = attribution_of(solution, held.first(), **options)
            files[ATTRIBUTION_FILE] = origins.json() + "\n"
            ranking = ranking_of(solution, held.first(), name=name, **options)
            files[RANKING_FILE] = ranking.json() + "\n"
            tensors = [t.tensor for t in seen.tensors]
            most = shown_channels(solution.plan)
            boxes, count = _channels(solution.model, tensors, held.first(), most, runtime)
            seen = seen.with_channels(boxes, count)
        except (
            ModelError,
            DataError,
        ) as e:  # the result is there and good: it is not lost for its report
            seen = replace(seen, notes=(f"Not all could be measured for the report: {e}",))
    files[DISTRIBUTIONS_FILE] = text_of(seen)
    return files


class _Done:
    """A reader that has finished."""

    def result(self) -> None:
        """Return at once."""


def _channels(
    model: ir.Model, tensors: list[str], stream: Iterator[Batch], most: int, runtime: Runtime
) -> tuple[dict[str, Boxes], int]:
    """Return the channels of tensors, on the first samples, and how many samples these are."""
    batch = take_feeds(stream, SAMPLES, free=rows_are_free(model)).batches[0]
    found: dict[str, Boxes] = {}
    seen = [batch.size]
    spatial = _spatial(model)

    def use(values: Mapping[str, Array], _: Batch, start: int, rows: int) -> _Done:
        if start == 0:
            seen.append(rows)
            for name, x in values.items():
                if x.ndim >= 2 and x.size and x.dtype.kind == "f":
                    found[name] = boxes_of(np.asarray(x), _axis(x, spatial=name in spatial), most)
        return _Done()

    inner = [t for t in tensors if t not in batch.feeds]
    if inner:
        tap = Tap(model, inner, runtime=runtime)
        tap.run(batch, use)
        tap.close()
    for name in set(tensors) & set(batch.feeds):
        x = np.asarray(batch.feeds[name])[: min(seen)]
        if x.ndim >= 2 and x.size:
            found[name] = boxes_of(x, _axis(x, spatial=name in spatial), most)
    return found, min(seen)


def _axis(x: Array, *, spatial: bool) -> int:
    """Return the axis of the channels: the second one where positions follow it, else the last one."""
    return 1 if x.ndim >= 4 or (spatial and x.ndim == 3) else x.ndim - 1


def _spatial(model: ir.Model) -> set[str]:
    """Return the tensors that an operator with positions behind its channels reads or gives."""
    nodes = [n for n in model.graph if n.op_type in _WITH_POSITIONS]
    return {v.name or "" for n in nodes for v in (*n.inputs[:1], *n.outputs) if v is not None}

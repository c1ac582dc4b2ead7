"""What a metric says of samples, batch by batch: said by this process, or by workers that each run some of the batches.

Samples that are held in memory, shuffled, are sent along; of others a worker opens the data itself and reads its own range. What a
metric says of a batch does not depend on who runs it, and batches are the same for any number of workers: so are scores, and so is
where an evaluation ends early. What is left is then no longer waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnx
import onnx_ir as ir

from calibrant.analysis.task_metrics import BatchMetric
from calibrant.analysis.tasks.registry import task_metric
from calibrant.data.batch import AnyArray, Batch
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import saturation_note
from calibrant.tuner.samples import Part, Samples, answers

__all__ = ["said_of"]

#: Tasks of each worker: a worker that is lost costs one of them.
TASKS = 4


class Named(Protocol):
    """A metric that has a name."""

    @property
    def name(self) -> str:
        """As `task_metric` takes it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """What all tasks need.

    Args:
        model: The model, serialized.
        metric: Name of the metric.
        runtime: Where it runs.
        margins: Whether it is asked how far samples are from another answer.
    """

    model: bytes
    metric: str
    runtime: Runtime
    margins: bool


def said_of(
    samples: Samples,
    model: ir.Model,
    metric: Named,
    ranges: Sequence[tuple[int, float]],
    notes: list[str] | None = None,
    *,
    margins: bool = False,
) -> Iterator[Any]:
    """Yield what a metric says of each batch of some ranges of samples: what its `of_samples` returns.

    With `margins` it is (that, what its `margins_of` returns).

    Args:
        samples: The samples, opened.
        model: The model that is run on them.
        metric: The metric.
        ranges: (first, behind the last) of each.
        notes: Is given what the first sample of all shows of a quantized model: kernels that saturate.
        margins: Whether to ask how far samples are from another answer.
    """
    workers = samples.workers
    looked = notes is not None and model is not samples.original and ranges[0][0] == 0
    looked = looked and not samples.saturates  # it is told of one trial
    parts = samples.parts(ranges, TASKS * workers.count) if workers is not None else []
    if workers is None or len(parts) < 2:
        for found, note in _said(
            model, samples.batches(ranges), metric.name, samples.runtime, looked, margins
        ):
            if notes is not None and note is not None:
                notes.append(note)
                samples.saturates = True
            yield found
        return
    runtime = Runtime(samples.runtime.provider, samples.runtime.threads or workers.threads)
    given = _Given(bytes(ir.to_proto(model).SerializeToString()), metric.name, runtime, margins)
    pieces = [(part, looked and i == 0) for i, part in enumerate(parts)]
    for said in workers.map(_of_part, pieces, given):
        for found, note in said:
            if notes is not None and note is not None:
                notes.append(note)
                samples.saturates = True
            yield found


def _of_part(given: _Given, piece: tuple[Part, bool]) -> list[tuple[Any, str | None]]:
    part, looked = piece
    model = ir.from_proto(onnx.load_model_from_string(given.model))
    return list(_said(model, part.batches(), given.metric, given.runtime, looked, given.margins))


def _said(
    model: ir.Model,
    batches: Iterable[Batch],
    name: str,
    runtime: Runtime,
    looked: bool,
    margins: bool,
) -> Iterator[tuple[Any, str | None]]:
    """Yield what a metric says of each batch; with the first, where it is looked at, what is to be said of the model."""
    metric = task_metric(name)
    for batch, outputs in answers(model, batches, runtime):
        note = _note(model, batch, outputs, runtime) if looked else None
        looked = False
        said: Any = metric.of_samples(outputs, batch.extras, str(batch))
        if margins:
            assert isinstance(metric, BatchMetric)
            said = said, metric.margins_of(outputs, batch.extras)
        yield said, note


def _note(
    model: ir.Model, batch: Batch, outputs: dict[str, AnyArray], runtime: Runtime
) -> str | None:
    return saturation_note(model, batch.feeds, outputs, runtime=runtime)

"""Run a model over data and measure it with a task metric."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibrant.analysis.task_metrics import BatchMetric
from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.analysis.tasks.registry import task_metric
from calibrant.data.batch import AnyArray, Batch
from calibrant.data.imports import import_function, is_function_name
from calibrant.data.open import Batches, open_data
from calibrant.errors import (
    CalibrantError,
    ConfigTypeError,
    ConfigValueError,
    DataError,
    ModelError,
)
from calibrant.graph.proto import HoldsModel, held_model
from calibrant.runtime.inputs import input_infos
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_are_exact, saturation_note
from calibrant.runtime.session import open_session

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["Evaluation", "evaluate"]

Progress = Callable[[str, int, int | None], None]
UserMetric = Callable[[list[AnyArray], dict[str, AnyArray]], Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model scores on data.

    Args:
        metric: Name of the metric.
        value: Its value over all samples.
        samples: Samples it was measured on.
        seconds: Wall time of the run, opening the model left out.
        notes: What was left out of the data and why.
    """

    metric: str
    value: float
    samples: int
    seconds: float
    notes: tuple[str, ...] = ()


def evaluate(
    model: str | Path | bytes | onnx.ModelProto | ir.Model | HoldsModel,
    data: Any,
    metric: str | UserMetric,
    *,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model, float or quantized.

    A named metric holds one batch of outputs at a time, or what each sample contributes; a function of the user's own holds them all.
    8-bit kernels that saturate on this CPU are not used; where they would answer clearly otherwise, a note says so.
    Where no batch size is asked for and the model refuses a batch of several samples (a Reshape with a
    batch of 1 in it), samples are run one by one.

    Args:
        model: A path, a model in memory, or the result of a quantization, whose deployed model is run.
        data: What `open_data` takes, with references beside the inputs: `labels`, or an array named like
            an output.
        metric: A name of `calibrant list metrics`, options behind it (`top1`, any `top<k>`, `mse`, `miou`,
            `psnr,peak=255`, `map,head=yolox`, …), `module:function`, or a function. A function
            gets the list of all outputs, each (samples, …), and the references by name, and returns a
            number.
        batch_size: Samples in a batch.
        preprocess: A preprocessing file.
        provider: Where to run (`runtime.session.PROVIDERS`).
        threads: Threads inside an operator.
        progress: Called with ("evaluate", batches done, batches in all or None).

    Raises:
        ConfigValueError: An unknown metric, or one that fails.
        ModelError: The model cannot be loaded or run, or its output is NaN.
        DataError: The data or its references do not fit.
    """
    name, measure = _metric(metric)
    held = held_model(model)
    if isinstance(model, str | Path) and not Path(model).is_file():
        what = (
            "is a folder; an ONNX file is expected" if Path(model).is_dir() else "does not exist"
        )
        raise ModelError(f"The model file '{model}' {what}.")
    runtime = Runtime(provider, threads)
    session = open_session(held, integers=kernels_are_exact(runtime), runtime=runtime)
    inputs = input_infos(session, held)
    batches = open_data(data, inputs, batch_size=batch_size, preprocess=preprocess)
    outputs = [o.name for o in session.get_outputs()]
    begin = time.perf_counter()
    results = _run(session, outputs, batches, one_by_one=batch_size is None, progress=progress)
    results = _noted(
        results, lambda b, found: saturation_note(held, b.feeds, found, runtime=runtime), batches
    )
    if isinstance(measure, BatchMetric):
        value, samples = _sum(measure, results)
    elif isinstance(measure, CorpusMetric):
        value, samples = _of_all(measure, results)
    else:
        value, samples = _collect(measure, name, results)
    seconds = time.perf_counter() - begin
    return Evaluation(name, value, samples, seconds, tuple(batches.notes))


def _metric(metric: str | UserMetric) -> tuple[str, BatchMetric | CorpusMetric | UserMetric]:
    if isinstance(metric, str):
        if is_function_name(metric):
            return metric, import_function(metric, what="Metric", error=ConfigValueError)
        return metric, task_metric(metric)
    if callable(metric):
        return getattr(metric, "__name__", type(metric).__name__), metric
    raise ConfigTypeError(f"metric is a {type(metric).__name__}; it is a name or a function.")


def _run(
    session: Any,
    names: list[str],
    batches: Batches,
    *,
    one_by_one: bool,
    progress: Progress | None,
) -> Iterator[tuple[Batch, dict[str, AnyArray]]]:
    for done, batch in enumerate(batches):
        try:
            values = session.run(names, dict(batch.feeds))
        except Exception as e:  # ONNX Runtime has its own errors, none of them public
            if one_by_one and done == 0 and batch.size > 1 and not batches.once:
                batches.notes.append(
                    f"{batches.source}: the model refuses a batch of {batch.size}; samples are run one by one."
                )
                yield from _run(
                    session, names, batches.rebatched(1), one_by_one=False, progress=progress
                )
                return
            text = " ".join(str(e).split())
            raise ModelError(f"ONNX Runtime cannot run the model on {batch}: {text}") from e
        if progress is not None:
            progress("evaluate", done + 1, batches.batches)
        yield batch, dict(zip(names, values, strict=True))


def _noted(
    results: Iterator[tuple[Batch, dict[str, AnyArray]]],
    note: Callable[[Batch, dict[str, AnyArray]], str | None],
    batches: Batches,
) -> Iterator[tuple[Batch, dict[str, AnyArray]]]:
    """Hand on results, and note what the first of them shows."""
    for i, (batch, outputs) in enumerate(results):
        said = note(batch, outputs) if i == 0 else None
        if said is not None:
            batches.notes.append(said)
        yield batch, outputs


def _sum(
    metric: BatchMetric, results: Iterator[tuple[Batch, dict[str, AnyArray]]]
) -> tuple[float, int]:
    total, count, samples = 0.0, 0, 0
    for batch, outputs in results:
        part, n = metric.of_batch(outputs, batch.extras, str(batch))
        total, count, samples = total + part, count + n, samples + batch.size
    return total / count, samples


def _of_all(
    metric: CorpusMetric, results: Iterator[tuple[Batch, dict[str, AnyArray]]]
) -> tuple[float, int]:
    """Return the value of a metric that is no mean over samples: what each contributes is held."""
    found = [
        x
        for batch, outputs in results
        for x in metric.of_samples(outputs, batch.extras, str(batch))
    ]
    return metric.value(found), len(found)


def _collect(
    function: UserMetric, name: str, results: Iterator[tuple[Batch, dict[str, AnyArray]]]
) -> tuple[float, int]:
    outputs: dict[str, list[AnyArray]] = {}
    references: dict[str, list[AnyArray]] = {}
    samples = 0
    for batch, values in results:
        samples += batch.size
        for key, value in values.items():
            outputs.setdefault(key, []).append(value)
        for key, value in batch.extras.items():
            references.setdefault(key, []).append(value)
    try:
        joined = [np.concatenate(parts) for parts in outputs.values()]
        joined_references = {key: np.concatenate(parts) for key, parts in references.items()}
    except ValueError as e:
        raise DataError(
            f"Outputs of different shapes cannot be joined for metric '{name}': {e}."
        ) from e
    try:
        return float(function(joined, joined_references)), samples
    except CalibrantError:
        raise
    except Exception as e:  # the user's code may raise anything
        raise ConfigValueError(f"Metric '{name}' failed: {type(e).__name__}: {e}.") from e

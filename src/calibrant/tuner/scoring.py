"""How a model is scored: a metric on labelled data, a function of the user's own, or the likeness of the outputs.

(data, "top1")               a metric by name, with references beside the samples    (`analysis.evaluate`)
(data, function)             a function (outputs, references) -> number              (`analysis.evaluate`)
function                     a function (runner) -> number, several by name, or one for each sample
Command("… {model}")         a command that is given the file and prints JSON
(data, "cosine_similarity")  without labels: outputs against the float model's, the part that is furthest off counts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.analysis.evaluate import evaluate
from calibrant.analysis.task_metrics import BatchMetric
from calibrant.data.digests import data_digest
from calibrant.data.imports import import_function, is_function_name
from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.workers import Workers
from calibrant.tuner.evaluator import Evaluator, Score
from calibrant.tuner.likeness import LIKENESSES, Likeness
from calibrant.tuner.looks import Looks, PairedLooks, RatioLooks
from calibrant.tuner.own_code import ByFunction, code_digest
from calibrant.tuner.own_command import ByCommand, Command
from calibrant.tuner.paired import Paired
from calibrant.tuner.samples import Samples
from calibrant.tuner.settling import Settles

__all__ = ["evaluator_of"]


@dataclass(frozen=True, slots=True, eq=False)
class _ByMetric:
    """A metric on data with references."""

    data: Any
    metric: Any
    name: str
    higher_is_better: bool
    reading: Mapping[str, Any]
    runtime: Runtime
    labelled: bool = True
    own: bool = False
    paired: Paired | None = None

    @property
    def settling(self) -> Settles | None:
        return self.paired

    def looks(self, reference: float) -> Looks | None:
        return PairedLooks(self.paired) if self.paired is not None else None

    def digest(self) -> str:
        said = repr((self.name, sorted(self.reading.items()), self.runtime.provider))
        return f"{said} {data_digest(self.data)} {code_digest(self.metric)}"

    def score(self, model: ir.Model) -> Score:
        found = evaluate(
            model,
            self.data,
            self.metric,
            provider=self.runtime.provider,
            threads=self.runtime.threads,
            **self.reading,
        )
        return Score(found.value, found.samples, found.notes)


@dataclass(slots=True, eq=False)
class _ByLikeness:
    """Outputs against those of the float model."""

    likeness: Likeness
    reading: Mapping[str, Any]
    data: Any
    name: str
    higher_is_better: bool = True
    labelled: bool = False
    own: bool = False
    paired: Paired | None = None
    settling: Settles | None = None
    notes: tuple[str, ...] = field(default=())

    def looks(self, reference: float) -> Looks | None:
        return RatioLooks(self.likeness.look, reference)

    def digest(self) -> str:
        said = repr((self.name, sorted(self.reading.items()), self.likeness.runtime.provider))
        return f"{said} {data_digest(self.data)}"

    def score(self, model: ir.Model) -> Score:
        value, samples = self.likeness.of(model)
        if model is self.likeness.original:
            return Score(value, samples)
        return Score(value, samples, look=self.likeness.telling(model))


def evaluator_of(
    asked: Any,
    original: ir.Model,
    calibration: Any,
    *,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    holdout: float = 0.0,
    holdout_of_all: float = 0.0,
    confidence: float | None = 0.99,
    workers: Workers | None = None,
) -> Evaluator:
    """Return how models are scored.

    Args:
        asked: A function (runner) -> number, or its name as `module:function`; a `Command`; a pair (data, metric); or None, which
            scores without labels on the calibration data.
        original: The float model.
        calibration: The calibration data.
        batch_size: Samples in a batch.
        preprocess: File that says how stored samples become inputs.
        provider: Where models run.
        threads: Threads inside an operator.
        holdout: Share of the samples that the search does not see, where the score is a mean over samples.
        holdout_of_all: The same, where the score is a metric of all samples together.
        confidence: That an evaluation which ends early is right; None for certain ends alone.
        workers: Who runs models for a metric by name; None for this process alone.

    Raises:
        ConfigValueError: A metric or a function that does not exist.
        ConfigTypeError: None of these.
    """
    runtime = Runtime(provider, threads)
    if isinstance(asked, Command):
        return ByCommand(asked)
    if isinstance(asked, str) and is_function_name(asked):
        function = import_function(asked, what="Evaluation", error=ConfigValueError)
        return ByFunction(function, asked, _direction(function), runtime, workers)
    if callable(asked):
        return ByFunction(asked, _name(asked), _direction(asked), runtime)
    if asked is None:
        asked = (calibration, LIKENESSES[0])
    if not isinstance(asked, tuple) or len(asked) != 2:
        raise ConfigTypeError(
            f"evaluate is a {type(asked).__name__}; it is a function (runner) -> number, its name as module:function, "
            "a pair (data, metric), or None to compare outputs with the float model's."
        )
    data, metric = asked
    data = list(data) if isinstance(data, Iterator) else data
    reading = {"batch_size": batch_size, "preprocess": preprocess}
    if isinstance(metric, str) and metric in LIKENESSES:
        likeness = Likeness(original, data, metric, runtime, reading, workers)
        return _ByLikeness(likeness, reading, data, metric)
    if isinstance(metric, str):
        if is_function_name(metric):
            function = import_function(metric, what="Metric", error=ConfigValueError)
            return _ByMetric(
                data, function, metric, _direction(function), reading, runtime, own=True
            )
        from calibrant.analysis.tasks.registry import task_metric
        from calibrant.tuner.corpus import ByCorpus

        found = task_metric(metric, beside=LIKENESSES)
        share = holdout if isinstance(found, BatchMetric) else holdout_of_all
        samples = Samples(data, original, runtime, batch_size, preprocess, share, workers=workers)
        if not isinstance(found, BatchMetric):
            return ByCorpus(samples, found, metric)
        paired = Paired(samples, found, confidence)
        better = found.higher_is_better
        return _ByMetric(data, metric, metric, better, reading, runtime, paired=paired)
    if callable(metric):
        return _ByMetric(
            data, metric, _name(metric), _direction(metric), reading, runtime, own=True
        )
    raise ConfigTypeError(f"metric is a {type(metric).__name__}; it is a name or a function.")


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _direction(function: Any) -> bool:
    return bool(getattr(function, "higher_is_better", True))

"""The road from a float model and data to a quantized model.

    load → prepare → fold → resolve → probe → decide → observe → choose → correct → emit → measure

Where the recipe says `auto`, candidates are built and measured on the probe (the first samples of the
calibration data) against the float model's outputs, and the better one is taken; the summary says what each
reached. What a model needs is seen by its own outputs, not guessed from its name.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.choose import choose_activations, choose_layers, with_algorithm
from calibrant.emit.fake_quant import emit_fake_quant
from calibrant.emit.parameters import Parameters
from calibrant.emit.qdq import emit_qdq, emit_simulated
from calibrant.errors import DataError
from calibrant.graph.load import WIDE_OPSET, ModelLike, load, main_opset, prepare, raise_opset
from calibrant.graph.passes.equalize import Equalized, equalize
from calibrant.graph.passes.fuse_batchnorm import Folded, fuse_batchnorm
from calibrant.graph.passes.pairs import Pair, find_pairs
from calibrant.plan import Plan, resolve
from calibrant.recipe import AlgorithmChoice, Recipe
from calibrant.refine.bias_correction import Correction, correct_bias
from calibrant.results import QuantizedModel, summarize
from calibrant.runtime.batch import Batch
from calibrant.runtime.data import open_data
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.measure import (
    Latency,
    OutputQuality,
    compare,
    mean_sqnr_db,
    measure_latency,
    run,
)
from calibrant.runtime.observe import expose, observe
from calibrant.runtime.session import open_session
from calibrant.stats import ChannelStats, TensorStats

__all__ = ["Candidate", "Run", "quantize"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int | None], None]

#: The probe: so many samples, in feeds of so many, and at most so many bytes of inputs and outputs.
PROBE_SAMPLES = 64
PROBE_FEED = 8
PROBE_BYTES = 64 * 2**20

#: Activation algorithms that `auto` measures.
AUTO_ALGORITHMS = ("min-max", "mse")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting that was built and measured.

    Args:
        stage: What is being decided: `ranges` (equalization and algorithm) or `bias correction`.
        name: The setting.
        sqnr_db: Mean SQNR of the outputs on the probe [dB].
        chosen: Whether it was taken.
    """

    stage: str
    name: str
    sqnr_db: float
    chosen: bool = False


@dataclass(slots=True)
class Run:
    """What is known about one quantization while it goes on; the summary is written from it."""

    recipe: Recipe
    provider: str
    threads: int | None
    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    folded: list[Folded] = field(default_factory=list)
    equalized: list[Equalized] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    quality: list[OutputQuality] = field(default_factory=list)
    latency: Latency | None = None
    samples: int = 0
    batches: int = 0
    probe_samples: int = 0
    data_notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and say that it runs."""
        logger.info("%s", name)
        if self.progress is not None:
            self.progress(name, 0, None)
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + taken
        logger.info("%s: %.2f s", name, taken)

    @property
    def runtime(self) -> dict[str, Any]:
        """Options for everything that runs a model."""
        return {"provider": self.provider, "threads": self.threads}


@dataclass(frozen=True, slots=True, eq=False)
class _Probe:
    """The samples that candidates are measured on, and what the float model answers to them.

    Args:
        batches: The samples as they came.
        feeds: The same in small feeds.
        reference: The outputs of the float model for each feed.
        scored: The tensors candidates are compared by: the outputs, or what a final Softmax or Sigmoid
            reads, since behind it a few uncertain samples decide the whole figure.
        scored_reference: The float model's values of these.
    """

    batches: list[Batch]
    feeds: list[dict[str, Array]]
    reference: list[dict[str, Array]]
    scored: tuple[str, ...]
    scored_reference: list[dict[str, Array]]


def quantize(
    model: ModelLike,
    data: Any,
    recipe: Recipe | None = None,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    batch_num: int | None = None,
    preprocess: str | Path | None = None,
    progress: Progress | None = None,
) -> QuantizedModel:
    """Quantize a float model.

    Args:
        model: Path of an ONNX file, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        data: Calibration data: a path, a dict of arrays by input name, or any iterable of feeds.
        recipe: What is wanted; None for the default.
        provider: Execution provider for every run of a model.
        threads: Threads inside an operator; None leaves it to ONNX Runtime.
        batch_size: Samples in a batch; over the recipe's.
        batch_num: Batches to use; over the recipe's.
        preprocess: File that says how raw samples become inputs.
        progress: Called with a stage, what is done of it, and how much there is.

    Raises:
        ModelError: The model cannot be read, checked or quantized.
        DataError: The data is empty, does not fit the inputs, or is not finite.
        ConfigError: The recipe names what the model does not have, or asks for what does not exist.
    """
    recipe = recipe or Recipe()
    r = Run(recipe, provider, threads, progress)
    start = time.perf_counter()
    with r.stage("load"):
        original = load(model)
        inputs = model_inputs(original)
        calibration = recipe.calibration
        batches = open_data(
            data,
            inputs,
            batch_size=batch_size or calibration.batch_size,
            batch_num=batch_num or calibration.batch_num,
            preprocess=preprocess,
        )
        float_model, plan = _prepare(original, r)
    with r.stage("probe"):
        stream = iter(batches)
        probe = _probe(float_model, stream, r)
    with r.stage("decide"):
        decision = _decide(float_model, plan, probe, r)
        base, plan = decision.model, decision.plan
    with r.stage("observe"):
        statistics = _observe(decision, probe, stream, batches.samples, r)
    with r.stage("choose"):
        params = Parameters(choose_activations(plan, statistics), choose_layers(plan, base))
    params = _correct_bias(base, plan, params, probe, r)
    with r.stage("emit"):
        deploy = emit_qdq(base, plan, params)
        fake_quant = emit_fake_quant(base, plan, params)
    with r.stage("measure"):
        r.quality = compare(probe.reference, run(deploy, probe.feeds, **r.runtime))
        if plan.target.measures_latency:
            feed = {n: x[:1] if _rows_free(deploy) else x for n, x in probe.feeds[0].items()}
            r.latency = measure_latency(original, deploy, feed, **r.runtime)
    r.data_notes = list(batches.notes)
    r.seconds["total"] = time.perf_counter() - start
    summary = summarize(model, original, deploy, plan, r)
    return QuantizedModel(deploy, fake_quant, params, plan, statistics, summary)


def _prepare(original: ir.Model, r: Run) -> tuple[ir.Model, Plan]:
    """Bring the model into shape and decide where quantizers stand."""

    def shape(model: ir.Model) -> tuple[ir.Model, Plan]:
        prepared = prepare(model)
        r.folded = []
        if r.recipe.fusion.batch_norm:
            r.folded = fuse_batchnorm(prepared, skip=r.recipe.fusion.skip)
        return prepared, resolve(r.recipe, prepared)

    prepared, plan = shape(original)
    if plan.needs_wide_types and main_opset(prepared) < WIDE_OPSET:
        prepared, plan = shape(raise_opset(original.clone(), WIDE_OPSET))
    return prepared, plan


def _rows_free(model: ir.Model) -> bool:
    """Whether every input has a free first dimension, so that samples can be sliced."""
    return all(
        v.shape is not None and len(v.shape) > 0 and not isinstance(v.shape[0], int)
        for v in model.graph.inputs
    )


# ---------------------------------------------------------------------------------------------- probe


def _probe(model: ir.Model, stream: Iterator[Batch], r: Run) -> _Probe:
    """Take the first samples, run the float model on them, and keep both."""
    batches: list[Batch] = []
    taken = 0
    for batch in stream:
        batches.append(batch)
        taken += batch.size
        if taken >= PROBE_SAMPLES or _bytes(batches) > PROBE_BYTES:
            break
    if not batches:
        raise DataError("The calibration data is empty: it yields no batch.")
    feeds = list(_slices(batches, free=_rows_free(model)))
    outputs = [v.name or "" for v in model.graph.outputs]
    scored = _scored(model)
    wanted = list(dict.fromkeys([*outputs, *scored]))
    session = open_session(expose(model, wanted), provider=r.provider, threads=r.threads)
    used = [i.name for i in session.get_inputs()]
    values: list[dict[str, Array]] = []
    size = 0
    for feed in feeds:
        results = session.run(wanted, {n: feed[n] for n in used})
        _check_finite(results, wanted)
        values.append(dict(zip(wanted, results, strict=True)))
        size += sum(np.asarray(x).nbytes for x in results)
        if size > PROBE_BYTES and len(values) >= 2:
            break
    feeds = feeds[: len(values)]
    r.probe_samples = sum(_rows(feed) for feed in feeds)
    return _Probe(
        batches,
        feeds,
        [{n: v[n] for n in outputs} for v in values],
        scored,
        [{n: v[n] for n in scored} for v in values],
    )


def _scored(model: ir.Model) -> tuple[str, ...]:
    """Outputs of the model, each with a final Softmax or Sigmoid taken off."""
    names = []
    for value in model.graph.outputs:
        producer = value.producer()
        if producer is not None and producer.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
            source = producer.inputs[0]
            if source is not None and source.producer() is not None:
                value = source
        names.append(value.name or "")
    return tuple(dict.fromkeys(names))


def _rows(feed: Mapping[str, Array]) -> int:
    return max((x.shape[0] for x in feed.values() if x.ndim), default=1)


def _bytes(batches: Iterable[Batch]) -> int:
    return sum(x.nbytes for b in batches for x in b.feeds.values())


def _slices(batches: list[Batch], *, free: bool) -> Iterator[dict[str, Array]]:
    left = PROBE_SAMPLES
    for batch in batches:
        feeds = dict(batch.feeds)
        if not free or batch.size <= 1:
            yield feeds
            left -= batch.size
            continue
        step = min(PROBE_FEED, max(1, batch.size // 2))
        for start in range(0, batch.size, step):
            if left <= 0:
                return
            yield {n: np.ascontiguousarray(x[start : start + step]) for n, x in feeds.items()}
            left -= step


def _check_finite(outputs: list[Array], names: list[str]) -> None:
    for name, x in zip(names, outputs, strict=True):
        x = np.asarray(x)
        if x.dtype.kind == "f" and np.isnan(x).any():
            raise DataError(f"The float model's output '{name}' is NaN for the calibration data.")


def _score(model: ir.Model, plan: Plan, params: Parameters, probe: _Probe, r: Run) -> float:
    """Mean output SQNR of the simulated quantized model on the probe [dB]."""
    simulated = expose(emit_simulated(model, plan, params), probe.scored)
    outputs = run(simulated, probe.feeds, integers=False, **r.runtime)
    return mean_sqnr_db(compare(probe.scored_reference, outputs))


# --------------------------------------------------------------------------------------------- stages


@dataclass(frozen=True, slots=True, eq=False)
class _Decision:
    """What `auto` was decided to be: the model to go on with, and what is known of it already."""

    model: ir.Model
    plan: Plan
    statistics: dict[str, TensorStats] | None = None


def _decide(model: ir.Model, plan: Plan, probe: _Probe, r: Run) -> _Decision:
    """Decide what the recipe leaves to measurement: equalization, and the activation algorithm."""
    pairs: list[Pair] = []
    if plan.target.equalize and r.recipe.equalize != "off":
        quantized = {d.tensor for d in plan.activations}
        pairs = [p for p in find_pairs(model) if p.tensor in quantized]
    models = {"off": model}
    if pairs:
        changed = model.clone()
        done = equalize(changed, pairs, _channels(model, pairs, probe.batches, r))
        models["on"] = changed
        if r.recipe.equalize == "on":
            del models["off"]
            r.equalized = done
    plans = {"": plan}
    if any(d.algorithm.name == "auto" and d.fixed_range is None for d in plan.activations):
        plans = {name: with_algorithm(plan, AlgorithmChoice(name)) for name in AUTO_ALGORITHMS}
    if len(models) * len(plans) == 1:
        return _Decision(next(iter(models.values())), next(iter(plans.values())))
    scores: dict[tuple[str, str], float] = {}
    statistics = {}
    for key, candidate in models.items():
        statistics[key] = observe(candidate, plan.observed_tensors, probe.batches, **r.runtime)
        layers = choose_layers(plan, candidate)
        for name, trial in plans.items():
            params = Parameters(choose_activations(trial, statistics[key]), layers)
            scores[key, name] = _score(candidate, trial, params, probe, r)
    best = max(scores, key=lambda k: scores[k])
    for (key, name), score in scores.items():
        label = ", ".join([*([name] if name else []), f"equalization {key}"])
        r.candidates.append(Candidate("ranges", label, score, (key, name) == best))
    if best[0] == "on":
        r.equalized = done
    return _Decision(models[best[0]], plans[best[1]], statistics[best[0]])


def _channels(
    model: ir.Model, pairs: list[Pair], batches: list[Batch], r: Run
) -> dict[str, ChannelStats]:
    """Extremes and squares of the channels that could be equalised."""
    if not pairs:
        return {}
    axes = {p.tensor: p.axis for p in pairs}
    seen = observe(model, list(axes), batches, channel_axes=axes, **r.runtime)
    return {t: s.channels for t, s in seen.items() if s.channels is not None}


def _observe(
    decision: _Decision, probe: _Probe, stream: Iterator[Batch], samples: int | None, r: Run
) -> dict[str, TensorStats]:
    """Run over all data once; what the probe has shown of this model is not run again."""
    tensors = decision.plan.observed_tensors
    exact = r.recipe.calibration.exact

    def counted(batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            r.samples += batch.size
            r.batches += 1
            yield batch

    def advance(_: int) -> None:
        if r.progress is not None:
            r.progress("observe", r.samples, samples)

    def look(batches: Iterable[Batch]) -> dict[str, TensorStats]:
        return observe(
            decision.model, tensors, counted(batches), exact=exact, progress=advance, **r.runtime
        )

    known = decision.statistics
    if known is None or exact:
        return look(itertools.chain(probe.batches, stream))
    for _ in counted(probe.batches):
        advance(0)
    first = next(stream, None)
    if first is None:
        return known
    more = look(itertools.chain([first], stream))
    return {t: known[t].merge(more[t]) for t in tensors}


def _correct_bias(
    model: ir.Model, plan: Plan, params: Parameters, probe: _Probe, r: Run
) -> Parameters:
    """Correct biases where the recipe says so, or where it makes the outputs better."""
    mode = r.recipe.bias_correction
    if mode == "off" or len(probe.feeds) < 2:
        return params
    with r.stage("bias correction"):
        corrected, report = correct_bias(model, plan, params, probe.feeds, **r.runtime)
        r.corrections = report
        if mode == "on" or not any(c.kept for c in report):
            return corrected
        before, after = (_score(model, plan, p, probe, r) for p in (params, corrected))
        better = after > before
        r.candidates += [
            Candidate("bias correction", "off", before, not better),
            Candidate("bias correction", "on", after, better),
        ]
        if not better:
            r.corrections = [replace(c, kept=False) for c in report]
            return params
        return corrected

"""The road from a float model and data to a quantized model.

    load → prepare → fold → resolve → probe → decide → observe → choose → correct → emit → measure

Where the recipe says `auto`, candidates are built and measured on the probe (the first samples of the
calibration data) against the float model's outputs, and the better one is taken (`calibrant.tuning`); the
summary says what each reached. What a model needs is seen by its own outputs, not guessed from its name.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.analysis.compare import look_at_nodes
from calibrant.analysis.probe import Probe, check_raised, take_probe
from calibrant.choose import choose_parameters, settled
from calibrant.data.batch import Batch
from calibrant.data.open import Batches, open_data
from calibrant.data.sources.random import random_arrays
from calibrant.dialects.asked import RecipeLike, asked
from calibrant.emit.fake_quant import emit_fake_quant
from calibrant.emit.qdq import emit_qdq
from calibrant.errors import DataError
from calibrant.from_model import quantize_loaded
from calibrant.graph.form import ModelForm
from calibrant.graph.load import ModelLike, load, prepare
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.graph.passes.balance import factors_by_layer
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.graph.passes.half import to_half
from calibrant.graph.passes.half_outputs import round_outputs
from calibrant.plan import Plan, resolve
from calibrant.plan.loaded import keeps_scales
from calibrant.plan.parameters import Parameters
from calibrant.recipe import Note
from calibrant.record.recording import Recording
from calibrant.refine.bias_samples import corrected_by_rules
from calibrant.refine.learned_rounding import learn_rounding, learns
from calibrant.refine.nuq import refine_levels, refines
from calibrant.results import NOT_FOR_ACCURACY, QuantizedModel, summarize
from calibrant.run import Progress, Run
from calibrant.runtime import observe as observation
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.measure import Latency, OutputQuality, compare, measure_latency, run
from calibrant.runtime.overflow import half_overflows
from calibrant.runtime.tap import expose
from calibrant.stats import Statistics, TensorStats
from calibrant.tuning.search import prepare_search
from calibrant.tuning.space import asks_wide_types
from calibrant.tuning.strategies.promote import promoted
from calibrant.tuning.strategies.ranges import affordable, corrected, decide

__all__ = ["observe", "quantize"]


def quantize(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None = None,
    *,
    target: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    batch_num: int | None = None,
    preprocess: str | Path | None = None,
    progress: Progress | None = None,
    per_node: bool = False,
    latency: bool = True,
) -> QuantizedModel:
    """Quantize a float model.

    Args:
        model: Path of an ONNX file, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        data: Calibration data: a path, a dict of arrays by input name, or any iterable of feeds. None where
            nothing is calibrated: the recipe keeps the scales that the model has.
        recipe: What is wanted: a path, a text, a mapping (all in any dialect) or a Recipe; None for the
            defaults.
        target: What the model will run on, a name or a file of your own; over the recipe's.
        provider: Execution provider for every run of a model.
        threads: Threads inside an operator; None leaves it to ONNX Runtime.
        batch_size: Samples in a batch; over the recipe's.
        batch_num: Batches to use; over the recipe's.
        preprocess: File that says how raw samples become inputs.
        progress: Called with a stage, what is done of it, and how much there is.
        per_node: Compare every node with the float model's, on the first sample, and the outputs sample by
            sample: `summary["nodes"]` and `summary["distances"]`.
        latency: Time one inference of both models, in turn, for under a second (`summary["latency"]`).

    Raises:
        ModelError: The model cannot be read, checked or quantized.
        DataError: The data is empty, does not fit the inputs, or is not finite.
        ConfigError: The recipe names what the model does not have, or asks for what does not exist.
    """
    recipe = asked(recipe, target)
    r = Run(recipe, provider, threads, progress, per_node=per_node)
    start = time.perf_counter()
    if keeps_scales(recipe):
        return _with_own_scales(model, data, r, batch_size, batch_num, preprocess, latency=latency)
    with r.stage("load"):
        original = load(model)
        batches = _open(original, data, r, batch_size, batch_num, preprocess)
        float_model, plan = _prepare(original, r)
    with r.stage("probe"):
        stream = iter(batches)
        probe = take_probe(float_model, plan, stream, r)
        if main_opset(original) != main_opset(float_model):
            check_raised(original, probe, r)
    with r.stage("decide"):
        base = float_model
        if plan.half:
            base = float_model.clone()
            over = half_overflows(float_model, plan.half, probe.feeds, runtime=r.runtime)
            r.half = to_half(base, plan.half, over)
        chosen = decide(base, plan, probe, r)
        searching = prepare_search(chosen.model, chosen.plan, r)
    with r.stage("observe"):
        every = itertools.chain(probe.batches, stream)
        tensors, axes = chosen.plan.observed_tensors, chosen.plan.channel_axes
        if searching is not None:
            tensors, axes = searching.tensors, dict(searching.axes)
        statistics = _observe(chosen.model, tensors, axes, every, batches.samples, r)
    if searching is not None:
        with r.stage("search"):
            found = searching.choose(chosen.model, chosen.plan, statistics, probe, r)
            chosen = replace(chosen, plan=found)
    with r.stage("choose"):
        base, plan = chosen.model, settled(chosen.plan)
        params = choose_parameters(plan, base, statistics)
        params = replace(params, balance=factors_by_layer(r.balanced))
    half_later: tuple[str, ...] = ()
    if recipe.promote is not None:
        with r.stage("promotion"):
            plan, half_later = promoted(base, plan, params, probe, r)
            if half_later:
                over = half_overflows(base, half_later, probe.feeds, runtime=r.runtime)
                base = base.clone()
                r.half += to_half(base, half_later, over)
            chosen = replace(chosen, model=base, plan=plan)
            params = choose_parameters(plan, base, statistics)
            params = replace(params, balance=factors_by_layer(r.balanced))
    if refines(plan):
        with r.stage("levels"):
            feeds = probe.part(affordable(statistics, r)).feeds
            params, r.refinements = refine_levels(base, plan, params, feeds, runtime=r.runtime)
    if learns(plan):
        with r.stage("learned rounding"):
            params = _learned(base, plan, params, probe, r)
    with r.stage("bias correction"):
        params, notes = corrected_by_rules(replace(chosen, plan=plan), params, probe, r)
        params = corrected(chosen, params, statistics, probe, r)
        plan = replace(plan, notes=(*plan.notes, *notes))
    if recipe.calibration.random:
        plan = replace(plan, notes=(*plan.notes, Note("calibration", NOT_FOR_ACCURACY, True)))
    with r.stage("emit"):
        deploy = emit_qdq(base, plan, params)
        fake_quant = emit_fake_quant(base, plan, params)
        if recipe.calibration.random:
            for written in (deploy, fake_quant):
                written.metadata_props["calibrant.calibration"] = NOT_FOR_ACCURACY
    with r.stage("measure"):
        r.quality = _quality(deploy, probe, r)
        look_at_nodes(base, deploy, plan, params, probe, r)
        if latency:
            r.latency = _latency(float_model, deploy, probe, r)
    r.data_notes = list(batches.notes)
    r.seconds["total"] = time.perf_counter() - start
    choices = r.search.rows if r.search is not None else ()
    form = ModelForm(
        recipe.fusion.batch_norm,
        recipe.fusion.skip,
        tuple(n for n in plan.half if n not in half_later),
        tuple(r.balanced),
        tuple(r.equalized),
        half_outputs=recipe.output_precision == "float16",
        half_later=half_later,
        overflows=tuple((i.node, i.overflows) for i in r.half if i.overflows),
    )
    result = QuantizedModel(
        deploy,
        fake_quant,
        params,
        plan,
        Statistics(statistics),
        choices=choices,
        record=Recording.of(base, form, plan, params),
        original=original,
        float_model=base,
        form=form,
    )
    return replace(result, summary=summarize(model, original, result, r))


def finish(
    model: ModelLike,
    original: ir.Model,
    base: ir.Model,
    plan: Plan,
    params: Parameters,
    form: ModelForm,
    r: Run,
    *,
    data: Any,
    batch_size: int | None,
    preprocess: str | Path | None,
    read: Mapping[str, Mapping[str, Any]],
    latency: bool = True,
) -> QuantizedModel:
    """Write a model whose parameters are known, and measure it where there is data.

    Args:
        model: The float model as it was given.
        original: The same, loaded.
        base: The model in the form that `plan` belongs to.
        plan: Where quantizers stand.
        params: What they are.
        form: What was done to `original` to make `base`.
        r: The run.
        data: Samples to measure on, or None.
        batch_size: Samples in a batch.
        preprocess: File that says how raw samples become inputs.
        read: Fields of a record that are kept as they were read, by key.
        latency: Time both models, where there is data.
    """
    probe = None
    if data is not None:
        with r.stage("probe"):
            batches = _open(original, data, r, batch_size, None, preprocess)
            probe = take_probe(base, plan, iter(batches), r)
            r.data_notes = list(batches.notes)
    with r.stage("emit"):
        deploy = emit_qdq(base, plan, params)
        fake_quant = emit_fake_quant(base, plan, params)
    if probe is not None:
        with r.stage("measure"):
            r.quality = _quality(deploy, probe, r)
            if latency:
                r.latency = _latency(base, deploy, probe, r)
    look_at_nodes(base, deploy, plan, params, probe, r)
    r.seconds["total"] = sum(r.seconds.values())
    record = Recording.of(base, form, plan, params, read)
    result = QuantizedModel(
        deploy,
        fake_quant,
        params,
        plan,
        Statistics({}),
        record=record,
        original=original,
        float_model=base,
        form=form,
    )
    return replace(result, summary=summarize(model, original, result, r))


def _learned(model: ir.Model, plan: Plan, params: Parameters, probe: Probe, r: Run) -> Parameters:
    """Learn the rounding of the weights that ask for it."""

    def advance(done: int, layers: int) -> None:
        if r.progress is not None:
            r.progress("learned rounding", done, layers)

    params, r.learned = learn_rounding(
        model, plan, params, probe.feeds, progress=advance, runtime=r.runtime
    )
    return params


def _with_own_scales(
    model: ModelLike,
    data: Any,
    r: Run,
    batch_size: int | None,
    batch_num: int | None,
    preprocess: str | Path | None,
    *,
    latency: bool,
) -> QuantizedModel:
    """Write a trained model with the scales it has; data, if there is any, shows how good it is."""
    start = time.perf_counter()
    with r.stage("load"):
        original = load(model, quantizers=True)
        batches = (
            _open(original, data, r, batch_size, batch_num, preprocess)
            if data is not None
            else None
        )
    result, probe = quantize_loaded(original, batches if batches is not None else (), r)
    assert result.float_model is not None
    if probe is not None:
        with r.stage("measure"):
            r.quality = _quality(result.deploy, probe, r)
            if latency:
                r.latency = _latency(result.float_model, result.deploy, probe, r)
    look_at_nodes(result.float_model, result.deploy, result.plan, result.params, probe, r)
    r.data_notes = list(batches.notes) if batches is not None else []
    r.seconds["total"] = time.perf_counter() - start
    return replace(result, summary=summarize(model, original, result, r))


def _latency(float_model: ir.Model, deploy: ir.Model, probe: Probe, r: Run) -> Latency:
    """Time both models on one sample, or on one batch where the model has a fixed one."""
    return measure_latency(float_model, deploy, probe.first, runtime=r.runtime)


def _quality(deploy: ir.Model, probe: Probe, r: Run) -> list[OutputQuality]:
    """Compare the deployed model's outputs with the float ones.

    Where one cannot be compared (labels, boxes that are left after a selection), the tensors that it is
    selected from are compared besides.
    """
    quality = compare(probe.reference, run(deploy, probe.feeds, runtime=r.runtime))
    compared = {q.name for q in quality}
    r.not_compared = [v.name or "" for v in deploy.graph.outputs if v.name not in compared]
    if not r.not_compared or set(probe.scored) <= compared:
        return quality
    tapped = run(expose(deploy, probe.scored), probe.feeds, runtime=r.runtime)
    inner = compare(probe.scored_reference, tapped)
    return quality + [q for q in inner if q.name not in compared]


def observe(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None = None,
    *,
    target: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    batch_num: int | None = None,
    preprocess: str | Path | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Return the statistics of every tensor that the recipe quantizes, from one pass over the data.

    Arguments and errors are those of `quantize`. Statistics of parts of the data merge to those of the
    whole, bit for bit.
    """
    r = Run(asked(recipe, target), provider, threads, progress)
    original = load(model)
    batches = _open(original, data, r, batch_size, batch_num, preprocess)
    float_model, plan = _prepare(original, r)
    tensors, axes = plan.observed_tensors, plan.channel_axes
    searching = prepare_search(float_model, plan, r)
    if searching is not None:
        tensors, axes = searching.tensors, dict(searching.axes)
    return Statistics(_observe(float_model, tensors, axes, batches, batches.samples, r))


def _open(
    model: ir.Model,
    data: Any,
    r: Run,
    batch_size: int | None,
    batch_num: int | None,
    preprocess: str | Path | None,
) -> Batches:
    """Open the data; arguments of the call are over the recipe's."""
    calibration = r.recipe.calibration
    inputs = model_inputs(model)
    notes = []
    if calibration.random:
        if data is not None:
            notes.append("The recipe asks for random values: the data that was given is not read.")
        data, preprocess = random_arrays(inputs), None
    elif data is None and calibration.sources:
        data = calibration.sources
        notes.append(f"Data as the configuration names it: {', '.join(s.path for s in data)}.")
    elif data is None:
        raise DataError(
            "There is no calibration data. Give some (--data), or name it in the recipe; only a recipe that "
            "keeps the scales which the model has does without."
        )
    elif calibration.sources:
        named = ", ".join(s.path for s in calibration.sources)
        notes.append(
            f"The data that was given is used, not what the configuration names ({named})."
        )
    batches = open_data(
        data,
        inputs,
        batch_size=batch_size if batch_size is not None else calibration.batch_size,
        batch_num=batch_num if batch_num is not None else calibration.batch_num,
        preprocess=preprocess,
    )
    batches.notes[:0] = notes
    return batches


def _prepare(original: ir.Model, r: Run) -> tuple[ir.Model, Plan]:
    """Bring the model into shape and decide where quantizers stand."""

    def shape(model: ir.Model) -> tuple[ir.Model, Plan]:
        prepared = prepare(model)
        r.folded = []
        if r.recipe.fusion.batch_norm:
            fusion = r.recipe.fusion
            r.folded = fuse_batchnorm(prepared, skip=fusion.skip, origin=fusion.origin)
        if r.recipe.output_precision == "float16":
            round_outputs(prepared)
        return prepared, resolve(r.recipe, prepared)

    prepared, plan = shape(original)
    wide = plan.needs_wide_types or asks_wide_types(r.recipe)
    if wide and main_opset(prepared) < WIDE_OPSET:
        prepared, plan = shape(raise_opset(original.clone(), WIDE_OPSET))
    return prepared, plan


def _observe(
    model: ir.Model,
    tensors: Sequence[str],
    axes: Mapping[str, Sequence[int]],
    batches: Iterable[Batch],
    samples: int | None,
    r: Run,
) -> dict[str, TensorStats]:
    """Run over all data once."""

    def counted() -> Iterator[Batch]:
        for batch in batches:
            r.samples += batch.size
            r.batches += 1
            yield batch

    def advance(_: int) -> None:
        if r.progress is not None:
            r.progress("observe", r.samples, samples)

    return observation.observe(
        model,
        tensors,
        counted(),
        per_channel=axes,
        exact=r.recipe.calibration.exact,
        progress=advance,
        runtime=r.runtime,
    )

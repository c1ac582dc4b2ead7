"""Rank the layers of a network by what the model's outputs lose through each.

Two questions are answered: what is lost when one layer alone is quantized, and what is won back when all but one are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from calibrant.analysis.alone.feeds import Feeds, take_feeds
from calibrant.analysis.alone.journal import Journal
from calibrant.analysis.alone.losses import Loss, Losses
from calibrant.analysis.alone.measuring import MEMORY_BYTES, Question, measure
from calibrant.analysis.alone.metric import MetricLike, RankedBy, ranked_by
from calibrant.analysis.probe import rows_are_free, take_probe
from calibrant.analysis.readings import (
    HalfAlone,
    LeftInFloat,
    LeftInSingle,
    QuantizedAlone,
    Reading,
)
from calibrant.data.batch import Batch
from calibrant.diagnose.bouts import Bout, Effort, Mode, Unit, ranked
from calibrant.diagnose.ranking import Ranking
from calibrant.diagnose.why import WHY, causes_of
from calibrant.dialects.asked import RecipeLike, asked
from calibrant.emit.qdq import emit_simulated
from calibrant.errors import ConfigValueError, ModelError, did_you_mean
from calibrant.graph.load import ModelLike
from calibrant.graph.modules import as_model
from calibrant.graph.passes.half_nodes import round_layers
from calibrant.plan.loaded import keeps_scales
from calibrant.progress import Callback, Progress
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.runtime.runtime import Runtime
from calibrant.solution import Solution
from calibrant.tuning.road import solve
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store

__all__ = [
    "PLAIN",
    "PLANNED",
    "PRECISIONS",
    "SAMPLES",
    "causes_of_worst",
    "checked",
    "measured_layers",
    "opened",
    "ranking_of",
    "sensitivity",
    "solved_in",
]

#: Precisions that layers can be measured in.
PRECISIONS = ("int8", "int16", "int4", "float16")

#: What the precision is called where each layer has the one that its plan gives it.
PLANNED = "as planned"

#: Samples that layers are measured on where nothing else is asked for.
SAMPLES = 16

#: Passes of the samples through the model that a layer may cost on average.
BUDGET = 0.45

#: The defaults, with nothing tried: a diagnosis of the network as it is, from one pass over the data.
PLAIN = Recipe(
    (Rule(AllNodes(), Settings(activation=AlgorithmChoice("mse")), "defaults"),),
    equalize="off",
    bias_correction="off",
)


def sensitivity(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None = None,
    precision: str | Sequence[str] = "int8",
    metric: MetricLike = "sqnr_db",
    *,
    example: Any = None,
    fix: Mapping[str, Any] | None = None,
    mode: Mode = "alone",
    cost: Unit = "macs",
    layers: Sequence[str] | None = None,
    samples: int | None = SAMPLES,
    budget: float | None = BUDGET,
    out: str | Path | None = None,
    memory_bytes: int = MEMORY_BYTES,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    progress: Callback | None = None,
) -> Ranking:
    """Rank layers by what the model's outputs lose when each is quantized alone, or is left in float alone.

    The float model runs once. A layer costs what lies behind it, and layers that lose little are measured on fewer samples
    where the budget asks for it; their scores are then estimated, and say so.

    Args:
        model: The float model, as `calibrant.quantize` takes it.
        data: Samples, as `calibrant.quantize` takes them: all of them choose the scales, the first `samples` rank layers.
        recipe: How scales are chosen; None for the defaults with nothing tried (ranges by `mse`).
        precision: `int8`, `int16`, `int4` (weights 4 bits, activations 8) or `float16`, or several. It is over the
            recipe's.
        metric: What layers are ranked by: a name of `calibrant.analysis.metrics`, `module:function`, or a function
            (mine, truth) of two arrays of one sample that returns a number. A function may say `higher_is_better`.
        example: What a module of torch is called with, as for `calibrant.quantize`.
        fix: Inputs that are the same in every use, as for `calibrant.quantize`.
        mode: `alone`: one layer is quantized, all else float; `all-but`: one layer is float, all else quantized.
        cost: What `cost` counts: `macs`, multiplications of one sample, or `bytes` of the weight in the precision.
        layers: Layers to measure; None for all that are quantized.
        samples: How many samples layers are ranked on; None for all.
        budget: Passes of these samples through the model that a layer may cost on average; None measures each layer on
            all samples.
        out: Folder that figures are written into as they come (`sensitivity.jsonl`). A run that was interrupted goes on
            from there; one of another model, data or recipe takes nothing from it.
        memory_bytes: Activations that are kept at a time, at most.
        batch_size: Samples in a batch of the calibration.
        preprocess: File that says how stored samples become inputs.
        provider: Where models run.
        threads: Threads inside an operator.
        progress: Called with a stage, what is done of it, and how much there is.

    Raises:
        ModelError: The model cannot be read, quantized or run.
        DataError: The data is empty or does not fit.
        ConfigError: A precision, a metric, a layer or an option that does not exist.
        OutputError: `out` cannot be written.
    """
    by = ranked_by(metric)
    precisions = checked(precision, mode, cost, samples, budget, memory_bytes)
    store, wanted = opened(
        as_model(model, example, data),
        data,
        recipe,
        fix,
        runtime=Runtime(provider, threads),
        batch_size=batch_size,
        preprocess=preprocess,
        progress=progress,
    )
    journal = Journal(out)
    try:
        bouts = [
            _bout(store, wanted, p, by, mode, layers, samples, budget, journal, memory_bytes)
            for p in precisions
        ]
    finally:
        journal.close()
    return ranked(store.model, bouts, by, mode, cost, budget, journal.reused)


def opened(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None,
    fix: Mapping[str, Any] | None,
    *,
    runtime: Runtime,
    batch_size: int | None,
    preprocess: str | Path | None,
    progress: Callback | None,
) -> tuple[Store, Recipe]:
    """Return what is known of a model and its data, nothing yet, and the recipe that layers are ranked with.

    Arguments are those of `sensitivity`.

    Raises:
        ConfigError: A recipe that cannot be read, or that keeps the scales that the model has.
    """
    wanted = asked(PLAIN if recipe is None else recipe, None, fix)
    if keeps_scales(wanted):
        raise ConfigValueError(
            "The recipe keeps the scales that the model has; layers are ranked with scales that are chosen from data."
        )
    store = Store(
        model,
        data,
        runtime=runtime,
        batch_size=batch_size,
        preprocess=preprocess,
        progress=Progress(progress),
        shared=True,
    )
    return store, wanted


def ranking_of(
    solution: Solution,
    stream: Iterator[Batch],
    *,
    name: str,
    samples: int | None = SAMPLES,
    metric: MetricLike = "sqnr_db",
    budget: float | None = BUDGET,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress,
    runtime: Runtime,
) -> Ranking:
    """Rank the layers of a solution that is there already, each quantized alone as its plan has it; see `sensitivity`.

    Args:
        solution: What was decided.
        stream: Samples; no more of it is read than layers are ranked on.
        name: What the ranking calls the model.
        samples: How many samples layers are ranked on; None for all.
        metric: What layers are ranked by.
        budget: Passes of these samples through the model that a layer may cost on average.
        memory_bytes: Activations that are kept at a time, at most.
        progress: Told what is going on.
        runtime: Where models run.
    """
    by = ranked_by(metric)
    model = solution.model
    feeds = take_feeds(stream, samples, free=rows_are_free(model))
    scored = take_probe(model, iter(feeds.batches), 1, runtime).scored
    reading = QuantizedAlone(model, solution.plan, solution.params)
    losses = Losses(by, regained=False)
    journal = Journal(None)
    with progress.stage("layers"):
        measured = measure(
            Question(model, model, reading, measured_layers(solution, None), scored),
            feeds,
            by,
            losses.worst,
            budget=budget,
            journal=journal,
            memory=memory_bytes,
            progress=progress,
            runtime=runtime,
        )
    found = losses.all(measured)
    causes = causes_of_worst(solution, found, feeds, runtime)
    bout = Bout(PLANNED, solution, Effort.of(measured), found, losses.base(measured), 0.0, causes)
    return ranked(name, [bout], by, "alone", "macs", budget, journal.reused)


# ------------------------------------------------------------------------------------------ one precision


def _bout(
    store: Store,
    recipe: Recipe,
    precision: str,
    metric: RankedBy,
    mode: Mode,
    layers: Sequence[str] | None,
    samples: int | None,
    budget: float | None,
    journal: Journal,
    memory: int,
) -> Bout:
    every, solved, solving = solved_in(store, recipe, precision)
    solution = solved.solution
    probe = solved.probe
    assert probe is not None
    names = measured_layers(solution, layers)
    reading: Reading
    alone = QuantizedAlone(solution.model, solution.plan, solution.params)
    base, reading = solution.model, alone
    if precision == "float16":
        reading = half = HalfAlone(solution.model)
        if mode == "all-but":
            base = solution.model.clone()
            round_layers(base, {d.node for d in solution.plan.layers if d.quantized})
            reading = LeftInSingle(half, base)
    elif mode == "all-but":
        base = emit_simulated(solution.model, solution.plan, solution.params)
        reading = LeftInFloat(alone, base)
    stream = store.samples(every).first()
    feeds = take_feeds(stream, samples, free=rows_are_free(solution.model))
    losses = Losses(metric, regained=mode == "all-but")
    with store.progress.stage(f"layers in {precision}"):
        measured = measure(
            Question(solution.model, base, reading, names, probe.scored),
            feeds,
            metric,
            losses.worst,
            budget=budget,
            journal=journal,
            memory=memory,
            progress=store.progress,
            runtime=store.runtime,
        )
    found = losses.all(measured)
    causes = (
        {} if precision == "float16" else causes_of_worst(solution, found, feeds, store.runtime)
    )
    base_score = losses.base(measured)
    return Bout(precision, solution, Effort.of(measured), found, base_score, solving, causes)


def solved_in(store: Store, recipe: Recipe, precision: str) -> tuple[Recipe, Solved, float]:
    """Return the recipe with all layers in a precision, its solution, and the samples that choosing the scales took."""
    before = store.work.samples
    settings = Settings.of_precision("int8" if precision == "float16" else precision)
    every = recipe.with_rules(Rule(AllNodes(), settings, f"precision: {precision}"))
    every = replace(every, promote=None)
    solved = solve(store, every)
    return every, solved, store.work.samples - before


def causes_of_worst(
    solution: Solution, found: Mapping[str, Loss], feeds: Feeds, runtime: Runtime
) -> dict[str, str]:
    """Return why the worst layers lose, from the first sample."""
    worst = sorted(found, key=lambda n: -found[n].loss)[:WHY]
    first = feeds.batches[0]
    return causes_of(solution, worst, first.part(0, 1) if feeds.rows else first, runtime)


def measured_layers(solution: Solution, asked_for: Sequence[str] | None) -> tuple[str, ...]:
    """Return the layers that are measured, in graph order."""
    quantized = {d.node for d in solution.plan.layers if d.quantized}
    if not quantized:
        raise ModelError("No layer of the model is quantized, so there is none to rank.")
    for name in asked_for or ():
        if name in quantized:
            continue
        reasons = {d.node: d.reason for d in solution.plan.layers}
        if reasons.get(name):
            raise ConfigValueError(f"Layer '{name}' is not quantized: {reasons[name]}")
        raise ConfigValueError(
            f"Layer '{name}' is none of the {len(quantized)} quantized layers of the model."
            + did_you_mean(name, quantized)
        )
    wanted = quantized if asked_for is None else quantized & set(asked_for)
    return tuple(n.name or "" for n in solution.model.graph if n.name in wanted)


def checked(
    precision: str | Sequence[str],
    mode: str,
    cost: str,
    samples: int | None,
    budget: float | None,
    memory: int,
) -> list[str]:
    """Check the arguments of `sensitivity`, and return the precisions, each once."""
    found = [precision] if isinstance(precision, str) else list(precision)
    for name in found:
        if name not in PRECISIONS:
            raise ConfigValueError(
                f"Unknown precision '{name}'. Known: {', '.join(PRECISIONS)}."
                + did_you_mean(str(name), PRECISIONS)
            )
    if not found:
        raise ConfigValueError(f"There is no precision. Known: {', '.join(PRECISIONS)}.")
    for value, kind, what in ((mode, Mode, "mode"), (cost, Unit, "cost")):
        if value not in get_args(kind):
            raise ConfigValueError(
                f"{what} is '{value}'; it is {' or '.join(get_args(kind))}."
                + did_you_mean(str(value), get_args(kind))
            )
    if samples is not None and samples < 1:
        raise ConfigValueError(f"samples is {samples}; it is 1 or more.")
    if budget is not None and not budget > 0:
        raise ConfigValueError(f"budget is {budget}; it is above 0.")
    if memory < 1:
        raise ConfigValueError(f"memory_bytes is {memory}; it is 1 or more.")
    return list(dict.fromkeys(found))


# ------------------------------------------------------------------------------------------ the ranking

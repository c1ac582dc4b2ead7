"""Rank the layers of a network by what the model's outputs lose through each.

Two questions are answered: what is lost when one layer alone is quantized, and what is won back when all but one are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import onnx_ir as ir

from calibrant.analysis.alone.feeds import Feeds, take_feeds
from calibrant.analysis.alone.journal import Journal
from calibrant.analysis.alone.losses import Loss, Losses
from calibrant.analysis.alone.measuring import MEMORY_BYTES, Measured, Question, measure
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
from calibrant.diagnose.ranking import LayerLoss, Ranking
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
from calibrant.report.evidence import network_of
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
    "Bout",
    "Effort",
    "Mode",
    "Unit",
    "causes_of_worst",
    "checked",
    "measured_layers",
    "ranked",
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

Mode = Literal["alone", "all-but"]
Unit = Literal["macs", "bytes"]

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
    model = as_model(model, example, data)
    wanted = asked(PLAIN if recipe is None else recipe, None, fix)
    if keeps_scales(wanted):
        raise ConfigValueError(
            "The recipe keeps the scales that the model has; layers are ranked with scales that are chosen from data."
        )
    store = Store(
        model,
        data,
        runtime=Runtime(provider, threads),
        batch_size=batch_size,
        preprocess=preprocess,
        progress=Progress(progress),
        shared=True,
    )
    journal = Journal(out)
    try:
        bouts = [
            _bout(store, wanted, p, by, mode, layers, samples, budget, journal, memory_bytes)
            for p in precisions
        ]
    finally:
        journal.close()
    return ranked(model, bouts, by, mode, cost, budget, journal.reused)


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


@dataclass(frozen=True, slots=True, eq=False)
class Effort:
    """What a measurement took.

    Args:
        macs: Multiplications of each layer for one sample.
        first: Samples that all layers were measured on.
        samples: All samples.
        passes: Work, in passes of all samples through the model.
        node_passes: The same by nodes that were run.
    """

    macs: Mapping[str, float]
    first: int
    samples: int
    passes: float
    node_passes: float

    @classmethod
    def of(cls, measured: Measured) -> Effort:
        """Return what partial runs took."""
        m = measured
        return cls(m.macs, m.first, m.samples, m.passes, m.node_passes)


@dataclass(frozen=True, slots=True, eq=False)
class Bout:
    """All layers in one precision.

    Args:
        precision: Its name.
        solution: The model with all layers in it.
        measured: What it took.
        losses: Loss by layer.
        baseline: Score of the model that layers are changed in.
        solving: Samples that choosing the scales took.
        causes: Why the worst layers lose.
    """

    precision: str
    solution: Solution
    measured: Effort
    losses: dict[str, Loss]
    baseline: float
    solving: float
    causes: dict[str, str]


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


def ranked(
    model: ModelLike,
    bouts: Sequence[Bout],
    metric: RankedBy,
    mode: Mode,
    unit: Unit,
    budget: float | None,
    reused: int,
) -> Ranking:
    """Return what was measured as a ranking; arguments as for `sensitivity`, `reused` figures of an earlier run among them."""
    rows = [row for bout in bouts for row in _rows(bout, unit)]
    rows.sort(key=lambda r: -r.loss)
    per_cost = sorted(range(len(rows)), key=lambda i: -rows[i].loss_per_cost)
    place = {index: rank for rank, index in enumerate(per_cost, 1)}
    rows = [replace(r, rank=i + 1, rank_per_cost=place[i]) for i, r in enumerate(rows)]
    samples = bouts[0].measured.samples
    estimated = sum(r.estimated for r in rows)
    notes = []
    if estimated:
        notes.append(
            f"{estimated} of {len(rows)} layers lost little on the first {bouts[0].measured.first} samples and were not "
            f"measured on the other {samples - bouts[0].measured.first}; their scores are estimated. A larger budget, or "
            "none, measures more."
        )
    work: dict[str, float | int | None] = {
        "passes": sum(b.measured.passes for b in bouts),
        "allowed": None if budget is None else budget * len(rows),
        "node_passes": sum(b.measured.node_passes for b in bouts),
        "reused": reused,
        "solving": sum(b.solving for b in bouts) / samples,
    }
    baseline = {b.precision: b.baseline for b in bouts} if mode == "all-but" else {}
    name = str(model) if isinstance(model, str | Path) else "(in memory)"
    said = (*dict.fromkeys(n for b in bouts for n in _notes(b)), *notes)
    network = network_of(bouts[0].solution.model)
    return Ranking(
        name, mode, metric.name, unit, samples, tuple(rows), baseline, work, said, network
    )


def _notes(bout: Bout) -> list[str]:
    return [f"{bout.precision}: {n.message}" for n in bout.solution.plan.notes]


def _rows(bout: Bout, unit: Unit) -> list[LayerLoss]:
    rows = []
    types = {n.name: n.op_type for n in bout.solution.model.graph}
    sizes = _bytes(bout)
    for name, found in bout.losses.items():
        cost = bout.measured.macs[name] if unit == "macs" else sizes.get(name, 0)
        per = found.loss / cost if cost else math.copysign(math.inf, found.loss)
        rows.append(
            LayerLoss(
                name,
                types[name],
                bout.precision,
                found.score,
                found.loss,
                cost,
                per if found.loss else 0.0,
                0,
                0,
                bout.measured.first if found.estimated else bout.measured.samples,
                found.estimated,
                found.metrics,
                found.parts,
                bout.causes.get(name, ""),
            )
        )
    return rows


def _bytes(bout: Bout) -> dict[str, float]:
    """Return the bytes of each weight in the precision."""
    found: dict[str, float] = {}
    for w in bout.solution.plan.weights:
        bits = 16 if bout.precision == "float16" else w.spec.bits
        value = bout.solution.model.graph.initializers[w.weight]
        found[w.layer] = _size(value) * bits / 8
    return found


def _size(value: ir.Value) -> int:
    assert value.const_value is not None
    return int(value.const_value.size)

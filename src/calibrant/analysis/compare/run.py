"""Compare two models: find what belongs together, run both, and tell what each layer is off by."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.alone.metric import ranked_by
from calibrant.analysis.compare.births import Births
from calibrant.analysis.compare.forms import float_forms
from calibrant.analysis.compare.info import Surroundings, read_info
from calibrant.analysis.compare.losing import SAMPLES as ALONE
from calibrant.analysis.compare.losing import Harm, lost_by
from calibrant.analysis.compare.mapping import Mapped, map_layers
from calibrant.analysis.compare.mapping import Mapping as Layers
from calibrant.analysis.compare.outputs import Outputs
from calibrant.analysis.compare.reads import Reads
from calibrant.analysis.compare.report import LOST_INPUT, LayerRow, Report
from calibrant.analysis.compare.rescaled import as_rescaled
from calibrant.analysis.compare.sides import Side, opened
from calibrant.analysis.compare.stream import Pair, Streams
from calibrant.analysis.compare.tally import Tally
from calibrant.analysis.metrics import MEASURES
from calibrant.analysis.preparations import between
from calibrant.analysis.probe import rows_are_free
from calibrant.data.batch import Batch
from calibrant.data.open import open_data
from calibrant.errors import ConfigError, ConfigValueError, DataError, ModelError, did_you_mean
from calibrant.graph.load import ModelLike, load
from calibrant.graph.modules import as_model
from calibrant.graph.passes.fix_inputs import fix_inputs
from calibrant.progress import Callback, Progress
from calibrant.recipe.fixed import as_fixed
from calibrant.record.read import Record, read_record
from calibrant.report.evidence import network_of
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.runtime import Runtime

__all__ = ["SAMPLES", "compare"]

Array = npt.NDArray[Any]

#: Samples that are compared where nothing else is asked for.
SAMPLES = 16


def compare(
    float_model: ModelLike,
    quantized: ModelLike,
    data: Any,
    *,
    example: Any = None,
    fix: Mapping[str, Any] | None = None,
    record: str | Path | Record | None = None,
    info: str | Path | None = None,
    samples: int | None = SAMPLES,
    metric: str = "sqnr_db",
    limits: Mapping[str, float | None] | None = None,
    digits: int | None = None,
    born: bool = True,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    quantized_provider: str | None = None,
    threads: int | None = None,
    progress: Callback | None = None,
) -> Report:
    """Compare a quantized model with its float model, layer by layer; or any model with another.

    Layers are found by name, by structure, and by what the quantizer wrote; what cannot be found is listed with the reason.
    Memory does not grow with samples or layers.

    Args:
        float_model: The model that is right; a module of torch, too.
        quantized: The other one: of calibrant, with QuantizeLinear and DequantizeLinear of any tool, a fake-quant model of
            the Ascend tools, or a float model.
        data: Samples, as `calibrant.quantize` takes them.
        example: What a module of torch is called with, as for `calibrant.quantize`.
        fix: Inputs that are the same in every use, as for `calibrant.quantize`; give those that the quantized model was
            made with.
        record: The record of the quantization, which says what was done to the float model; None takes `record.txt`
            beside the quantized file, if there is one.
        info: A quant-info file, which says what nodes stand around a layer; None takes `quant_info.json` beside the
            quantized file, if there is one.
        samples: How many to compare; None for all.
        metric: What the report is ordered by, a name of `calibrant.analysis.metrics`: those layers come first by which
            alone the outputs lose most (`Report.worst_first`).
        limits: Limit by metric, over the published ones (cosine similarity above 0.99, relative Euclidean distance below
            0.05, divergence below 0.005); None for no limit.
        digits: Demand that values agree to so many decimal digits, and count those that do not.
        born: Say how much of each layer's error arrived, how much is born in it, and of what, and what the outputs lose by
            it; costs one more run, each layer some times more by itself, and for the worst 64 places a run of what lies
            behind them on 8 samples.
        batch_size: Samples in a run; None takes 1 where the model allows it.
        preprocess: File that says how stored samples become inputs.
        provider: Where the first model runs.
        quantized_provider: Where the second one runs; None for the same.
        threads: Threads inside an operator.
        progress: Called with a stage, what is done of it, and how much there is.

    Raises:
        ModelError: A model cannot be read or run, or the two share no inputs or no outputs.
        DataError: The data is empty or does not fit.
        ConfigError: A metric, a limit, or a record is not what it should be.
    """
    bounds = _limits(metric, limits)
    if digits is not None and not 0 <= digits <= 15:
        raise ConfigValueError(f"digits is {digits}; it lies in [0, 15].")
    if samples is not None and samples < 1:
        raise ConfigValueError(f"samples is {samples}; it is 1 or more.")
    stages = Progress(progress)
    runtimes = (Runtime(provider, threads), Runtime(quantized_provider or provider, threads))
    notes: list[str] = []
    with stages.stage("map"):
        original = load(as_model(float_model, example, data), quantizers=True, integers=True)
        if fix:
            original = fix_inputs(original, {f.name: f.value for f in as_fixed(fix, "fix")})
        other = load(quantized, quantizers=True, integers=True)
        mine = opened(other)
        forms = _forms(original, mine, record, quantized, notes)
        around = _around(quantized, info, notes)
        truth, layers = _mapped(forms, mine, around, notes)
        if layers.other_weights:
            notes.append(_other_weights(layers.other_weights))
        pair = Pair(truth, mine, layers.inputs, runtimes)
        _check_inputs(pair)
        free = rows_are_free(truth) and rows_are_free(mine)
        size = batch_size if batch_size is not None else 1 if free else None
        batches = open_data(data, model_inputs(original), batch_size=size, preprocess=preprocess)
    tallies = {layer: Tally(metric, digits) for layer in layers.layers}
    births = None
    if born:
        sides = Side(truth), Side(mine, around.in_front, around.behind)
        births = Births(Reads(*sides, layers.layers), runtimes[1])
    streams = Streams(pair, layers.layers, births=births)
    outputs = Outputs(original, other, pair, layers.outputs, lambda: Tally(metric, digits))
    first: list[Batch] = []
    with stages.stage("compare"):

        def use(layer: Mapped, sample: str, x: Array, y: Array, alone: Array | None) -> None:
            tallies[layer].add(sample, x, y, alone)

        def advance(batch: Batch) -> None:
            if sum(b.size for b in first) < ALONE:
                first.append(batch)
            outputs.add(batch)
            stages.step(outputs.samples, samples)

        streams.run(batches, samples, use, advance)
    if not outputs.samples:
        raise DataError("The data is empty: it yields no batch.")
    compared = tuple(outputs.rows(bounds))
    notes += outputs.beside({x.truth: tallies[x].metrics["sqnr_db"] for x in layers.layers})
    order = {n.name: i for i, n in enumerate(truth.graph)}
    prepared = _prepared(births, Side(truth)) if births is not None else {}
    notes += prepared.values()
    rows = [
        _layer(order.get(x.name, 0), x, tallies[x], bounds, births, prepared)
        for x in layers.layers
    ]
    if births is not None:
        lost, missing = lost_by(
            truth,
            births.reads,
            {x: _harm(row, births, x) for x, row in zip(layers.layers, rows, strict=True)},
            first,
            ranked_by(metric),
            free=free,
            progress=stages,
            runtime=runtimes[0],
        )
        notes += missing
        rows = [
            replace(r, loss=lost[r.name].loss, alone=lost[r.name].metrics) if r.name in lost else r
            for r in rows
        ]
    spoiled = _spoiled(births, layers, rows, prepared) if births is not None else set()
    rows = [replace(r, lost_input=True) if r.name in spoiled else r for r in rows]
    return Report(
        _name(float_model),
        _name(quantized),
        outputs.samples,
        metric,
        bounds,
        tuple(rows),
        compared,
        layers.unmapped,
        layers.only_mine,
        (*notes, *batches.notes, *streams.notes, *outputs.notes),
        network_of(truth),
    )


def _limits(metric: str, limits: Mapping[str, float | None] | None) -> dict[str, float | None]:
    """Return the limit of each metric that has one."""
    for name in (metric, *(limits or {})):
        if name not in MEASURES:
            raise ConfigValueError(
                f"Unknown metric '{name}'. Known: {', '.join(MEASURES)}."
                + did_you_mean(name, MEASURES)
            )
    found = {m.name: m.limit for m in MEASURES.values() if m.limit is not None}
    return {n: v for n, v in {**found, **(limits or {})}.items() if v is not None}


def _beside(model: object, given: str | Path | None, name: str) -> Path | None:
    """Return the file that was given, or the one of this name beside a model's file."""
    if given is not None:
        return Path(given)
    if isinstance(model, str | Path):
        there = Path(model).parent / name
        return there if there.is_file() else None
    return None


def _around(quantized: object, info: str | Path | None, notes: list[str]) -> Surroundings:
    """Return what the quant-info file says; one that was found and is of another tool is left out, and noted."""
    path = _beside(quantized, info, "quant_info.json")
    try:
        return read_info(path)
    except ConfigError as e:
        if info is not None:
            raise
        notes.append(f"'{path}' was not used: {e}")
        return Surroundings()


def _forms(
    original: ir.Model,
    mine: ir.Model,
    record: str | Path | Record | None,
    quantized: object,
    notes: list[str],
) -> list[ir.Model]:
    """Return forms of the float model; a record that was found and is of another model is left out, and noted."""
    if isinstance(record, Record):
        return list(float_forms(original, mine, record))
    path = _beside(quantized, record, "record.txt")
    if path is None:
        return list(float_forms(original, mine, None))
    try:
        return list(float_forms(original, mine, read_record(path)))
    except ConfigError as e:
        if record is not None:
            raise
        notes.append(f"'{path}' was not used: {e}")
        return list(float_forms(original, mine, None))


def _mapped(
    forms: Sequence[ir.Model], mine: ir.Model, around: Surroundings, notes: list[str]
) -> tuple[ir.Model, Layers]:
    """Return the form of the float model whose layers are found best, its channels rescaled as the other model's are, and the layers."""
    other = Side(mine, around.in_front, around.behind)
    found = [(form, map_layers(Side(form), other)) for form in forms]
    truth, layers = min(found, key=lambda x: len(x[1].unmapped) + len(x[1].only_mine))
    rescaled, tensors = as_rescaled(truth, other, layers)
    if not tensors:
        return truth, layers
    more = f" and of {len(tensors) - 1} more" if len(tensors) > 1 else ""
    notes.append(
        f"The second model has other factors on the channels of tensor '{tensors[0]}'{more}: its weights show that they were rescaled. "
        "The float model is compared with its channels rescaled in the same way, which does not change its outputs. The factors are "
        "estimates; the record of the quantized model has the exact ones (--record)."
    )
    return rescaled, map_layers(Side(rescaled), other)


def _other_weights(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"The weights of layer '{names[0]}'{more} are others than the float model's, by more than quantization explains. "
        "Where a quantizer rescaled channels, give its record, or the figures of such layers say nothing."
    )


def _check_inputs(pair: Pair) -> None:
    known = set(pair.inputs.values())
    for value in Side(pair.mine).inputs:
        if value.name not in known:
            raise ModelError(
                f"Input '{value.name}' of the second model belongs to none of the first one's: "
                f"{', '.join(v.name or '' for v in Side(pair.truth).inputs)}."
            )


def _layer(
    index: int,
    layer: Mapped,
    tally: Tally,
    limits: Mapping[str, float | None],
    births: Births | None,
    prepared: Mapping[str, str],
) -> LayerRow:
    held = births.held(layer) if births is not None else {}
    if births is not None and births.reads.reads_input(layer) & set(prepared):
        held = {**held, "activation": held.get("activation") or "range"}
    failed = tally.failed(limits)
    return LayerRow(
        index,
        layer.name,
        layer.op_type,
        layer.output,
        layer.truth,
        layer.mine,
        layer.how,
        tally.shape,
        tally.metrics,
        tally.standard_deviation,
        tally.worst,
        not failed,
        failed,
        tally.reason,
        tally.born_by(births.tally(layer), held) if births is not None else None,
        tally.agreement,
    )


def _prepared(births: Births, truth: Side) -> dict[str, str]:
    """Return the inputs whose grids were chosen from data that was prepared in another way, and what is to be said of each."""
    shapes = {v.name: v.shape or () for v in truth.inputs}
    found: dict[str, str] = {}
    for name, (seen, grid) in births.inputs_seen().items():
        shape = tuple(d if isinstance(d, int) else -1 for d in shapes[name])
        step = between(seen, grid, shape)
        if step is not None:
            through = f"gone through {step[0].name}"
            found[name] = (
                f"Input '{name}' has values from {seen[0]:.3g} to {seen[1]:.3g}, and its grid reaches from {grid[0]:.3g} to "
                f"{grid[1]:.3g}, as if the calibration data had "
                f"{f'{through} once too often' if step[1] else f'not {through}'}. Prepare it as these samples are prepared."
            )
    return found


def _spoiled(
    births: Births, layers: Layers, rows: Sequence[LayerRow], prepared: Collection[str]
) -> set[str]:
    """Return the layers that read an input of the model which its range has spoiled: the data of the ranges was another."""
    causes, lost = ("clipping", "range"), set(prepared)
    for layer, row in zip(layers.layers, rows, strict=True):
        if row.born is not None and row.born.cause in causes and row.born.energy > LOST_INPUT:
            lost |= {births.reads.input_in(layer.truth)}
    return {
        x.name
        for x in layers.layers
        if x.op_type != "Input" and births.reads.reads_input(x) & (lost - {""})
    }


def _harm(row: LayerRow, births: Births, layer: Mapped) -> Harm:
    """Return what is born in a layer, inf where it is not finite."""
    energy = row.born.energy if row.born is not None else 0.0
    walk = births.tally(layer)
    channels = walk.lost_channels if walk is not None else 0.0
    return Harm(*(x if math.isfinite(x) else math.inf for x in (energy, channels)))


def _name(model: object) -> str:
    return str(model) if isinstance(model, str | Path) else "(in memory)"

"""Build both models from the float model and a record alone."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.probe import samples_for
from calibrant.errors import ConfigValueError
from calibrant.findings import DataFindings, Findings
from calibrant.graph import targets
from calibrant.graph.form import ModelForm
from calibrant.graph.load import ModelLike, prepare
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.graph.passes.balance import factors_by_layer
from calibrant.graph.targets import Target
from calibrant.numerics import quantize
from calibrant.numerics.compensation import residual
from calibrant.numerics.levels import nearest_level
from calibrant.pipeline import finished
from calibrant.plan import WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.plan.given import Given
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.progress import Callback, Progress
from calibrant.recipe import Recipe
from calibrant.recipe.fixed import as_fixed
from calibrant.record.extras import RoundingExtra
from calibrant.record.form import form_of
from calibrant.record.plan import edge_of, recorded
from calibrant.record.read import Record, read_record
from calibrant.record.recording import Recording
from calibrant.results import QuantizedModel
from calibrant.runtime.runtime import Runtime
from calibrant.solution import Solution
from calibrant.tuning.store import Store

__all__ = ["quantize_from_record"]

#: What a record is for that does not say it: the layers that AMCT quantizes.
DEFAULT_TARGET = "layers-only"


def quantize_from_record(
    model: ModelLike,
    record: str | Path | Record | Recording,
    data: Any = None,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    progress: Callback | None = None,
    per_node: bool = False,
    latency: bool = True,
) -> QuantizedModel:
    """Quantize a float model with the numbers of a record; nothing is calibrated.

    Args:
        model: The float model that the record is of.
        record: A path of `record.txt` or `record.json`, its text, a record that was read, or the `record` of a
            result.
        data: Samples to measure the result on; None for no measurement.
        provider: Execution provider.
        threads: Threads inside an operator.
        batch_size: Samples in a batch.
        preprocess: File that says how raw samples become inputs.
        progress: Called with a stage, what is done of it, and how much there is.
        per_node: List every node with its thresholds; with data, compare it with the float model's.
        latency: Time one inference of both models, where there is data.

    Raises:
        ModelError: The model cannot be read or is quantized already.
        ConfigError: The record is damaged, says what is not allowed, or is of another model.
    """
    if isinstance(record, Recording):
        record = record.text()
    found = record if isinstance(record, Record) else read_record(record)
    target = _target(found)
    fixed = found.extras.fixed
    recipe = Recipe(
        target=target.name,
        fix=as_fixed({n: v for f in fixed for n, v in f.inputs.items()}, f"{found.source}: fixed"),
        keep_fixed_inputs=any(f.kept for f in fixed),
    )
    start = time.perf_counter()
    store = Store(
        model,
        data,
        runtime=Runtime(provider, threads),
        batch_size=batch_size,
        preprocess=preprocess,
        progress=Progress(progress),
    )
    with store.progress.stage("load"):
        original = store.original(recipe)
        base, form, meant = _formed(original, found, target)
    with store.progress.stage("weights"):
        params = _parameters(base, form, meant, found)
    kept = {k: e.kept for k, e in found.entries.items()}
    solution = Solution(original, base, form, meant.plan, params, source="record", kept=kept)
    probe, findings = None, Findings()
    if data is not None:
        with store.progress.stage("probe"):
            samples = store.samples(recipe)
            probe = store.probe(base, samples, samples_for(recipe, meant.plan))
            findings = Findings(DataFindings(notes=samples.notes))
    return finished(
        model,
        solution,
        findings,
        probe,
        store.progress,
        store.runtime,
        per_node=per_node,
        latency=latency,
        start=start,
    )


def _target(record: Record) -> Target:
    """Return the device that a record is for; one that is none of calibrant's own stands there as a whole."""
    said = record.extras.target
    if not said:
        return targets.get(DEFAULT_TARGET)
    if isinstance(said[-1], str):
        return targets.get(said[-1])
    return targets.from_mapping(said[-1], f"{record.source}: target")


def _formed(
    original: ir.Model, record: Record, target: Target
) -> tuple[ir.Model, ModelForm, Given]:
    """Bring the model into the form of the record."""

    def shape(source: ir.Model) -> tuple[ir.Model, ModelForm, Given]:
        model = prepare(source)
        form = form_of(record, model)
        form.apply(model)
        meant = recorded(record, model, target, form.half)
        return model, form, meant

    base, form, meant = shape(original)
    if meant.plan.needs_wide_types and main_opset(base) < WIDE_OPSET:
        base, form, meant = shape(raise_opset(original.clone(), WIDE_OPSET))
    return base, form, meant


def _parameters(model: ir.Model, form: ModelForm, meant: Given, record: Record) -> Parameters:
    record.extras.check_layers([w.layer for w in meant.plan.weights], record.source)
    rounding = {e.layer: e for e in record.extras.rounding}
    biases = {e.layer: e.values for e in record.extras.bias}
    levels = {
        edge_of(e, {n.name or "": n for n in model.graph})[0]: tuple(sorted(e.value.cluster))
        for e in record.entries.values()
        if e.value.cluster
    }
    layers = {
        w.layer: _layer(w, model, meant, levels.get(w.layer), rounding, biases, record)
        for w in meant.plan.weights
    }
    return Parameters(meant.activations, layers, factors_by_layer(form.balanced))


def _layer(
    w: WeightDecision,
    model: ir.Model,
    meant: Given,
    levels: tuple[int, ...] | None,
    rounding: Mapping[str, RoundingExtra],
    biases: Mapping[str, list[float]],
    record: Record,
) -> LayerParameters:
    p = meant.weights[w.layer]
    floats = float_weight(model, meant.plan, w, meant.activations)
    values = quantize(floats, p)
    if levels is not None:
        values = nearest_level(values, levels)
    if w.layer in rounding:
        extra = rounding[w.layer]
        try:
            up, down = (_mask(text, values.shape) for text in (extra.up, extra.down))
        except (ValueError, zlib.error) as e:
            raise ConfigValueError(
                f"{record.source}: the comment of calibrant's about the rounding of layer '{w.layer}' is damaged "
                f"({e})."
            ) from e
        values = np.clip(values + up - down, p.dtype.qmin, p.dtype.qmax)
    bias = None
    if w.layer in biases:
        bias = np.array(biases[w.layer], dtype=np.float32)
        channels = values.shape[w.channel_axis if w.channel_axis is not None else -1]
        groups = model.graph.node(w.layer).attributes.get("group")
        if model.graph.node(w.layer).op_type == "ConvTranspose" and groups is not None:
            channels *= groups.as_int()
        if bias.size != channels:
            raise ConfigValueError(
                f"{record.source}: the bias of layer '{w.layer}' has {bias.size} values in a comment of calibrant's; "
                f"the layer has {channels} output channels."
            )
    rest = residual(floats, values, p) if w.compensation else None
    return LayerParameters(p, values.astype(np.int32), bias, levels, rest)


def _mask(text: str, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Read what `record_extras.positions` wrote."""
    size = int(np.prod(shape))
    packed = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size // 8 + 2)
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    if not size <= bits.size < size + 8:
        raise ValueError(f"{bits.size} bits for {size} weights")
    return bits[:size].reshape(shape).astype(np.int32)

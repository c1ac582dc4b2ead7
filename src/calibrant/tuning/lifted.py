"""Keep the scales of a model that was trained with quantizers: no data is needed, nothing is chosen.

    load → prepare → lift → resolve → emit → measure

Nothing is folded, equalised or corrected: each would change what the scales were trained for.

Source: docs/how-to/other-tools.md, "Keep the scales of a trained model".
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from calibrant.analysis.probe import samples_for
from calibrant.choose import choose_layers, settled
from calibrant.errors import ConfigValueError
from calibrant.findings import DataFindings, Findings, PassFindings
from calibrant.graph.form import ModelForm
from calibrant.graph.load import prepare
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.graph.passes.half import Island, to_half
from calibrant.graph.passes.half_outputs import round_outputs
from calibrant.graph.passes.lift_qdq import lift_quantizers
from calibrant.numerics import quantize
from calibrant.plan.given import Given
from calibrant.plan.loaded import resolve_loaded
from calibrant.plan.outputs import OUTPUT_BITS
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.recipe import Recipe
from calibrant.recipe.settings import FROM_MODEL
from calibrant.runtime.overflow import half_overflows
from calibrant.solution import Solution
from calibrant.stats import Statistics
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store

__all__ = ["lifted"]


def lifted(store: Store, recipe: Recipe) -> Solved:
    """Return the solution of a model with the quantizers it came with.

    Args:
        store: A model with QuantizeLinear and DequantizeLinear; its data, if there is any, shows how near the
            result is to the model without its quantizers.
        recipe: A recipe that keeps the scales of the model.

    Raises:
        ConfigError: The recipe asks for what a model with scales of its own cannot be given.
    """
    _check(recipe)
    progress, runtime = store.progress, store.runtime
    with progress.stage("load"):
        original = store.original(recipe, quantizers=True)
        samples = store.samples(recipe, quantizers=True) if store.data is not None else None
    with progress.stage("lift"):
        model, loaded = _lifted(original, recipe)
        plan = loaded.plan
    probe = None
    if samples is not None:
        with progress.stage("probe"):
            probe = store.probe(model, samples, samples_for(recipe, plan))
    base = model
    half: tuple[Island, ...] = ()
    if plan.half:
        base = model.clone()
        over = half_overflows(model, plan.half, probe.feeds, runtime=runtime) if probe else {}
        half = tuple(to_half(base, plan.half, over))
    params = Parameters(loaded.activations, _layers(loaded, base))
    form = ModelForm(
        fold=False,
        half=plan.half,
        half_outputs=recipe.output_precision == "float16",
        overflows=tuple((i.node, i.overflows) for i in half if i.overflows),
    )
    data = DataFindings(notes=samples.notes if samples is not None else ())
    solution = Solution(original, base, form, settled(plan), params, source="model")
    findings = Findings(data, passes=PassFindings(half=half))
    return Solved(solution, findings, Statistics({}), probe)


def _check(recipe: Recipe) -> None:
    """Refuse what would change the model under its scales."""
    asked = {
        "equalize": recipe.equalize == "on",
        "bias correction": recipe.bias_correction == "on"
        or any(rule.settings.bias_samples for rule in recipe.rules),
        "joint quantization": recipe.joint,
        "a search between candidates": recipe.search is not None,
        "raising layers to a higher precision": recipe.promote is not None,
        "scales rounded through float16": recipe.scale_format == "float16",
        f"outputs in {recipe.output_precision}": recipe.output_precision in OUTPUT_BITS,
        "error compensation": any(rule.settings.compensation for rule in recipe.rules),
    }
    for what, is_asked in asked.items():
        if is_asked:
            raise ConfigValueError(
                f"The recipe keeps the scales that the model has ('{FROM_MODEL}'), and asks for {what}, which "
                "would change them."
            )


def _lifted(original: ir.Model, recipe: Recipe) -> tuple[ir.Model, Given]:
    def shape(source: ir.Model) -> tuple[ir.Model, Given]:
        model = prepare(source)
        lifted = lift_quantizers(model)
        if recipe.output_precision == "float16":
            round_outputs(model)
        return model, resolve_loaded(recipe, model, lifted)

    model, loaded = shape(original)
    if loaded.plan.needs_wide_types and main_opset(model) < WIDE_OPSET:
        model, loaded = shape(raise_opset(original.clone(), WIDE_OPSET))
    return model, loaded


def _layers(loaded: Given, model: ir.Model) -> dict[str, LayerParameters]:
    """Round each weight with its own scale; one without a scale gets what the recipe says."""
    others = [w for w in loaded.plan.weights if w.layer not in loaded.weights]
    layers = choose_layers(replace(loaded.plan, weights=tuple(others)), model)
    for w in loaded.plan.weights:
        if w.layer in loaded.weights:
            const = model.graph.initializers[w.weight].const_value
            assert const is not None
            p = loaded.weights[w.layer]
            layers[w.layer] = LayerParameters(p, quantize(const.numpy(), p))
    return layers

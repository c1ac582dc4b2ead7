"""Raise the layers that lose most to a higher precision.

Layers are ranked by what the model's outputs lose when one alone is quantized. The worst are raised: so many,
all at or beyond a threshold, or as many as fit into a share of the multiplications, worst first. Layers that
a rule names with a type of their own are neither ranked nor raised. Nothing is calibrated again: widths and
what stays in float change, the statistics are the same.

Source: docs/explanation/decisions.md, "Metrics by name"; docs/reference/horizon-configurations.md (`search.layer`).
"""

from __future__ import annotations

import glob
from dataclasses import replace

import onnx_ir as ir

from calibrant.analysis.judge import Judge
from calibrant.analysis.probe import Probe
from calibrant.analysis.sensitivity import Alone
from calibrant.findings import Promoted, PromotionReport
from calibrant.numerics.metrics import get_metric
from calibrant.plan import Plan, resolve
from calibrant.plan.effective import Effective
from calibrant.plan.parameters import Parameters
from calibrant.progress import Progress
from calibrant.recipe import AllOf, Layer, LayerInput, Recipe, Rule, Search, Settings
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.tuning.as_before import as_before
from calibrant.tuning.driver import drive
from calibrant.tuning.strategies.by_loss import by_loss

__all__ = ["fixed_layers", "promoted"]

#: A layer is judged on so many samples, or on those there are.
SAMPLES = 8

#: Fields by which a rule fixes the type of a layer.
_TYPES = ("compute", "activation_bits", "weight_bits", "compensation")


def promoted(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    recipe: Recipe,
    probe: Probe,
    progress: Progress,
    runtime: Runtime = CPU,
) -> tuple[Plan, tuple[str, ...], PromotionReport]:
    """Return the plan with the worst layers raised, those of them that compute in float16, and a report.

    Args:
        model: The float model that the plan belongs to.
        plan: The plan in low precision.
        params: Its parameters.
        recipe: A recipe that promotes.
        probe: Samples.
        progress: Told of layers done.
        runtime: Where it runs.
    """
    promotion = recipe.promote
    assert promotion is not None
    fixed = fixed_layers(recipe, model, plan)
    names = {d.node for d in plan.layers if d.quantized} - fixed
    search = Search(metric=promotion.metric, samples=min(SAMPLES, max(1, probe.samples)))
    judge = Judge.of(search, model, probe, runtime)
    alone = Alone.of(model, plan, params, judge, runtime)
    layers = [n.name or "" for n in model.graph if n.name in names]
    shares = {n: alone.share(n) for n in layers}
    strategy = by_loss(layers, shares, promotion, get_metric(promotion.metric))
    ranking, chosen = drive(strategy, alone.score, progress=progress, of=len(layers))
    rules = [
        Rule(
            Layer(glob.escape(layer)),
            Settings.of_precision(promotion.precision),
            f"promotion: {promotion.metric} {score:.6f}, rank {rank}",
        )
        for rank, (layer, score) in enumerate(ranking, 1)
        if layer in chosen
    ]
    types = {n.name: n.op_type for n in model.graph}
    report = PromotionReport(
        promotion.precision,
        promotion.metric,
        judge.samples,
        tuple(Promoted(n, types[n], score, shares[n], n in chosen) for n, score in ranking),
        tuple(sorted(fixed)),
    )
    if not rules:
        return plan, (), report
    raised = resolve(replace(recipe.with_rules(*rules), promote=None), model)
    half = tuple(n for n in raised.half if n not in plan.half)
    return as_before(raised, plan, chosen), half, report


def fixed_layers(recipe: Recipe, model: ir.Model, plan: Plan) -> set[str]:
    """Return the layers whose type a rule names."""
    effective = Effective(recipe, model, plan.target, [])
    found = set()
    for rule, edges in effective.matched:
        parts = rule.where.parts if isinstance(rule.where, AllOf) else (rule.where,)
        own = rule.force == "required" or any(isinstance(p, Layer | LayerInput) for p in parts)
        says = any(getattr(rule.settings, f) is not None for f in _TYPES)
        if own and says and rule.force != "implied":
            found |= {n for n, _ in edges}
    return found

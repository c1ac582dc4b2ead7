"""Raise the layers that lose most to a higher precision.

Layers are ranked by what the model's outputs lose when one alone is quantized. The worst are raised: so many,
all at or beyond a threshold, or as many as fit into a share of the multiplications, worst first. Layers that
a rule names with a type of their own are neither ranked nor raised. Nothing is calibrated again: widths and
what stays in float change, the statistics are the same.

Source: horizon.md 4.5.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from calibrant.analysis.judge import Judge
from calibrant.analysis.probe import Probe
from calibrant.analysis.sensitivity import Sensitivity, sensitivities
from calibrant.numerics.metrics import Metric, get_metric
from calibrant.plan import ActivationDecision, Plan, resolve
from calibrant.plan.effective import Effective
from calibrant.plan.parameters import Parameters
from calibrant.recipe import (
    AllOf,
    Layer,
    LayerInput,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
)
from calibrant.run import Promoted, PromotionReport, Run

__all__ = ["promoted"]

#: A layer is judged on so many samples, or on those there are (horizon.md 10.3).
SAMPLES = 8

#: Fields by which a rule fixes the type of a layer.
_TYPES = ("compute", "activation_bits", "weight_bits", "compensation")


def promoted(
    model: ir.Model, plan: Plan, params: Parameters, probe: Probe, r: Run
) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan with the worst layers raised, and those of them that compute in float16.

    Args:
        model: The float model that the plan belongs to.
        plan: The plan in low precision.
        params: Its parameters.
        probe: Samples.
        r: The run, which gets the report.
    """
    promotion = r.recipe.promote
    assert promotion is not None
    fixed = _fixed(r.recipe, model, plan)
    names = {d.node for d in plan.layers if d.quantized} - fixed

    def progress(done: int, of: int) -> None:
        if r.progress is not None:
            r.progress("promotion", done, of)

    search = Search(metric=promotion.metric, samples=min(SAMPLES, max(1, r.probe_samples)))
    judge = Judge.of(search, model, probe, r)
    ranking = sensitivities(model, plan, params, names, judge, r, progress)
    chosen = _chosen(ranking, promotion, get_metric(promotion.metric))
    rules = [
        Rule(
            Layer(glob.escape(s.node)),
            Settings.of_precision(promotion.precision),
            f"promotion: {promotion.metric} {s.score:.6f}, rank {rank}",
        )
        for rank, s in enumerate(ranking, 1)
        if s.node in chosen
    ]
    r.promotion = PromotionReport(
        promotion.precision,
        promotion.metric,
        judge.samples,
        tuple(Promoted(s.node, s.op_type, s.score, s.macs, s.node in chosen) for s in ranking),
        tuple(sorted(fixed)),
    )
    if not rules:
        return plan, ()
    raised = resolve(replace(r.recipe.with_rules(*rules), promote=None), model)
    half = tuple(n for n in raised.half if n not in plan.half)
    return _as_before(raised, plan), half


def _fixed(recipe: Recipe, model: ir.Model, plan: Plan) -> set[str]:
    """Layers whose type a rule names."""
    effective = Effective(recipe, model, plan.target, [])
    found = set()
    for rule, edges in effective.matched:
        parts = rule.where.parts if isinstance(rule.where, AllOf) else (rule.where,)
        own = rule.force == "required" or any(isinstance(p, Layer | LayerInput) for p in parts)
        says = any(getattr(rule.settings, f) is not None for f in _TYPES)
        if own and says and rule.force != "implied":
            found |= {n for n, _ in edges}
    return found


def _chosen(ranking: Sequence[Sensitivity], promotion: Promotion, metric: Metric) -> set[str]:
    """Return the layers to raise, from a ranking that has the worst first."""
    if promotion.count is not None:
        return {s.node for s in ranking[: promotion.count]}
    if promotion.threshold is not None:
        limit = metric.badness(promotion.threshold)
        return {s.node for s in ranking if metric.badness(s.score) >= limit}
    left = promotion.budget or 0.0
    found = set()
    for s in ranking:
        if s.macs <= left + 1e-12:
            found.add(s.node)
            left -= s.macs
    return found


def _as_before(raised: Plan, plan: Plan) -> Plan:
    """Return a plan whose ranges are chosen as those of the other, at its own widths."""
    before = {e: d for d in plan.activations for e in d.users}
    made = {d.producer: d for d in plan.activations if d.producer is not None}

    def same(d: ActivationDecision) -> ActivationDecision:
        old = before.get(d.users[0]) if d.users else made.get(d.producer or "")
        if old is None or old.tensor != d.tensor:
            return d
        group = old.group if old.spec.bits == d.spec.bits else f"{old.group}|{d.spec.bits}"
        return replace(
            d, algorithm=old.algorithm, spec=replace(old.spec, bits=d.spec.bits), group=group
        )

    weights = {w.layer: w for w in plan.weights}
    return replace(
        raised,
        half=(*plan.half, *(n for n in raised.half if n not in plan.half)),
        activations=tuple(same(d) for d in raised.activations),
        weights=tuple(
            replace(w, algorithm=weights[w.layer].algorithm) if w.layer in weights else w
            for w in raised.weights
        ),
    )

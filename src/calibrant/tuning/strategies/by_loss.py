"""Rank layers by what the model's outputs lose when one alone is quantized, and choose the worst.

The worst are chosen: so many, all at or beyond a threshold, or as many as fit into a share of the
multiplications, worst first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calibrant.numerics.metrics import Metric
from calibrant.recipe import Promotion
from calibrant.tuning.driver import Strategy

__all__ = ["by_loss"]


def by_loss(
    layers: Sequence[str], shares: Mapping[str, float], promotion: Promotion, metric: Metric
) -> Strategy[str, float, tuple[tuple[tuple[str, float], ...], frozenset[str]]]:
    """Return all layers with their scores, the one that loses most first, and those to raise.

    Args:
        layers: Names of layers.
        shares: Layer -> its multiplications over those of the model.
        promotion: How many to raise.
        metric: What ranks them.
    """
    scores: list[float] = []
    for layer in layers:
        score = yield layer
        scores.append(score)
    ranking = tuple((layers[i], scores[i]) for i in metric.worst_first(scores))
    return ranking, frozenset(_chosen(ranking, shares, promotion, metric))


def _chosen(
    ranking: Sequence[tuple[str, float]],
    shares: Mapping[str, float],
    promotion: Promotion,
    metric: Metric,
) -> set[str]:
    if promotion.count is not None:
        return {layer for layer, _ in ranking[: promotion.count]}
    if promotion.threshold is not None:
        limit = metric.badness(promotion.threshold)
        return {layer for layer, score in ranking if metric.badness(score) >= limit}
    left = promotion.budget or 0.0
    found = set()
    for layer, _ in ranking:
        if shares[layer] <= left + 1e-12:
            found.add(layer)
            left -= shares[layer]
    return found

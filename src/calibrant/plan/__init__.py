"""What will happen: a Plan is a Recipe brought together with one model.

`resolve` answers with one decision for each quantizer and one for each layer; everything after it reads
decisions and never a recipe.
"""

from calibrant.plan.decisions import (
    ActivationDecision,
    BiasWish,
    Edge,
    LayerDecision,
    Plan,
    WeightDecision,
)
from calibrant.plan.explain import Explanation, explain
from calibrant.plan.resolve import resolve

__all__ = [
    "ActivationDecision",
    "BiasWish",
    "Edge",
    "Explanation",
    "LayerDecision",
    "Plan",
    "WeightDecision",
    "explain",
    "resolve",
]

"""The candidates of a recipe, each as a plan of the whole model.

A candidate of the model stands at every node whose own list has it; a node whose list lacks it has the first
of its own. What no list speaks of is the same in all plans. A later rule that sets a field stands over what the
candidates of an earlier one say of it, and so does what the device cannot do.

Source: docs/reference/horizon-configurations.md (lists make candidates, and their order).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from calibrant.numerics import QuantParams
from calibrant.plan import Plan, resolve
from calibrant.plan.decisions import Spot
from calibrant.recipe import Recipe, Search, Settings

__all__ = [
    "Candidate",
    "asks_wide_types",
    "candidate_of",
    "candidates",
    "observed",
    "same_params",
    "search_of",
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate.

    Args:
        settings: What it sets.
        plan: The plan of the model with it.
        lists: Node or input -> its own candidates.
    """

    settings: Settings
    plan: Plan
    lists: dict[Spot, tuple[Settings, ...]]

    @property
    def name(self) -> str:
        """Its name: `kl-merge:bins=1024,asymmetric,per_channel`."""
        return label(self.settings)

    def listed(self, edge: Spot) -> tuple[Settings, ...]:
        """Return the candidates of an input of a node."""
        return self.lists.get(edge) or self.lists.get((edge[0], None)) or ()


def label(settings: Settings) -> str:
    """Name a candidate: `max:max_percentile=0.99995,asymmetric,per_channel`."""
    choice = settings.activation
    details = [f"{k}={v}" for k, v in choice.options] if choice is not None else []
    details += ["asymmetric"] if settings.activation_symmetric is False else []
    details += ["per_channel"] if settings.activation_per_channel else []
    details += [f"{settings.activation_bits} bits"] if settings.activation_bits else []
    name = choice.name if choice is not None else "as set"
    return ":".join(filter(None, (name, ",".join(details))))


def search_of(recipe: Recipe) -> Search | None:
    """Return the search that a recipe asks for; lists without one are chosen between for the model."""
    if not _every(recipe):
        return None
    return recipe.search or Search()


def _every(recipe: Recipe) -> list[Settings]:
    """Candidates of all rules, each once, in order."""
    return list(dict.fromkeys(c for rule in recipe.rules for c in rule.settings.candidates or ()))


def asks_wide_types(recipe: Recipe) -> bool:
    """Whether some candidate, or a layer that may be raised, has a width that came with opset 21."""
    if recipe.promote is not None and recipe.promote.precision == "int16":
        return True
    return any(c.activation_bits in (4, 16) for c in _every(recipe))


def candidates(recipe: Recipe, model: ir.Model, decided: Plan) -> list[Candidate]:
    """Return every candidate with its plan, in the order in which they are tried.

    Args:
        recipe: A recipe for which `search_of` answers.
        model: The model that is quantized.
        decided: Its plan so far, with the algorithms that were chosen where the recipe says `auto`.
    """
    found = [candidate_of(recipe, model, decided, c) for c in _every(recipe)]
    used = {c for t in found for listed in t.lists.values() for c in listed}
    return [t for t in found if t.settings in used] or found[:1]


def candidate_of(
    recipe: Recipe,
    model: ir.Model,
    decided: Plan,
    settings: Settings,
    change: Callable[[Spot, Settings], Settings] | None = None,
) -> Candidate:
    """Return the plan with one candidate.

    Args:
        recipe: The recipe.
        model: The model.
        decided: Its plan so far.
        settings: What it sets.
        change: Chooses at each node or input; without it the candidate stands wherever it is listed.
    """
    lists: dict[Spot, tuple[Settings, ...]] = {}

    def chosen(node: str, index: int | None, listed: tuple[Settings, ...]) -> Settings:
        lists[node, index] = listed
        taken = settings if settings in listed else listed[0]
        return change((node, index), taken) if change is not None else taken

    plan = resolve(recipe, model, chosen=chosen)
    algorithms = {d.tensor: d.algorithm for d in decided.activations}
    activations = tuple(
        replace(d, algorithm=algorithms.get(d.tensor, d.algorithm))
        if d.algorithm.name == "auto"
        else d
        for d in plan.activations
    )
    return Candidate(settings, replace(plan, activations=activations, half=decided.half), lists)


def observed(plans: Sequence[Plan]) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Return the tensors that some plan observes, and the axes that have ranges by channel in some."""
    tensors = list(dict.fromkeys(t for p in plans for t in p.observed_tensors))
    axes: dict[str, set[int]] = {}
    for plan in plans:
        for tensor, found in plan.channel_axes.items():
            axes.setdefault(tensor, set()).update(found)
    return tensors, {t: tuple(sorted(a)) for t, a in axes.items()}


def same_params(a: QuantParams, b: QuantParams) -> bool:
    """Say whether two quantizers are equal: zero points, and scales within 1e-6 of each other."""
    return (
        a.dtype == b.dtype
        and a.axis == b.axis
        and a.scale.shape == b.scale.shape
        and bool(np.array_equal(a.zero_point, b.zero_point))
        and bool(np.allclose(a.scale, b.scale, rtol=1e-6, atol=0))
    )

"""A recipe for training, as calibration reads it, and what it says of training beside that.

Ranges are calibrated before they are trained. What a recipe leaves to training is given to calibration so:

| The recipe says | Calibration does |
|---|---|
| activations `ulq` with clip_max and clip_min | the fixed range between them |
| activations `ulq` | what it does best (`auto`) |
| weights `ulq`, learned scales | the scale of the largest weight (`arq`) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from calibrant.errors import UnsupportedError
from calibrant.plan import Plan
from calibrant.recipe import AlgorithmChoice, Recipe, Settings

__all__ = ["Asked", "asked_of_training", "for_calibration"]

#: What a weight is trained as where the recipe does not say.
DEFAULT_WEIGHT = "lsq"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a recipe says of training.

    Args:
        weights: Layer -> how its weight is trained (`quantizers.WEIGHTS`).
        fixed_min: Node -> its range begins at 0; nodes that the recipe says nothing of are not in it.
    """

    weights: Mapping[str, str]
    fixed_min: Mapping[str, bool]


def for_calibration(recipe: Recipe) -> Recipe:
    """Return the recipe that calibrates what another one trains."""
    rules = tuple(replace(r, settings=_calibrated(r.settings)) for r in recipe.rules)
    return replace(recipe, rules=rules, training=False)


def _calibrated(settings: Settings) -> Settings:
    changed: dict[str, AlgorithmChoice] = {}
    if settings.activation is not None and settings.activation.name == "ulq":
        said = dict(settings.activation.options)
        if "clip_max" in said:
            ends = {"high": said["clip_max"], "low": said["clip_min"]}
            changed["activation"] = AlgorithmChoice.of("fixed", ends)
        else:
            changed["activation"] = AlgorithmChoice("auto")
    if settings.weight is not None and settings.weight.name == "ulq":
        changed["weight"] = AlgorithmChoice("arq")
    return replace(settings, **changed)  # type: ignore[arg-type]


def asked_of_training(recipe: Recipe, trained: Plan | None, plan: Plan) -> Asked:
    """Return what a recipe says of training.

    Args:
        recipe: What is wanted.
        trained: The plan of the recipe as it is written, where it is one for training.
        plan: The plan that was calibrated.

    Raises:
        UnsupportedError: The plan has what cannot be trained.
    """
    wrong = [f"error compensation at '{d.tensor}'" for d in plan.activations if d.compensation]
    wrong += [f"error compensation of '{w.layer}'" for w in plan.weights if w.compensation]
    wrong += [
        f"weights of few levels in '{w.layer}'" for w in plan.weights if w.codebook is not None
    ]
    if plan.half:
        wrong.append(f"layers in float16 ({', '.join(plan.half[:5])})")
    if wrong:
        shown = "; ".join(wrong[:10]) + ("; …" if len(wrong) > 10 else "")
        raise UnsupportedError(f"Training does not know {shown}. Leave it out of the recipe.")
    if trained is None:
        return Asked({w.layer: DEFAULT_WEIGHT for w in plan.weights}, {})
    named = {d.node: d.settings for d in trained.layers}
    weights, fixed = {}, {}
    for w in plan.weights:
        said = named[w.layer].weight if w.layer in named else None
        weights[w.layer] = "ulq" if said is not None and said.name == "ulq" else "arq"
    for node, settings in named.items():
        if settings.activation is not None and settings.activation.name == "ulq":
            options = dict(settings.activation.options)
            if "fixed_min" in options:
                fixed[node] = bool(options["fixed_min"])
    return Asked(weights, fixed)

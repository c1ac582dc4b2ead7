"""Manual tuning of training with quantizers as the Ascend documents describe it, walked through by itself.

1. The configuration as it is.
2. Layers that read an input or give an output stay in float.
3. The clip range of each activation, where training begins, is a multiple of the range that was seen: 1, 0.7 and 1.3 times; then
   further on the side that lost least, to 0.3 or 1.7 times, as long as less is lost.
4. Otherwise the model is not suited to training with quantizers.

Each step is a training; what comes out is evaluated as it is deployed. Phase 3 stands on what lost least until then.

Source: the tuning process for quantization-aware training in the documentation of the Ascend Model Compression Toolkit, which
recommends clips from 0.3 to 1.7 times what was seen. The multiples that are tried are ours.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from calibrant.recipe import AlgorithmChoice, EndLayers, Layer, Recipe, Rule, Settings
from calibrant.tuning.driver import Strategy
from calibrant.tuning.strategies.phases import Walk
from calibrant.tuning.strategies.recipes import (
    LayerFacts,
    Layers,
    Outcome,
    RecipeQuestion,
    Seen,
)

__all__ = ["amct_retrain", "with_clips"]

DEFAULTS, SKIPPED, CLIPS = "1 defaults", "2 input and output layers", "3 clips"

#: Multiples of the range that was seen: those that are always tried, and those further on.
NEAR = (1.0, 0.7, 1.3)
FURTHER: Mapping[float, tuple[float, ...]] = {0.7: (0.5, 0.3), 1.3: (1.5, 1.7)}

#: The lower clip of what is never below 0, as a share of the upper one: below 0, as the toolkit asks, and 0 on every grid.
_BELOW = 1e-4


def amct_retrain(recipe: Recipe) -> Strategy[RecipeQuestion, Any, Outcome]:
    """Return the first configuration of training that meets the requirement, phase after phase.

    Args:
        recipe: What is trained; a recipe for calibration is trained with what it says.
    """
    recipe = replace(recipe, training=True)
    walk = Walk(recipe)
    if (yield from walk.tried(recipe, DEFAULTS, "as the configuration says")):
        return walk.found("Training as the configuration says meets the requirement.")
    facts: tuple[LayerFacts, ...] = yield Layers(recipe)
    ends = {f.layer for f in facts if f.reads_input or f.gives_output}
    if ends and len(ends) < len(facts):
        skipped = _without_ends(recipe)
        change = "layers at the input and the output stay in float"
        if (yield from walk.tried(skipped, SKIPPED, change)):
            return walk.found(
                "With the layers at the input and the output in float the requirement is met."
            )
    walk.keep()
    seen: Mapping[str, tuple[float, float]] = yield Seen(walk.base)
    if seen:
        factor = yield from _clipped(walk, seen)
        if factor is not None:
            return walk.found(
                f"With clips at {factor:g} times what was seen the requirement is met."
            )
    return Outcome(
        None,
        "None of the phases meets the requirement: by this procedure the model is not suited to training with quantizers, and its "
        "configuration should be removed.",
        advice=(
            "Train longer (`--train-minutes`, `--train-epochs`) or on more samples (`--train-data`), or allow a larger drop.",
            "`--strategy auto --train-minutes` trains the cheapest assignment, and raises layers where that is not enough.",
        ),
    )


def _clipped(
    walk: Walk, seen: Mapping[str, tuple[float, float]]
) -> Strategy[RecipeQuestion, Any, float | None]:
    """Try clips at multiples of what was seen; return the multiple that is enough, or None."""
    lost: dict[float, float] = {}
    for factor in NEAR:
        if (yield from _at(walk, seen, factor)):
            return factor
        lost[factor] = walk.lost
    best = min(NEAR, key=lambda f: lost[f])
    least = lost[best]
    for factor in FURTHER.get(best, ()):
        if (yield from _at(walk, seen, factor)):
            return factor
        if walk.lost >= least:
            break
        least = walk.lost
    return None


def _at(
    walk: Walk, seen: Mapping[str, tuple[float, float]], factor: float
) -> Strategy[RecipeQuestion, Any, bool]:
    change = f"clips at {factor:g} times what was seen"
    met = yield from walk.tried(with_clips(walk.base, seen, factor), CLIPS, change)
    return met


def with_clips(recipe: Recipe, seen: Mapping[str, tuple[float, float]], factor: float) -> Recipe:
    """Return a recipe in which training begins with clips at a multiple of what was seen.

    Args:
        recipe: What is trained.
        seen: Layer -> the least and the largest value that it read. One whose largest value is not above 0 keeps the range that
            calibration finds.
        factor: The multiple.

    Example:
        >>> found = with_clips(Recipe(), {"conv": (-2.0, 4.0)}, 0.5)
        >>> dict(found.rules[0].settings.activation.options)
        {'clip_max': 2.0, 'clip_min': -1.0}
    """
    rules = []
    for layer, (low, high) in seen.items():
        if not high > 0:
            continue
        said: dict[str, Any] = {"clip_max": factor * high, "clip_min": factor * low}
        if low >= 0:
            said |= {"clip_min": -_BELOW * factor * high, "fixed_min": True}
        settings = Settings(activation=AlgorithmChoice.of("ulq", said))
        rules.append(Rule(Layer(glob.escape(layer)), settings, "clips"))
    return recipe.with_rules(*rules)


def _without_ends(recipe: Recipe) -> Recipe:
    float_ = Settings(compute="float32")
    return recipe.with_rules(
        *(Rule(EndLayers(which), float_, "input and output layers") for which in ("first", "last"))
    )

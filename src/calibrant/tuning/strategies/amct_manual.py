"""Manual tuning as the Ascend documents describe it, walked through by itself: one phase after another until one is enough.

1. The recipe as it is.
2. More calibration data: 16, then 32 samples.
3. Sensitive layers stay in float: those that read the input and give the output; with them those of few parameters; with
   them those whose output in the quantized network has a cosine below 0.99.
4. Algorithm parameters: a wider search for the range, less of the outliers, the histogram search, symmetric activations (or
   asymmetric ones, where they are symmetric), a scale a tensor for weights is made one a channel.
5. Otherwise the model is not suited to quantization.

Every phase is tried on top of what lost least until then.

Source: the tuning process for post-training quantization in the documentation of the Ascend Model Compression Toolkit. Which
layers have few parameters, and the values of phase 4, are ours.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from typing import Any

from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, Recipe, Rule, Settings
from calibrant.tuning.driver import Strategy
from calibrant.tuning.strategies.phases import Walk
from calibrant.tuning.strategies.recipes import (
    LayerFacts,
    Layers,
    Outcome,
    RecipeQuestion,
    with_samples,
)

__all__ = ["amct_manual", "few_parameters"]

#: Samples of calibration data that are tried.
SAMPLES = (16, 32)

#: Layers whose output is less like the float one are sensitive.
COSINE = 0.99

#: Layers have few parameters that hold at most this share of all of them together.
FEW = 0.01

DEFAULTS, MORE_DATA, SKIPPED, PARAMETERS = (
    "1 defaults",
    "2 calibration data",
    "3 sensitive layers",
    "4 parameters",
)

#: What phase 4 tries, in order.
CHANGES: tuple[tuple[str, Settings], ...] = (
    (
        "the upper end is searched for from 0.3 to 1.7 times what was seen",
        Settings(activation=AlgorithmChoice.of("ifmr", {"search_range": (0.3, 1.7)})),
    ),
    (
        "outliers beyond 99.99 % of the values are left out first",
        Settings(
            activation=AlgorithmChoice.of(
                "ifmr", {"max_percentile": 0.9999, "min_percentile": 0.9999}
            )
        ),
    ),
    (
        "ranges are searched for on a histogram (hfmg)",
        Settings(activation=AlgorithmChoice.of("hfmg", {"bins": 4096})),
    ),
    ("activations are symmetric", Settings(activation_symmetric=True)),
    ("activations are asymmetric", Settings(activation_symmetric=False)),
    ("weights have a scale for each output channel", Settings(weight_per_channel=True)),
)


def amct_manual(recipe: Recipe) -> Strategy[RecipeQuestion, Any, Outcome]:
    """Return the first recipe that meets the requirement, phase after phase.

    Args:
        recipe: What is quantized.
    """
    walk = Walk(recipe)
    if (yield from walk.tried(recipe, DEFAULTS, "as the recipe says")):
        return walk.found("The defaults meet the requirement.")
    for count in SAMPLES:
        more = yield from with_samples(recipe, count)
        if (yield from walk.tried(more, MORE_DATA, f"{count} samples")):
            return walk.found(f"{count} samples of calibration data are enough.")
    walk.keep()
    facts: tuple[LayerFacts, ...] = yield Layers(walk.base)
    before: tuple[str, ...] = ()
    for change, layers in _sensitive(facts):
        if layers == before or len(layers) == len(facts):
            continue
        before = layers
        if (yield from walk.tried(_in_float(walk.base, layers), SKIPPED, change)):
            return walk.found(
                f"With {len(layers)} sensitive layers in float the requirement is met."
            )
    walk.keep()
    for change, settings in CHANGES:
        if (yield from walk.tried(_changed(walk.base, settings), PARAMETERS, change)):
            return walk.found(f"What is enough: {change}.")
    return Outcome(
        None,
        "None of the phases meets the requirement: by this procedure the model is not suited to quantization.",
        advice=(
            "Train with quantizers, or allow a larger drop.",
            "`--strategy amct-rollback` takes more layers back to float; `auto` also knows int16.",
        ),
    )


def _sensitive(facts: Sequence[LayerFacts]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what is left in float, step by step, with the layers in graph order."""
    ends = {f.layer for f in facts if f.reads_input or f.gives_output}
    few = ends | few_parameters(facts)
    unlike = few | {f.layer for f in facts if f.cosine is not None and f.cosine < COSINE}
    for change, names in (
        ("layers at the input and the output stay in float", ends),
        ("layers of few parameters do, too", few),
        (f"layers whose output has a cosine below {COSINE} do, too", unlike),
    ):
        yield change, tuple(f.layer for f in facts if f.layer in names)


def few_parameters(facts: Sequence[LayerFacts]) -> set[str]:
    """Return the layers with a weight that together hold at most a hundredth of all parameters, the smallest first."""
    left = FEW * sum(f.parameters for f in facts)
    found = set()
    for f in sorted((f for f in facts if f.parameters), key=lambda f: f.parameters):
        left -= f.parameters
        if left < 0:
            break
        found.add(f.layer)
    return found


def _in_float(recipe: Recipe, layers: Sequence[str]) -> Recipe:
    rules = (
        Rule(Layer(glob.escape(n)), Settings(compute="float32"), "sensitive layer") for n in layers
    )
    return recipe.with_rules(*rules)


def _changed(recipe: Recipe, settings: Settings) -> Recipe:
    """Return a recipe with settings of all layers over its own."""
    return recipe.with_rules(Rule(AllNodes(), settings, "parameters"))

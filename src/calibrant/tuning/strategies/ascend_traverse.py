"""The tuning procedure of the older Ascend converter: one option after another, then all of them, then layers left out.

1. The recipe as it is.
2. The upper bound is searched for from 0.3 to 1.7 times the maximum, not from 0.7 to 1.3.
3. 200, then 250 bins.
4. The maximum is the 0.99999 quantile, which helps detection networks.
5. The grid: divergence, search range, quantile, bins, number of images.
6. With the options that lost least, layers stay in float one by one: the first, the first two, and so on.
7. Otherwise the model stays in float.

Each of steps 2 to 4 keeps what the step before it set.

Source: the calibration chapter of the documentation of Ascend 310's model converter, as it is public.
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Calibration,
    Layer,
    OpType,
    Recipe,
    Rule,
    Settings,
)
from calibrant.tuning.driver import Strategy
from calibrant.tuning.questions import Reached
from calibrant.tuning.strategies.recipes import (
    LayerFacts,
    Layers,
    Outcome,
    RecipeQuestion,
    Try,
    with_samples,
)

__all__ = ["Options", "ascend_traverse", "default_recipe"]

KINDS = ("kl", "symkl", "jsd")
RATIOS = ((0.7, 1.3), (0.3, 1.7))
QUANTILES = (1.0, 0.99999)
BINS = (150, 200, 250)
IMAGES = (10, 20, 50)

DEFAULTS, RANGE, MORE_BINS, QUANTILE, GRID, BLACKLIST = (
    "1 defaults",
    "2 search range",
    "3 bins",
    "4 percentile",
    "5 grid",
    "6 blacklist",
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a calibration file that are tuned.

    Args:
        kind: Divergence: `kl`, `symkl` or `jsd`.
        ratios: First and last bound that is tried, over the maximum.
        quantile: Share of the values below the maximum.
        bins: Of the histogram.
        images: Calibration images.
    """

    kind: str = "kl"
    ratios: tuple[float, float] = (0.7, 1.3)
    quantile: float = 1.0
    bins: int = 150
    images: int = 10

    def of(self, recipe: Recipe) -> Recipe:
        """Return a recipe with these options, but for the number of images."""
        options = {
            "bins": self.bins,
            "start_ratio": self.ratios[0],
            "end_ratio": self.ratios[1],
            "step_ratio": 0.01,
            "max_percentile": self.quantile,
        }
        choice = Settings(activation=AlgorithmChoice.of(self.kind, options))
        return recipe.with_rules(Rule(AllNodes(), choice, "traverse"))

    def __str__(self) -> str:
        low, high = self.ratios
        return f"{self.kind}, {low:g} to {high:g}, quantile {self.quantile:g}, {self.bins} bins, {self.images} images"


def default_recipe() -> Recipe:
    """Return what the converter does with its recommended options: offsets for activations, a scale a filter for weights."""
    origin, types = "ascend: default", ("Conv", "Gemm", "MatMul")
    rules = (
        Rule(AllNodes(), Settings(compute="float32"), "ascend: not asked for", "implied"),
        *(Rule(OpType(t), Settings(compute="int"), origin, "implied") for t in types),
        Rule(
            AllNodes(),
            Settings(
                activation_bits=8,
                activation_symmetric=False,
                weight=AlgorithmChoice("arq"),
                weight_bits=8,
                weight_per_channel=True,
            ),
            origin,
            "implied",
        ),
    )
    recipe = Recipe(
        rules=rules,
        target="layers-only",
        tiny_scales="one",
        calibration=Calibration(batch_size=1, batch_num=10, behind="weights"),
        bias_correction="off",
        equalize="off",
    )
    return Options().of(recipe)


def ascend_traverse(recipe: Recipe) -> Strategy[RecipeQuestion, Any, Outcome]:
    """Return the first recipe that meets the requirement, step after step.

    Args:
        recipe: What is quantized.
    """
    tried: set[Options] = set()
    kept: Recipe | None = None
    best, least = Options(), float("inf")
    asked = Try(recipe, DEFAULTS, "as the recipe says")
    reached: Reached = yield asked
    if reached.met:
        return Outcome(asked, "The defaults meet the requirement.")
    for phase, options in _steps():
        if options in tried:
            continue
        tried.add(options)
        changed = yield from with_samples(options.of(recipe), options.images, 1)
        asked = Try(changed, phase, str(options))
        reached = yield asked
        if reached.met:
            return Outcome(asked, f"Enough: {options}.")
        if kept is None or reached.loss < least:
            kept, best, least = changed, options, reached.loss
    assert kept is not None
    facts: tuple[LayerFacts, ...] = yield Layers(kept)
    names = [f.layer for f in facts]
    for count in range(1, len(names)):
        rules = (
            Rule(Layer(glob.escape(n)), Settings(compute="float32"), "blacklist")
            for n in names[:count]
        )
        change = (
            f"the first {count} layers stay in float"
            if count > 1
            else "the first layer stays in float"
        )
        asked = Try(kept.with_rules(*rules), BLACKLIST, change)
        reached = yield asked
        if reached.met:
            return Outcome(asked, f"With {best}, {change}.")
    return Outcome(
        None,
        "Neither the options nor leaving out layers is enough: by this procedure the model stays in float.",
        advice=("`--strategy auto` chooses the layers that stay in float by what they lose.",),
    )


def _steps() -> Iterator[tuple[str, Options]]:
    """Yield the options of steps 2 to 5."""
    options = Options(ratios=RATIOS[1])
    yield RANGE, options
    for bins in BINS[1:]:
        options = replace(options, bins=bins)
        yield MORE_BINS, options
    yield QUANTILE, replace(options, quantile=QUANTILES[1])
    for kind, ratios, quantile, bins, images in itertools.product(
        KINDS, RATIOS, QUANTILES, BINS, IMAGES
    ):
        yield GRID, Options(kind, ratios, quantile, bins, images)

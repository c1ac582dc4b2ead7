"""What strategies ask that change a recipe step by step, as the vendors' own tuning procedures do, and what is answered.

`Try` builds a recipe and evaluates it. The other questions run nothing on evaluation data: they look at single layers on
calibration samples, or at how a recipe came out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from calibrant.recipe import Recipe
from calibrant.tuning.driver import Strategy

__all__ = [
    "Alone",
    "BatchOf",
    "Decided",
    "LayerAlone",
    "LayerFacts",
    "Layers",
    "NarrowOperands",
    "Operand",
    "Outcome",
    "OwnOutputs",
    "RecipeQuestion",
    "Seen",
    "Try",
    "with_samples",
]

#: One input of a node: its name, its operator, and the index of the input.
Operand = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Try:
    """What does a recipe reach on the evaluation data? Answer: `Reached`.

    Args:
        recipe: The recipe; one for training is trained.
        phase: Where in the procedure it stands.
        change: What is different in it, in words.
        raised: Operands that have 16 bits over what the recipe says; ranges stay as they are.
    """

    recipe: Recipe
    phase: str = field(default="", compare=False)
    change: str = field(default="", compare=False)
    raised: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnOutputs:
    """How like its float output is what each layer alone makes of float inputs? Answer: layer -> similarity in [0, 1]."""

    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Alone:
    """What do the outputs lose with one layer alone in the recipe's precision? Answer: a tuple of `LayerAlone`.

    Args:
        recipe: The recipe.
        half: Layers alone compute in float16 instead.
    """

    recipe: Recipe
    half: bool = False


@dataclass(frozen=True, slots=True)
class LayerAlone:
    """What the outputs lose with one layer alone in a precision.

    Args:
        layer: Its name.
        cosine: Cosine similarity of the part of the outputs that is furthest off, the mean over samples.
        macs: Its multiplications for one sample.
    """

    layer: str
    cosine: float
    macs: float


@dataclass(frozen=True, slots=True)
class Layers:
    """Which layers does a recipe quantize? Answer: a tuple of `LayerFacts`, in graph order."""

    recipe: Recipe


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What is known of a quantized layer.

    Args:
        layer: Its name.
        reads_input: It reads an input of the model, or what was only moved on the way from one.
        gives_output: What it gives becomes an output of the model.
        parameters: Numbers in its weight.
        cosine: Of its output in the quantized model with that in the float model, on the first sample; None where there is
            nothing to compare.
    """

    layer: str
    reads_input: bool
    gives_output: bool
    parameters: int
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Seen:
    """Between which values do the activations lie that quantized layers with a weight read?

    Answer: layer -> (least, largest), in graph order.
    """

    recipe: Recipe


@dataclass(frozen=True, slots=True)
class NarrowOperands:
    """Which operands have 8 bits where a recipe asks for 16? Answer: a tuple of `Operand`."""

    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Decided:
    """Which of the recipe's candidates was chosen for the model? Answer: its `Settings`, or None where there was no choice."""

    recipe: Recipe


@dataclass(frozen=True, slots=True)
class BatchOf:
    """How many samples has a batch of a recipe's calibration data? Answer: a number, or None where batches differ."""

    recipe: Recipe


RecipeQuestion = Try | OwnOutputs | Alone | Layers | Seen | NarrowOperands | Decided | BatchOf


def with_samples(
    recipe: Recipe, count: int, batch: int | None = None
) -> Strategy[RecipeQuestion, Any, Recipe]:
    """Return a recipe that calibrates on so many samples; as many batches as that takes where their size is fixed.

    Args:
        recipe: A recipe.
        count: Samples.
        batch: Samples in a batch; None for one batch of all.
    """
    size = count if batch is None else batch
    calibration = replace(recipe.calibration, batch_size=size, batch_num=-(-count // size))
    found = replace(recipe, calibration=calibration)
    real: int | None = yield BatchOf(found)
    if real is None or real == size:
        return found
    return replace(found, calibration=replace(calibration, batch_num=-(-count // real)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a procedure ends with.

    Args:
        best: The question whose recipe is its result; None where none of those it tried is.
        reason: Why it ended, as a sentence.
        ranking: Layer -> what it was ranked by, where the procedure ranks; the one that loses most first.
        ranked_by: What that is, as a clause.
        advice: What to try next.
        files: Further files by name, as plain values that become JSON.
    """

    best: Try | None
    reason: str
    ranking: Mapping[str, float] = field(default_factory=dict)
    ranked_by: str = ""
    advice: tuple[str, ...] = ()
    files: Mapping[str, Any] = field(default_factory=dict)

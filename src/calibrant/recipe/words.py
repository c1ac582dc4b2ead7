"""What a recipe wants, in words: for sentences about what is not done, and for people who read an explanation."""

from __future__ import annotations

from typing import Any, Literal

from calibrant import algorithms
from calibrant.recipe.recipe import Fusion, Promotion, Recipe, Search
from calibrant.recipe.settings import AlgorithmChoice

__all__ = ["all_options", "choice_words", "setting_words", "value_words", "wish_words"]

Kind = Literal["activation", "weight"]


def all_options(kind: Kind, choice: AlgorithmChoice) -> dict[str, Any]:
    """Return every option of a registered algorithm: those that were chosen, and the defaults of the rest."""
    usual = {o.name: o.default for o in algorithms.describe(kind, choice.name)}
    return usual | dict(choice.options)


def choice_words(kind: Kind, choice: AlgorithmChoice) -> str:
    """Return an algorithm with the options that are not at their defaults.

    Example:
        >>> choice_words("activation", AlgorithmChoice.of("ifmr", {"search_range": (0.8, 1.2)}))
        'ifmr with search_range 0.8 to 1.2'
        >>> choice_words("weight", AlgorithmChoice("arq"))
        'arq'
    """
    usual = {}
    if choice.name in algorithms.names()[kind]:
        usual = {o.name: o.default for o in algorithms.describe(kind, choice.name)}
    other = [f"{k} {value_words(v)}" for k, v in choice.options if v != usual.get(k)]
    return f"{choice.name} with {' and '.join(other)}" if other else choice.name


def setting_words(name: str, value: Any) -> str:
    """Return one field of `Settings` as a clause.

    Example:
        >>> setting_words("balance", 0.5), setting_words("activation_bits", 16)
        ('balancing of strength 0.5', 'activations of 16 bits')
    """
    match name:
        case "activation" | "weight":
            return f"{name} algorithm '{choice_words(name, value)}'"
        case "compute":
            return f"computing in {'integers' if value == 'int' else value}"
        case "activation_bits" | "weight_bits":
            return f"{name.removesuffix('_bits')}s of {value} bits"
        case "activation_symmetric":
            return "symmetric activations" if value else "asymmetric activations"
        case "activation_per_channel" | "weight_per_channel":
            each = "channel" if value else "tensor"
            return f"one scale a {each} for {name.split('_')[0]}s"
        case "balance":
            return f"balancing of strength {value:g}"
        case "compensation":
            return "error compensation" if value else "no error compensation"
        case "candidates":
            return (
                f"a choice between {_count(len(value), 'candidate')}" if value else "no candidates"
            )
        case "bias_samples":
            return f"a bias corrected with {_count(value, 'sample')}"
        case "bias_metric":
            return f"a bias corrected where {value} gets better"
        case _:
            return f"{name.replace('_', ' ')} {value}"


def wish_words(recipe: Recipe, name: str) -> str:
    """Return what a recipe says of the whole model in one of its fields, or one of `calibration`, as a clause."""
    value = getattr(recipe if hasattr(recipe, name) else recipe.calibration, name)
    match value:
        case Search():
            return _search(value)
        case Promotion():
            return _promotion(value)
        case Fusion():
            return _fusion(value)
    words: dict[str, str] = {
        "joint": "one range for the tensors that an Add brings together",
        "scale_format": "scales of activations rounded through float16",
        "output_precision": f"outputs as {value}",
        "training": "ranges that are learned by training",
        "bias_correction": f"bias correction {value}",
        "equalize": f"equalization {value}",
        "batch_size": f"batches of {value} samples",
        "batch_num": f"calibration on {_count(value, 'batch', 'batches')}",
        "exact": "calibration on raw values",
        "random": "random values in the place of data",
        "fix": f"fixed inputs ({', '.join(map(str, recipe.fix))})",
        "keep_fixed_inputs": "fixed inputs that the written models keep",
        "sources": "the place of the calibration data",
        "behind": "activations that are observed behind rounded weights",
        "balance_batches": f"balancing by {_count(value, 'batch', 'batches')}",
    }
    return words.get(name) or f"{name.replace('_', ' ')} {value_words(value)}"


def _search(search: Search) -> str:
    each = "layer by layer" if search.scope == "layer" else "for the whole model"
    return f"a search between candidates {each}, by {search.metric}"


def _promotion(promotion: Promotion) -> str:
    if promotion.count is not None:
        which = f"the {_count(promotion.count, 'layer')} that lose most"
    elif promotion.threshold is not None:
        which = f"the layers whose {promotion.metric} is {promotion.threshold:g} or worse"
    else:
        which = f"the layers that lose most, up to {promotion.budget:.0%} of the multiplications"
    return f"{promotion.precision} for {which}"


def _fusion(fusion: Fusion) -> str:
    if not fusion.batch_norm:
        return "batch normalization that is not folded"
    if fusion.skip:
        return f"batch normalization that stays behind {', '.join(fusion.skip)}"
    return "batch normalization that is folded"


def value_words(value: Any) -> str:
    """Return a value as a recipe would have it: switches as on and off, a pair as its two ends."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return " to ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    return str(value)


def _count(number: Any, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"

"""What a recipe may ask for and the core does not run yet, in one place.

A dialect expresses all that its vendor's file says; nothing of it may be dropped in silence. Whoever
implements one of these takes its line away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from calibrant import algorithms
from calibrant.errors import UnsupportedError
from calibrant.recipe.recipe import Recipe, Rule
from calibrant.recipe.settings import FROM_MODEL, AlgorithmChoice

__all__ = ["RESERVED", "check_supported", "unsupported"]

#: Algorithms that a dialect may ask for and that nobody has written yet: they are learned by training.
RESERVED: dict[str, tuple[str, ...]] = {
    "activation": ("ulq",),
    "weight": ("ulq",),
}

#: What candidates may differ in.
_OF_CANDIDATES = (
    "activation",
    "activation_bits",
    "activation_symmetric",
    "activation_per_channel",
)


def unsupported(recipe: Recipe) -> list[str]:
    """List what is asked for and not implemented, one clause each, with the rule that asks.

    A recipe for training asks for one thing; that its ranges are learned is a part of that.
    """
    training = ["ranges learned by training"] if recipe.training else []
    return list(dict.fromkeys([*training, *_for_layers(recipe)]))


def check_supported(recipe: Recipe) -> None:
    """Refuse a recipe that asks for what is not implemented.

    Raises:
        UnsupportedError: It does; the message lists all of it, or says which command a recipe for training is for.
    """
    if recipe.training:
        origin = recipe.rules[0].origin if recipe.rules else ""
        raise UnsupportedError(
            f"{origin.split(':')[0] or 'This recipe'} is for training with quantization, and 'calibrant quantize' "
            "does not train: 'calibrant explain MODEL --recipe FILE' shows what it means for each layer; "
            "'calibrant train MODEL --recipe FILE' trains with it."
        )
    asked = unsupported(recipe)
    if asked:
        raise UnsupportedError(f"Understood, but not implemented yet: {'; '.join(asked)}.")


def _for_layers(recipe: Recipe) -> Iterator[str]:
    for rule in recipe.rules:
        s = rule.settings
        by = f" ({rule.origin})" if rule.origin else ""
        for candidate in s.candidates or ():
            others = [name for name, _ in candidate.items() if name not in _OF_CANDIDATES]
            if others:
                yield f"candidates with settings of their own for {', '.join(others)}{by}"
            if candidate.activation is not None and candidate.activation.name == FROM_MODEL:
                yield f"a candidate that keeps the scales of the model{by}"
            yield from _algorithm(
                "activation", candidate.activation, rule, training=recipe.training
            )
        yield from _algorithm("activation", s.activation, rule, training=recipe.training)
        yield from _algorithm("weight", s.weight, rule, training=recipe.training)


def _algorithm(
    kind: Literal["activation", "weight"],
    choice: AlgorithmChoice | None,
    rule: Rule,
    *,
    training: bool,
) -> Iterator[str]:
    known = ("auto", FROM_MODEL, *algorithms.names()[kind])
    known += RESERVED[kind] if training else ()
    if choice is not None and choice.name not in known:
        by = f" ({rule.origin})" if rule.origin else ""
        yield f"{kind} algorithm '{choice.name}'{by}"

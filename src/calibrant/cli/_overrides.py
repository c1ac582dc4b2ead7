"""Options of the command line as the last rules of a recipe, so that they win over a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from calibrant.recipe import AlgorithmChoice, Recipe, Switch

__all__ = ["with_options"]


def with_options(
    recipe: Recipe,
    *,
    activation: str | None = None,
    weight: str | None = None,
    bits: int | None = None,
    symmetric: bool | None = None,
    per_channel: bool | None = None,
    skip: Sequence[str] = (),
    target: str | None = None,
    bias_correction: bool | None = None,
    equalize: bool | None = None,
    exact: bool = False,
    fix: Sequence[str] = (),
    keep_fixed_inputs: bool = False,
) -> Recipe:
    """Return the recipe with options over it; None says nothing.

    Each option is a rule of its own for all nodes, with its flag as the origin; `skip` is one rule a
    layer.

    Raises:
        ConfigError: An unknown algorithm, or one that needs options; a width other than 8 or 16; a fixed input
            that is not written as NAME=VALUE.
    """
    from calibrant.errors import ConfigValueError
    from calibrant.recipe import AllNodes, Layer, Rule, Settings
    from calibrant.recipe.fixed import fixed_by_text, merged

    rules: list[Rule] = []

    def add(flag: str, settings: Settings) -> None:
        rules.append(Rule(AllNodes(), settings, f"command line {flag}"))

    if activation is not None:
        add("--activation", Settings(activation=_choice("activation", activation)))
    if weight is not None:
        add("--weight", Settings(weight=_choice("weight", weight)))
    if bits is not None:
        if bits not in (8, 16):
            raise ConfigValueError(
                f"--bits is {bits}; it is 8 or 16. A recipe sets other widths of weights."
            )
        add("--bits", Settings(activation_bits=bits, weight_bits=bits))
    if symmetric is not None:
        flag = "--symmetric" if symmetric else "--asymmetric"
        add(flag, Settings(activation_symmetric=symmetric))
    if per_channel is not None:
        flag = "--per-channel" if per_channel else "--per-tensor"
        add(flag, Settings(weight_per_channel=per_channel))
    rules += [
        Rule(Layer(name), Settings(compute="float32"), "command line --skip") for name in skip
    ]
    if target is not None:
        recipe = recipe.on_target(target, "command line --target")
    return replace(
        recipe.with_rules(*rules),
        bias_correction=_switch(bias_correction, recipe.bias_correction),
        equalize=_switch(equalize, recipe.equalize),
        calibration=replace(recipe.calibration, exact=exact or recipe.calibration.exact),
        fix=merged(recipe.fix, fixed_by_text(fix, "--fix")),
        keep_fixed_inputs=keep_fixed_inputs or recipe.keep_fixed_inputs,
    )


def _choice(kind: Literal["activation", "weight"], name: str) -> AlgorithmChoice:
    from calibrant import algorithms
    from calibrant.errors import ConfigError
    from calibrant.recipe import AlgorithmChoice

    if name != "auto":
        try:
            algorithms.activation(name) if kind == "activation" else algorithms.weight(name)
        except ConfigError as e:
            raise type(e)(f"--{kind}: {e}") from e
    return AlgorithmChoice(name)


def _switch(value: bool | None, otherwise: Switch) -> Switch:
    return otherwise if value is None else "on" if value else "off"

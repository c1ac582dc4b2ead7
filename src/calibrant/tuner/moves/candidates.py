"""The moves that are tried: those of the advice that cost nothing, and learned rounding, scales of weights, and more data.

A range that was chosen for 8 bits stays where a search raises the layer later. So the algorithms that are tried know how many
bits they choose for: `mse`, which clips less the more there are, and `min-max`, which never does.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from calibrant.diagnose.advice.candidates import clamps, everywhere, sets, singles
from calibrant.diagnose.advice.steps import Tried
from calibrant.diagnose.advice.together import joined
from calibrant.diagnose.advice.units import Unit
from calibrant.diagnose.triage import Mask
from calibrant.dialects import dump_recipe
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, Recipe, Rule, Settings
from calibrant.solution import Solution

__all__ = ["Candidate", "candidates"]

#: Kind of move -> the advice's moves that are of it.
_STEPS = {
    "algorithm": ("algorithm", "clamp"),
    "per-channel": ("per-channel",),
    "balance": ("balance", "equalize"),
    "bias-correction": ("bias-correction",),
}

#: Algorithms of activations that know how many bits they choose for, and those of masks.
_ALGORITHMS = ("mse", "min-max", "fixed")

#: Learned rounding of the worst weight, and of those that make half of what all weights lose, so many at most.
_HALF, _MOST = 0.5, 3

#: It learns for so many steps: most of its gain, in a twentieth of the time.
_STEPS_OF_ROUNDING = 500


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A move to try.

    Args:
        kind: Of moves.
        what: What it does, a clause.
        layers: Nodes it is for; empty for the whole model.
        added: What it adds to a recipe: rules, and switches of the whole model.
        price: What it asks of the device, in the order of the advice; 0 for nothing.
        more_data: It takes all of the calibration data.
    """

    kind: str
    what: str
    layers: tuple[str, ...]
    added: Recipe
    price: int = 0
    more_data: bool = False

    def of(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the move."""
        found = joined(recipe, self.added)
        if self.more_data:
            found = replace(found, calibration=replace(found.calibration, batch_num=None))
        return found

    @property
    def rules(self) -> str:
        """What it adds, as text (YAML)."""
        return "" if self.more_data else dump_recipe(self.added)


def candidates(
    kinds: Sequence[str],
    base: Recipe,
    wanted: Recipe,
    units: Sequence[Unit],
    masks: Sequence[Mask],
    solution: Solution,
    *,
    more_data: bool,
) -> Iterator[Candidate]:
    """Yield the moves of some kinds; what a recipe says itself stays.

    Args:
        kinds: Kinds of moves.
        base: The recipe that they are laid over, as it was decided.
        wanted: The recipe as it was given.
        units: Quantizers, the one that loses most first.
        masks: Quantizers that would have to carry a mask.
        solution: The solution of the recipe.
        more_data: The recipe takes a part of the calibration data.
    """
    empty = Recipe(target=base.target)
    if "data" in kinds and more_data:
        yield Candidate("data", "all of the calibration data", (), empty, more_data=True)
    said = {name for r in wanted.rules for name, _ in r.settings.items()}
    weights = [u for u in units if u.kind == "weight"]
    for found in (
        *_advised(kinds, base, units, masks, solution),
        *(_scales(empty) if "algorithm" in kinds and weights else ()),
        *(_roundings(weights, empty) if "rounding" in kinds else ()),
    ):
        sets_it = {name for r in found.added.rules for name, _ in r.settings.items()}
        off = found.added.equalize == "on" and wanted.equalize == "off"
        off |= found.added.bias_correction == "on" and wanted.bias_correction == "off"
        if not off and not sets_it & said:
            yield found


def _advised(
    kinds: Sequence[str],
    base: Recipe,
    units: Sequence[Unit],
    masks: Sequence[Mask],
    solution: Solution,
) -> Iterator[Candidate]:
    """Yield the moves of the advice that keep what a model costs."""
    steps = (
        *clamps(masks, base),
        *everywhere(units, solution, base),
        *sets(units, solution, base),
        *singles(units, solution, base),
    )
    by_channel = solution.plan.target.channel_scales
    for step in steps:
        if step.move == "per-channel" and not by_channel:
            continue
        for kind in kinds:
            if step.move in _STEPS.get(kind, ()) and _keeps(step):
                yield Candidate(kind, step.done, step.layers, step.added, step.price)


def _scales(empty: Recipe) -> Iterator[Candidate]:
    """Yield scales of all weights by least squared error."""
    rule = Rule(AllNodes(), Settings(weight=AlgorithmChoice("mse")), "tune: moves")
    yield Candidate("algorithm", "weights by mse", (), replace(empty, rules=(rule,)))


def _keeps(step: Tried) -> bool:
    """Whether what a step says holds for layers that are raised later, too."""
    named = [r.settings.activation.name for r in step.added.rules if r.settings.activation]
    return all(name in _ALGORITHMS for name in named)


def _roundings(weights: Sequence[Unit], empty: Recipe) -> Iterator[Candidate]:
    """Yield learned rounding of the worst weight, and of the worst few."""
    total = sum(u.loss for u in weights)
    if not total > 0:
        return
    some: list[str] = []
    part = 0.0
    for unit in weights[:_MOST]:
        some.append(unit.layers[0])
        part += unit.loss
        if part >= _HALF * total:
            break
    choice = AlgorithmChoice.of("ada", {"iterations": _STEPS_OF_ROUNDING})
    for layers in dict.fromkeys((tuple(some[:1]), tuple(some))):
        rules = [
            Rule(Layer(glob.escape(n)), Settings(weight=choice), "tune: moves") for n in layers
        ]
        what = (
            f"learned rounding of {'the weight' if len(layers) == 1 else f'{len(layers)} weights'}"
        )
        yield Candidate("rounding", what, layers, replace(empty, rules=tuple(rules)))

"""Accuracy-based automatic calibration of the Ascend tools (`strategies.roll_back`), on recipes."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from typing import Any

from calibrant.recipe import Layer, Recipe, Rule, Settings
from calibrant.tuning.driver import Strategy
from calibrant.tuning.questions import Reached
from calibrant.tuning.strategies.recipes import Outcome, OwnOutputs, RecipeQuestion, Try
from calibrant.tuning.strategies.roll_back import Ranked, RollBack, roll_back

__all__ = ["PREFIX", "amct_rollback", "rolled_back"]

#: What the names of the files begin with.
PREFIX = "accuracy_based_auto_calibration"


def rolled_back(recipe: Recipe, kept: Mapping[str, bool]) -> Recipe:
    """Return a recipe in which layers that are not kept stay in float."""
    return recipe.with_rules(
        *(
            Rule(Layer(glob.escape(n)), Settings(compute="float32"), "rolled back")
            for n, stays in kept.items()
            if not stays
        )
    )


def amct_rollback(recipe: Recipe) -> Strategy[RecipeQuestion, Any, Outcome]:
    """Return the recipe with the layers in float that the procedure rolls back.

    Args:
        recipe: What is quantized.
    """
    procedure = roll_back((True, 0.0))
    tried: dict[tuple[str, ...], Try] = {}
    answer: Any = None
    while True:
        try:
            question = next(procedure) if answer is None else procedure.send(answer)
        except StopIteration as end:
            return _outcome(end.value, tried)
        if isinstance(question, Ranked):
            answer = yield OwnOutputs(recipe)
            continue
        kept = dict(question.kept or ())
        back = tuple(n for n, stays in kept.items() if not stays)
        again = back in tried
        change = f"{len(back)} of {len(kept)} layers are back in float" if back else ""
        asked = Try(
            rolled_back(recipe, kept),
            ("the last that met it" if again else "roll back")
            if question.kept is not None
            else "everything quantized",
            change,
        )
        tried[back] = asked
        reached: Reached = yield asked
        answer = (reached.met, reached.loss)


def _outcome(found: RollBack, tried: Mapping[tuple[str, ...], Try]) -> Outcome:
    back = tuple(n for n, _ in found.ordered if not found.kept.get(n, True))
    best = None if found.outcome == "all rolled back" else tried[back]
    reason = {
        "quantized": "Everything quantized meets the requirement.",
        "partial": f"{len(back)} of {len(found.kept)} layers are back in float, those whose own output is least like the "
        "float one.",
        "all rolled back": "With every layer but the last of the ranking back in float the requirement is not met; the "
        "procedure ends without a model.",
    }[found.outcome]
    return Outcome(
        best,
        reason,
        dict(found.ordered),
        "similarity of each layer's own output, from float inputs",
        advice=("Allow a larger drop, or calibrate on more data.",) if best is None else (),
        files={
            f"{PREFIX}_ranking_information.json": [[n, s] for n, s in found.ordered],
            f"{PREFIX}_record.json": found.history_content(),
        },
    )

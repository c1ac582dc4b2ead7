"""The vendors' own tuning procedures, by name: where each begins, what it gives layers, and the files of its tools.

| strategy | dialect of the result | layers end in |
|---|---|---|
| `amct-rollback`, `amct-manual` | AMCT `config.json` | int8, float32 |
| `amct-retrain` | AMCT `config.json` for training | int8, float32 |
| `ascend-traverse` | | int8, float32 |
| `horizon` | Horizon `quant_config` | int8, int16, float16, float32; `ec` |
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calibrant.dialects import dump_recipe, load_recipe
from calibrant.dialects.amct.retrain_write import default_retrain_recipe
from calibrant.dialects.amct.write import default_recipe
from calibrant.errors import CalibrantError
from calibrant.graph.load import ModelLike
from calibrant.recipe import Recipe
from calibrant.solution import build
from calibrant.tuner.evaluations import Verdict
from calibrant.tuner.recipe_trials import EvaluationsSpent, RecipeTrial, RecipeTrials
from calibrant.tuner.told import Folder, Told
from calibrant.tuner.trials import TimeIsUp, Trials
from calibrant.tuning.driver import Strategy, drive
from calibrant.tuning.questions import Found
from calibrant.tuning.strategies.amct_manual import amct_manual
from calibrant.tuning.strategies.amct_retrain import amct_retrain
from calibrant.tuning.strategies.amct_rollback import amct_rollback
from calibrant.tuning.strategies.ascend_traverse import ascend_traverse
from calibrant.tuning.strategies.ascend_traverse import default_recipe as ascend_default
from calibrant.tuning.strategies.horizon import FOLDERS, horizon
from calibrant.tuning.strategies.recipes import Outcome, RecipeQuestion, Try

__all__ = ["VENDORS", "Ended", "Vendor", "run_vendor"]


@dataclass(frozen=True, slots=True)
class Vendor:
    """One procedure.

    Args:
        procedure: (recipe to begin with, precisions that layers may have) -> what asks.
        default: Returns the recipe that it begins with where none is given.
        precisions: What layers may end in.
        dialect: Dialect of the tools that it belongs to, where that is written.
        files: Names under which the result is written in that dialect.
        evaluations: Full evaluations, at most, where nothing else is asked for; None for no limit.
        keeps_named: Layers whose precision a rule names are left alone.
        trains: Each trial is a training.
        folders: Phase -> the folder that its tools write it to.
    """

    procedure: Callable[[Recipe, Sequence[str]], Strategy[RecipeQuestion, Any, Outcome]]
    default: Callable[[], Recipe]
    precisions: tuple[str, ...]
    dialect: str = ""
    files: tuple[str, ...] = ()
    evaluations: int | None = None
    keeps_named: bool = False
    trains: bool = False
    folders: Mapping[str, str] | None = None


VENDORS: Mapping[str, Vendor] = {
    "amct-rollback": Vendor(
        lambda recipe, _: amct_rollback(recipe),
        default_recipe,
        ("int8", "float32"),
        "amct",
        ("config.json", "accuracy_based_auto_calibration_final_config.json"),
    ),
    "amct-manual": Vendor(
        lambda recipe, _: amct_manual(recipe),
        default_recipe,
        ("int8", "float32"),
        "amct",
        ("config.json",),
    ),
    "amct-retrain": Vendor(
        lambda recipe, _: amct_retrain(recipe),
        default_retrain_recipe,
        ("int8", "float32"),
        "amct-retrain",
        ("config.json",),
        trains=True,
    ),
    "ascend-traverse": Vendor(
        lambda recipe, _: ascend_traverse(recipe), ascend_default, ("int8", "float32")
    ),
    "horizon": Vendor(
        horizon,
        lambda: load_recipe({"model_config": {"all_node_type": "int8"}}, dialect="horizon"),
        ("int8", "int16", "float16", "float32"),
        "horizon",
        ("final_quant_config.json",),
        evaluations=40,
        keeps_named=True,
        folders=FOLDERS,
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """How a procedure ended.

    Args:
        search: What was tried.
        asked: The question whose recipe is the result.
        verdict: What it reaches on all evaluation samples.
        told: What it tells beside.
        interrupted: What ended it early; empty where it ended by itself.
    """

    search: Found
    asked: Try
    verdict: Verdict
    told: Told
    interrupted: str


def run_vendor(
    name: str, trials: Trials, precisions: Sequence[str], most: int | None, source: ModelLike
) -> Ended:
    """Run a procedure to its end, or until evaluations or time are spent.

    Args:
        name: One of `VENDORS`.
        trials: Model, data, evaluation and journal.
        precisions: What layers may end in.
        most: Evaluations of quantized models, at most; None for no limit.
        source: The model as it was given, for the files of the vendor's tools.

    Raises:
        CalibrantError: No trial could be scored.
        KeyboardInterrupt: Nothing was evaluated yet.
    """
    vendor = VENDORS[name]
    answers = RecipeTrials(trials, most)
    interrupted = ""
    try:
        outcome = drive(vendor.procedure(trials.recipe, precisions), answers.answer)
    except (KeyboardInterrupt, TimeIsUp, EvaluationsSpent) as e:
        if not answers.log:
            raise
        outcome, interrupted = _early(e, answers.log, most)
    failed = trials.evaluations.failed
    if failed is not None and not any(math.isfinite(t.reached.loss) for t in answers.log):
        raise failed
    best = _chosen(answers.log, outcome.best)
    if outcome.best is None and best.reached.met:
        outcome = Outcome(best.asked, outcome.reason, outcome.ranking, outcome.ranked_by)
    verdict = trials.evaluations.settle(
        answers.key_of(best.asked),
        best.phase,
        best.reached,
        lambda: build(answers.solution_of(best.asked)).deploy,
    )
    settled = replace(best, reached=verdict.reached)
    log = tuple(settled if t is best else t for t in answers.log)
    reason = outcome.reason
    if best.reached.met and not verdict.reached.met:
        reason += " On all samples, those held out too, it does not."
    search = Found(settled, log, reason)
    texts = {n: _json(content) for n, content in outcome.files.items()}
    if vendor.dialect and (outcome.best is not None or vendor.trains):
        text = _dialect(best.asked.recipe, vendor.dialect, source, trials.notes)
        texts |= dict.fromkeys(vendor.files, text) if text else {}
    told = Told(
        name,
        tuple(t.change for t in answers.log),
        outcome.ranking,
        outcome.ranked_by,
        outcome.advice,
        texts,
        _folders(vendor, answers, source),
    )
    return Ended(search, best.asked, verdict, told, interrupted)


def _early(
    why: BaseException, log: Sequence[RecipeTrial], most: int | None
) -> tuple[Outcome, str]:
    """Return the best so far, and what ended the run."""
    met = [t for t in log if t.reached.met]
    best = min(met, key=lambda t: (t.cost, t.reached.loss)).asked if met else None
    at = f"; it was at '{log[-1].phase}'" if log[-1].phase else ""
    if isinstance(why, EvaluationsSpent):
        return Outcome(best, f"All {most} evaluations of quantized models are spent{at}."), ""
    ended = "Ctrl-C" if isinstance(why, KeyboardInterrupt) else "time"
    return Outcome(best, f"The run was ended early ({ended}){at}."), ended


def _chosen(log: Sequence[RecipeTrial], best: Try | None) -> RecipeTrial:
    """Return the trial of the result; where there is none, the one that loses least."""
    if best is None:
        return min(log, key=lambda t: (t.reached.loss, t.cost))
    return next(t for t in reversed(log) if t.asked == best)


def _dialect(recipe: Recipe, dialect: str, source: ModelLike, notes: list[str]) -> str:
    """Return a recipe in a vendor's dialect; what that has no words for is noted."""
    lost: list[str] = []
    try:
        text = dump_recipe(recipe, dialect, model=source, lost=lost)
    except CalibrantError as e:
        notes.append(f"There is no file of dialect '{dialect}': {e}")
        return ""
    notes += [f"Dialect '{dialect}': {sentence}" for sentence in lost]
    return text


def _folders(vendor: Vendor, answers: RecipeTrials, source: ModelLike) -> dict[str, Folder]:
    """Return the best trial of each phase that the vendor's tools have a folder for."""
    found: dict[str, Folder] = {}
    for phase, folder in (vendor.folders or {}).items():
        own = [t for t in answers.log if t.phase == phase]
        if not own:
            continue
        met = [t for t in own if t.reached.met]
        best = min(met, key=lambda t: (t.cost, t.reached.loss)) if met else _chosen(own, None)
        text = _dialect(best.asked.recipe, vendor.dialect, source, [])
        found[folder] = Folder(answers.solution_of(best.asked), text)
    return found


def _json(content: Any) -> str:
    return json.dumps(content, indent=4, separators=(",", ":"), ensure_ascii=False) + "\n"

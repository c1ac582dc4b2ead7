"""The end of a tuning run: the best trial becomes a result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from calibrant.graph.load import ModelLike
from calibrant.pipeline import finished
from calibrant.qat.recipe import for_calibration
from calibrant.recipe import Recipe
from calibrant.tuner.evaluations import Verdict
from calibrant.tuner.moves import TRAINING, MoveTried
from calibrant.tuner.moves.trained import what_is_trained
from calibrant.tuner.requirement import Requirement
from calibrant.tuner.result import TuningResult
from calibrant.tuner.told import Told
from calibrant.tuner.trials import Trials
from calibrant.tuning.guide import as_decided
from calibrant.tuning.questions import Found, Trial
from calibrant.tuning.unseen import unseen_outputs

__all__ = ["result_of"]


def result_of(
    source: ModelLike,
    trials: Trials,
    search: Found,
    recipe: Recipe,
    verdict: Verdict,
    required: Requirement,
    reference: float | Mapping[str, float],
    unit: str,
    *,
    told: Told | None = None,
    interrupted: str,
    start: float,
) -> TuningResult:
    """Return what a run came to: the best model, built, with what was found on the way.

    Args:
        source: The model as it was given.
        trials: What was evaluated.
        search: What the strategy ended with.
        recipe: That of the best trial.
        verdict: What it reaches on all samples.
        required: What was required.
        reference: Score of the float model.
        unit: What costs are counted in.
        told: What a vendor's strategy reports, and its files.
        interrupted: What ended the run early; empty where nothing did.
        start: When the work began, by `time.perf_counter`.
    """
    bench, store = trials.bench, trials.bench.store
    evaluator = trials.evaluations.evaluator
    found = bench.found(for_calibration(recipe))
    trainer = trials.trainer
    if search.best.trained:
        assert trainer is not None
        result = trainer.model(recipe)
    else:
        result = finished(
            source,
            found.solution,
            found.findings,
            found.probe,
            store.progress,
            store.runtime,
            statistics=found.statistics,
            unseen=unseen_outputs(found, store.known),
            start=start,
        )
    notes = (
        []
        if evaluator.labelled
        else [
            f"There are no labels: {evaluator.name} compares outputs with the float model's, and says nothing of how "
            "often the model is right."
        ]
    )
    if search.best.reached.loss < 0 and not search.best.reached.free:
        notes.append(_better(verdict.interval))
    if search.best.trained:
        what = (
            "is for calibrant train."
            if recipe.training
            else "says layers and widths, and calibrates without training."
        )
        notes.append(
            f"Weights and ranges were trained: deploy.onnx, record.txt and trained.onnx have them. recipe.yaml {what}"
        )
    raised = trials.menu.raised(search.best.assignment)
    trained = what_is_trained(trainer.budget, raised) if trainer is not None else ""
    return TuningResult(
        result,
        recipe if recipe.training else as_decided(recipe, found.guide),
        search.best.reached.met,
        required,
        evaluator.name,
        evaluator.labelled,
        evaluator.higher_is_better,
        reference,
        trials.evaluations.allowed,
        trials.menu,
        search,
        verdict,
        unit,
        trials.counts,
        trials.journal.reused,
        trials.errors,
        time.perf_counter() - start,
        interrupted,
        (*notes, *dict.fromkeys(trials.notes)),
        told,
        tuple(_as_it_ended(m, search.best, trained) for m in trials.moves),
    )


def _better(interval: tuple[float, float] | None) -> str:
    """Return what it means that a quantized model scores better than the float one.

    Args:
        interval: Between which values its loss on all such samples lies; None where the evaluation does not say.
    """
    better = "The quantized model scores better than the float model"
    check = "see that the evaluation feeds the float model what it was trained on, and scores both alike."
    if interval is None:
        return f"{better}: by chance where it is by little; where it is by much, {check}"
    if interval[1] < 0:
        return f"{better}, by more than chance explains: {check}"
    return f"{better}, which is chance on this data."


def _as_it_ended(move: MoveTried, best: Trial, trained: str) -> MoveTried:
    """Return a move, taken where the best model has it; `trained` says which training that would be."""
    has = best.trained and move.what == trained if move.kind == TRAINING else best.improved
    return replace(move, taken=move.taken and has)

"""The road from a recipe to a solution, on a store.

    prepare → probe → decide → observe → search → choose → promote → refine → correct

What the recipe leaves open is decided by trying it on the probe; every trial is in the findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from calibrant.analysis.probe import Probe, check_raised, samples_for
from calibrant.analysis.simulate import Simulator
from calibrant.choose import choose_parameters, settled
from calibrant.findings import Findings, PassFindings, PromotionReport
from calibrant.graph.digest import digest
from calibrant.graph.form import ModelForm
from calibrant.graph.passes.balance import Balanced, factors_by_layer
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.recipe import Note, Recipe
from calibrant.refine.few_levels import Refinement, refine_levels
from calibrant.refine.learned_rounding import Learned, learn_rounding
from calibrant.refine.narrow_sums import inputs_looked_at
from calibrant.solution import NOT_FOR_ACCURACY, Solution
from calibrant.stats import Statistics, TensorStats
from calibrant.tuning.biases import affordable, corrected, corrected_by_rules, judges
from calibrant.tuning.built import behind_weights
from calibrant.tuning.guide import Guide
from calibrant.tuning.halves import in_half
from calibrant.tuning.narrow import narrowed
from calibrant.tuning.promotion import promoted
from calibrant.tuning.ranges import decide
from calibrant.tuning.search import prepare_search
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store

__all__ = ["solve", "statistics_of"]


def solve(store: Store, recipe: Recipe, guide: Guide | None = None) -> Solved:
    """Return the solution of a recipe, what was found on the way, the statistics, and the probe.

    Args:
        store: The model, its data, and what is known of them.
        recipe: What is wanted.
        guide: What was decided for the same recipe with other widths; None decides it here.

    Raises:
        ModelError: The model cannot be read, checked or quantized.
        DataError: The data is empty, does not fit the inputs, or is not finite.
        ConfigError: The recipe names what the model does not have, or asks for what does not exist.
    """
    progress, runtime = store.progress, store.runtime
    with progress.stage("load"):
        original, samples = store.original(recipe), store.samples(recipe)
        prepared = store.prepared(recipe)
        plan = prepared.plan
    with progress.stage("probe"):
        probe = store.probe(prepared.model, samples, samples_for(recipe, plan))
        if prepared.raised and store.first_time("raised", prepared.model):
            check_raised(original, probe, runtime)
    with progress.stage("decide"):
        base, half = in_half(prepared.model, plan.half, probe, store)
        decided = decide(base, plan, recipe, probe, store, guide)
        recipe, form, trials = decided.recipe, decided.form, decided.trials
        searching = prepare_search(recipe, form.model, form.plan)
    halves = decided.folds.halves
    with progress.stage("observe"):
        wanted: tuple[Sequence[str], Mapping[str, Sequence[int]]]
        wanted = form.plan.observed_tensors, form.plan.channel_axes
        if searching is not None:
            wanted = searching.tensors, dict(searching.axes)
        exact = recipe.calibration.exact
        statistics, data = store.observed.statistics(
            decided.folds.model, wanted[0], wanted[1], samples, exact=exact, folds=decided.folds
        )
    store.keep_tops(decided.folds, form.model, inputs_looked_at(form.model, form.plan))
    base, plan, search = form.model, form.plan, None
    if searching is not None:
        with progress.stage("search"):
            plan, search, more = searching.choose(base, plan, statistics, probe, progress, runtime)
            trials += more
    with progress.stage("choose"):
        plan = settled(plan)
        params = _chosen(plan, base, statistics, form.balanced, store)
    half_later = form.plan.half if guide is not None else ()  # the form is older than the recipe
    promotion: PromotionReport | None = None
    if recipe.promote is not None:
        with progress.stage("promotion"):
            plan, raised, promotion = promoted(
                base, plan, params, recipe, probe, progress, runtime
            )
            base, more_half = in_half(base, raised, probe, store)
            half += more_half
            half_later += raised
            params = _chosen(plan, base, statistics, form.balanced, store)
    simulator = decided.simulator
    if base is not simulator.model:
        simulator = Simulator(base, simulator.outputs, runtime)
    few = affordable(statistics, data.samples)
    with progress.stage("choose"):
        narrow = narrowed(
            base,
            plan,
            params,
            probe,
            simulator,
            decided.parts,
            store,
            [w.layer for w in form.plan.weights if w.algorithm.name == "auto"],
            guide.narrow if guide is not None else None,
            judges(probe.part(few)),
        )
        params = narrow.params
        trials += narrow.trials
    params, learned, refinements = _refined(base, plan, params, probe, few, store)
    with progress.stage("bias correction"):
        params, by_rule, notes = corrected_by_rules(base, plan, params, probe, runtime)
        params, biases = corrected(
            base,
            plan,
            params,
            recipe,
            probe,
            few,
            simulator,
            decided.parts,
            store,
            guide.way if guide is not None else None,
            narrow.scores if params is narrow.params else None,
        )
        trials += biases.trials
    if recipe.calibration.random:
        notes = (*notes, Note("calibration", NOT_FOR_ACCURACY, True))
    plan = replace(plan, notes=(*plan.notes, *notes))
    done = ModelForm(
        recipe.fusion.batch_norm,
        recipe.fusion.skip,
        tuple(n for n in plan.half if n not in half_later),
        form.balanced,
        form.equalized,
        half_outputs=recipe.output_precision == "float16",
        half_later=half_later,
        overflows=tuple((i.node, i.overflows) for i in half if i.overflows),
    )
    passes = PassFindings(
        prepared.folded, half, narrow.layers, learned, refinements, biases.report, by_rule
    )
    return Solved(
        Solution(original, base, done, plan, params, random=recipe.calibration.random),
        Findings(data, trials, search, promotion, passes),
        Statistics(statistics, digest(form.model)),
        probe,
        Guide(decided.form, decided.option, biases.way, narrow.taken),
        halves or decided.folds.halves,
        simulator,
    )


def statistics_of(store: Store, recipe: Recipe) -> Statistics:
    """Return the statistics of every tensor that a recipe quantizes, from one pass over the data."""
    prepared = store.prepared(recipe)
    wanted: tuple[Sequence[str], Mapping[str, Sequence[int]]]
    wanted = prepared.plan.observed_tensors, prepared.plan.channel_axes
    searching = prepare_search(recipe, prepared.model, prepared.plan)
    if searching is not None:
        wanted = searching.tensors, dict(searching.axes)
    model = prepared.model
    if recipe.calibration.behind == "weights":
        model = behind_weights(model, prepared.plan)
    samples, exact = store.samples(recipe), recipe.calibration.exact
    with store.progress.stage("observe"):
        found, _ = store.observed.statistics(model, wanted[0], wanted[1], samples, exact=exact)
    return Statistics(found, digest(prepared.model))


def _chosen(
    plan: Plan,
    model: ir.Model,
    statistics: dict[str, TensorStats],
    balanced: tuple[Balanced, ...],
    store: Store,
) -> Parameters:
    params = choose_parameters(plan, model, statistics, store.known)
    return replace(params, balance=factors_by_layer(balanced))


def _refined(
    model: ir.Model, plan: Plan, params: Parameters, probe: Probe, few: int, store: Store
) -> tuple[Parameters, tuple[Learned, ...], tuple[Refinement, ...]]:
    """Make the weights better that ask for it, by running the model."""
    learned: tuple[Learned, ...] = ()
    refinements: tuple[Refinement, ...] = ()
    if plan.refines_levels:
        with store.progress.stage("levels"):
            params, found = refine_levels(
                model, plan, params, probe.part(few).feeds, runtime=store.runtime
            )
            refinements = tuple(found)
    if plan.learns_rounding:
        with store.progress.stage("learned rounding"):
            params, layers = learn_rounding(
                model,
                plan,
                params,
                probe.feeds,
                progress=store.progress.step,
                runtime=store.runtime,
            )
            learned = tuple(layers)
    return params, learned, refinements

"""The road of a tuning run: score the float model, let the strategy ask, and write what was best.

    model, data ─► Bench ◄─── trials ◄─── strategy (`tuning.strategies.auto`)
    evaluation  ─► Evaluator ◄──┘  └──► journal

The strategy knows no model. A run that is resumed is the same run: its answers come from the journal.
"""

from __future__ import annotations

import glob
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant._version import __version__
from calibrant.data.digests import data_digest, text_digest
from calibrant.dialects.asked import RecipeLike, asked
from calibrant.errors import ConfigValueError, ModelError
from calibrant.graph import targets
from calibrant.graph.digest import digest
from calibrant.graph.load import ModelLike
from calibrant.graph.modules import as_model
from calibrant.graph.structure import structure_digest
from calibrant.plan import Plan
from calibrant.progress import Callback
from calibrant.qat.recipe import for_calibration
from calibrant.recipe import Layer, Recipe, Rule
from calibrant.runtime.workers import workers_of
from calibrant.solution import build
from calibrant.tuner.checks import (
    PRECISIONS,
    check_budget,
    check_kernels,
    check_options,
    check_sensitivity,
    check_shares,
    moves_of,
    precisions_of,
    training_of,
)
from calibrant.tuner.costs import bytes_of, limited, menu_of
from calibrant.tuner.ending import result_of
from calibrant.tuner.journal import Journal
from calibrant.tuner.knowledge import Knowledge
from calibrant.tuner.noise import look_for_noise
from calibrant.tuner.precisions import settings_of, where_they_are
from calibrant.tuner.reference import evaluations_of, float_scores, name_of, nothing_scored
from calibrant.tuner.requirement import Requirement
from calibrant.tuner.result import TuningResult
from calibrant.tuner.scoring import evaluator_of
from calibrant.tuner.trainer import Trainer
from calibrant.tuner.trials import TimeIsUp, Trials
from calibrant.tuner.vendors import VENDORS, Vendor, run_vendor
from calibrant.tuning.bench import Bench
from calibrant.tuning.driver import Strategy, drive
from calibrant.tuning.guide import essence
from calibrant.tuning.menu import Assignment, Menu
from calibrant.tuning.promotion import fixed_layers
from calibrant.tuning.questions import Found, Question, Trial
from calibrant.tuning.strategies.auto import auto
from calibrant.tuning.strategies.within import within

__all__ = ["CONFIDENCE", "HOLDOUT", "PRECISIONS", "SAMPLES", "STRATEGIES", "TRIALS", "tune"]

#: Full evaluations of `auto`, at most, the float model's among them.
TRIALS = 8

#: Samples that layers are measured on alone.
SAMPLES = 16

#: Share of the evaluation samples that `auto` does not see.
HOLDOUT = 0.2

#: Of an evaluation that ends early, with `auto`.
CONFIDENCE = 0.99

#: Ways to search, called as `auto` is.
STRATEGIES: Mapping[str, Callable[..., Strategy[Question, Any, Found]]] = {"auto": auto}


def tune(
    model: ModelLike,
    data: Any,
    evaluate: Any = None,
    require: Requirement | str | Mapping[str, Any] | None = None,
    *,
    example: Any = None,
    recipe: RecipeLike | None = None,
    target: str | Path | None = None,
    fix: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
    limits: Mapping[str, str | Sequence[str]] | None = None,
    cost: str | Path = "macs",
    max_cost: float | None = None,
    average_bits: float | None = None,
    strategy: str = "auto",
    max_trials: int | None = None,
    max_minutes: float | None = None,
    holdout: float | None = None,
    confidence: float | None = None,
    samples_for_sensitivity: int | None = SAMPLES,
    sensitivity_by: str = "runs",
    moves: str | Sequence[str] | None = None,
    train_minutes: float | None = None,
    train_epochs: float | None = None,
    train_data: Any = None,
    out: str | Path | None = None,
    start_from: str | Path | None = None,
    knowledge: str | Path | None = None,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    progress: Callback | None = None,
) -> TuningResult:
    """Find the cheapest quantized model that meets a requirement.

    Each layer gets one of the allowed precisions. A run ends by itself, when evaluations or minutes are spent, or at
    Ctrl-C; the best that was found is returned, and says whether it meets the requirement.

    Args:
        model: The float model, as `calibrant.quantize` takes it.
        data: Calibration data, as `calibrant.quantize` takes it.
        evaluate: How models are scored: a pair (data, metric), the metric one of `calibrant.evaluate`'s, or
            `cosine_similarity` or `sqnr_db`, which compare outputs with the float model's and need no labels; a function
            (runner) -> number, several numbers by name, or one for each sample; its name as `module:function`; a
            `calibrant.tuner.Command`; None for the cosine similarity on the calibration data. A
            runner is called with feeds by input name and returns outputs by name. A function of whose score less is
            better has `higher_is_better = False`.
        require: What the score has to reach: `"max-drop 0.5%"`, `"max-drop 0.005"`, `"min 0.87"`, a mapping with
            `max_drop`, `min` or both, or a `Requirement`. Of several scores each has to reach it; `{"box": {"max_drop": "1%"}, …}`
            says what each has to reach by itself. None for at most 1 % less, or for nothing where there is a budget.
        example: What a module of torch is called with, as for `calibrant.quantize`.
        recipe: What is wanted beside precisions; layers whose precision a rule names keep it.
        target: What the model will run on; over the recipe's.
        fix: Inputs that are the same in every use, as for `calibrant.quantize`.
        allow: Precisions that layers may have, among `int4` (weights, beside 8-bit activations), `int8`, `ec` (8 bits, and a second
            8-bit value for what the first leaves), `int16`, `float16` and `float32`; None for int8, int16 where the target has
            it, and float32.
        limits: Pattern of layer names -> precisions that these layers may have: `{"head*": "int16,float32"}`. All patterns
            that match hold.
        cost: What a layer costs: `macs` (multiplications times bits), `size` (bytes of its weight), `latency` (milliseconds
            of ONNX Runtime on this machine, conversions between integers and floats included), or a CSV file with a column
            `layer` (a name or a pattern) and one for each precision.
        max_cost: What the model may cost, in units of `cost`: bytes of weights for `size`, milliseconds for `latency`. The
            best score within it is searched for; a requirement holds beside it.
        average_bits: The same in bits of a weight, the mean over all weights of layers that are free, in (0, 32]: 5, or 32 / 6 for a
            sixth of float32. Costs are then of `size`, and int4 is allowed where fewer than 8 bits are asked for and nothing
            else is said.
        strategy: How to search: `auto`, or a vendor's own procedure, which begins with that vendor's defaults where there is
            no recipe: `amct-rollback`, `amct-manual`, `amct-retrain` (each trial is a training), `ascend-traverse`, `horizon`.
        max_trials: Full evaluations, at most, the float model's among them; 2 or more. None for 8 with `auto`, and for as
            many as a vendor's procedure takes (40 at most with `horizon`).
        max_minutes: Minutes, at most; what runs is finished.
        holdout: Share of the evaluation samples that the search does not see, in [0, 1). None for 0.2 with
            `auto`, and for nothing with a vendor's procedure or a score that is no mean over samples. The model that is
            chosen is run on them, too, and meets the requirement on all. For named metrics.
        confidence: An evaluation ends before all samples are seen once it is certain, with this probability, whether the
            requirement is met; 1 for no chance at all, None for 0.99 with
            `auto` and 1 otherwise. For `top<k>`.
        samples_for_sensitivity: Samples that layers are measured on alone; None for all.
        sensitivity_by: How that is done: `runs` (what lies behind a layer is run again), or `gradient` (estimated for all
            layers together from a few backward passes; needs torch). For strategy `auto`.
        moves: What is tried before layers are raised, where the cheapest assignment misses the requirement: `auto`, `none`, or
            some of `data`, `algorithm`, `per-channel`, `balance`, `bias-correction`, `rounding`. They keep the cost, are judged
            without labels on calibration samples that they do not come from, and are taken where they clearly gain. None for `auto`
            with strategy `auto` where `max_cost` is not given; a vendor's procedure has moves of its own.
        train_minutes: Where moves are not enough, the cheapest assignment is trained for so many minutes before layers are
            raised, without labels: it learns to answer as the float model does. Where that is not enough, one with fewer layers
            raised than without training is trained as long. It is judged as moves are. Needs torch. With
            `max_cost`, the best within it is trained. None for no training. With `amct-retrain` this is what each trial takes; None
            for 3 epochs.
        train_epochs: The same in epochs, in the place of minutes.
        train_data: Samples to train on, as calibration data may be; None for the calibration data.
        out: Folder of the journal (`journal.sqlite`); a run that was ended goes on from there. None keeps none.
        start_from: Folder of an earlier run whose journal answers what it can, for another requirement.
        knowledge: Folder that keeps, by the structure of the graph, what met a requirement: the next model of the same
            structure tries it first. For strategy `auto`.
        batch_size: Samples in a batch, of calibration and evaluation.
        preprocess: File that says how stored samples become inputs, of both.
        provider: Where models run.
        threads: Threads inside an operator.
        jobs: Processes that look at the calibration data, measure layers alone, and run models on evaluation samples for a
            metric by name, each at a part of it; the result is the same.
        ray: Address of a Ray cluster whose workers do that, or `local`.
        progress: Called with a stage, what is done of it, and how much there is.

    Raises:
        ModelError: The model cannot be read, quantized or run.
        DataError: Data is empty or does not fit.
        ConfigError: A metric, precision, cost or option that does not exist; or the float model cannot be scored.
        OutputError: The journal cannot be used.
    """
    start = time.perf_counter()
    model = as_model(model, example, data)
    if require is None:
        require = "max-drop 1%" if max_cost is None and average_bits is None else "any"
    required = Requirement.of(require)
    vendor = VENDORS.get(strategy)
    chosen = vendor.default() if vendor is not None and recipe is None else recipe
    wanted = asked(chosen, target, fix)
    precisions = precisions_of(allow, targets.get(wanted.target), strategy, average_bits)
    check_options(
        wanted,
        strategy,
        (*STRATEGIES, *VENDORS),
        max_trials,
        max_minutes,
        samples_for_sensitivity,
    )
    of_all = holdout if holdout is not None else 0.0
    holdout = holdout if holdout is not None else 0.0 if vendor is not None else HOLDOUT
    confidence = (
        confidence if confidence is not None else 1.0 if vendor is not None else CONFIDENCE
    )
    check_shares(holdout, confidence)
    kinds = moves_of(moves, strategy, budget=max_cost is not None or average_bits is not None)
    check_sensitivity(sensitivity_by, strategy)
    budget = training_of(strategy, train_minutes, train_epochs, train_data)
    check_budget(max_cost, cost, strategy, average_bits)
    cost = cost if average_bits is None else "size"
    check_kernels(precisions, cost)
    if limits and vendor is not None:
        raise ConfigValueError(f"Limits by layer belong to strategy 'auto'; it is '{strategy}'.")
    deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
    if isinstance(data, Iterator):
        data = list(data)
    how = {"batch_size": batch_size, "preprocess": preprocess}
    bench = Bench(
        model,
        data,
        provider=provider,
        threads=threads,
        progress=progress,
        workers=workers_of(jobs, ray),
        **how,  # type: ignore[arg-type]
    )
    store = bench.store
    original = store.original(wanted)
    evaluator = evaluator_of(
        evaluate,
        original,
        data,
        provider=provider,
        threads=threads,
        holdout=holdout,
        holdout_of_all=of_all,
        confidence=confidence if confidence < 1 else None,
        workers=store.workers,
        **how,  # type: ignore[arg-type]
    )
    journal = Journal(out)
    try:
        if start_from is not None:
            journal.take(start_from)
        context = text_digest(
            __version__,
            digest(original),
            repr(essence(wanted)),
            data_digest(data),
            repr(how),
            provider,
        )
        scoring = text_digest(evaluator.digest())
        with store.progress.stage("float model"):
            known = float_scores(evaluator, original, journal, context, scoring)
        evaluations = evaluations_of(evaluator, journal, required, known)
        reference = known.score
        menu = _menu(bench, wanted, precisions, cost, journal, context, vendor)
        if average_bits is not None:
            max_cost = bytes_of(menu, average_bits)
        menu = limited(menu, limits or {})
        trials = Trials(
            bench,
            wanted,
            menu,
            evaluations,
            samples_for_sensitivity,
            journal,
            context,
            scoring,
            deadline,
            timed=str(cost) == "latency",
            kinds=kinds,
            by=sensitivity_by,
            most=(max_trials or TRIALS) - 1,
        )
        if budget is not None:
            trials.trainer = Trainer(
                bench,
                data if train_data is None else train_data,
                budget,
                journal,
                context,
                Path(out) if out is not None else None,
                Path(start_from) if start_from is not None else None,
                preprocess,
                deadline,
            )
            trials.trainer.check(wanted)
        trials.counts.full = 1
        if vendor is not None:
            limit = max_trials if max_trials is not None else vendor.evaluations
            ended = run_vendor(strategy, trials, precisions, limit and limit - 1, original)
            return result_of(
                model,
                trials,
                ended.search,
                ended.asked.recipe,
                ended.verdict,
                required,
                reference,
                str(cost),
                told=ended.told,
                interrupted=ended.interrupted,
                start=start,
            )
        learned = (
            Knowledge(Path(knowledge), structure_digest(original), wanted.target)
            if knowledge is not None
            else None
        )
        before = learned.assignments(menu) if learned is not None else []
        search, interrupted = _searched(strategy, trials, max_trials, max_cost, before)
        failed = trials.evaluations.failed
        tried = [t for t in search.trials if not t.reached.free]
        scored = [t for t in tried if math.isfinite(t.reached.loss)]
        if failed is not None and not scored:
            raise nothing_scored(failed, evaluations)
        if tried and not scored:
            trials.notes.append(
                "No quantized model that was tried has a score, so nothing is known of any: look at the evaluation first."
            )
        in_time = deadline is None or time.monotonic() < deadline
        if trials.counts.full < (max_trials or TRIALS) and in_time and not interrupted:
            look_for_noise(evaluations, original, search.trials, text_digest(context, scoring))
        with store.progress.stage("all evaluation samples"):
            search, verdict = trials.settled(search)
        if (
            learned is not None
            and search.best.reached.met
            and not (search.best.reached.free or search.best.improved or search.best.trained)
        ):
            told = {"required": str(required), "metric": evaluator.name, "model": name_of(model)}
            learned.add(search.best.assignment, told)
        return result_of(
            model,
            trials,
            search,
            trials.recipe_of(search.best.assignment, improved=search.best.improved),
            verdict,
            required,
            reference,
            str(cost),
            interrupted=interrupted,
            start=start,
        )
    finally:
        journal.close()


def _searched(
    strategy: str,
    trials: Trials,
    max_trials: int | None,
    max_cost: float | None,
    known: Sequence[Assignment],
) -> tuple[Found, str]:
    """Run the strategy; where it is ended early, return the best so far, and what ended it.

    Raises:
        KeyboardInterrupt: Nothing was evaluated yet.
    """
    allowed = -1.0 if trials.evaluations.above_float else trials.evaluations.allowed
    trains = trials.trainer is not None
    evaluations = (max_trials or TRIALS) - 1
    if max_cost is not None:
        asking = within(trials.menu, max_cost, allowed, evaluations, trains=trains)
    else:
        search, thrifty = STRATEGIES[strategy], max_trials is None
        asking = search(trials.menu, allowed, evaluations, known, trains=trains, thrifty=thrifty)
    try:
        return drive(asking, trials.answer), ""
    except (KeyboardInterrupt, TimeIsUp) as e:
        if not trials.reached:
            raise
        ended = "Ctrl-C" if isinstance(e, KeyboardInterrupt) else "time"
    done = [
        Trial(
            a,
            trials.menu.cost_of(a) if reached.cost is None else reached.cost,
            None,
            None,
            reached,
            "",
            improved=improved,
            trained=trained,
        )
        for (a, improved, trained), reached in trials.reached.items()
    ]
    met = [t for t in done if t.reached.met]
    best = (
        min(met, key=lambda t: (t.cost, t.reached.loss))
        if met
        else min(done, key=lambda t: (t.reached.loss, t.cost))
    )
    return Found(best, tuple(done), f"The run was ended early ({ended})."), ended


def _menu(
    bench: Bench,
    wanted: Recipe,
    precisions: Sequence[str],
    cost: str | Path,
    journal: Journal,
    context: str,
    vendor: Vendor | None,
) -> Menu:
    """Return the layers that are free to have any of the precisions, with what each costs."""
    wanted = for_calibration(wanted)
    found = bench.found(wanted)
    solution = found.solution
    assert found.probe is not None
    fixed: set[str] = set()
    if vendor is None or vendor.keeps_named:
        fixed = fixed_layers(wanted, solution.model, solution.plan)
    names = {d.node for d in solution.plan.layers if d.quantized} - fixed
    layers = [n.name or "" for n in solution.model.graph if n.name in names]
    if not layers:
        raise ModelError("No layer of the model is quantized and free to have another precision.")

    def deployed(precision: str) -> ir.Model:
        rules = [Rule(Layer(glob.escape(n)), settings_of(precision), "tune") for n in layers]
        return build(bench.solve(wanted.with_rules(*rules))).deploy

    def plan_of(precision: str) -> Plan:
        rules = [Rule(Layer(glob.escape(n)), settings_of(precision), "tune") for n in layers]
        return bench.store.prepared(wanted.with_rules(*rules)).plan

    menu = menu_of(
        cost,
        layers,
        precisions,
        solution.model,
        solution.plan,
        found.probe,
        bench.store.runtime,
        deployed,
        journal,
        context,
    )
    return where_they_are(menu, plan_of)

"""Advice: find where the outputs lose, try what could be done there, and keep what gains.

    checks ─► findings                       what no recipe can mend, or what mends the data
    recipe ─► solve ─► units, worst first    quantizers, each alone
                         ├─► moves ─► solve, score on the same samples ─► steps, best first
                         └─► where none reaches 20 dB: steps together, more places (`together`) ─► the answer

A gain is that of a recipe that was solved, on samples that did not choose it (`fresh`); `keep` says which are shown. Where calibration data is not like the
data of use, that is the only step: what other steps gain with it says nothing.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.evaluate import evaluate
from calibrant.analysis.probe import Probe, rows_are_free, take_probe
from calibrant.analysis.score import Score
from calibrant.data.open import open_data
from calibrant.diagnose.advice.answer import answer_of, command_of
from calibrant.diagnose.advice.candidates import clamps, everywhere, mended_data, sets, singles
from calibrant.diagnose.advice.fresh import FRESH, apart, kept_of
from calibrant.diagnose.advice.keep import DEARER_DB, GOOD_DB, best_first
from calibrant.diagnose.advice.noise import holding
from calibrant.diagnose.advice.steps import Advice, Culprit, Step, Tried
from calibrant.diagnose.advice.together import way_to, worst_part
from calibrant.diagnose.advice.trials import Trials
from calibrant.diagnose.advice.units import Unit, units_of
from calibrant.diagnose.triage import Finding, Mask, masks_of, triage
from calibrant.dialects import dump_recipe
from calibrant.dialects.asked import RecipeLike, asked
from calibrant.errors import CalibrantError, ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.graph.values import values_by_name
from calibrant.plan.loaded import keeps_scales
from calibrant.progress import Callback
from calibrant.recipe import Recipe
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.observe import channel_magnitudes
from calibrant.solution import build
from calibrant.tuning.bench import Bench
from calibrant.tuning.guide import as_decided
from calibrant.tuning.road import solve
from calibrant.tuning.solved import Solved

__all__ = ["MINUTES", "SAMPLES", "advise"]

#: Samples that choose steps; `fresh` tells what these gain.
SAMPLES = 8

#: Samples that quantizers are measured on alone: so many, or fewer, so that all of them together see so many values.
ALONE, LEAST_ALONE, ALONE_VALUES = 8, 2, 10**10

#: Minutes of processor time for trials where nothing else is asked for.
MINUTES = 3.0

#: Places that are named, and whose channels are looked at.
NAMED, LOOKED_AT = 10, 48

#: Checks that say that calibration data is not like evaluation data, and samples of it that are taken in its place.
LIKENESS, MENDED = ("likeness", "channel order", "layout"), 64

#: What is said where no samples are left to tell gains on.
SAME = (
    "There are too few samples to tell gains on others than those that chose the steps: with other samples, steps gain less than is "
    "told here. 16 samples or more are needed."
)

#: Steps that a task metric is told of.
MEASURED = 3


def advise(
    model: ModelLike,
    data: Any,
    *,
    target: str | Path | None = None,
    recipe: RecipeLike | None = None,
    fix: Mapping[str, Any] | None = None,
    evaluation: Any = None,
    reference: Any = None,
    metric: Any = None,
    samples: int | None = SAMPLES,
    minutes: float | None = MINUTES,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    progress: Callback | None = None,
) -> Advice:
    """Say what to do about the accuracy that a quantized model loses.

    The model, the data and what no quantizer can carry are checked first. Then the recipe is solved, each of its quantizers is
    measured alone, and what could be done about the worst is tried: every gain is that of a recipe that was solved.

    Args:
        model: The float model, as `calibrant.quantize` takes it.
        data: Calibration data, as `calibrant.quantize` takes it.
        target: What the model will run on; over the recipe's.
        recipe: How it is quantized now; None for the defaults.
        fix: Inputs that are the same in every use, as for `calibrant.quantize`.
        evaluation: Samples like those of real use. Calibration data is checked against them, and scores are taken on them;
            None takes scores on the calibration data, each sample with ranges from the half that it does not belong to.
        reference: What the float model should answer to the calibration data: outputs by name (a mapping or an `.npz` file),
            or another ONNX file of the same network. None checks nothing.
        metric: A task metric, as `calibrant.evaluate` takes it; needs `evaluation` with references. It is told of the float
            model, of the model now, and of the three best steps.
        samples: How many samples choose the steps, at most half of those there are; None for half of those that the probe
            holds. Gains are told on others, up to 16.
        minutes: Minutes of processor time for trials, about; None for as many as they take.
        batch_size: Samples in a batch of the calibration.
        preprocess: File that says how stored samples become inputs.
        provider: Where models run.
        threads: Threads inside an operator.
        progress: Called with a stage, what is done of it, and how much there is.

    Raises:
        ModelError: The model cannot be read, quantized or run.
        DataError: The data is empty or does not fit.
        ConfigError: The recipe asks for what does not exist, or an option is out of range.
    """
    if samples is not None and samples < 1:
        raise ConfigValueError(f"samples is {samples}; it is 1 or more.")
    if minutes is not None and not minutes > 0:
        raise ConfigValueError(f"minutes is {minutes}; it is above 0.")
    if metric is not None and evaluation is None:
        raise ConfigValueError("A metric needs evaluation data with references.")
    wanted = asked(recipe, target, fix)
    if keeps_scales(wanted):
        raise ConfigValueError(
            "The recipe keeps the scales that the model has; advice is on scales that are chosen from data."
        )
    bench = Bench(
        model,
        data if not isinstance(data, Iterator) else list(data),
        provider=provider,
        threads=threads,
        batch_size=batch_size,
        preprocess=preprocess,
        progress=progress,
    )
    road = _Road(bench, wanted, evaluation, reference, preprocess, samples, minutes)
    return road.run(str(model) if isinstance(model, str | Path) else "(in memory)", metric)


@dataclass(slots=True, eq=False)
class _Road:
    """One run."""

    bench: Bench
    wanted: Recipe
    evaluation: Any
    reference: Any
    preprocess: str | Path | None
    samples: int | None
    minutes: float | None
    notes: list[str] = field(default_factory=list)

    def run(self, name: str, metric: Any) -> Advice:
        store = self.bench.store
        solved = self.bench.found(self.wanted)
        base = as_decided(self.wanted, solved.guide)
        probe, others = apart(self._probe(solved), self.samples)
        seen = self.evaluation is None
        trials = Trials(store, probe, solved, seen=seen)
        fresh = trials if others is None else Trials(store, others, solved, seen=seen)
        before, now = trials.of(solved), fresh.of(solved)
        if others is None:
            self.notes.append(SAME)
        masks = masks_of(solved)
        with store.progress.stage("checks"):
            findings = triage(
                solved,
                store.samples(self.wanted),
                masks,
                evaluation=self.evaluation,
                reference=self.reference,
                preprocess=self.preprocess,
                runtime=store.runtime,
            )
        units = self._units(solved, probe, masks)
        kept = best_first(self._of_data(findings, trials, fresh, base), now)
        reached = worst_part(now)
        if any(gain >= DEARER_DB for _, _, gain in kept):
            self.notes.append(
                "Other steps are not looked for before the calibration data is mended."
            )
        else:
            found = self._tried(trials, base, solved, units, masks)
            with store.progress.stage("gains"):
                kept += kept_of(found, before, fresh, now)
            with store.progress.stage("together"):
                way = way_to(
                    [(s, score) for s, score, _ in kept],
                    units,
                    solved.solution,
                    base,
                    now,
                    fresh.score,
                )
            kept += [(s, score, score.db - now.db) for s, score in way.found]
            kept.sort(key=lambda k: (-k[2], k[0].units, k[0].price))
            reached = way.reached_db
        steps = [_step(*k) for k in kept]
        scores: dict[str, float] = {}
        if metric is not None:
            scores, steps = self._measured(metric, solved, [k[0] for k in kept], steps)
        return Advice(
            name,
            self.wanted.target,
            now.db,
            now.parts,
            fresh.probe.samples,
            tuple(findings),
            tuple(_culprits(units)),
            tuple(steps),
            dump_recipe(base),
            trials.count + (fresh.count if fresh is not trials else 0),
            scores,
            tuple(self.notes),
            answer_of(worst_part(now), reached, kept),
            command_of(name, self.wanted.target) if worst_part(now) < GOOD_DB else "",
        )

    def _probe(self, solved: Solved) -> Probe:
        """Return the samples that recipes are scored on: those that choose, and those that tell what steps gain."""
        assert solved.probe is not None
        if self.evaluation is None:
            return solved.probe
        model = self.bench.store.prepared(self.wanted).model
        inputs = model_inputs(self.bench.store.original(self.wanted))
        stream = open_data(self.evaluation, inputs, preprocess=self.preprocess)
        count = solved.probe.samples if self.samples is None else self.samples + FRESH
        return take_probe(model, iter(stream), count, self.bench.store.runtime)

    def _units(self, solved: Solved, probe: Probe, masks: list[Mask]) -> list[Unit]:
        store, model = self.bench.store, solved.solution.model
        free = probe.free and rows_are_free(model)
        feeds = take_feeds(iter(probe.small), self._alone(solved), free=free)
        found = units_of(solved, feeds, probe.scored, store.progress, store.runtime)
        axes: dict[str, int] = {}
        values = values_by_name(model.graph)
        for unit in found[:LOOKED_AT]:
            shape = values[unit.name].shape if unit.name in values else None
            if unit.kind == "activation" and shape is not None and len(shape) > 1:
                products = any(
                    model.graph.node(n).op_type in ("Gemm", "MatMul") for n in unit.nodes
                )
                axes[unit.name] = -1 if products or len(shape) == 3 else 1
        sizes = channel_magnitudes(model, axes, probe.small[:2], runtime=store.runtime)
        masked = {m.tensor for m in masks}
        return [
            replace(u, noise=holding(u.noise, sizes[u.name]), masked=u.name in masked)
            if u.kind == "activation" and u.name in sizes
            else u
            for u in found
        ]

    def _of_data(
        self, findings: list[Finding], trials: Trials, fresh: Trials, base: Recipe
    ) -> list[tuple[Tried, Score]]:
        """Try what mended calibration data would gain: ranges from evaluation samples that the gain is not told on."""
        wrong = [f for f in findings if f.cause == "data" and f.check in LIKENESS]
        if self.evaluation is None or not wrong:
            return []
        store = self.bench.store
        inputs = model_inputs(store.original(self.wanted))
        stream = open_data(self.evaluation, inputs, batch_size=1, preprocess=self.preprocess)
        taken = trials.probe.samples + (fresh.probe.samples if fresh is not trials else 0)
        others = list(itertools.islice(stream, taken, taken + MENDED))
        if not others and fresh is not trials:
            others = trials.probe.small
        if not others:
            self.notes.append(
                "What mended calibration data gains is not known: there are no evaluation samples beside those that scores are "
                "taken on."
            )
            return []
        feeds = [dict(b.feeds) for b in others]
        mended = Bench(store.model, feeds, provider=store.runtime.provider)
        with store.progress.stage("mended data"):
            score = fresh.of(mended.found(self.wanted))
        step = mended_data(wrong[0], base)
        return [(step, score)]

    def _alone(self, solved: Solved) -> int:
        """Return on how many samples quantizers are measured alone."""
        found = solved.statistics.values()
        values = sum(s.count for s in found) / max(1, solved.findings.data.samples)
        readers = sum(len(d.users) + 1 for d in solved.solution.plan.activations)
        return int(min(ALONE, max(LEAST_ALONE, ALONE_VALUES / max(1.0, values * readers))))

    def _tried(
        self,
        trials: Trials,
        base: Recipe,
        solved: Solved,
        units: list[Unit],
        masks: list[Mask],
    ) -> list[tuple[Tried, Score]]:
        end = time.process_time() + 60 * self.minutes if self.minutes is not None else None
        solution = solved.solution
        total = sum(u.loss for u in units)
        groups = [clamps(masks, base), singles(units, solution, base), sets(units, solution, base)]
        if units and units[0].loss < total / 2:
            groups[1:] = groups[:0:-1]
        steps = [step for group in (*groups, everywhere(units, solution, base)) for step in group]
        found: list[tuple[Tried, Score]] = []
        progress = self.bench.store.progress
        with progress.stage("trials"):
            for i, step in enumerate(steps):
                if end is not None and time.process_time() > end:
                    self.notes.append(
                        f"{len(steps) - i} of {len(steps)} moves were not tried: the time for trials was spent."
                    )
                    break
                try:
                    found.append((step, trials.score(step.recipe)))
                except CalibrantError as e:
                    self.notes.append(
                        f"{step.move} for {_named(() if step.whole else step.layers)} was not tried: {e}"
                    )
                progress.step(i + 1, len(steps))
        return found

    def _measured(
        self, metric: Any, solved: Solved, tried: list[Tried], steps: list[Step]
    ) -> tuple[dict[str, float], list[Step]]:
        """Tell what the task metric says of the float model, the model now, and the best steps."""
        store = self.bench.store

        def said(model: Any) -> float:
            how: dict[str, Any] = {
                "preprocess": self.preprocess,
                "provider": store.runtime.provider,
            }
            return evaluate(model, self.evaluation, metric, **how).value

        scores = {
            "float": said(solved.solution.original),
            "now": said(build(solved.solution).deploy),
        }
        for i, step in enumerate(tried[:MEASURED]):
            built = build(solve(store, step.recipe).solution)
            steps[i] = replace(steps[i], metric=said(built.deploy))
        return scores, steps


def _step(step: Tried, score: Score, gain: float) -> Step:
    who = "The data" if step.move == "data" else _named(() if step.whole else step.layers)
    what = f"{who}: {step.seen}; {step.done}: {gain:+.1f} dB expected"
    return Step(
        step.layers,
        step.cause,
        what,
        step.move,
        gain,
        score.db,
        score.parts,
        dump_recipe(step.recipe),
        dump_recipe(step.added),
        step.costs,
        evidence=step.evidence,
    )


def _named(layers: tuple[str, ...]) -> str:
    if not layers:
        return "The model"
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return f"{layers[0]}{more}"


def _culprits(units: list[Unit]) -> Iterator[Culprit]:
    total = sum(u.loss for u in units) or 1.0
    for u in units[:NAMED]:
        db = -10 * math.log10(u.loss) if u.loss > 0 else math.inf
        yield Culprit(u.layers, u.name, u.kind, u.cause, u.loss / total, db)

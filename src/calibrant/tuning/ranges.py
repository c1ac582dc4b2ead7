"""Decide what a recipe leaves open of the ranges, by trying options on the probe."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.better import Comparison
from calibrant.analysis.parts import Part, parts_of
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import SampleScores, Score, sample_scores
from calibrant.analysis.simulate import Simulator, is_light
from calibrant.choose import (
    choose_layers,
)
from calibrant.findings import Trial
from calibrant.graph.ops import is_depthwise
from calibrant.numerics.metrics import sqnr_db
from calibrant.plan import Plan, resolve
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import Parameters
from calibrant.recipe import Layer, Recipe, Rule, Settings
from calibrant.refine.narrow_sums import inputs_looked_at
from calibrant.runtime.observe import Ends
from calibrant.stats import TensorStats
from calibrant.tuning.built import (
    Made,
    behind_weights,
    noisier,
    same_grids,
    unfolded,
    with_choice,
)
from calibrant.tuning.driver import drive
from calibrant.tuning.extent import feeds_of, scored_feeds
from calibrant.tuning.folds import Folds
from calibrant.tuning.forms import Form, balance_as_asked, forms
from calibrant.tuning.guide import Guide
from calibrant.tuning.halves import in_half
from calibrant.tuning.narrow import SEEN_SAMPLES
from calibrant.tuning.store import Store
from calibrant.tuning.strategies.ranges import Question, RangeOption, Verdict, ranges

__all__ = ["Decided", "decide"]

#: Activation algorithms that `auto` tries, the simplest first.
AUTO_ALGORITHMS = ("min-max", "mse")

#: Ranges are observed behind rounded weights where some weight is worse than this [dB].
SHIFTING_DB = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """What was decided.

    Args:
        form: The model in its form, and its plan with the algorithms in it.
        folds: What was seen of it on the probe.
        option: The option that was taken.
        trials: What was tried.
        simulator: Runs its simulated form.
        recipe: The recipe, with what was decided as rules.
        parts: Parts of the tensors that models are compared by.
    """

    form: Form
    folds: Folds
    option: RangeOption
    trials: tuple[Trial, ...]
    simulator: Simulator
    recipe: Recipe
    parts: Mapping[str, tuple[Part, ...]]


def decide(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    probe: Probe,
    store: Store,
    guide: Guide | None = None,
) -> Decided:
    """Decide the form of the model, the algorithms in its plan, and what activations are observed in.

    Args:
        model: The prepared float model.
        plan: Where quantizers stand in it.
        recipe: What is wanted.
        probe: The samples that options are tried on.
        store: What is known of the model.
        guide: What was decided for the same recipe with other widths.
    """
    runtime = store.runtime
    if guide is not None:
        form = guide.form
        changed = store.at_opset_of(form.model, model)
        plan = plan if changed is model else resolve(recipe, changed)
        changed, _ = in_half(changed, plan.half, probe, store)
        form = replace(form, model=changed, plan=plan)
        return Trying([form], recipe, probe, store).decided(guide.option)
    model, plan, asked = balance_as_asked(model, plan, recipe, probe, runtime, store.factors)
    automatic = any(d.algorithm.name == "auto" and d.fixed_range is None for d in plan.activations)
    first, *others = AUTO_ALGORITHMS if automatic else ("",)
    said = recipe.calibration.behind
    behind: Literal["float", "weights"] = "weights" if said == "weights" else "float"
    plain = RangeOption("plain", first, behind=behind, added=len(asked))
    trying = Trying([Form("plain", model, plan, balanced=asked)], recipe, probe, store)
    compared = behind == "float" and recipe.equalize != "on" and len(probe.small) > 1
    seen = partial(trying.magnitudes, plain) if compared else None
    stats = partial(trying.statistics, plain)
    found = trying.forms = forms(trying.forms[0], recipe, probe, runtime, seen, stats)
    base = replace(plain, form=found[0].name, added=len(found[0].balanced))
    strategy = ranges(
        base,
        [(f.name, len(f.balanced)) for f in found[1:]],
        others,
        channel_scales=automatic and bool(trying.depthwise(base)),
        behind=automatic and said == "auto" and trying.weights_shift_ranges(base),
        said=trying.compared,
    )
    best = drive(strategy, trying.answer) if len(probe.small) > 1 else base
    return trying.decided(best)


@dataclass(slots=True, eq=False)
class Trying:
    """Answers what options lose: builds each, and runs it on feeds that its ranges do not come from."""

    forms: Sequence[Form]
    recipe: Recipe
    probe: Probe
    store: Store
    comparisons: list[tuple[RangeOption, Comparison]] = field(default_factory=list)
    _made: dict[RangeOption, Made] = field(default_factory=dict)
    _open: list[Simulator] = field(default_factory=list)
    _parts: dict[str, tuple[Part, ...]] | None = None
    _best: RangeOption | None = None

    def answer(self, question: Question) -> Verdict:
        """Return what an option loses on so many samples."""
        made = self.made(question.option)
        seen = limit = scored_feeds(made.model, made.plan, self.probe)
        if question.beyond:
            limit = len(self.probe.small)
        feeds = min(limit, feeds_of(self.probe, question.samples))
        feeds = max(feeds, 2)
        self._keep_open(made.simulator)
        self.store.work.whole(made.folds.see(seen))
        made.folds.close()  # no option is asked for more
        params = made.params(question.option.algorithm)
        if question.option.algorithm not in made.scores and self._is_pointless(made, params):
            return Verdict(None)
        scores = made.scores.setdefault(question.option.algorithm, [])
        new = range(len(scores), feeds)
        self.store.work.whole(sum(self.probe.small[i].size for i in new))
        answers = self.probe.scored_reference[len(scores) : feeds]
        # each with the ranges of the other half, which holds nothing of what is beyond
        for i, reference in zip(new, answers, strict=True):
            outputs = made.simulator.simulate(made.plan, params[i % 2], [self.probe.feeds[i]])
            scores.append(
                sample_scores(
                    [reference],
                    outputs,
                    self.parts(),
                    sizes=[self.probe.small[i].size],
                )
            )
        return Verdict(SampleScores.joined(scores[:feeds]), all=feeds == limit)

    def magnitudes(
        self, option: RangeOption, axes: Mapping[str, int], samples: int
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Return how large the channels of tensors are, of those that are looked at for an option on enough samples.

        Args:
            option: The first option that is looked at.
            axes: Tensors and their channel axes.
            samples: How many are enough.
        """
        made = self.made(option, axes)
        feeds = scored_feeds(made.model, made.plan, self.probe)
        if min(samples, self.probe.samples) > self.probe.head(feeds).samples:
            return {}
        self.store.work.whole(made.folds.see(feeds))
        ends = {(t, axis): made.folds.ends_of(t, axis) for t, axis in axes.items()}
        return {t: e.magnitudes(t, axis) for (t, axis), e in ends.items() if e is not None}

    def statistics(self, option: RangeOption, tensor: str) -> TensorStats | None:
        """Return what is known of a tensor from half of the samples that an option was looked at on, if it was."""
        made = self._made.get(replace(option, algorithm=""))
        return made.folds.apart_from(1).get(tensor) if made is not None else None

    def _is_pointless(self, made: Made, params: tuple[Parameters, Parameters]) -> bool:
        """Whether an option of the same form was built that has the same numbers, or less noise at every tensor."""
        for known in self._made.values():
            if known.form is not made.form:
                continue
            for algorithm in known.scores:
                pairs = zip(known.grids[algorithm], params, strict=True)
                if all(same_grids(a, b.activations) for a, b in pairs):
                    return True
                if known is made and noisier(made, known.params(algorithm), params):
                    return True
        return False

    def parts(self) -> dict[str, tuple[Part, ...]]:
        """Return the parts of the tensors that options are compared by."""
        if self._parts is None:
            model = self.forms[0].model
            self._parts = {
                n: parts_of(model, n, [r[n] for r in self.probe.parts_reference])
                for n in self.probe.scored
            }
        return self._parts

    def compared(self, option: RangeOption, found: Comparison) -> None:
        """Remember a comparison."""
        self.comparisons.append((option, found))
        if found.better:
            self._best = option

    def depthwise(self, option: RangeOption) -> tuple[str, ...]:
        """Return the depthwise convolutions that may read one scale a channel, where the device can do that."""
        form = next(f for f in self.forms if f.name == option.form)
        if not form.plan.target.channel_scales:
            return ()
        read = {e for d in form.plan.activations if d.producer is None for e in d.users}
        named = {d.node for d in form.plan.layers if "activation_per_channel" in d.origin}
        return tuple(
            n.name or ""
            for n in form.model.graph
            if (n.name, 0) in read
            and n.op_type == "Conv"
            and is_depthwise(n)
            and n.name not in named
        )

    def made(self, option: RangeOption, axes: Mapping[str, int] | None = None) -> Made:
        """Return an option's model and plan; options that differ in the algorithm alone share them.

        Args:
            option: The option.
            axes: Tensors whose channels are to be looked at by themselves, too, and their axes.
        """
        key = replace(option, algorithm="")
        if key not in self._made:
            form = next(f for f in self.forms if f.name == option.form)
            recipe, plan = self.recipe, form.plan
            if option.channel_scales:
                rules = tuple(
                    Rule(
                        Layer(glob.escape(name)),
                        Settings(activation_per_channel=True),
                        "auto: one scale a channel into depthwise layers",
                        force="implied",
                    )
                    for name in self.depthwise(option)
                )
                recipe = replace(recipe, rules=(*rules, *recipe.rules))
                plan = resolve(recipe, form.model)
            observed = form.model
            if option.behind == "weights":
                observed = behind_weights(form.model, plan, self.store.known)
            simulator = self._simulator(option, form)
            exact = self.recipe.calibration.exact
            sums = self._inputs_of_narrow_sums(form.model, plan)
            folds = Folds(
                observed,
                plan.observed_tensors,
                plan.channel_axes,
                self.probe,
                exact,
                self.store.runtime,
                self._seen_before(option, form),
                ends=Ends([*(axes or {}).items(), *sums]),
                tops=frozenset(t for t, _ in sums),
                hearing=self.probe.hearing(observed),
            )
            known = self.store.known
            self._made[key] = Made(form, recipe, form.model, plan, folds, simulator, known)
            self._forget_all_but(folds)
        return self._made[key]

    def _inputs_of_narrow_sums(self, model: ir.Model, plan: Plan) -> list[tuple[str, int]]:
        """Return tensors of which the target asks how large their channels get, and nobody knows it yet.

        None where options are looked at on more samples than sums are: what more samples show costs accuracy where
        nothing saturates, and they are looked at by themselves (`tuning.narrow`).
        """
        samples = self.probe.head(scored_feeds(model, plan, self.probe)).samples
        if plan.target.narrow_sums == "ignore" or samples > SEEN_SAMPLES:
            return []
        asked = inputs_looked_at(model, plan)
        return [(t, axis) for t, axis in asked.items() if (model, t) not in self.store.tops]

    @property
    def _first_or_best(self) -> RangeOption:
        """What others are compared with, without its algorithm."""
        best = self._best if self._best is not None else next(iter(self._made))
        return replace(best, algorithm="")

    def _forget_all_but(self, folds: Folds) -> None:
        """Let go of what was seen for options that lost; that of the best one, and of one to be tried, stays."""
        needed: Folds | None
        kept = []
        for needed in (folds, self._made[self._first_or_best].folds):
            while needed is not None:
                kept.append(needed)
                needed = needed.base
        for made in self._made.values():
            if all(made.folds is not k for k in kept):
                made.folds.forget()
                made.forget()
        if not self.store.shared:
            left = [made.model for made in self._made.values() if made.folds in kept]
            for form in self.forms:
                if form.model not in left:
                    self.store.known.forget(form.model, but=left)

    def weights_shift_ranges(self, option: RangeOption) -> bool:
        """Whether rounded weights can move the ranges behind them by more than a percent or so.

        The error of a weight, over the weight, is about the error of its layer's output over the output.
        """
        made = self.made(option)
        plan = unfolded(made.plan)
        layers = choose_layers(plan, made.model, known=self.store.known)
        return any(
            sqnr_db(float_weight(made.model, plan, w, {}), layers[w.layer].floats) < SHIFTING_DB
            for w in plan.weights
        )

    def _seen_before(self, option: RangeOption, form: Form) -> Folds | None:
        """Return what is seen already of tensors that an option's model has too, with the same values."""
        if option.behind == "weights":
            return None
        for known, made in self._made.items():
            if known.form in (option.form, form.like) and known.behind == option.behind:
                return made.folds
        return None

    def _simulator(self, option: RangeOption, form: Form) -> Simulator:
        """Return what runs an option; options of one form share it."""
        for known, made in self._made.items():
            if known.form == option.form:
                return made.simulator
        tensors = dict.fromkeys([*self.probe.scored, *self.probe.reference[0]])
        return Simulator(form.model, tuple(tensors), self.store.runtime)

    def _keep_open(self, simulator: Simulator) -> None:
        """Let the sessions of the best form stay open beside this one's, unless weights have so many bytes: two are compared."""
        kept = [simulator]
        if is_light(simulator.model):
            kept.append(self._made[self._first_or_best].simulator)
        for other in self._open:
            if other not in kept:
                other.close()
        self._open = kept

    def decided(self, best: RangeOption) -> Decided:
        """Return an option as what was decided, with all that was tried."""
        made = self.made(best)
        for other in self._made.values():
            if other.simulator is not made.simulator:
                other.simulator.close()
        plan = with_choice(made.plan, best.algorithm)
        form = replace(made.form, plan=plan)
        trials = self.trials(best)
        parts = self.parts()
        return Decided(form, made.folds, best, trials, made.simulator, made.recipe, parts)

    def trials(self, best: RangeOption) -> tuple[Trial, ...]:
        """Return every option that was built, with its score on samples that its ranges do not come from."""
        found = []
        said = dict(self.comparisons)
        for key, made in self._made.items():
            for algorithm, scores in made.scores.items():
                option = replace(key, algorithm=algorithm)
                together = SampleScores.joined(scores)
                score = Score.of(together)
                reason = said[option].reason if option in said else ""
                found.append(
                    Trial(
                        "ranges",
                        str(option),
                        score.db,
                        option == best,
                        outputs=score.parts,
                        samples=together.samples,
                        reason=reason,
                    )
                )
        return tuple(found)

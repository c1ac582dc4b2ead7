"""Choose between the candidates of a recipe: for the model, or for each node.

Statistics are taken once for all of them, and what candidates ask of the statistics of a tensor is worked out
once.

Source: horizon.md 4.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from calibrant.analysis.judge import Judge
from calibrant.analysis.probe import Probe
from calibrant.choose import choose_for_each
from calibrant.numerics import QuantParams
from calibrant.plan import Plan
from calibrant.recipe import Search, Settings
from calibrant.run import Run, SearchReport
from calibrant.stats import TensorStats
from calibrant.tuning.space import Trial, observed, search_of, trial, trials
from calibrant.tuning.strategies.by_layer import layerwise
from calibrant.tuning.strategies.by_model import modelwise

__all__ = ["Searching", "prepare_search"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Searching:
    """A search before its statistics are there.

    Args:
        search: How candidates are chosen between.
        tried: The candidates.
        later: Candidate -> what is tried where it wins: itself with scales by channel.
        tensors: What has to be observed.
        axes: Tensor -> axes along which each channel is observed by itself.
    """

    search: Search
    tried: tuple[Trial, ...]
    later: Mapping[Settings, Trial]
    tensors: tuple[str, ...]
    axes: Mapping[str, tuple[int, ...]]

    def choose(
        self,
        model: ir.Model,
        decided: Plan,
        statistics: Mapping[str, TensorStats],
        probe: Probe,
        r: Run,
    ) -> Plan:
        """Return the plan with what was chosen, and leave a report in the run."""
        start = time.perf_counter()

        def progress(done: int, of: int) -> None:
            if r.progress is not None:
                r.progress("search", done, of)

        judge = Judge.of(self.search, model, probe, r)
        report = SearchReport(self.search.scope, judge.metric.name, judge.samples)
        chosen = _Chosen(statistics)
        if self.search.good_enough is None:  # then all of them are tried
            chosen.prepare(self.tried)
        if self.search.scope == "layer":
            found = layerwise(model, self.tried, self.later, chosen, judge, r, progress)

            def change(edge: tuple[str, int | None], otherwise: Settings) -> Settings:
                return found.chosen.get(edge[0], otherwise)

            plan = trial(r.recipe, model, decided, self.tried[0].candidate, change).plan
            report = replace(report, rows=found.rows, work=found.work, full=found.full)
        else:
            best = modelwise(model, self.tried, self.later, chosen, judge, r, progress)
            plan, report = best.plan, replace(report, selected=best.name)
        r.search = replace(report, seconds=time.perf_counter() - start)
        return replace(plan, notes=(*plan.notes, *judge.notes))


@dataclass(slots=True, eq=False)
class _Chosen:
    """Parameters of candidates' activations by quantizer id, chosen when they are asked for."""

    statistics: Mapping[str, TensorStats]
    _known: dict[Settings, dict[str, QuantParams]] = field(default_factory=dict)

    def prepare(self, tried: tuple[Trial, ...]) -> None:
        """Choose for several candidates at once."""
        chosen = choose_for_each([t.plan for t in tried], self.statistics)
        self._known |= {t.candidate: c for t, c in zip(tried, chosen, strict=True)}

    def __call__(self, asked: Trial) -> Mapping[str, QuantParams]:
        """Return those of one."""
        if asked.candidate not in self._known:
            self.prepare((asked,))
        return self._known[asked.candidate]


def prepare_search(model: ir.Model, decided: Plan, r: Run) -> Searching | None:
    """Return the search that the recipe asks for, or None.

    Args:
        model: The model that is quantized.
        decided: Its plan so far.
        r: The run.
    """
    search = search_of(r.recipe)
    if search is None:
        return None
    tried = trials(r.recipe, model, decided)
    if len(tried) < 2 and not search.then_per_channel:
        return None
    later: dict[Settings, Trial] = {}
    if search.then_per_channel:
        known = {t.candidate for t in tried}
        again = {t.candidate: _by_channel(t, model, decided, r) for t in tried}
        later = {c: t for c, t in again.items() if t.candidate not in known}
    tensors, axes = observed([t.plan for t in (*tried, *later.values())])
    return Searching(search, tuple(tried), later, tuple(tensors), axes)


def _by_channel(tried: Trial, model: ir.Model, decided: Plan, r: Run) -> Trial:
    """Return a candidate with a scale for each channel."""

    def change(_: tuple[str, int | None], settings: Settings) -> Settings:
        return replace(settings, activation_per_channel=True)

    found = trial(r.recipe, model, decided, tried.candidate, change)
    return replace(found, candidate=replace(tried.candidate, activation_per_channel=True))

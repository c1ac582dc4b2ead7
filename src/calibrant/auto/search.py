"""Choose between the candidates of a recipe: for the model, or for each node.

Statistics are taken once for all of them.

Source: horizon.md 4.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from calibrant.auto.candidates import Trial, observed, search_of, trial, trials
from calibrant.auto.judge import Judge
from calibrant.auto.layerwise import layerwise
from calibrant.auto.modelwise import Modelwise
from calibrant.auto.probe import Probe
from calibrant.plan import Plan
from calibrant.recipe import Search, Settings
from calibrant.run import Candidate, Run, SearchReport
from calibrant.stats import TensorStats

__all__ = ["Searching", "prepare_search"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Searching:
    """A search before its statistics are there.

    Args:
        search: How candidates are chosen between.
        tried: The candidates.
        later: Those that may be tried after the winner is known: its own with scales by channel.
        tensors: What has to be observed.
        axes: Tensor -> axes along which each channel is observed by itself.
    """

    search: Search
    tried: tuple[Trial, ...]
    later: tuple[Trial, ...]
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
        judge = Judge.of(self.search, probe)
        start = time.perf_counter()
        if self.search.scope == "layer":
            plan, report = self._for_each_node(model, decided, statistics, judge, r)
        else:
            plan, report = self._for_the_model(model, statistics, judge, r)
        r.search = replace(report, seconds=time.perf_counter() - start)
        return replace(plan, notes=(*plan.notes, *judge.notes))

    def _for_the_model(
        self, model: ir.Model, statistics: Mapping[str, TensorStats], judge: Judge, r: Run
    ) -> tuple[Plan, SearchReport]:
        modelwise = Modelwise(model, statistics, judge, r)
        best, reached = self.tried[0], modelwise.verdict(self.tried[0])
        scored = [(best, reached)]
        self._advance(r, 1)
        for other in self.tried[1:]:
            if self._is_enough(judge, reached.score):
                break
            verdict = modelwise.verdict(other)
            scored.append((other, verdict))
            self._advance(r, len(scored))
            if judge.better(verdict, reached):
                best, reached = other, verdict
        for other in self.later:
            if other.candidate == replace(best.candidate, activation_per_channel=True):
                verdict = modelwise.verdict(other)
                scored.append((other, verdict))
                if judge.better(verdict, reached):
                    best, reached = other, verdict
                break
        logger.info("Select %s", best.name)
        r.candidates += [
            Candidate("search", t.name, v.score, t is best, judge.metric.name) for t, v in scored
        ]
        return best.plan, SearchReport("model", judge.metric.name, self._samples(judge), best.name)

    def _for_each_node(
        self,
        model: ir.Model,
        decided: Plan,
        statistics: Mapping[str, TensorStats],
        judge: Judge,
        r: Run,
    ) -> tuple[Plan, SearchReport]:
        def progress(done: int, nodes: int) -> None:
            if r.progress is not None:
                r.progress("search", done, nodes)

        found = layerwise(model, self.tried, statistics, judge, r, progress)

        def change(edge: tuple[str, int | None], otherwise: Settings) -> Settings:
            return found.chosen.get(edge[0], otherwise)

        plan = trial(r.recipe, model, decided, self.tried[0].candidate, change).plan
        report = SearchReport(
            "layer",
            judge.metric.name,
            self._samples(judge),
            "",
            found.rows,
            found.nodes_run,
            found.nodes_of_full_runs,
        )
        return plan, report

    def _is_enough(self, judge: Judge, score: float) -> bool:
        enough = self.search.good_enough
        return enough is not None and not judge.metric.better(enough, score)

    def _samples(self, judge: Judge) -> int:
        sizes = [next(iter(f.values())).shape[:1] for f in judge.feeds]
        return sum(s[0] if s and judge.rows else 1 for s in sizes)

    def _advance(self, r: Run, done: int) -> None:
        if r.progress is not None:
            r.progress("search", done, len(self.tried))


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
    later: list[Trial] = []
    if search.then_per_channel and search.scope == "model":
        later = [_by_channel(t, model, decided, r) for t in tried]
    tensors, axes = observed([t.plan for t in (*tried, *later)])
    return Searching(search, tuple(tried), tuple(later), tuple(tensors), axes)


def _by_channel(tried: Trial, model: ir.Model, decided: Plan, r: Run) -> Trial:
    """Return a candidate with a scale for each channel."""

    def change(_: tuple[str, int | None], settings: Settings) -> Settings:
        return replace(settings, activation_per_channel=True)

    found = trial(r.recipe, model, decided, tried.candidate, change)
    return replace(found, candidate=replace(tried.candidate, activation_per_channel=True))

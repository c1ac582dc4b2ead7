"""What each layer loses alone in a precision: from runs with that layer changed, or from gradients of all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.alone.losses import Losses as LossesOf
from calibrant.analysis.alone.measuring import Question as LayersOf
from calibrant.analysis.alone.measuring import measure
from calibrant.analysis.alone.metric import ranked_by
from calibrant.analysis.probe import rows_are_free
from calibrant.analysis.readings import HalfAlone, QuantizedAlone, Reading
from calibrant.recipe import Recipe
from calibrant.tuner.journal import Journal, LayerFigures
from calibrant.tuning.bench import Bench
from calibrant.tuning.menu import Assignment, Menu

__all__ = ["WORST", "LayersAlone", "energy_of"]

#: Energy of the error over energy of the signal where outputs are not finite, or worse than this.
WORST = 1e3

#: Passes of the samples through the model that a layer may cost on average.
BUDGET = 0.45


@dataclass(slots=True, eq=False)
class LayersAlone:
    """Measures the layers of a menu.

    Args:
        bench: Where recipes are solved.
        menu: What layers may be.
        samples: Samples that layers are measured on; None for all.
        by: `runs`, or `gradient`.
        journal: What is known already.
        recipe_of: Returns the recipe of an assignment.
    """

    bench: Bench
    menu: Menu
    samples: int | None
    by: str
    journal: Journal
    recipe_of: Callable[[Assignment], Recipe]
    _estimated: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, precision: str, recipe: Recipe) -> dict[str, Any]:
        """Return `losses` by layer, energy of the error over energy of the signal, with the `samples` and `passes` that it took.

        Args:
            precision: Of each layer alone.
            recipe: All layers in it.
        """
        if self.by == "gradient":
            return self._by_gradient(precision)
        return self._measured(precision, recipe)

    def _by_gradient(self, precision: str) -> dict[str, Any]:
        """Estimate what each layer loses alone in a precision, from gradients; all precisions at the first call."""
        if precision not in self._estimated:
            self._estimated = self._estimates()
        return self._estimated[precision]

    def _estimates(self) -> dict[str, dict[str, Any]]:
        from calibrant.qat.gradients import Measurement, energies_of

        layers, store = self.menu.layers, self.bench.store
        asked = []
        for precision in (p for p in self.menu.precisions if p != "float32"):
            half = precision == "float16"
            one = self.menu.narrowest if half else tuple(precision for _ in layers)
            recipe = self.recipe_of(one)
            asked.append(Measurement.of(precision, self.bench.found(recipe)))
        feeds = take_feeds(
            store.samples(recipe).first(),
            self.samples,
            free=rows_are_free(asked[0].model),
        )
        with store.progress.stage("layers by gradients"):
            found = energies_of(asked, feeds, layers)
        work = [(found.samples, found.passes), *[(0, 0.0)] * len(asked)]
        return {
            m.precision: {
                "losses": {n: _bounded(found.lost[m.precision][n]) for n in layers},
                "samples": samples,
                "passes": passes,
            }
            for m, (samples, passes) in zip(asked, work, strict=False)
        }

    def _measured(self, precision: str, recipe: Recipe) -> dict[str, Any]:
        """Measure each layer alone in a precision."""
        if precision == "float16":
            recipe = self.recipe_of(self.menu.narrowest)
        solution = self.bench.solve(recipe)
        probe, store = self.bench.found(recipe).probe, self.bench.store
        assert probe is not None
        model = solution.model
        reading: Reading = QuantizedAlone(model, solution.plan, solution.params)
        if precision == "float16":
            reading = HalfAlone(model)
        feeds = take_feeds(store.samples(recipe).first(), self.samples, free=rows_are_free(model))
        metric = ranked_by("sqnr_db")
        losses = LossesOf(metric)
        with store.progress.stage(f"layers in {precision}"):
            measured = measure(
                LayersOf(model, model, reading, self.menu.layers, probe.scored),
                feeds,
                metric,
                losses.worst,
                budget=BUDGET,
                journal=LayerFigures(self.journal),
                progress=store.progress,
                runtime=store.runtime,
                workers=store.workers,
            )
        found: dict[str, float] = {}
        samples = 0
        for layer, loss in losses.all(measured).items():
            samples += measured.first if loss.estimated else measured.samples
            energy = energy_of(loss.parts.values())
            worst = energy_of([min(loss.parts.values())])
            grows = loss.loss / worst if math.isfinite(loss.loss) and worst > 0 else 1.0
            found[layer] = min(WORST, energy * grows)
        return {
            "losses": found,
            "samples": samples,
            "passes": measured.passes * measured.samples,
        }


def _bounded(energies: Any) -> float:
    """Return the mean over parts of energies of the error over that of the signal; what is not finite is `WORST`."""
    return float(np.minimum(np.nan_to_num(energies, nan=WORST), WORST).mean())


def energy_of(values: Any) -> float:
    """Return the mean over parts of the energy of the error over that of the signal, from SQNR [dB]."""
    found = [
        WORST if math.isnan(v) else min(WORST, 10 ** (-v / 10)) if v > -math.inf else WORST
        for v in values
    ]
    return float(np.mean(found)) if found else 0.0

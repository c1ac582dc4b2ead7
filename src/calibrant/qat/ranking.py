"""Rank the layers of a network by what the model's outputs lose through each, from gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.alone.losses import Loss
from calibrant.analysis.alone.metric import RankedBy, ranked_by
from calibrant.analysis.probe import rows_are_free
from calibrant.diagnose.bouts import Bout, Effort, Unit, ranked
from calibrant.diagnose.rank import (
    SAMPLES,
    causes_of_worst,
    checked,
    measured_layers,
    opened,
    solved_in,
)
from calibrant.diagnose.ranking import Ranking
from calibrant.dialects.asked import RecipeLike
from calibrant.graph.load import ModelLike
from calibrant.graph.modules import as_model
from calibrant.progress import Callback
from calibrant.qat.gradients import Measurement, energies_of
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import Runtime

__all__ = ["gradient_sensitivity"]

#: What the figures are, in every ranking of gradients.
NOTE = "Losses are estimates from gradients: what the outputs lose to first order, with random signs in the place of single outputs."


def gradient_sensitivity(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None = None,
    precision: str | Sequence[str] = "int8",
    *,
    example: Any = None,
    fix: Mapping[str, Any] | None = None,
    cost: Unit = "macs",
    layers: Sequence[str] | None = None,
    samples: int | None = SAMPLES,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    progress: Callback | None = None,
) -> Ranking:
    """Rank layers by what the model's outputs lose when each is quantized alone, from one set of backward passes.

    What `calibrant.sensitivity` measures by running what lies behind each layer is estimated for all layers and precisions
    together (`qat.gradients`). Arguments are those of `calibrant.sensitivity`; the metric is `sqnr_db`.

    Raises:
        UnsupportedError: The model has a node that torch is not told of.
        ModelError: The model cannot be read or quantized.
        DataError: The data is empty or does not fit.
        ConfigError: A precision, a layer or an option that does not exist.
    """
    precisions = checked(precision, "alone", cost, samples, None, 1)
    runtime = Runtime(provider, threads)
    store, wanted = opened(
        as_model(model, example, data),
        data,
        recipe,
        fix,
        runtime=runtime,
        batch_size=batch_size,
        preprocess=preprocess,
        progress=progress,
    )
    by = ranked_by("sqnr_db")
    solved = [(name, *solved_in(store, wanted, name)) for name in precisions]
    first, probe = solved[0][2].solution, solved[0][2].probe
    assert probe is not None
    names = measured_layers(first, layers)
    free = rows_are_free(first.model)
    feeds = take_feeds(store.samples(solved[0][1]).first(), samples, free=free)
    with store.progress.stage("layers"):
        asked_for = [Measurement.of(name, each) for name, _, each, _ in solved]
        found = energies_of(asked_for, feeds, names)
    whole = Whole.of(first.model, probe.scored, [probe.first], runtime=runtime)
    rows = 1 if probe.free else max(1, probe.small[0].size)
    macs = {n: whole.macs_of(n) / rows for n in names}
    passes = found.passes / found.samples / len(solved)
    effort = Effort(macs, found.samples, found.samples, passes, passes)
    bouts = []
    for name, _, each, solving in solved:
        losses = {n: _loss(found.parts, found.lost[name][n], by) for n in names}
        causes = {}
        if name != "float16":
            causes = causes_of_worst(each.solution, losses, feeds, runtime)
        bouts.append(Bout(name, each.solution, effort, losses, math.nan, solving, causes))
    return ranked(store.model, bouts, by, "alone", cost, None, 0).with_note(NOTE)


def _loss(parts: Sequence[str], energy: Any, by: RankedBy) -> Loss:
    """Return energies by part as a loss: that of the part that loses most."""
    scores = {
        p: by.score(float(e), math.inf, -math.inf) for p, e in zip(parts, energy, strict=True)
    }
    worst = min(scores, key=lambda p: scores[p])
    loss = by.loss(scores[worst], math.inf)
    return Loss(loss, scores[worst], False, {"sqnr_db": scores[worst]}, scores)

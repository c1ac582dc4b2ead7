"""Take the samples that rules ask the correction of biases from, and correct."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from calibrant.analysis.probe import Probe
from calibrant.plan.parameters import Parameters
from calibrant.recipe import Note
from calibrant.refine.bias_by_rule import correct_by_rule
from calibrant.run import Run
from calibrant.tuning.forms import Variant

__all__ = ["corrected_by_rules"]

Feed = dict[str, npt.NDArray[Any]]


def corrected_by_rules(
    form: Variant, params: Parameters, probe: Probe, r: Run
) -> tuple[Parameters, tuple[Note, ...]]:
    """Correct the biases for which rules ask it, and leave a report in the run.

    Returns:
        New parameters, and a note where there are fewer samples than asked for.
    """
    most = form.plan.bias_samples
    if most == 0:
        return params, ()
    feeds, sizes = _samples(probe, most)
    params, r.corrections_by_rule = correct_by_rule(
        form.model, form.plan, params, feeds, sizes, runtime=r.runtime
    )
    if sum(sizes) >= most:
        return params, ()
    message = (
        f"Biases are to be corrected from {most} samples; the calibration data (or what is kept of it) has "
        f"{sum(sizes)}, and these are taken."
    )
    return params, (Note("bias correction", message, honoured=True),)


def _samples(probe: Probe, count: int) -> tuple[list[Feed], list[int]]:
    """Return the first samples, one a feed where the model takes that, and the samples of each feed."""
    feeds: list[Feed] = []
    sizes: list[int] = []
    for batch in probe.small:
        rows = range(batch.size) if probe.free else range(1)
        for i in rows:
            if sum(sizes) >= count:
                return feeds, sizes
            part = batch.part(i, i + 1) if probe.free else batch
            feeds.append(dict(part.feeds))
            sizes.append(part.size)
    return feeds, sizes

"""How layers are coloured: by what they lose, in seven steps from little to much.

What counts against the worst layer is coloured by how far it is below it, in steps of 3 dB: each step is half of the energy.
SQNR has a scale of its own, so that a network without trouble is pale all over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calibrant.report.page.numbers import as_db
from calibrant.report.page.run import Run

__all__ = ["STEPS", "Colouring", "colourings"]

#: Colours from 0, little, to 6, much.
STEPS = 7

#: Below these SQNR [dB] a layer takes a stronger colour.
SQNR_LIMITS = (40.0, 30.0, 25.0, 20.0, 15.0, 10.0)


@dataclass(frozen=True, slots=True)
class Colouring:
    """One way to colour layers.

    Args:
        key: Its key.
        label: What the colours show.
        legend: Text of each step, from little to much.
        steps: Step by layer.
        texts: What is said of each layer.
        order: Layers, worst first.
        two_sided: The middle step is no change, those before it are better, those behind it worse.
    """

    key: str
    label: str
    legend: tuple[str, ...]
    steps: Mapping[str, int]
    texts: Mapping[str, str]
    order: Sequence[str]
    two_sided: bool = False


def colourings(run: Run) -> list[Colouring]:
    """Return the ways in which the layers of a run can be coloured, the most telling first."""
    found = []
    if run.origins is not None:
        born = {r.name: r.energy for r in run.origins.layers}
        found.append(_relative("born", "Error born in the layer", born, _of_signal))
        sqnr = {r.name: r.shares.sqnr_db for r in run.origins.layers}
        found.append(_sqnr("sqnr", "Error at its output, with all that arrived", sqnr))
    if run.rank is not None:
        loss = {n: r.loss for n, r in run.rank.by_name().items()}
        what = "What the model loses by this layer alone"
        if run.rank.mode == "all-but":
            what = "What the model wins back with this layer in float"
        found.append(_relative("loss", what, loss, lambda x: f"loss {x:.3g}"))
    if run.comparison is not None:
        rows = run.comparison.by_name().values()
        alone = {r.name: r.born.sqnr_db for r in rows if r.born is not None}
        if alone:
            found.append(_sqnr("alone", "Compared: the layer alone", alone))
        whole = {r.name: r.metrics["sqnr_db"] for r in rows if "sqnr_db" in r.metrics}
        found.append(_sqnr("whole", "Compared: its output", whole))
    if run.advice is not None:
        lost = run.advice.shares()
        found.append(
            _relative(
                "lost", "Advice: what is lost here", lost, lambda x: f"{x:.0%} of what is lost"
            )
        )
    return [c for c in found if c.steps]


def _relative(key: str, label: str, values: Mapping[str, float], say: object) -> Colouring:
    worst = max((v for v in values.values() if math.isfinite(v)), default=0.0)
    steps = {n: _below(v, worst) for n, v in values.items()}
    legend = ("under 1/32 of the worst", "1/32", "1/16", "1/8", "1/4", "1/2", "worst")
    order = sorted(values, key=lambda n: -math.inf if math.isnan(values[n]) else -values[n])
    assert callable(say)
    return Colouring(key, label, legend, steps, {n: say(v) for n, v in values.items()}, order)


def _below(value: float, worst: float) -> int:
    if math.isnan(value) or value == math.inf:
        return STEPS - 1
    if value <= 0 or worst <= 0:
        return 0
    return max(0, STEPS - 1 - round(math.log2(worst / value)))


def _sqnr(key: str, label: str, values: Mapping[str, float]) -> Colouring:
    steps = {
        n: STEPS - 1 if math.isnan(v) else sum(v < limit for limit in SQNR_LIMITS)
        for n, v in values.items()
    }
    limits = [f"{x:g}" for x in SQNR_LIMITS]
    legend = (f"over {limits[0]} dB", *(f"under {x} dB" for x in limits))
    order = sorted(values, key=lambda n: -math.inf if math.isnan(values[n]) else values[n])
    texts = {n: f"SQNR {as_db(v)}" for n, v in values.items()}
    return Colouring(key, label, legend, steps, texts, order)


def _of_signal(energy: float) -> str:
    if energy <= 0:
        return "no error born here"
    return f"born here: {as_db(-10 * math.log10(energy)) if math.isfinite(energy) else '0 dB'} below the signal"

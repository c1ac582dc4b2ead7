"""The network, coloured by what the change did to each layer, with both runs on each card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from calibrant.report.page.colours import Colouring
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section
from calibrant.report.page.sections import graph
from calibrant.report.page.sections.accumulated import curve
from calibrant.report.page.sections.pair.outcome import difference

__all__ = ["section"]

#: From here a layer counts as changed, as clearly changed, and as changed much [dB].
STEPS = (0.5, 2.0, 6.0)

LEGEND = (
    "better by 6 dB or more",
    "by 2 dB",
    "by 0.5 dB",
    "about as before",
    "worse by 0.5 dB",
    "by 2 dB",
    "by 6 dB or more",
)


def section(a: Run, b: Run) -> Section | None:
    """Return the network of the second run; cards of layers that the first one has, too, show both."""
    drawn = b if b.network is not None else a
    if drawn.network is None:
        return None
    other = a if drawn is b else b
    section = graph.section(drawn, extra=_changes(a, b))
    assert section is not None
    theirs = graph.section(replace(other, network=drawn.network))
    assert theirs is not None
    first, second = (theirs, section) if drawn is b else (section, theirs)
    return replace(section, data=_both(section.data, first.data, second.data, (a.name, b.name)))


def _both(
    drawn: Mapping[str, Any],
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    names: tuple[str, str],
) -> dict[str, Any]:
    """Put both runs' cards of a node onto one card."""
    shift = len(first["seen"])
    cards = []
    for card, x, y in zip(drawn["cards"], first["cards"], second["cards"], strict=True):
        moved = {
            **y,
            "inputs": [i + shift for i in y["inputs"]],
            "outputs": [i + shift for i in y["outputs"]],
        }
        if "weight" in y:
            moved["weight"] = y["weight"] + shift
        head = {key: card[key] for key in ("name", "op", "facts", "before", "behind")}
        cards.append({**head, "sides": [{**x, "run": names[0]}, {**moved, "run": names[1]}]})
    return {**drawn, "cards": cards, "seen": [*first["seen"], *second["seen"]]}


def _changes(a: Run, b: Run) -> Sequence[Colouring]:
    x, y = ({name: whole for name, whole, _ in curve(run)} for run in (a, b))
    common = [n for n in y if n in x and not math.isnan(y[n] - x[n])]
    if not common:
        return ()
    change = {n: y[n] - x[n] for n in common}
    steps = {
        n: 3 - sum(c >= s for s in STEPS) + sum(c <= -s for s in STEPS) for n, c in change.items()
    }
    texts = {n: f"changed by {difference(x[n], y[n])}" for n in common}
    order = sorted(common, key=lambda n: change[n])
    label = f"SQNR of its output: {b.name} against {a.name}"
    return (Colouring("change", label, LEGEND, steps, texts, order, two_sided=True),)

"""What the change did: outputs, size, speed and cost of both runs side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from calibrant.report.page.measured import Comparison
from calibrant.report.page.numbers import (
    MINUS,
    NOTHING,
    as_db,
    as_float,
    as_percent,
    figure,
    in_bytes,
)
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section, Table
from calibrant.report.page.sections.ranked import sentence
from calibrant.report.page.sections.verdict import verdict
from calibrant.report.short import with_parts

__all__ = ["difference", "section"]

#: A difference of the outputs that counts [dB].
CLEAR = 0.5


def section(a: Run, b: Run) -> Section:
    """Return both verdicts, and what the second run gained or lost against the first."""
    rows = [*_outputs(a, b), *_costs(a, b)]
    return Section(
        "outcome",
        "What the change did",
        "pair_outcome.html",
        {
            "sentence": _sentence(a, b),
            "sides": [_side(a), _side(b)],
            "table": Table(("", a.name, b.name, "Change"), rows, "Both runs in figures"),
            "notes": [f"{run.name}: {n}" for run in (a, b) for n in run.notes],
        },
    )


def _side(run: Run) -> dict[str, str]:
    if run.summary is not None:
        grade, said = verdict(run.summary)
    elif run.comparison is not None:
        grade = "good" if run.comparison.passed else "bad"
        said = (
            "All outputs are within the limits."
            if run.comparison.passed
            else "An output is beyond the limits."
        )
    elif run.rank is not None:
        grade, said = "unknown", sentence(run.rank)
    else:
        assert run.advice is not None
        grade, said = "unknown", f"{as_db(run.advice.score_db)} before any step of the advice."
    return {"name": run.name, "grade": grade, "sentence": said}


def _sentence(a: Run, b: Run) -> str:
    """Say in one sentence which run is closer to the float model, by the worst output."""
    before, after = _sqnr(a), _sqnr(b)
    if not before or not after:
        return "The two runs have no outputs in common whose SQNR both measured."
    common = [n for n in before if n in after]
    if not common:
        return "The two runs have no output of one name."
    first, second = min(before[n] for n in common), min(after[n] for n in common)
    if math.isnan(first) or math.isnan(second):
        return "An output of one of the runs is not finite."
    if first == second:
        return f"Both reach {as_db(first)} in the worst output."
    change = difference(first, second)
    end = f"{as_db(first)} before, {as_db(second)} now, in the worst output"
    if abs(second - first) < CLEAR:
        return f"The outputs are about as good as before ({change}): {end}."
    verb = "better" if second > first else "worse"
    return f"The outputs are {verb} by {change.lstrip('+' + MINUS)}: {end}."


def _sqnr(run: Run) -> dict[str, float]:
    if run.summary is not None:
        outputs = run.summary["quality"]["outputs"]
        return {name.strip(): as_float(q["sqnr_db"]) for name, q in with_parts(outputs)}
    if run.comparison is not None:
        return {n: o.metrics.get("sqnr_db", math.nan) for n, o in run.comparison.outputs.items()}
    return {}


def difference(before: float, after: float) -> str:
    """Return a change in decibels.

    Example:
        >>> difference(20.0, 23.5), difference(20.0, 20.0)
        ('+3.5 dB', '0.0 dB')
    """
    change = after - before
    if math.isnan(change):
        return NOTHING
    sign = "+" if change > 0.05 else ""
    return f"{sign}{change:.1f} dB".replace("-0.0", "0.0").replace("-", MINUS)


def _outputs(a: Run, b: Run) -> Iterator[tuple[str, ...]]:
    before, after = _sqnr(a), _sqnr(b)
    for name in dict.fromkeys((*before, *after)):
        x, y = before.get(name, math.nan), after.get(name, math.nan)
        yield f"SQNR of {name}", as_db(x), as_db(y), difference(x, y)


def _costs(a: Run, b: Run) -> Iterator[tuple[str, ...]]:
    if a.summary is None or b.summary is None:
        yield from _limits(a.comparison, b.comparison)
        return
    x, y = a.summary, b.summary
    sizes = [s["size"]["deploy_bytes"] for s in (x, y)]
    yield "Size", in_bytes(sizes[0]), in_bytes(sizes[1]), _ratio(sizes[0], sizes[1])
    if x["latency"] and y["latency"]:
        times = [s["latency"]["quantized_ms"] for s in (x, y)]
        yield "Time of one inference", f"{times[0]:.3g} ms", f"{times[1]:.3g} ms", _ratio(*times)
    counts = [s["layers"]["quantized"] for s in (x, y)]
    yield "Quantized layers", str(counts[0]), str(counts[1]), _signed(counts[1] - counts[0])
    totals = [as_float(s["time_s"].get("total")) for s in (x, y)]
    yield "Time of the run", f"{figure(totals[0])} s", f"{figure(totals[1])} s", _ratio(*totals)
    warnings = [len(s["warnings"]) for s in (x, y)]
    yield "Warnings", str(warnings[0]), str(warnings[1]), _signed(warnings[1] - warnings[0])


def _limits(a: Comparison | None, b: Comparison | None) -> Iterator[tuple[str, ...]]:
    if a is None or b is None:
        return
    below = [sum(not row.passed for row in c.layers) for c in (a, b)]
    yield "Layers beyond the limits", str(below[0]), str(below[1]), _signed(below[1] - below[0])


def _ratio(before: float, after: float) -> str:
    if not before > 0 or math.isnan(after):
        return NOTHING
    change = after / before - 1
    return ("+" if change > 0 else "") + as_percent(change)


def _signed(change: int) -> str:
    return f"{change:+d}".replace("-", MINUS) if change else "0"


def facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return what was asked and decided for the whole model."""
    found = {
        "model": summary["model"],
        "target": summary["target"],
        "calibrant": summary["calibrant"],
    }
    found["samples"] = str(summary["data"]["samples"])
    for d in summary["decisions"]:
        if d["chosen"]:
            found[d["stage"]] = d["name"]
    if promotion := summary["promotion"]:
        raised = sum(x["raised"] for x in promotion["ranking"])
        found["raised"] = f"{raised} layers to {promotion['precision']}"
    return found

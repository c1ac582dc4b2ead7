"""The advice: what to do about a loss, best step first, and what the checks before quantization saw."""

from __future__ import annotations

from calibrant.report.page.numbers import as_db, as_percent
from calibrant.report.page.run import Run
from calibrant.report.page.section import Chart, Section, Table

__all__ = ["section"]

#: Layers that a step names.
NAMED = 6


def section(run: Run) -> Section | None:
    """Return the steps."""
    advice = run.advice
    if advice is None:
        return None
    best = advice.steps[0] if advice.steps else None
    now = f"The quantized model has {as_db(advice.score_db)}, mean over the parts of its outputs, on {advice.samples} samples"
    said = (
        f"{now}; the best step gains {as_db(best.gain_db)}."
        if best
        else f"{now}. No step gains anything."
    )
    return Section(
        "advice",
        "What to do now",
        "advice.html",
        {
            "sentence": said,
            "steps": [
                {
                    "what": step.what,
                    "gain": as_db(step.gain_db),
                    "score": as_db(step.score_db),
                    "cause": step.cause,
                    "layers": step.layers[:NAMED],
                    "more": max(0, len(step.layers) - NAMED),
                    "rules": step.rules.strip(),
                    "about": [
                        (label, text)
                        for label, text in (("Costs", step.costs), ("Why", step.evidence))
                        if text
                    ],
                }
                for step in advice.steps
            ],
            "chart": _chart(run) if advice.steps else None,
            "findings": advice.findings,
            "culprits": Table(
                ("Layer", "Tensor", "Kind", "Cause", "Share of the loss", "SQNR with it alone"),
                [
                    (
                        c.layers[0] if c.layers else "",
                        c.tensor,
                        c.kind,
                        c.cause,
                        as_percent(c.share),
                        as_db(c.loss_db),
                    )
                    for c in advice.culprits
                ],
                "Where the outputs lose most",
                layers=True,
            ),
            "notes": [*advice.notes, *(run.notes if run.summary is None else ())],
        },
    )


def _chart(run: Run) -> Chart:
    assert run.advice is not None
    steps = run.advice.steps
    names = [f"{i}: {step.cause}" for i, step in enumerate(steps, 1)]
    table = Table(
        ("Step", "Gain"), [(n, as_db(s.gain_db)) for n, s in zip(names, steps, strict=True)]
    )
    return Chart(
        "gains",
        f"Bar chart of what each of {len(steps)} steps gains, the largest {as_db(steps[0].gain_db)}.",
        {"names": names, "values": [s.gain_db for s in steps]},
        table,
    )

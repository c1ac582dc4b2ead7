"""The search of a tuning run: every trial by score and cost, and where each layer ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from calibrant.report.page.run import Run
from calibrant.report.page.section import Chart, Section, Table
from calibrant.report.page.sections.verdict import asked, shown

__all__ = ["section"]


def section(run: Run) -> Section | None:
    """Return what a tuning run tried; None for other runs."""
    told = run.tuning
    if told is None or not told.get("trials"):
        return None
    trials = told["trials"]
    table = Table(
        ("Trial", "For", str(told["metric"]), "Met", "Cost", "Front", "Raised"),
        [_row(i, t) for i, t in enumerate(trials, 1)],
        "Trials, in order",
    )
    verdict = "met" if told["met"] else "not met"
    charts = [
        Chart(
            "search",
            f"Score against cost of {len(trials)} {'trial' if len(trials) == 1 else 'trials'}; the requirement ({told['required']}) is {verdict}.",
            {
                "metric": told["metric"],
                "unit": told["cost_unit"],
                "costs": [t["cost"] for t in trials],
                "scores": [_number(t["score"]) for t in trials],
                "names": [f"{i}: {t['phase']}" for i, t in enumerate(trials, 1)],
                "met": [bool(t["met"]) for t in trials],
                "best": [bool(t["best"]) for t in trials],
                "front": [bool(t.get("front")) for t in trials],
                "limit": _limit(told),
            },
            table,
        )
    ]
    predicted = [t for t in trials if t.get("error") and t.get("predicted_error")]
    if len(predicted) > 1:
        charts.append(
            Chart(
                "predicted",
                f"Error of the outputs against what single layers add up to, for {len(predicted)} trials.",
                {
                    "predicted": [t["predicted_error"] for t in predicted],
                    "true": [t["error"] for t in predicted],
                    "names": [t["phase"] for t in predicted],
                },
                table,
            )
        )
    notes = [str(told["reason"]), *map(str, told["notes"])]
    return Section(
        "search",
        "Search",
        "search.html",
        {
            "intro": f"{asked(told)} Each trial gives every layer a precision; the front holds those that no other one beats "
            "in both score and cost.",
            "charts": charts,
            "table": table,
            "layers": _layers(told),
            "moves": _moves(told),
            "notes": notes,
        },
    )


def _row(index: int, t: Mapping[str, Any]) -> tuple[str, ...]:
    raised = [f"{n} ({p})" for n, p in (t.get("raised") or {}).items()]
    more = f" and {len(raised) - 6} more" if len(raised) > 6 else ""
    return (
        f"{index}{' (taken)' if t['best'] else ''}",
        str(t["phase"]),
        shown(t.get("scores") or t["score"]),
        "yes" if t["met"] else "no",
        f"{t['cost']:,.6g}",
        "yes" if t.get("front") else "",
        ", ".join(raised[:6]) + more or "none",
    )


def _layers(told: Mapping[str, Any]) -> Table | None:
    """Return where each layer ended, those that lose most alone first."""
    rows = told.get("by_layer") or []
    precisions = list(next((r["errors"] for r in rows if r["errors"]), {}))
    if not precisions:
        return None
    first = precisions[0]
    return Table(
        (
            "Layer",
            "Ends in",
            *(f"Loses alone in {p}" for p in precisions),
            f"Cost in {first}",
            "Why not cheaper",
        ),
        [
            (
                r["name"],
                r["precision"],
                *(f"{r['errors'][p]:.3g}" for p in precisions),
                f"{r['costs'].get(first, 0.0):,.6g}",
                r.get("why") or "",
            )
            for r in sorted(rows, key=lambda r: -r["errors"][first])
        ],
        "A layer is raised where that saves most error for what it costs",
        layers=True,
    )


def _moves(told: Mapping[str, Any]) -> Table | None:
    """Return the moves that were tried before layers were raised; None where none was."""
    moves = told.get("moves") or []
    if not moves:
        return None
    return Table(
        ("Move", "Layers", "Gain alone [dB]", "Beside others [dB]", "Taken", "Why"),
        [
            (
                str(m["what"]),
                ", ".join(m["layers"][:6]) or "all",
                _gain(m["gain_db"], m["noise_db"]),
                _gain(m["with_others_db"]),
                "yes" if m["taken"] else "",
                str(m["reason"]),
            )
            for m in moves
        ],
        "Moves that keep the cost, tried before layers were raised; judged on samples that they do not come from",
    )


def _gain(gain: float | None, noise: float | None = None) -> str:
    if gain is None:
        return ""
    return f"{gain:+.2f}" if noise is None else f"{gain:+.2f} ± {noise:.2f}"


def _limit(told: Mapping[str, Any]) -> float | None:
    """Return the score that is required, where there is one score."""
    reference, allowed = told["float"], told["allowed_loss"]
    if isinstance(reference, Mapping) or not math.isfinite(_number(reference) or math.inf):
        return None
    loss = _number(allowed)
    if loss is None or not math.isfinite(loss):
        return None
    return float(reference - loss if told["higher_is_better"] else reference + loss)


def _number(value: Any) -> float | None:
    """Return a number that a chart can show; None for others."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

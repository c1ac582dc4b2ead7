"""The report of a tuning run, as Markdown, from its plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from calibrant.tuner.markdown import number, shown, table
from calibrant.tuner.moves.told import moves_told
from calibrant.tuner.told_report import told_layers, told_trials

__all__ = ["as_markdown", "said_of_samples"]

#: What the score is where there are no labels.
UNLABELLED = (
    "There are no labels: the score says how like the float model's outputs those of the quantized model are, in the part "
    "that is furthest off. It does not say how often the model is right."
)


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the report.

    Args:
        report: Content of `tuning_report.json`.
    """
    parts = [
        "# Tuning report",
        *_verdict(report),
        *(told_trials(report) if "strategy" in report else _trials(report)),
        *moves_told(report["moves"]),
        *(told_layers(report) if "strategy" in report else _layers(report)),
        "## What it took",
        _took(report),
    ]
    if report["notes"]:
        parts += ["## Notes", "\n".join(f"- {n}" for n in report["notes"])]
    return "\n\n".join(parts) + "\n"


def _trials(report: Mapping[str, Any]) -> list[str]:
    return [
        "## Trials",
        "Every assignment that was evaluated on all evaluation data, in order. Error is that of the outputs on calibration "
        "samples, without labels: energy of the error over energy of the signal, predicted from single layers and measured "
        "for all together. The front of score against cost is marked with *.",
        table(
            ("", "for", report["metric"], "met", "cost", "error", "predicted", "layers", "raised"),
            (_trial(i, t, report) for i, t in enumerate(report["trials"], 1)),
        ),
    ]


def _verdict(report: Mapping[str, Any]) -> list[str]:
    met = report["met"]
    first = (
        f"**{'Met' if met else 'Not met'}**: {report['metric']} {shown(report['score'])} against "
        f"{shown(report['float'])} in float; required: {report['required']}."
    )
    highest = max(report["costs"].values(), default=0.0)
    share = (
        f", {100 * report['cost'] / highest:.1f} % of all layers in the dearest precision"
        if highest
        else ""
    )
    if report["average_bits"]:
        share += f", {report['average_bits']:.3g} bits a weight on average"
    counts = ", ".join(f"{n} in {p}" for p, n in report["layers"].items())
    lines = [first]
    if not report["labelled"]:
        lines.append(UNLABELLED)
    lines += [
        f"Cost {report['cost']:.6g} ({report['cost_unit']}{share}). Layers: {counts}.",
        report["reason"],
    ]
    lines += said_of_samples(report)
    if report["interrupted"]:
        lines.append(
            f"The run was ended early ({report['interrupted']}); this is the best so far."
        )
    if not met and "strategy" not in report:
        lines.append(
            "What to try next: allow a wider precision (`--allow`), more or other calibration data, more evaluations "
            "(`--max-trials`), or a larger drop. If float32 was allowed and nothing helped, look at the layers that stay in "
            "float with `calibrant explain`, and at the evaluation itself."
        )
    return lines


def said_of_samples(report: Mapping[str, Any]) -> list[str]:
    """Return what is known of samples that were not seen: the interval of the loss, and what the held out ones say."""
    lines = []
    if report["loss_interval"]:
        low, high = report["loss_interval"]
        lost = report["float"] - report["score"]
        lost = lost if report["higher_is_better"] else -lost
        lines.append(
            f"Against the float model it loses {number(lost)} on these samples, and "
            f"between {number(low)} and {number(high)} on all such samples (95 %, sample by sample)."
        )
    held = report["held_out"]
    if held:
        known = held["interval"]
        ends = f" ({number(known[0])} to {number(known[1])})" if known else ""
        lines.append(
            f"{held['samples']} samples were held out of the search; there it loses {number(held['loss'])}{ends}."
        )
        if held["models"] > 1:
            seen = (
                f" The search then looked at {held['shown']} of them, in which a model that was tried scored other than the float "
                "model."
                if held["shown"]
                else ""
            )
            lines.append(
                f"{held['models']} models were run on the samples held out, until one met the requirement on all.{seen} So these "
                "say less of samples that nobody has seen."
            )
    return lines


def _trial(index: int, t: Mapping[str, Any], report: Mapping[str, Any]) -> Sequence[str]:
    raised = ", ".join(f"{n} ({p})" for n, p in t["raised"].items())
    counts = ", ".join(f"{n} {p}" for p, n in t["layers"].items() if n)
    return (
        f"**{index}**" if t["best"] else str(index),
        t["phase"],
        shown(t["scores"] or t["score"]),
        "yes" if t["met"] else "no",
        f"{t['cost']:.6g}{' *' if t['front'] else ''}",
        number(t["error"]),
        number(t["predicted_error"]),
        counts,
        raised or "none",
    )


def _layers(report: Mapping[str, Any]) -> list[str]:
    rows = report["by_layer"]
    precisions = list(next((r["errors"] for r in rows if r["errors"]), {}))
    if not precisions:
        return [
            "## Layers",
            "The cheapest assignment met the requirement, so layers were not measured alone.",
        ]
    first = precisions[0]
    ordered = sorted(rows, key=lambda r: -r["errors"][first])
    return [
        "## Layers",
        "What the outputs lose when one layer alone is quantized; those that lose most first. A layer is raised where this "
        f"saves most error for what it costs, and stays so where what was tried without lost too much{_limit(report)}.",
        table(
            (
                "layer",
                "ends in",
                *(f"alone in {p}" for p in precisions),
                f"cost in {first}",
                "why not cheaper",
            ),
            (
                (
                    r["name"],
                    r["precision"],
                    *(number(r["errors"][p]) for p in precisions),
                    f"{r['costs'].get(first, 0.0):.6g}",
                    r["why"] or "",
                )
                for r in ordered
            ),
        ),
    ]


def _limit(report: Mapping[str, Any]) -> str:
    """Return what may be lost, in the units in which losses are expected; nothing where scores have limits of their own."""
    allowed = report["allowed_loss"]
    if isinstance(report["float"], Mapping) or not math.isfinite(allowed):
        return ""
    unit = ", energy of the error over energy of the signal" if report["float"] == math.inf else ""
    return f": {number(allowed)} is allowed{unit}"


def _took(report: Mapping[str, Any]) -> str:
    counted = report["evaluations"]
    reused = report["reused"]
    earlier = (
        f" {reused} answer{'s' * (reused != 1)} came from the journal of an earlier run."
        if reused
        else ""
    )
    return (
        f"{counted['full']} full evaluations, the float model's among them; {counted['partial_samples']} samples in "
        f"evaluations that ended early, held out, or without labels; {counted['precheck_samples']} in looks at few samples: "
        f"the first of a trial, or those that tell trials apart; {report['seconds']:.0f} s.{earlier}"
    )

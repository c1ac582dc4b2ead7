"""The verdict: how good the quantized model is, how large, how fast, what was done, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from calibrant.report.page.numbers import (
    NOTHING,
    TIMES,
    as_db,
    as_float,
    as_percent,
    figure,
    in_bytes,
)
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section, Table
from calibrant.report.short import with_parts

__all__ = ["asked", "section", "shown", "verdict"]

#: Where the error holds one hundredth of the signal's energy, and one tenth [dB].
GOOD, FAIR = 20.0, 10.0
LABELS = {"good": "Good", "fair": "Fair", "bad": "Bad", "unknown": "Not measured"}


def section(run: Run) -> Section | None:
    """Return the verdict on a quantized model."""
    summary = run.summary
    if summary is None:
        return None
    grade, sentence = verdict(summary)
    label = LABELS[grade]
    found = list(tiles(summary))
    if told := run.tuning:
        grade, label = ("good", "Met") if told["met"] else ("bad", "Not met")
        sentence = f"{asked(told)} {sentence}"
        score = shown(told["score"]), f"{told['metric']}, {_in_float_score(told)}"
        found.insert(0, ("Score", *score))
    return Section(
        "verdict",
        "Verdict",
        "verdict.html",
        {
            "grade": grade,
            "label": label,
            "sentence": sentence,
            "tiles": found,
            "warnings": summary.get("warnings", []),
            "notes": [*run.notes, *_unmeasured(run), *_notes(summary)],
            "outputs": _outputs(summary["quality"]["outputs"]),
            "samples": summary["quality"]["samples"],
            "done": [*_done(summary), *_biases(run)],
            "float": _in_float(summary),
        },
    )


def asked(told: Mapping[str, Any]) -> str:
    """Say what was required of a tuned model, and whether that is met."""
    met = "met" if told["met"] else "not met"
    score = f"{told['metric']} {shown(told['score'])}, {_in_float_score(told)}"
    return f"The requirement, {told['required']}, is {met}: {score}."


def shown(score: Any) -> str:
    """Return a score, or several by name."""
    if isinstance(score, Mapping):
        return ", ".join(f"{n} {shown(v)}" for n, v in score.items())
    return figure(score) if isinstance(score, int | float) else str(score)


def _in_float_score(told: Mapping[str, Any]) -> str:
    return f"{shown(told['float'])} in float"


def verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Return `good`, `fair`, `bad` or `unknown`, and the sentence that says it."""
    outputs = summary["quality"]["outputs"]
    if not outputs:
        return (
            "unknown",
            "How close the outputs are was not measured: there was no data to run both models on.",
        )
    parts = [(name.strip(), as_float(q["sqnr_db"]), q) for name, q in with_parts(outputs)]
    name, worst, figures = min(parts, key=lambda p: -math.inf if math.isnan(p[1]) else p[1])
    collapsed = [p["name"] for q in outputs.values() for p in q.get("parts", ()) if p["collapsed"]]
    which = f"Output '{name}'" if len(parts) == 1 else f"The worst of the outputs, '{name}',"
    noise = f"its error holds {as_percent(10 ** (-worst / 10))} of the signal's energy"
    said = f"{which} keeps {as_db(worst)} SQNR: {noise}"
    if worst == math.inf:
        said = f"{which} is equal to that of the float model"
    agreement = figures.get("top1_agreement")
    if agreement is not None:
        said += f". The largest value is the same one in {as_percent(agreement)} of the samples"
    if collapsed:
        return "bad", f"The outputs have collapsed in {', '.join(collapsed)}. {said}."
    if worst >= GOOD:
        return "good", f"The quantized model is close to the float model. {said}."
    if worst >= FAIR:
        return "fair", f"The quantized model loses something. {said}."
    return "bad", f"The quantized model is far from the float model. {said}."


def tiles(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield label, figure and a line about it."""
    outputs = summary["quality"]["outputs"]
    if outputs:
        worst = min((as_float(q["sqnr_db"]) for _, q in with_parts(outputs)), default=math.nan)
        cosine = min(as_float(q["cosine"]) for q in outputs.values())
        many = f"{len(outputs)} outputs" if len(outputs) > 1 else "1 output"
        yield "Similarity", as_db(worst), f"cosine {figure(cosine)}, {many}"
    size = summary["size"]
    both = f"{in_bytes(size['float_bytes'])} → {in_bytes(size['deploy_bytes'])}"
    yield "Size", as_percent(size["ratio"]), both
    if latency := summary["latency"]:
        times = f"{latency['float_ms']:.3g} → {latency['quantized_ms']:.3g} ms, ONNX Runtime, this machine"
        yield "Speed", f"{latency['speedup']:.2f} {TIMES}", times
    layers = summary["layers"]
    left = f"{len(layers['float'])} left in float"
    yield "Layers", f"{layers['quantized']}", f"quantized, {left}"
    seconds = as_float(summary["time_s"].get("total"))
    memory = f"peak memory {summary['peak_memory_mb']:.0f} MB"
    if training := summary.get("training"):
        yield "Cost", f"{as_float(training['seconds']):.3g} s", f"of training, {memory}"
    elif not math.isnan(seconds):
        yield "Cost", f"{seconds:.3g} s", f"{summary['data']['samples']} samples, {memory}"


def _done(summary: Mapping[str, Any]) -> Iterator[str]:
    passes = summary["passes"]
    yield f"Quantized for target '{summary['target']}'."
    if training := summary.get("training"):
        kept = "kept" if training["better"] else "not kept, since it is no better"
        yield f"Trained for {training['steps']} steps; {kept}."
    for d in summary["decisions"]:
        if d["chosen"]:
            yield f"{d['stage'].capitalize()}: {d['name']}."
    if folded := [f for f in passes["folded"] if not f["reason"]]:
        yield f"{len(folded)} batch normalizations folded into the layers before them."
    for key, what in (
        ("equalized", "tensors equalized"),
        ("balanced", "tensors balanced"),
        ("float16", "nodes in float16"),
    ):
        if passes[key]:
            yield f"{len(passes[key])} {what}."
    if learned := [x for x in passes["rounding_learned"] if not x["reason"]]:
        yield f"Rounding learned in {len(learned)} layers."
    if promotion := summary["promotion"]:
        raised = [x["node"] for x in promotion["ranking"] if x["raised"]]
        yield f"{len(raised)} layers raised to {promotion['precision']}."


def _biases(run: Run) -> list[str]:
    """Say how many biases the model has corrected; the summary names those that were only tried, too."""
    count = sum(t.get("bias_corrected", False) for t in (run.plan or {"tensors": []})["tensors"])
    return [f"{count} biases corrected."] if count else []


def _outputs(outputs: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, q in with_parts(outputs):
        top1 = q.get("top1_agreement")
        rows.append(
            (
                name.strip(),
                as_db(q["sqnr_db"]),
                f"{as_float(q['cosine']):.5f}",
                figure(q["max_error"]),
                NOTHING if top1 is None else as_percent(top1),
            )
        )
    columns = ("Output", "SQNR", "Cosine", "Largest error", "Same top-1")
    return Table(columns, rows, "Outputs of the quantized model against those of the float model")


def _in_float(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    reasons: dict[str, list[str]] = {}
    for layer in summary["layers"]["float"]:
        reasons.setdefault(layer["reason"], []).append(layer["layer"])
    return list(reasons.items())


def _unmeasured(run: Run) -> tuple[str, ...]:
    return run.distributions.notes if run.distributions is not None else ()


def _notes(summary: Mapping[str, Any]) -> list[str]:
    notes = [*summary["data"]["notes"], *(n["message"] for n in summary["notes"])]
    slower = (summary["latency"] or {}).get("slower", "")
    if slower and slower not in summary["warnings"]:
        notes.append(slower)
    return notes

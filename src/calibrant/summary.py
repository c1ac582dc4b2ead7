"""The summary of a result: what was done and how good it is, as plain values, as in `summary.json`."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibrant._version import __version__
from calibrant.emit._parts import linear_inputs
from calibrant.emit.few_levels import few_levels
from calibrant.findings import Findings, QualityFindings, SearchReport
from calibrant.formats._files import plain
from calibrant.graph.load import unsupported_subgraphs
from calibrant.graph.opset import main_opset
from calibrant.graph.targets import Target
from calibrant.plan import Plan
from calibrant.report.float_layers import integer_outputs_message, left_message
from calibrant.report.latency import slower
from calibrant.report.lost import lost_channels, lost_tensors
from calibrant.runtime.measure import Latency
from calibrant.runtime.part_quality import collapse_warnings
from calibrant.save.size import file_bytes, given_bytes
from calibrant.solution import NOT_FOR_ACCURACY, Built, Solution
from calibrant.stats import TensorStats

__all__ = ["summarize"]


def summarize(
    source: Any,
    solution: Solution,
    built: Built,
    findings: Findings,
    statistics: Mapping[str, TensorStats],
) -> dict[str, Any]:
    """Return the summary of a result as plain values.

    Args:
        source: The model as it was given: a path, or a model in memory.
        solution: What was decided.
        built: Its models.
        findings: What was found and measured.
        statistics: What was seen of each tensor.
    """
    deploy, plan, form = built.deploy, solution.plan, solution.form
    float_bytes = given_bytes(source, solution.original)
    deploy_bytes = file_bytes(deploy)
    passes, quality, latency = findings.passes, findings.quality, findings.latency
    quantized = [d for d in plan.layers if d.quantized]
    left, outputs = findings.left_in_float, findings.integer_outputs
    subgraphs = unsupported_subgraphs(solution.model)
    summary: dict[str, Any] = {
        "calibrant": __version__,
        "model": str(source) if isinstance(source, (str, Path)) else "(in memory)",
        "target": plan.target.name,
        "data": {
            "samples": findings.data.samples,
            "batches": findings.data.batches,
            "random": solution.random,
            "notes": [*findings.data.notes, *_left_out(statistics)],
            "not_finite": {n: s.nonfinite for n, s in statistics.items() if s.nonfinite},
        },
        "quality": {
            "samples": quality.samples,
            "unseen_samples": quality.unseen,
            "unseen": _unseen(quality),
            "outputs": {
                q.name: {k: v for k, v in asdict(q).items() if k != "name"}
                for q in quality.outputs
            },
            "not_compared": quality.not_compared,
            "saturated_here": {s.name: s.sqnr_db for s in quality.saturated},
        },
        "nodes": [asdict(n) for n in findings.nodes],
        "distances": [asdict(d) for d in findings.distances],
        "decisions": [asdict(c) for c in findings.trials],
        "search": _search(findings.search),
        "promotion": asdict(findings.promotion) if findings.promotion is not None else None,
        "layers": {
            "quantized": len(quantized),
            "float": [
                {"layer": d.node, "op_type": d.op_type, "reason": d.reason}
                for d in plan.layers
                if not d.quantized
            ],
            "kept_in_integers": list(plan.followers),
            "subgraphs_in_float": subgraphs,
            "collapse_in_integers": dict(left.layers) if left is not None else {},
        },
        "integer_outputs": asdict(outputs) if outputs is not None else None,
        "passes": {
            "folded": [asdict(f) for f in passes.folded],
            "float16": [asdict(i) for i in passes.half],
            "narrow_sums": list(passes.narrowed),
            "equalized": [
                {"source": e.source, "readers": e.readers, "spread": e.spread}
                for e in form.equalized
            ],
            "balanced": [{"tensor": b.tensor, "layers": b.layers} for b in form.balanced],
            "rounding_learned": [asdict(x) for x in passes.learned],
            "levels_refined": [asdict(x) for x in passes.refinements],
            "bias_corrected": [asdict(c) for c in passes.corrections],
            "bias_by_rule": [asdict(c) for c in passes.corrections_by_rule],
        },
        "size": {
            "float_bytes": float_bytes,
            "deploy_bytes": deploy_bytes,
            "ratio": deploy_bytes / max(1, float_bytes),
            "few_levels": few_levels(plan, solution.params),
        },
        "compensation": _compensation(plan, built),
        "opset": {"before": main_opset(solution.original), "after": main_opset(deploy)},
        "time_s": {k: round(v, 4) for k, v in findings.seconds.items()},
        "peak_memory_mb": round(_peak_mb(), 1),
        "latency": _latency(latency, plan.target),
        "notes": [asdict(n) for n in plan.notes],
        "warnings": [
            *_warnings(solution, findings, subgraphs),
            *lost_channels(solution),
            *lost_tensors(solution, statistics),
        ],
    }
    return plain(summary)  # type: ignore[no-any-return]


def _unseen(quality: QualityFindings) -> str:
    """Say what samples the SQNR of the parts stands for."""
    if quality.unseen:
        return (
            f"The SQNR of parts is for {quality.unseen} samples that the ranges do not come from."
        )
    return (
        "Nothing can be said of unseen samples: the SQNR of parts is for samples that were seen."
    )


def _latency(latency: Latency | None, target: Target) -> dict[str, Any] | None:
    if latency is None:
        return None
    text = slower(latency.float_ms, latency.quantized_ms, target)
    return {**asdict(latency), "speedup": latency.speedup, "slower": text}


def _compensation(plan: Plan, built: Built) -> dict[str, int]:
    """Count the operands in two 8-bit parts, and the operators that the deployed model has more for them."""
    ones, twos = (
        sum(bool(linear_inputs(n)) for n in m.graph) for m in (built.fake_quant, built.deploy)
    )
    operands = sum(max(1, len(d.users)) for d in plan.activations if d.compensation)
    operands += sum(w.compensation for w in plan.weights)
    return {"operands": operands, "more_operators": twos - ones}


def _search(report: SearchReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    found = asdict(report)
    rows, work, full = (found.pop(key) for key in ("rows", "work", "full"))
    return {
        **found,
        "nodes": len({row["node"] for row in rows}),
        "nodes_run": work["nodes"],
        "nodes_of_full_runs": full["nodes"],
        "macs_run": work["macs"],
        "macs_of_full_runs": full["macs"],
    }


def _warnings(solution: Solution, findings: Findings, subgraphs: Sequence[str]) -> list[str]:
    half, latency = findings.passes.half, findings.latency
    warnings = [NOT_FOR_ACCURACY] if solution.random else []
    warnings += [
        f"Output '{name}' was not compared: it is no floating point tensor, or its shape depends on the "
        "values before it. What it is computed from was compared where that is a tensor."
        for name in findings.quality.not_compared
    ]
    for q in findings.quality.outputs:
        if not math.isfinite(q.cosine):
            warnings.append(f"Output '{q.name}' of the quantized model is not finite.")
        else:
            warnings += collapse_warnings(q.name, q.parts)
    warnings += [
        f"{i.clipped} constants of node '{i.node}' are beyond the range of float16 and were clipped."
        for i in half
        if i.clipped
    ]
    warnings += [
        f"{i.overflows} values at node '{i.node}' are beyond the range of float16 (65504) on calibration samples and "
        "saturate there. Leave it in float32."
        for i in half
        if i.overflows
    ]
    if findings.left_in_float is not None:
        warnings.append(left_message(findings.left_in_float))
    if findings.integer_outputs is not None:
        warnings.append(integer_outputs_message(findings.integer_outputs, solution.plan.target))
    if findings.quality.saturated:
        worst = max(findings.quality.saturated, key=lambda s: s.exact_sqnr_db - s.sqnr_db)
        warnings.append(worst.message)
    if latency is not None and solution.plan.target.measures_latency:
        told = slower(latency.float_ms, latency.quantized_ms, solution.plan.target)
        warnings += [told] if told else []
    warnings += [f"The bodies of node '{name}' stay in float." for name in subgraphs]
    return warnings


def _left_out(statistics: Mapping[str, TensorStats]) -> list[str]:
    """Say of which tensors values were left out, and how many."""
    return [
        f"Tensor '{name}' holds {s.nonfinite} values that are not finite (NaN or infinity) beside {s.count} that are, "
        "while the model's outputs are finite. They are left out of its range."
        for name, s in statistics.items()
        if s.nonfinite
    ]


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20

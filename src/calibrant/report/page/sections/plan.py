"""The effective plan: every quantizer with its type, its range, and the rule that decided."""

from __future__ import annotations

from typing import Any

from calibrant.report.page.numbers import as_float, figure
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section, Table

__all__ = ["ends", "rule_text", "section"]


def section(run: Run) -> Section | None:
    """Return the plan."""
    if run.plan is None:
        return None
    rows = [_row(t) for t in run.plan["tensors"]]
    left = [
        (d["layer"], d["op_type"], d["reason"]) for d in run.plan["layers"] if not d["quantized"]
    ]
    return Section(
        "plan",
        "Effective plan",
        "plan.html",
        {
            "tensors": Table(
                ("Tensor", "Role", "Type", "Algorithm", "Range", "Scales", "Decided by"),
                rows,
                "Every quantizer",
            ),
            "left": Table(("Layer", "Operator", "Reason"), left, "Layers in float", layers=True),
            "kept": run.plan["kept_in_integers"],
        },
    )


def _row(t: dict[str, Any]) -> tuple[str, ...]:
    scales = t["scale"] if isinstance(t["scale"], list) else [t["scale"]]
    low, high = min(map(as_float, scales)), max(map(as_float, scales))
    said = figure(low) if len(scales) == 1 else f"{len(scales)}: {figure(low)} … {figure(high)}"
    range_ = "" if "range" not in t else "{} … {}".format(*map(figure, ends(t)))
    return (
        t["tensor"],
        t["role"],
        t["type"],
        t["algorithm"],
        range_,
        said,
        rule_text(t["rule"]),
    )


def ends(t: dict[str, Any]) -> tuple[float, float]:
    """Return the outermost ends of an activation's range."""
    low, high = t["range"]
    lows, highs = (x if isinstance(x, list) else [x] for x in (low, high))
    return min(map(as_float, lows)), max(map(as_float, highs))


def rule_text(rule: Any) -> str:
    """Return which rule decided.

    Example:
        >>> rule_text("default"), rule_text({"weight_bits": "rules[0]"})
        ('default', 'weight_bits: rules[0]')
    """
    if isinstance(rule, dict):
        by: dict[str, list[str]] = {}
        for field, origin in rule.items():
            by.setdefault(str(origin), []).append(field)
        return "; ".join(f"{', '.join(fields)}: {origin}" for origin, fields in by.items())
    return str(rule)

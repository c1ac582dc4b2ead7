"""What the debug tool found, part by part, with its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from calibrant.report.page.debugged import Debugged, next_steps
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section, Table

__all__ = ["parts", "steps"]

TITLES = {
    "node_sensitivity": "Sensitivity: one node alone is quantized",
    "data_distribution": "Distributions of the worst nodes",
    "channelwise_distribution": "Channels of the worst nodes",
    "accumulate_error": "Accumulated error",
    "tensor_analysis": "Tensors of the worst nodes",
    "collapse_check": "Collapse",
    "sensitivity_analysis": "Raising sensitive nodes",
}


def steps(run: Run) -> Section | None:
    """Return what to do next."""
    debugged = run.debugged
    if debugged is None:
        return None
    looked = f"{debugged.nodes} calibration nodes, {debugged.samples} sample{'s' * (debugged.samples != 1)}."
    failed = [(TITLES.get(n, n), p["failed"]) for n, p in debugged.parts.items() if p["failed"]]
    return Section(
        "next",
        "What to do next",
        "debugged_steps.html",
        {"looked": looked, "steps": next_steps(debugged.found), "failed": failed},
    )


def parts(run: Run) -> Section | None:
    """Return each part: what it found as a table, and its pictures."""
    debugged = run.debugged
    if debugged is None:
        return None
    shown = [
        {
            "title": TITLES.get(name, name),
            "said": _said(name, part["found"]),
            "table": _table(name, part["found"]),
            "pictures": _pictures(debugged, part["files"]),
        }
        for name, part in debugged.parts.items()
        if name != "node_sensitivity"  # the ranking, with its chart, has a section of its own
    ]
    return Section("looked", "What was looked at", "debugged_parts.html", {"parts": shown})


def _pictures(debugged: Debugged, files: list[str]) -> list[tuple[str, str]]:
    return [(PurePosixPath(f).stem, debugged.pictures[f]) for f in files if f in debugged.pictures]


def _said(name: str, found: Mapping[str, Any]) -> str:
    if name == "collapse_check":
        return str(found.get("message", ""))
    return str(found.get("note", "")) if name == "sensitivity_analysis" else ""


def _table(name: str, found: Mapping[str, Any]) -> Table | None:
    """Return what a part found, where it is more than a sentence."""
    if name in ("data_distribution", "channelwise_distribution", "tensor_analysis") and found:
        keys = list(dict.fromkeys(k for of in found.values() for k in of))
        rows = [(n, *(_text(of.get(k)) for k in keys)) for n, of in found.items()]
        return Table(("Node", *keys), rows, TITLES[name])
    if name == "sensitivity_analysis" and found.get("steps"):
        rows = [(s, _text(v)) for s, v in found["steps"].items()]
        return Table(("Step", str(found["metric"])), rows, TITLES[name])
    if name == "accumulate_error" and found.get("last"):
        jumps = found["steps"]
        rows = [(c, _text(v), ", ".join(jumps.get(c, ()))) for c, v in found["last"].items()]
        columns = ("Curve", f"{found['metric']} at the last node", "Steps of more than 1 %")
        return Table(columns, rows, TITLES[name])
    return None


def _text(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:.6g}"
    return "" if value is None else str(value)

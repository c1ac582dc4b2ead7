"""What a run of the debug tool found, as a report reads it from its folder."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrant.errors import ConfigValueError
from calibrant.report.page.measured import Loss, Rank

__all__ = ["Debugged", "is_debugged", "next_steps"]

#: What helps, by the cause of a loss.
ADVICE = {
    "truncation": "A larger or fixed threshold, more calibration data, or another calibration method.",
    "rounding": "A higher type (int16), error compensation (ec), or a scale for each channel.",
    "": "Nothing is lost here.",
}

Found = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Debugged:
    """`summary.json` of the debug tool, and its pictures.

    Args:
        samples: Samples that were looked at.
        nodes: Calibration nodes of the model.
        readers: Calibration node -> nodes that read through it.
        parts: Part -> `failed`, `files`, `found`.
        pictures: File, from the folder of the run on -> the picture as a `data:` address.
    """

    samples: int
    nodes: int
    readers: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, summary: Mapping[str, Any]) -> Debugged:
        """Return what stands in a folder.

        Raises:
            ConfigValueError: A field of the summary is missing.
        """
        try:
            parts = {str(k): dict(v) for k, v in summary["parts"].items()}
            readers = {str(k): tuple(v) for k, v in summary.get("readers", {}).items()}
            samples, nodes = int(summary["samples"]), int(summary["calibration_nodes"])
            files = [f for part in parts.values() for f in part["files"]]
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise ConfigValueError(
                f"'{folder / 'summary.json'}' is damaged: {e!r}. Run 'calibrant debug runall' again."
            ) from e
        pictures = {
            f: _inside(folder / f) for f in files if f.endswith(".png") and (folder / f).is_file()
        }
        return cls(samples, nodes, readers, parts, pictures)

    @property
    def found(self) -> dict[str, Mapping[str, Any]]:
        """What each part found."""
        return {name: part["found"] for name, part in self.parts.items()}

    def rank(self, model: str) -> Rank | None:
        """Return what the outputs lose by each node that reads through a calibration node, worst first; None without rankings.

        What is lost grows with the metric's distance from that of equal tensors: 1 - v for a cosine, the energy 10^(-v/10) for
        an SQNR of v dB, else v itself.
        """
        rankings = list(self.found.get("node_sensitivity", {}).values())
        if not rankings:
            return None
        metric = str(rankings[0]["metrics"][0])
        worst: dict[tuple[str, str], tuple[float, float, Mapping[str, Any]]] = {}
        for ranking in rankings:
            for row in ranking["nodes"]:
                score = _number(row["metrics"][metric])
                loss = _loss(metric, score)
                kind = str(ranking["node_type"])
                precision = str(row["qtype"]) if kind == "node" else f"{kind} {row['qtype']}"
                for layer in self.readers.get(row["name"]) or (row["name"],):
                    held = worst.get((layer, precision))
                    if held is None or loss > held[0]:
                        worst[layer, precision] = (loss, score, row)
        order = sorted(worst.items(), key=lambda kv: -kv[1][0])
        cheap = sorted(worst, key=lambda k: -worst[k][0] / max(1.0, _number(worst[k][2]["macs"])))
        places = {key: i for i, key in enumerate(cheap, 1)}
        rows = tuple(
            Loss(
                n,
                str(row["op_type"]),
                p,
                score,
                loss,
                _number(row["macs"]),
                i,
                places[n, p],
                False,
            )
            for i, ((n, p), (loss, score, row)) in enumerate(order, 1)
        )
        notes = tuple(str(n) for r in rankings for n in r.get("notes", ()))
        return Rank(model, "alone", metric, "MACs", self.samples, rows, notes)


def is_debugged(summary: Mapping[str, Any]) -> bool:
    """Return whether a `summary.json` is one of the debug tool."""
    return "calibration_nodes" in summary and "parts" in summary


def next_steps(found: Found) -> list[str]:
    """Say what to do next, from what each part found: one sentence or two a step."""
    steps = []
    collapse = found.get("collapse_check", {})
    if collapse.get("first"):
        steps.append(str(collapse["message"]))
    for ranking in found.get("node_sensitivity", {}).values():
        if not ranking["nodes"] or not ranking["nodes"][0]["cause"]:
            continue
        worst, metric = ranking["nodes"][0], ranking["metrics"][0]
        steps.append(
            f"{worst['name']}: {metric} {_number(worst['metrics'][metric]):.6g} when it alone is quantized, by "
            f"{worst['cause']}. {ADVICE[worst['cause']]}"
        )
    curves = found.get("accumulate_error", {})
    last = curves.get("last", {})
    if {"weight", "activation"} <= last.keys():
        steps.append(
            f"At the last node: {curves['metric']} {_number(last['weight']):.6g} with the weights alone quantized, "
            f"{_number(last['activation']):.6g} with the activations alone. Begin with the worse of the two."
        )
    raising = found.get("sensitivity_analysis", {})
    if raising.get("note"):
        steps.append(str(raising["note"]))
    return steps


def _loss(metric: str, score: float) -> float:
    if metric == "cosine-similarity":
        return 1 - score
    return 10 ** (-score / 10) if metric == "sqnr" else score


def _number(value: Any) -> float:
    """Return a number; JSON has no others than finite ones, so those stand there as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _inside(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")

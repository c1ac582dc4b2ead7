"""From what was measured of all layers, precision by precision, to one ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from calibrant.analysis.alone.losses import Loss
from calibrant.analysis.alone.measuring import Measured
from calibrant.analysis.alone.metric import RankedBy
from calibrant.diagnose.ranking import LayerLoss, Ranking
from calibrant.graph.load import ModelLike
from calibrant.report.evidence import network_of
from calibrant.solution import Solution

__all__ = ["Bout", "Effort", "Mode", "Unit", "ranked"]

Mode = Literal["alone", "all-but"]
Unit = Literal["macs", "bytes"]


@dataclass(frozen=True, slots=True, eq=False)
class Effort:
    """What a measurement took.

    Args:
        macs: Multiplications of each layer for one sample.
        first: Samples that all layers were measured on.
        samples: All samples.
        passes: Work, in passes of all samples through the model.
        node_passes: The same by nodes that were run.
    """

    macs: Mapping[str, float]
    first: int
    samples: int
    passes: float
    node_passes: float

    @classmethod
    def of(cls, measured: Measured) -> Effort:
        """Return what partial runs took."""
        m = measured
        return cls(m.macs, m.first, m.samples, m.passes, m.node_passes)


@dataclass(frozen=True, slots=True, eq=False)
class Bout:
    """All layers in one precision.

    Args:
        precision: Its name.
        solution: The model with all layers in it.
        measured: What it took.
        losses: Loss by layer.
        baseline: Score of the model that layers are changed in.
        solving: Samples that choosing the scales took.
        causes: Why the worst layers lose.
    """

    precision: str
    solution: Solution
    measured: Effort
    losses: dict[str, Loss]
    baseline: float
    solving: float
    causes: dict[str, str]


def ranked(
    model: ModelLike,
    bouts: Sequence[Bout],
    metric: RankedBy,
    mode: Mode,
    unit: Unit,
    budget: float | None,
    reused: int,
) -> Ranking:
    """Return what was measured as a ranking; arguments as for `sensitivity`, `reused` figures of an earlier run among them."""
    rows = [row for bout in bouts for row in _rows(bout, unit)]
    rows.sort(key=lambda r: -r.loss)
    per_cost = sorted(range(len(rows)), key=lambda i: -rows[i].loss_per_cost)
    place = {index: rank for rank, index in enumerate(per_cost, 1)}
    rows = [replace(r, rank=i + 1, rank_per_cost=place[i]) for i, r in enumerate(rows)]
    samples = bouts[0].measured.samples
    estimated = sum(r.estimated for r in rows)
    notes = []
    if estimated:
        notes.append(
            f"{estimated} of {len(rows)} layers lost little on the first {bouts[0].measured.first} samples and were not "
            f"measured on the other {samples - bouts[0].measured.first}; their scores are estimated. A larger budget, or "
            "none, measures more."
        )
    work: dict[str, float | int | None] = {
        "passes": sum(b.measured.passes for b in bouts),
        "allowed": None if budget is None else budget * len(rows),
        "node_passes": sum(b.measured.node_passes for b in bouts),
        "reused": reused,
        "solving": sum(b.solving for b in bouts) / samples,
    }
    baseline = {b.precision: b.baseline for b in bouts} if mode == "all-but" else {}
    name = str(model) if isinstance(model, str | Path) else "(in memory)"
    said = (*dict.fromkeys(n for b in bouts for n in _notes(b)), *notes)
    network = network_of(bouts[0].solution.model)
    return Ranking(
        name, mode, metric.name, unit, samples, tuple(rows), baseline, work, said, network
    )


def _notes(bout: Bout) -> list[str]:
    return [f"{bout.precision}: {n.message}" for n in bout.solution.plan.notes]


def _rows(bout: Bout, unit: Unit) -> list[LayerLoss]:
    rows = []
    types = {n.name: n.op_type for n in bout.solution.model.graph}
    sizes = _bytes(bout)
    for name, found in bout.losses.items():
        cost = bout.measured.macs[name] if unit == "macs" else sizes.get(name, 0)
        per = found.loss / cost if cost else math.copysign(math.inf, found.loss)
        rows.append(
            LayerLoss(
                name,
                types[name],
                bout.precision,
                found.score,
                found.loss,
                cost,
                per if found.loss else 0.0,
                0,
                0,
                bout.measured.first if found.estimated else bout.measured.samples,
                found.estimated,
                found.metrics,
                found.parts,
                bout.causes.get(name, ""),
            )
        )
    return rows


def _bytes(bout: Bout) -> dict[str, float]:
    """Return the bytes of each weight in the precision."""
    found: dict[str, float] = {}
    for w in bout.solution.plan.weights:
        bits = 16 if bout.precision == "float16" else w.spec.bits
        value = bout.solution.model.graph.initializers[w.weight]
        found[w.layer] = _size(value) * bits / 8
    return found


def _size(value: ir.Value) -> int:
    assert value.const_value is not None
    return int(value.const_value.size)

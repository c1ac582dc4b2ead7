"""Layers ranked by what they lose, as values, and as CSV and JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from calibrant.report.evidence import Network
from calibrant.save.folder import written_together
from calibrant.text.json_out import json_of

__all__ = ["CSV_FILE", "JSON_FILE", "LayerLoss", "Ranking"]

CSV_FILE, JSON_FILE = "sensitivity.csv", "sensitivity.json"


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """What one layer loses in one precision.

    Args:
        name: The node.
        op_type: Its operator.
        precision: As it was asked for.
        score: The metric of the model's outputs, of the part that loses most.
        loss: What the layer loses, 0 for nothing (`analysis.alone.metric`). With `mode="alone"` the loss of the model with this
            layer alone in the precision; with `all-but` what the model wins back when this layer alone is left in float, below
            0 where it loses by that.
        cost: What the layer costs: multiplications of one sample, or bytes of its weight in the precision.
        loss_per_cost: Loss over cost; inf where a loss has no cost.
        rank: Place by loss, from 1.
        rank_per_cost: Place by loss per cost, from 1.
        samples: Samples that it was measured on.
        estimated: It was measured on the first samples alone, and score and loss are estimated for all.
        metrics: All metrics of the part that loses most, over the samples it was measured on.
        parts: Score of each part of the outputs, over the samples it was measured on.
        cause: What its loss comes from: `clipping`, `rounding`, `range` (rounding, since few channels or values hold the range, or
            most of it is not used), `mask` or `bias`. Empty for all but the ten worst, in float16, and where nothing is lost.
    """

    name: str
    op_type: str
    precision: str
    score: float
    loss: float
    cost: float
    loss_per_cost: float
    rank: int
    rank_per_cost: int
    samples: int
    estimated: bool
    metrics: dict[str, float]
    parts: dict[str, float]
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """All layers, the one that loses most first.

    Args:
        model: Path of the model, or `(in memory)`.
        mode: `alone`: one layer is quantized; `all-but`: one layer is left in float.
        metric: What layers are ranked by.
        unit: What `cost` counts: `macs` or `bytes`.
        samples: Samples that were used.
        layers: Layers, worst first.
        baseline: With `all-but`, score of the model with all layers quantized, by precision.
        work: `passes` of the samples through the model that all measurements took, in multiplications, `node_passes` in
            nodes that were run, what the budget `allowed`, how many figures of an earlier run were `reused`, and the
            passes that choosing the scales took (`solving`).
        notes: What was left out, or done in another way, and why.
        network: The float model as a graph; it is not part of the content.
    """

    model: str
    mode: str
    metric: str
    unit: str
    samples: int
    layers: tuple[LayerLoss, ...]
    baseline: dict[str, float]
    work: dict[str, float | int | None]
    notes: tuple[str, ...] = ()
    network: Network | None = field(default=None, repr=False)

    @property
    def per_cost(self) -> tuple[LayerLoss, ...]:
        """Layers, those first that lose most for what they cost."""
        return tuple(sorted(self.layers, key=lambda row: row.rank_per_cost))

    def with_note(self, note: str) -> Ranking:
        """Return it with one note more, the first one."""
        return replace(self, notes=(note, *self.notes))

    def content(self) -> dict[str, Any]:
        """Return the ranking as plain values, layers worst first."""
        return {
            "model": self.model,
            "mode": self.mode,
            "metric": self.metric,
            "unit": self.unit,
            "samples": self.samples,
            "layers": [asdict(row) for row in self.layers],
            "per_cost": [[row.name, row.precision] for row in self.per_cost],
            "baseline": self.baseline,
            "work": self.work,
            "notes": list(self.notes),
        }

    def json(self) -> str:
        """Return the ranking as JSON; numbers that JSON does not have are texts (`nan`, `inf`, `-inf`)."""
        return json_of(self.content())

    def csv(self) -> str:
        """Return the ranking as a table, one row a layer and precision, worst first."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        columns = [f for f in LayerLoss.__slots__ if f not in ("metrics", "parts")]
        table.writerow(columns)
        table.writerows([getattr(row, c) for c in columns] for row in self.layers)
        return text.getvalue()

    def save(self, folder: str | Path) -> list[Path]:
        """Write `sensitivity.csv` and `sensitivity.json` into a folder, which is made if it is not there.

        Raises:
            OutputError: They cannot be written.
        """
        place = Path(folder)
        files = {CSV_FILE: self.csv(), JSON_FILE: self.json() + "\n"}
        with written_together(place) as new:
            for name, text in files.items():
                (new / name).write_text(text, encoding="utf-8")
        return [place / name for name in files]

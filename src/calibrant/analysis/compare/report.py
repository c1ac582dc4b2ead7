"""What a comparison found, as values, and as CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calibrant.analysis.compare.mapping import Unmapped
from calibrant.analysis.compare.tally import Born, Digits
from calibrant.analysis.metrics import MEASURES
from calibrant.report.evidence import Network
from calibrant.save.folder import written_together
from calibrant.text.json_out import json_of

__all__ = ["LOST_INPUT", "LayerRow", "OutputRow", "PartRow", "Report"]

#: Files that a report is saved as.
CSV_FILE, JSON_FILE = "compare.csv", "compare.json"

#: An input is lost where clipping, or a range that is far too wide, makes an error of more than this share of its energy: 10 dB.
LOST_INPUT = 0.1


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One tensor of the first model beside that of the second.

    Args:
        index: Place of its node in the order of execution, from 0.
        name: The node.
        op_type: Its operator; `Input` for a quantized input.
        output: Which output of the node.
        truth: The tensor in the first model.
        mine: The tensor in the second model.
        how: How the two were found to belong together: by `name`, `structure` or `position`.
        shape: Of one sample, or of one run where samples cannot be told apart.
        metrics: Means over samples, by name.
        standard_deviation: Means and standard deviations of both, as a text.
        worst_sample: The sample that is worst by the metric that the report is ordered by.
        passed: Whether all metrics are within their limits.
        failed: Those that are not.
        reason: Why a metric could not be computed; empty where all could.
        born: Which part of the error is the layer's own, or None where that was not looked at.
        digits: How many values agree, where that was asked for.
        loss: What the outputs lose by this layer alone (`analysis.alone.metric`); None where that was not measured.
        alone: All metrics of the outputs then, of the part that loses most; empty where that was not measured.
        lost_input: It reads an input of the model that its range has spoiled (`LOST_INPUT`).
    """

    index: int
    name: str
    op_type: str
    output: int
    truth: str
    mine: str
    how: str
    shape: tuple[int, ...]
    metrics: dict[str, float]
    standard_deviation: str
    worst_sample: str
    passed: bool
    failed: tuple[str, ...]
    reason: str
    born: Born | None = None
    digits: Digits | None = None
    loss: float | None = None
    alone: dict[str, float] = field(default_factory=dict)
    lost_input: bool = False


@dataclass(frozen=True, slots=True)
class PartRow:
    """A part of an output; fields as in `LayerRow`."""

    name: str
    shape: tuple[int, ...]
    metrics: dict[str, float]
    standard_deviation: str
    worst_sample: str
    passed: bool
    failed: tuple[str, ...]
    reason: str
    digits: Digits | None = None


@dataclass(frozen=True, slots=True)
class OutputRow:
    """An output of both models, as they are deployed.

    Args:
        name: Its name in the first model.
        mine: Its name in the second one.
        whole: All of it.
        parts: Its parts, where it has several.
    """

    name: str
    mine: str
    whole: PartRow
    parts: tuple[PartRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Two models, layer by layer.

    Args:
        truth: The first model: a path, or `(in memory)`.
        mine: The second one.
        samples: How many samples were compared.
        metric: What layers are ordered by.
        limits: Limits of the metrics that have one.
        layers: Tensors, in order of execution.
        outputs: Outputs.
        unmapped: Nodes of the first model without a counterpart, with the reason.
        only_mine: Nodes of the second model that are none of the first one's.
        notes: What could not be done, or was left out.
        network: The first model as a graph, in the form in which its layers were found; it is not part of the content.
    """

    truth: str
    mine: str
    samples: int
    metric: str
    limits: dict[str, float | None]
    layers: tuple[LayerRow, ...]
    outputs: tuple[OutputRow, ...]
    unmapped: tuple[Unmapped, ...] = ()
    only_mine: tuple[Unmapped, ...] = ()
    notes: tuple[str, ...] = ()
    network: Network | None = field(default=None, repr=False)

    @property
    def worst_first(self) -> tuple[LayerRow, ...]:
        """Layers, those first that do most harm.

        0. Those that read an input of which clipping, or far too wide a range, leaves less than 10 dB, or whose grid has the ends
           that a known preparation makes of the samples: the ranges behind it come from the same data;
        1. by what the outputs lose where the layer alone is as in the second model, by the report's metric;
        2. those of which that was not measured, by what is born in them;
        3. those in which nothing is born, by what they are off by. Where births were not looked at, that is all of them.

        Of layers that lose the same, those in which more is born come first.
        """
        order = MEASURES[self.metric].ordered
        indices = order.worst_first([row.metrics[self.metric] for row in self.layers])
        rows = sorted((self.layers[i] for i in indices), key=lambda row: -_born(row))
        return tuple(sorted(rows, key=_harm))

    @property
    def at_fault(self) -> tuple[LayerRow, ...]:
        """Layers in which something is born, those first that do most harm."""
        return tuple(
            row for row in self.worst_first if row.born is not None and row.born.energy > 0
        )

    @property
    def below(self) -> tuple[LayerRow, ...]:
        """Layers with a metric beyond its limit, worst first."""
        return tuple(row for row in self.worst_first if not row.passed)

    @property
    def passed(self) -> bool:
        """Whether all outputs are within the limits."""
        return all(p.passed for o in self.outputs for p in (o.whole, *o.parts))

    def content(self) -> dict[str, Any]:
        """Return the report as plain values, layers worst first."""
        return {
            "truth": self.truth,
            "mine": self.mine,
            "samples": self.samples,
            "metric": self.metric,
            "limits": self.limits,
            "passed": self.passed,
            "layers": [asdict(row) for row in self.worst_first],
            "outputs": {
                o.name: {
                    "mine": o.mine,
                    **{k: v for k, v in asdict(o.whole).items() if k != "name"},
                    "parts": [asdict(p) for p in o.parts],
                }
                for o in self.outputs
            },
            "at_fault": [row.name for row in self.at_fault],
            "below": [row.name for row in self.below],
            "unmapped": [asdict(u) for u in self.unmapped],
            "only_mine": [asdict(u) for u in self.only_mine],
            "notes": list(self.notes),
        }

    def json(self) -> str:
        """Return the report as JSON; numbers that JSON does not have are texts (`nan`, `inf`, `-inf`)."""
        return json_of(self.content())

    def csv(self) -> str:
        """Return the layers as a table in order of execution, nodes without a counterpart with `*` for each number."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(
            [
                "Index",
                "OpType",
                "LayerName",
                "TensorIndex",
                "Shape",
                *(m.column for m in MEASURES.values()),
                "StandardDeviation",
                "Pass",
                "CompareFailReason",
            ]
        )
        table.writerows(self._rows())
        return text.getvalue()

    def _rows(self) -> Iterator[list[str]]:
        for row in self.layers:
            yield [
                str(row.index),
                row.op_type,
                row.name,
                str(row.output),
                str(list(row.shape)),
                *(_number(row.metrics[n]) for n in MEASURES),
                row.standard_deviation,
                "yes" if row.passed else "no",
                row.reason,
            ]
        for node in self.unmapped:
            stars = ["*"] * (len(MEASURES) + 1)
            yield ["*", node.op_type, node.name, "*", "*", *stars, "*", node.reason]

    def save(self, folder: str | Path) -> list[Path]:
        """Write `compare.csv` and `compare.json` into a folder, which is made if it is not there.

        Raises:
            OutputError: They cannot be written.
        """
        place = Path(folder)
        files = {CSV_FILE: self.csv(), JSON_FILE: self.json() + "\n"}
        with written_together(place) as new:
            for name, text in files.items():
                (new / name).write_text(text, encoding="utf-8")
        return [place / name for name in files]


def _harm(row: LayerRow) -> tuple[int, float]:
    """Return the place of a layer among others: group, and within it."""
    if row.lost_input:
        return -1, -(row.loss or 0.0)
    if row.loss is not None and not row.loss <= 0:
        return 0, -row.loss
    if row.loss is None and _born(row) > 0:
        return 1, -_born(row)
    return 2, 0.0


def _born(row: LayerRow) -> float:
    energy = row.born.energy if row.born is not None else 0.0
    return math.inf if math.isnan(energy) else energy


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(value)

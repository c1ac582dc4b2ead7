"""Nodes ranked by what the outputs lose, as values, as the vendor's table, and as CSV and JSON."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibrant.save.folder import written_together
from calibrant.text.json_out import json_of

__all__ = ["Ranked", "RankedNode"]


@dataclass(frozen=True, slots=True)
class RankedNode:
    """One node, or several that were quantized together.

    Args:
        name: The node; of several, all names with commas between.
        op_type: Its operator; of a calibration node, those of its readers.
        qtype: What it is quantized to: `int8`, `int16`, `ec`, …
        metrics: Metrics by name, of the worst output.
        worst_sample: Number of the sample that is worst by the first metric, from 0.
        macs: Multiplications for one sample, of the node or of the readers.
        clip_share: Share of the values that are clipped.
        cause: `truncation` or `rounding`: which of the two takes more of what it reads; empty where nothing is lost.
        outputs: Metrics of each output, where there are several.
    """

    name: str
    op_type: str
    qtype: str
    metrics: dict[str, float]
    worst_sample: int
    macs: float
    clip_share: float
    cause: str
    outputs: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Nodes of one kind, worst first.

    Args:
        kind: `node`, `weight` or `activation`.
        metrics: Names; the first one orders.
        samples: Samples that were looked at.
        nodes: Nodes, worst first.
        work: `passes` of the samples through the model, in multiplications; `node_passes`, in nodes that were run;
            figures of an earlier run that were `reused`.
        notes: What could not be done.
    """

    kind: str
    metrics: tuple[str, ...]
    samples: int
    nodes: tuple[RankedNode, ...]
    work: dict[str, float]
    notes: tuple[str, ...] = ()

    def as_dict(self, *, as_str: bool = False) -> dict[str, dict[str, Any]]:
        """Return node -> metric -> value, worst first."""
        return {
            n.name: {k: str(v) if as_str else v for k, v in n.metrics.items()} for n in self.nodes
        }

    def content(self) -> dict[str, Any]:
        """Return the ranking as plain values."""
        return {
            "node_type": self.kind,
            "metrics": list(self.metrics),
            "samples": self.samples,
            "nodes": [asdict(n) for n in self.nodes],
            "work": self.work,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Return the table as the vendor's tool prints it: a title, a head, and one line a node."""
        width = max(4, *(len(n.name) for n in self.nodes)) + 2
        columns = [
            max(len(m), *(len(str(n.metrics[m])) for n in self.nodes)) + 2 for m in self.metrics
        ]
        total = width + sum(columns)
        lines = [f" {self.kind} sensitivity ".center(total, "=")]
        head = "node".ljust(width)
        lines += [
            "".join([head, *(m.ljust(c) for m, c in zip(self.metrics, columns, strict=True))])
        ]
        lines += ["-" * total]
        for n in self.nodes:
            cells = [
                str(n.metrics[m]).ljust(c) for m, c in zip(self.metrics, columns, strict=True)
            ]
            lines.append("".join([n.name.ljust(width), *cells]).rstrip())
        return "\n".join([*lines, "=" * total]) + "\n"

    def show(self) -> None:
        """Print the table."""
        sys.stdout.write(self.table())

    def csv(self) -> str:
        """Return one line a node."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(
            [
                "node",
                "op_type",
                "qtype",
                *self.metrics,
                "worst_sample",
                "macs",
                "clip_share",
                "cause",
            ]
        )
        for n in self.nodes:
            values = [n.metrics[m] for m in self.metrics]
            table.writerow(
                [
                    n.name,
                    n.op_type,
                    n.qtype,
                    *values,
                    n.worst_sample,
                    n.macs,
                    n.clip_share,
                    n.cause,
                ]
            )
        return text.getvalue()

    def save(self, folder: str | Path) -> list[Path]:
        """Write `sensitivity_of_<kind>.log`, `.csv` and `.json` into a folder, which is made if it is not there.

        Raises:
            OutputError: They cannot be written.
        """
        place = Path(folder)
        stem = f"sensitivity_of_{self.kind}"
        files = {
            f"{stem}.log": self.table(),
            f"{stem}.csv": self.csv(),
            f"{stem}.json": json_of(self.content()) + "\n",
        }
        with written_together(place) as new:
            for name, text in files.items():
                (new / name).write_text(text, encoding="utf-8")
        return [place / name for name in files]

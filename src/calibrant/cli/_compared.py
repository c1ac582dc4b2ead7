"""A comparison of two models, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.cli._tables import console, escaped, table

if TYPE_CHECKING:
    from calibrant.analysis.compare import LayerRow, Report
    from calibrant.analysis.compare.report import PartRow

__all__ = ["print_report"]

#: Layers that are shown without `--verbose`.
_SHOWN = 10

#: Channels that are named.
_CHANNELS = 3

_COLUMNS = ("SQNR, dB", "cosine", "distance", "divergence")


def print_report(report: Report, files: Sequence[Path], *, verbose: bool) -> None:
    """Write what two models differ by.

    Args:
        report: What was found.
        files: What was written.
        verbose: Show all layers, and each node without a counterpart.
    """
    out = console()
    out.print(
        f"[bold]{escaped(report.mine)}[/bold] against {escaped(report.truth)}, {report.samples} samples"
    )
    outputs = table("output", *_COLUMNS, "within limits", "worst sample")
    for output in report.outputs:
        rows = [(output.whole.name, output.whole), *((f"  {p.name}", p) for p in output.parts)]
        for name, row in rows:
            outputs.add_row(
                escaped(name),
                *_figures(row.metrics),
                _verdict(row),
                escaped(row.worst_sample.split(" of ")[0]),
            )
    out.print(outputs)
    worst = report.worst_first if verbose else report.worst_first[:_SHOWN]
    if worst:
        out.print(_layers(worst, report.metric))
    faults = report.at_fault if verbose else report.at_fault[:_SHOWN]
    if faults:
        out.print(_births(faults))
    out.print(_counts(report))
    missing = report.unmapped if verbose else report.unmapped[:_SHOWN]
    for node in missing:
        out.print(f"Not compared: {escaped(node.name)} ({node.op_type}). {escaped(node.reason)}")
    if len(report.unmapped) > len(missing):
        out.print(f"Not compared: {len(report.unmapped) - len(missing)} more (-v shows them).")
    for note in report.notes:
        out.print(f"Note: {escaped(note)}")
    if files:
        out.print(f"Written: {', '.join(escaped(str(f)) for f in files)}")


def _layers(rows: Sequence[LayerRow], metric: str) -> object:
    """Return layers with what the outputs lose by each alone, where that was measured."""
    measured = any(row.alone for row in rows)
    title = f"Layers, worst first by {metric} of {'the outputs' if measured else 'their tensors'}"
    alone = ("outputs with it alone",) if measured else ()
    found = table(
        "layer", "type", *alone, *_COLUMNS[:3], "born here", "within limits", title=title
    )
    for row in rows:
        share = "-" if row.born is None else f"{row.born.share:.0%}"
        said = (f"{row.alone[metric]:.5g}" if row.alone else "-",) if measured else ()
        figures = _figures(row.metrics)[:3]
        found.add_row(escaped(row.name), row.op_type, *said, *figures, share, _verdict(row))
    return found


def _births(rows: Iterable[LayerRow]) -> object:
    """Return where most is born, for what the layer gives, and of what."""
    title = "Where their error is born"
    found = table("layer", "type", "alone, dB", "of its error", "cause", "channels", title=title)
    for row in rows:
        b = row.born
        assert b is not None
        worst = ", ".join(f"{c} ({share:.0%})" for c, share in b.channels[:_CHANNELS])
        level = f"{-10 * math.log10(b.energy):.1f}" if math.isfinite(b.energy) else "-inf"
        cause = " ".join(x for x in (b.kind, b.cause) if x)
        found.add_row(escaped(row.name), row.op_type, level, f"{b.share:.0%}", cause, worst or "-")
    return found


def _figures(metrics: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"{metrics['sqnr_db']:.1f}",
        f"{metrics['cosine_similarity']:.5f}",
        f"{metrics['relative_euclidean_distance']:.4f}",
        f"{metrics['kullback_leibler_divergence']:.5f}",
    )


def _verdict(row: LayerRow | PartRow) -> str:
    digits = row.digits
    if digits is not None and digits.mismatches:
        return f"{digits.mismatches} values differ ({digits.share:.2%})"
    return "yes" if row.passed else "no"


def _counts(report: Report) -> str:
    below, missing = len(report.below), len(report.unmapped)
    return (
        f"{len(report.layers)} tensors compared, {below} beyond limits; {missing} nodes of the first model without a "
        f"counterpart, {len(report.only_mine)} of the second."
    )

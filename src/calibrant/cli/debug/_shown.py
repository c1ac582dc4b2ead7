"""What the debug tool found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.cli._tables import console, escaped, table

if TYPE_CHECKING:
    from calibrant.debug.acc_error import Curves
    from calibrant.debug.collapse import CollapseReport
    from calibrant.debug.raising import Raised
    from calibrant.debug.ranked import Ranked
    from calibrant.debug.verifier import Verified

__all__ = [
    "print_collapse",
    "print_curves",
    "print_files",
    "print_nodes",
    "print_parts",
    "print_raised",
    "print_ranked",
    "print_tensors",
    "print_verified",
]

#: Nodes that are shown without `--verbose`, and steps of a curve that are named.
_SHOWN, _STEPS = 15, 5


def print_ranked(found: Ranked, files: Sequence[Path], *, verbose: bool) -> None:
    """Write a ranking as the vendor's table.

    Args:
        found: The ranking.
        files: What was written.
        verbose: Show all nodes.
    """
    out = console()
    few = found if verbose else replace(found, nodes=found.nodes[:_SHOWN])
    out.print(escaped(few.table()), end="")
    if len(few.nodes) < len(found.nodes):
        out.print(f"{len(found.nodes) - len(few.nodes)} more nodes (-v shows them).")
    worst = found.nodes[0]
    if worst.cause:
        advice = (
            "another range: a larger or fixed threshold, more data, another method"
            if worst.cause == "truncation"
            else "a finer grid: int16, error compensation, or a scale for each channel"
        )
        out.print(
            f"{escaped(worst.name)} loses most by {worst.cause} ({worst.clip_share:.3%} of the values are clipped). That "
            f"asks for {advice}."
        )
    out.print(
        f"{found.samples} samples, {found.work['passes']:.1f} passes of them for {len(found.nodes)} entries."
    )
    for note in found.notes:
        out.print(f"Note: {escaped(note)}")
    print_files(files)


def print_files(files: Sequence[Path]) -> None:
    """Write which files were written."""
    if files:
        console().print(f"Written: {', '.join(escaped(str(f)) for f in files)}")


def print_curves(found: Curves, files: Sequence[Path]) -> None:
    """Write where each curve ends, and where it falls."""
    out = console()
    shown = table("curve", f"{found.metric.name} at the last node", "steps of more than 1 %")
    for name, values in found.curves.items():
        steps = [found.nodes[i] for i in found.steps(name)]
        more = ", …" if len(steps) > _STEPS else ""
        text = ", ".join(steps[:_STEPS]) + more
        shown.add_row(
            escaped(name), f"{values[-1]:.6g}" if values else "-", escaped(text or "none")
        )
    out.print(shown)
    print_files(files)


def print_raised(found: Raised, files: Sequence[Path]) -> None:
    """Write what each step of raising nodes wins."""
    out = console()
    shown = table("step", found.metric, title=f"Raised to {found.qtype}, {found.samples} samples")
    for step, value in found.worst.items():
        shown.add_row(escaped(step), f"{value:.8g}")
    out.print(shown)
    if found.note:
        out.print(f"Note: {escaped(found.note)}")
    print_files(files)


def print_tensors(found: Mapping[str, Sequence[Mapping[str, Any]]], files: Sequence[Path]) -> None:
    """Write one line for each node and sample."""
    shown = table("node", "sample", "SQNR, dB", "cosine", "cause", "clipped", "own", "inherited")
    for name, rows in found.items():
        for row in rows:
            shown.add_row(
                escaped(name),
                "-" if row["sample"] < 0 else str(row["sample"]),
                f"{row['sqnr_db']:.2f}",
                f"{row['cosine']:.6f}",
                row["cause"] or "-",
                f"{row['clip_share']:.3%}",
                f"{row['own']:.0%}",
                f"{row['inherited']:.0%}",
            )
    console().print(shown)
    print_files(files)


def print_collapse(found: CollapseReport, *, verbose: bool) -> None:
    """Write the first node that has collapsed, and with `verbose` every tensor."""
    out = console()
    rows = found.rows if verbose else found.collapsed
    if rows:
        shown = table("node", "kind", "distinct", "in float", "entropy, bits", "correlation")
        for row in rows:
            shown.add_row(
                escaped(row.node),
                row.kind,
                str(row.distinct),
                str(row.distinct_float),
                f"{row.entropy_bits:.2f}",
                f"{row.correlation:.4f}",
            )
        out.print(shown)
    out.print(escaped(found.message))


def print_nodes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the nodes of a model."""
    shown = table("node", "kind", "type", "to", "threshold", "channels", "clipped", "used")
    for row in rows:
        low, high = row["threshold_min"], row["threshold_max"]
        threshold = (
            "" if low is None else f"{high:.5g}" if low == high else f"{low:.5g} to {high:.5g}"
        )
        shown.add_row(
            escaped(row["name"]),
            row["kind"],
            row["op_type"],
            row["qtype"],
            threshold,
            "" if row["channels"] is None else str(row["channels"]),
            "" if row["clip_share"] is None else f"{row['clip_share']:.3%}",
            "" if row["used_share"] is None else f"{row['used_share']:.0%}",
        )
    console().print(shown)


def print_parts(summary: Mapping[str, Any], folder: Path, more: Sequence[Path] = ()) -> None:
    """Write which parts of a run were done, and which failed."""
    out = console()
    shown = table("part", "files", "outcome")
    for name, part in summary["parts"].items():
        shown.add_row(name, str(len(part["files"])), escaped(part["failed"] or "done"))
    out.print(shown)
    out.print(escaped(summary["parts"]["collapse_check"]["found"].get("message", "")))
    print_files([folder / "index.html", folder / "summary.json", *more])


def print_verified(found: Verified) -> None:
    """Write how far the outputs of two models agree."""
    out = console()
    shown = table("output", "cosine", "mismatches", "largest difference", "relative", "passed")
    for row in found.outputs:
        shown.add_row(
            escaped(row.output),
            f"{row.cosine:.6f}",
            f"{row.mismatches} of {row.values} ({row.share:.2%})",
            f"{row.max_absolute_error:.4g}",
            f"{row.max_relative_error:.4g}",
            "yes" if row.passed else "no",
        )
    out.print(f"{' against '.join(found.kinds)}: {found.mode} counts, {found.samples} samples")
    out.print(shown)
    out.print(f"Mismatches: values that do not agree to {found.compare_digits} decimal digits.")

"""A training run, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.cli._tables import console, table

if TYPE_CHECKING:
    from calibrant.qat.fitting import Fitted

__all__ = ["print_trained"]


def print_trained(fitted: Fitted, metric: str, files: Sequence[Path]) -> None:
    """Write what training came to.

    Args:
        fitted: What it came to.
        metric: What the scores are.
        files: What was written.
    """
    out = console()
    training = fitted.result.summary["training"]
    rows = table("", metric, title="Scores")
    for name, value in training["scores"].items():
        rows.add_row(name.replace("_", ", "), f"{value:.6g}")
    out.print(rows)
    out.print(
        f"{training['steps']} steps of {training['batch_size']} samples, {training['epochs']:.2f} epochs, "
        f"{fitted.seconds:.0f} s."
    )
    agreement = training.get("agreement")
    if agreement is not None:
        top = "" if agreement["top1"] is None else f", top-1 equal for {agreement['top1']:.2%}"
        out.print(
            f"What is deployed is what was trained: {agreement['typical_db']:.1f} dB in the median{top} on {agreement['samples']} samples."
        )
    if agreement is not None and agreement["integers_db"] is not None:
        left = agreement["integers_left_out"]
        but = f" ({', '.join(left)} compared in floats)" if left else ""
        out.print(
            f"With integer sums, as devices have them: {agreement['integers_db']:.1f} dB{but}."
        )
    for note in fitted.notes:
        out.print(note)
    if not fitted.better:
        out.print(
            "Training is no better than calibration alone: the calibrated model was written."
        )
    for file in files:
        out.print(str(file))

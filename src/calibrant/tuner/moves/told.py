"""The moves of a run in its report and on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calibrant.tuner.markdown import table
from calibrant.tuner.moves.tried import TRAINING

__all__ = ["HEADINGS", "WHAT_THEY_ARE", "moves_told", "row_of"]

HEADINGS = ("move", "layers", "gain alone", "beside others", "taken")

WHAT_THEY_ARE = (
    "Moves that keep the cost, tried before layers were raised: what the outputs gain in dB, on calibration samples that the move "
    "does not come from (training: on training samples that it did not see), and how far that may lie from nothing by chance."
)

#: Layers that are named in a row.
_NAMED = 3


def moves_told(moves: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the moves as parts of a report in Markdown; nothing where none was tried.

    Args:
        moves: As in `tuning_report.json`.
    """
    if not moves:
        return []
    trained = [f"{m['what'].capitalize()}: {m['reason']}" for m in moves if m["kind"] == TRAINING]
    rows = table(HEADINGS, map(row_of, moves))
    return ["## Moves that keep the cost", WHAT_THEY_ARE, rows, *trained]


def row_of(move: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one move."""
    layers = move["layers"]
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    gain, noise, beside = move["gain_db"], move["noise_db"], move["with_others_db"]
    alone = "not tried" if gain is None else f"{gain:+.2f}"
    if gain is not None and noise is not None:
        alone += f" ± {noise:.2f}"
    return (
        move["what"],
        ", ".join(layers[:_NAMED]) + more or "all",
        alone,
        "" if beside is None else f"{beside:+.2f}",
        "yes" if move["taken"] else "no",
    )

"""What was done to a model while it was read and prepared, and is to be said to the user.

The sentences lie on the graph (`meta`, which is not written to files), so that they go with every copy of the
model. `plan.resolve` puts them among the notes of the plan.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["add_note", "notes_of"]

_NOTES = "calibrant.notes"


def add_note(model: ir.Model, sentence: str) -> None:
    """Say something of a model, once, in place."""
    said = notes_of(model)
    if sentence not in said:
        model.graph.meta[_NOTES] = (*said, sentence)


def notes_of(model: ir.Model) -> tuple[str, ...]:
    """Return what was said of a model, in order."""
    found: tuple[str, ...] = model.graph.meta.get(_NOTES, ())
    return found

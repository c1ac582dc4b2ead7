"""The content of a record file: entries by layer, and what they leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from calibrant.graph.form import ModelForm
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.record.entries import EXTRAS_KEY, record_entries, record_text
from calibrant.record.extras_write import record_extras

__all__ = ["Recording"]


@dataclass(frozen=True, slots=True)
class Recording:
    """A record as plain values.

    Args:
        entries: By layer.
        extras: What AMCT's record has no field for.
    """

    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extras: Sequence[Mapping[str, Any]] = ()

    def __repr__(self) -> str:
        return f"Recording({len(self.entries)} layers; text() has the record)"

    @classmethod
    def of(
        cls,
        model: ir.Model,
        form: ModelForm,
        plan: Plan,
        params: Parameters,
        read: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Recording:
        """Collect what a model is built from again.

        Args:
            model: The float model that the plan belongs to.
            form: What was done to it.
            plan: Where quantizers stand.
            params: What they are.
            read: Fields by key, from a record that was read, that are kept.
        """
        kept = form.keep_batch_norm
        entries = record_entries(plan, params, kept=read, keep_batch_norm=kept)
        return cls(entries, tuple(record_extras(model, form, plan, params)))

    def text(self) -> str:
        """Return protobuf text."""
        return record_text(self.entries, self.extras)

    def content(self) -> dict[str, Any]:
        """Return the same for JSON."""
        return {**self.entries, EXTRAS_KEY: list(self.extras)}

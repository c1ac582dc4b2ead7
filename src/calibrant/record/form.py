"""What a record says was done to the float model: passes and their numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.form import ModelForm
from calibrant.graph.passes.balance import Balanced, channel_axis
from calibrant.graph.passes.equalize import Equalized
from calibrant.record.check import balance_factors
from calibrant.record.plan import edge_of
from calibrant.record.read import Record

__all__ = ["form_of"]


def form_of(record: Record, prepared: ir.Model) -> ModelForm:
    """Return what was done to the float model before quantizers were put into it.

    Args:
        record: A record that was read.
        prepared: The float model that it is of, prepared.

    Raises:
        ConfigValueError: The record names what the model does not have.
    """
    extras = record.extras
    kept = [k for k, e in record.entries.items() if e.value.skip_fusion]
    kept += [n for listed in extras.fold if listed is not False for n in listed]
    return ModelForm(
        fold=False not in extras.fold,
        keep_batch_norm=tuple(dict.fromkeys(kept)),
        half=tuple(n for listed in extras.half for n in listed),
        balanced=_balanced(record, prepared),
        equalized=tuple(
            Equalized("", (), 1.0, e.tensor, tuple(e.factors)) for e in extras.equalized
        ),
        half_outputs=bool(extras.outputs),
        half_later=tuple(n for listed in extras.half_later for n in listed),
        overflows=tuple(item for said in extras.saturates for item in said.items()),
    )


def _balanced(record: Record, model: ir.Model) -> tuple[Balanced, ...]:
    """Return the Muls: those of the comments, and one for each other entry that has factors."""
    nodes = {n.name or "": n for n in model.graph}
    factors: dict[str, npt.NDArray[np.float32]] = {}
    for entry in record.entries.values():
        if entry.value.tensor_balance_factor:
            name, _ = edge_of(entry, nodes)
            factors[name] = balance_factors(entry, nodes[name])
    found = []
    for b in record.extras.balanced:
        layers = tuple(n for n in b.layers if n in factors)  # others were taken out of the record
        if layers:
            found.append(Balanced(b.tensor, layers, factors[layers[0]], b.asked))
    said = {n for b in record.extras.balanced for n in b.layers}
    for name, f in factors.items():
        if name not in said:
            source = nodes[name].inputs[0]
            assert source is not None
            assert channel_axis(nodes[name]) in (1, -1)
            found.append(Balanced(source.name or "", (name,), f, asked=True))
    return tuple(found)

"""Tensors inside a calibrated model, in the float model and with calibration nodes on, feed by feed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from calibrant.data.batch import Batch
from calibrant.debug.partial import Partial, with_nodes
from calibrant.debug.samples import Subject
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose

__all__ = ["Seen", "looked_into", "tensors_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One feed.

    Args:
        batch: Its samples.
        truth: Tensors of the float model by name, all of them.
        mine: For each set of calibration nodes the tensors that were asked for.
        rows: Whether the rows of a tensor may be samples.
    """

    batch: Batch
    truth: dict[str, Array]
    mine: tuple[dict[str, Array], ...]
    rows: bool


def looked_into(
    subject: Subject, sets: Sequence[Collection[str]], tensors: Sequence[str]
) -> Iterator[Seen]:
    """Run the float model, and the model with each set of calibration nodes on; yield the tensors of each feed.

    Args:
        subject: The model and samples.
        sets: Names of the calibration nodes that are on.
        tensors: Tensors to hand out; those that no node makes are left out.
    """
    partial = subject.partial(subject.calibrated.outputs)
    made = {v.name for n in subject.calibrated.model.graph for v in n.outputs}
    wanted = [t for t in dict.fromkeys(tensors) if t in made]
    sessions = [_session(subject, on, wanted) for on in sets]
    for group in partial.groups():
        for i, known in zip(group, partial.values, strict=True):
            batch = partial.feeds.batches[i]
            mine = tuple(_run(s, wanted, known, batch) for s in sessions)
            yield Seen(batch, known, mine, partial.feeds.rows)


def _session(subject: Subject, on: Collection[str], wanted: Sequence[str]) -> Any:
    if not wanted:
        return None
    model = expose(with_nodes(subject.calibrated, on), wanted)
    return open_session(model, runtime=subject.runtime, optimize=False, spinning=False)


def _run(
    session: Any, wanted: Sequence[str], known: dict[str, Array], batch: Batch
) -> dict[str, Array]:
    if session is None:
        return {}
    fed = {i.name: batch.feeds[i.name] for i in session.get_inputs()}
    return dict(zip(wanted, infer(session, wanted, fed), strict=True))


def tensors_of(partial: Partial | Subject) -> dict[str, str]:
    """Return the first output of each ordinary node that holds floating point numbers, in graph order."""
    calibrated = partial.calibrated
    nodes = {n.name: n for n in calibrated.model.graph}
    found = {}
    for name in calibrated.ordinary:
        first = next((v for v in nodes[name].outputs if v.name), None)
        if first is not None and first.name and first.dtype in _FLOATS:
            found[name] = first.name
    return found


_FLOATS = (None, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)

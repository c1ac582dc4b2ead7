"""List what can be looked at in a calibrated model: calibration nodes with their grids, and ordinary nodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from calibrant.debug.calibrations import Calibrated, Calibration
from calibrant.debug.causes import cause_of
from calibrant.debug.partial import MEMORY_BYTES
from calibrant.debug.samples import Subject, opened_subject
from calibrant.debug.tensors import looked_into
from calibrant.graph.load import ModelLike

__all__ = ["NodeRow", "list_nodes", "rows_of"]


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node.

    Args:
        name: The node.
        kind: `weight`, `activation` or `node` (ordinary).
        op_type: Operator of an ordinary node; of a calibration node, those of its readers.
        consumers: Nodes that read what a calibration node gives; of an ordinary node, the calibration nodes in front.
        qtype: `int8`, `int16`, `ec`, …; of an ordinary node `float32` where none is in front of it.
        threshold_min: Smallest threshold of all channels [units of the tensor]; None for ordinary nodes, as below.
        threshold_max: Largest threshold.
        scale_min: Smallest scale.
        scale_max: Largest scale.
        axis: Axis of the channels; None for one scale.
        channels: How many scales there are.
        clip_share: Share of the values that are clipped.
        used_share: Share of the range of the grid that values use.
    """

    name: str
    kind: str
    op_type: str
    consumers: tuple[str, ...]
    qtype: str
    threshold_min: float | None = None
    threshold_max: float | None = None
    scale_min: float | None = None
    scale_max: float | None = None
    axis: int | None = None
    channels: int | None = None
    clip_share: float | None = None
    used_share: float | None = None


def list_nodes(
    model_or_file: ModelLike,
    calibrated_data: Any,
    data_num: int | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> list[dict[str, Any]]:
    """List the nodes of a calibrated model: names to use in all other functions, types, thresholds, and what is clipped.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        data_num: Samples; None for 8, or all where there are fewer.
        memory_bytes: Bytes of activations that are kept at a time.

    Returns:
        One mapping a node, calibration nodes first.

    Raises:
        ModelError: The model cannot be read or run.
        DataError: The data is empty or does not fit.
    """
    subject = opened_subject(model_or_file, calibrated_data, data_num, memory_bytes=memory_bytes)
    return [asdict(r) for r in rows_of(subject)]


def rows_of(subject: Subject) -> list[NodeRow]:
    """Return the rows of `list_nodes`."""
    calibrated = subject.calibrated
    types = {n.name or "": n.op_type for n in calibrated.model.graph}
    causes = {
        n: cause_of(c, [c.weight]) for n, c in calibrated.nodes.items() if c.weight is not None
    }
    for seen in looked_into(subject, [], []):
        for name, c in calibrated.nodes.items():
            if c.weight is None:
                more = cause_of(c, [seen.truth[c.tensor]])
                causes[name] = causes[name] + more if name in causes else more
    found = [
        _row(calibrated, c, types, causes[n].clip_share, causes[n].used)
        for n, c in calibrated.nodes.items()
    ]
    for name in calibrated.ordinary:
        front = calibrated.feeders.get(name, ())
        kinds = dict.fromkeys(calibrated.nodes[c].qtype for c in front)
        found.append(NodeRow(name, "node", types[name], front, ",".join(kinds) or "float32"))
    return found


def _row(
    calibrated: Calibrated, c: Calibration, types: dict[str, str], clipped: float, used: float
) -> NodeRow:
    readers = tuple(dict.fromkeys(r for r, _ in c.readers if r not in calibrated.own_outputs))
    scale = np.atleast_1d(c.grid.scale).astype(np.float64)
    return NodeRow(
        c.name,
        c.kind,
        ",".join(dict.fromkeys(types[r] for r in readers if r in types)),
        readers,
        c.qtype,
        float(c.thresholds.min()),
        float(c.thresholds.max()),
        float(scale.min()),
        float(scale.max()),
        c.grid.axis,
        int(scale.size),
        clipped,
        used,
    )

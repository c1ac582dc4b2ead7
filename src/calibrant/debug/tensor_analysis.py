"""Tensors of nodes, sample by sample: values, what is lost, of what kind the loss is, and where it was born.

For an ordinary node the tensor is what it gives; for a calibration node what it reads and quantizes. With y in the float
model, x with all calibration nodes on, and z with those of this node alone,

    own = sum (z - y)(x - y) / sum (x - y)**2,        inherited = 1 - own

so that both add up to the loss in energy. Own is above 1 where what arrives cancels some of it.

Source: `tensor_analysis` of Horizon's OpenExplorer is public by name alone; what it says here is ours. Causes:
`calibrant.debug.causes`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.debug.calibrations import Calibrated
from calibrant.debug.causes import Cause, cause_of, said
from calibrant.debug.distribution import names_given
from calibrant.debug.partial import MEMORY_BYTES
from calibrant.debug.samples import Subject, known_nodes, opened_subject
from calibrant.debug.tensors import Seen, looked_into, tensors_of
from calibrant.debug.written import DEBUG_RESULT, write_csv, write_json
from calibrant.errors import ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.numerics.finite import finite_pairs
from calibrant.numerics.metrics import cosine, jsd, sqnr_db
from calibrant.progress import Callback, Progress
from calibrant.runtime.runtime import Runtime

__all__ = ["TensorRow", "analyse_tensors", "tensor_analysis"]

Array = npt.NDArray[Any]

#: Bins of the histograms whose distance is taken.
BINS = 128

#: Percentiles that are told.
PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A tensor in one sample.

    Args:
        node: The node.
        sample: Number of the sample, from 0; -1 where samples cannot be told apart, and for weights.
        min: Smallest value in the float model [units of the tensor].
        max: Largest value.
        mean: Mean.
        std: Standard deviation.
        percentiles: Percentiles of the values, by their number as a text.
        threshold: Smallest threshold: of the node itself, or of those in front of it; NaN where there is none.
        clip_share: Share of the values that the node, or those in front of it, clip.
        sqnr_db: SQNR with everything quantized [dB].
        cosine: Cosine similarity with everything quantized.
        histogram_distance: Jensen-Shannon divergence of the values in both models, in [0, ln 2].
        truncation: Share of clipping in the loss of the node, or of those in front of it; `rounding` is the rest.
        rounding: Share of rounding.
        cause: The larger of the two; empty where nothing is lost.
        own: Share of the loss that is born in the node.
        inherited: Share that came with what it reads.
    """

    node: str
    sample: int
    min: float
    max: float
    mean: float
    std: float
    percentiles: dict[str, float]
    threshold: float
    clip_share: float
    sqnr_db: float
    cosine: float
    histogram_distance: float
    truncation: float
    rounding: float
    cause: str
    own: float
    inherited: float


def tensor_analysis(
    model_or_file: ModelLike,
    calibrated_data: Any,
    node_names: str | Sequence[str],
    save_dir: str | Path = DEBUG_RESULT,
    num_processes: int | None = None,
    *,
    data_num: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callback | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Look at the tensors of nodes, sample by sample.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        node_names: Calibration nodes and ordinary nodes.
        save_dir: Folder for `tensor_analysis.csv` and `.json`.
        num_processes: Threads that run the model, at most as many as there are processors; None for all.
        data_num: Samples; None for 8, or all where there are fewer.
        memory_bytes: Bytes of activations that are kept at a time.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        Node -> one mapping for each sample: values, loss, cause, and where the loss was born.

    Raises:
        ConfigValueError: A node does not exist, or a number is below 1.
        ModelError: The model cannot be read or run.
        DataError: The data is empty or does not fit.
        OutputError: `save_dir` cannot be written.
    """
    if num_processes is not None and num_processes < 1:
        raise ConfigValueError(f"num_processes is {num_processes}; it is 1 or more.")
    threads = None if num_processes is None else min(num_processes, os.cpu_count() or 1)
    subject = opened_subject(
        model_or_file,
        calibrated_data,
        data_num,
        memory_bytes=memory_bytes,
        runtime=Runtime(threads=threads),
    )
    rows = analyse_tensors(subject, names_given(node_names, "node_names"), progress=progress)
    save(rows, Path(save_dir))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.node, []).append(asdict(row))
    return found


def save(rows: Sequence[TensorRow], folder: Path) -> list[Path]:
    """Write `tensor_analysis.csv` and `.json`."""
    plain = [f for f in TensorRow.__slots__ if f != "percentiles"]
    columns = [*plain, *(f"p{p:g}" for p in PERCENTILES)]
    lines = [
        [*(getattr(r, f) for f in plain), *(r.percentiles[f"{p:g}"] for p in PERCENTILES)]
        for r in rows
    ]
    return [
        write_csv(folder / "tensor_analysis.csv", columns, lines),
        write_json(folder / "tensor_analysis.json", {"tensors": [asdict(r) for r in rows]}),
    ]


def analyse_tensors(
    subject: Subject, names: Sequence[str], *, progress: Callback | None = None
) -> list[TensorRow]:
    """Return a row for each node and sample, nodes in the order of `names`."""
    calibrated = subject.calibrated
    given = tensors_of(subject)
    known_nodes(calibrated, names, "node_names", [*calibrated.nodes, *given])
    of = {n: calibrated.nodes[n].tensor if n in calibrated.nodes else given[n] for n in names}
    sets = [frozenset(calibrated.nodes), *(calibrated.switched(n) for n in names)]
    sources = [calibrated.nodes[c].tensor for n in names for c in calibrated.switched(n)]
    rows: dict[str, list[TensorRow]] = {n: [] for n in names}
    stages = Progress(progress)
    done = 0
    with stages.stage("tensors"):
        for seen in looked_into(subject, sets, [*of.values(), *sources]):
            for number, name in enumerate(names, 1):
                rows[name] += _rows(calibrated, name, of[name], seen, seen.mine[number])
            done += seen.batch.size
            stages.step(done, subject.feeds.samples)
    weights = {
        n for n in names if n in calibrated.nodes and calibrated.nodes[n].weight is not None
    }
    return [r for n in names for r in (rows[n][:1] if n in weights else rows[n])]


def _rows(
    calibrated: Calibrated, name: str, tensor: str, seen: Seen, alone: dict[str, Array]
) -> list[TensorRow]:
    """Return the rows of one node in one feed."""
    node = calibrated.nodes.get(name)
    whole = seen.mine[0]
    if node is not None and node.weight is not None:
        q = node.apply(node.weight)
        return [_row(calibrated, name, -1, (node.weight, q, q), {})]
    truth = seen.truth[tensor]
    mine, own = whole.get(tensor, truth), alone.get(tensor, truth)
    if node is not None:
        mine, own = node.apply(mine), node.apply(truth)
    reads = {c: whole.get(calibrated.nodes[c].tensor) for c in calibrated.switched(name)}
    inputs = {
        c: x if x is not None else seen.truth.get(calibrated.nodes[c].tensor)
        for c, x in reads.items()
    }
    size = seen.batch.size
    if not seen.rows or size < 2 or any(x.shape[:1] != (size,) for x in (truth, mine, own)):
        first = seen.batch.first if size == 1 else -1
        return [_row(calibrated, name, first, (truth, mine, own), inputs)]
    return [
        _row(
            calibrated,
            name,
            seen.batch.first + i,
            (truth[i : i + 1], mine[i : i + 1], own[i : i + 1]),
            {
                c: x[i : i + 1] if x is not None and x.shape[:1] == (size,) else x
                for c, x in inputs.items()
            },
        )
        for i in range(size)
    ]


def _row(
    calibrated: Calibrated,
    name: str,
    sample: int,
    values: tuple[Array, Array, Array],
    inputs: dict[str, Array | None],
) -> TensorRow:
    truth, mine, own = values
    nodes = [calibrated.nodes[c] for c in sorted(calibrated.switched(name))]
    causes = []
    for c in nodes:
        x = c.weight if c.weight is not None else inputs.get(c.name)
        causes.append(cause_of(c, [] if x is None else [x]))
    clipping, rounding = _shares(causes)
    count = sum(c.count for c in causes)
    y, x = finite_pairs(truth, mine)
    _, z = finite_pairs(truth, own)
    y64, x64, z64 = (np.asarray(v, dtype=np.float64).reshape(-1) for v in (y, x, z))
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(((x64 - y64) ** 2).sum())
        born = float(((z64 - y64) * (x64 - y64)).sum()) / error if error > 0 else 0.0
    some = y64.size > 0
    return TensorRow(
        name,
        sample,
        float(y64.min()) if some else float("nan"),
        float(y64.max()) if some else float("nan"),
        float(y64.mean()) if some else float("nan"),
        float(y64.std()) if some else float("nan"),
        {
            f"{p:g}": float(v)
            for p, v in zip(
                PERCENTILES,
                np.percentile(y64, PERCENTILES) if some else [float("nan")] * len(PERCENTILES),
                strict=True,
            )
        },
        min((float(c.thresholds.min()) for c in nodes), default=float("nan")),
        sum(c.clipped for c in causes) / count if count else 0.0,
        sqnr_db(y64, x64) if some else float("nan"),
        cosine(y64, x64) if some else float("nan"),
        _distance(y64, x64),
        clipping,
        rounding,
        said(clipping, rounding),
        born,
        1 - born if error > 0 else 0.0,
    )


def _shares(causes: Sequence[Cause]) -> tuple[float, float]:
    """Return the shares of clipping and rounding, each node in relation to what it reads."""
    clipping = sum(c.clipping / c.signal for c in causes if c.signal > 0)
    rounding = sum(c.rounding / c.signal for c in causes if c.signal > 0)
    total = clipping + rounding
    return (clipping / total, rounding / total) if total > 0 else (0.0, 0.0)


def _distance(truth: Array, mine: Array) -> float:
    """Return the Jensen-Shannon divergence of the values of two tensors."""
    x = mine[np.isfinite(mine)]
    if not truth.size or not x.size:
        return float("nan")
    low, high = min(truth.min(), x.min()), max(truth.max(), x.max())
    if not high > low:
        return 0.0
    counts = [np.histogram(v, BINS, (low, high))[0] for v in (truth, x)]
    return float(jsd(counts[0], counts[1]))

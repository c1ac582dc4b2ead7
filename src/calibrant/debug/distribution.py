"""Histograms of what nodes read and give, with the threshold that a calibration node has.

    weight calibration node        the weight as it is, and as it is quantized
    activation calibration node    what it reads
    ordinary node                  what it gives in the float model, in the quantized one, and the difference

Blue triangles stand at the largest absolute value of the data, red dashed lines at the (smallest) threshold.

Source: `plot_distribution` of Horizon's OpenExplorer, as its public documentation describes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.debug.calibrations import Calibration
from calibrant.debug.causes import cause_of
from calibrant.debug.partial import MEMORY_BYTES
from calibrant.debug.pictures import (
    check_pictures,
    file_names,
    new_figure,
    shortened,
    write_picture,
)
from calibrant.debug.samples import Subject, known_nodes, opened_subject
from calibrant.debug.tensors import looked_into, tensors_of
from calibrant.debug.written import DEBUG_RESULT, write_csv
from calibrant.errors import ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.progress import Callback, Progress

__all__ = ["BINS", "Counted", "distributions_of", "names_given", "plot_distribution"]

Array = npt.NDArray[Any]

#: Bins of a histogram.
BINS = 128


@dataclass(slots=True, eq=False)
class Counted:
    """A histogram over a range that is known.

    Args:
        name: What is counted.
        low: Smallest value.
        high: Largest value.
        counts: Values in each bin, (bins,).
    """

    name: str
    low: float
    high: float
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Ends of the bins, (bins + 1,) [units of the tensor]."""
        return np.linspace(self.low, self.high, BINS + 1)

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def add(self, x: Array) -> None:
        """Count values; those that are not finite are left out."""
        values = x[np.isfinite(x)].astype(np.float64)
        self.counts += np.histogram(values, self.edges)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """The histograms of one node.

    Args:
        node: The node.
        histograms: One, or several.
        threshold: Smallest threshold; None for an ordinary node.
        clip_share: Share of the values beyond the range of the grid; None for an ordinary node.
    """

    node: str
    histograms: tuple[Counted, ...]
    threshold: float | None
    clip_share: float | None

    def save(self, folder: Path, stem: str, *, log_count: bool) -> Path:
        """Write the picture, and the bins as CSV; return the picture."""
        rows = [
            (h.name, float(low), float(high), int(n))
            for h in self.histograms
            for low, high, n in zip(h.edges[:-1], h.edges[1:], h.counts, strict=True)
        ]
        write_csv(folder / f"{stem}.csv", ["of", "low", "high", "count"], rows)
        return write_picture(self._picture(log_count=log_count), folder / f"{stem}.png")

    def _picture(self, *, log_count: bool) -> Any:
        figure = new_figure(4.6 * len(self.histograms), 3.8)
        for axes, h in zip(
            np.atleast_1d(figure.subplots(1, len(self.histograms))), self.histograms, strict=True
        ):
            axes.stairs(h.counts, h.edges, fill=True, color="0.55")
            ends = sorted({e for e in (h.low, h.high) if abs(e) == h.largest})
            axes.plot(
                ends, [0] * len(ends), "^", color="blue", clip_on=False, label="largest value"
            )
            if self.threshold is not None:
                sides = (-self.threshold, self.threshold) if h.low < 0 else (self.threshold,)
                for i, side in enumerate(sides):
                    label = "threshold" if i == 0 else None
                    axes.axvline(side, color="red", linestyle="--", linewidth=1, label=label)
            if log_count:
                axes.set_yscale("symlog", linthresh=1)
            axes.set_title(f"{h.name}\n{h.low:.5g} to {h.high:.5g}", fontsize=8)
            axes.legend(fontsize=7)
        clipped = (
            "" if self.clip_share is None else f"\n{self.clip_share:.3%} of the values clipped"
        )
        figure.suptitle(f"{shortened(self.node)}{clipped}", fontsize=9)
        return figure


def plot_distribution(
    model_or_file: ModelLike,
    calibrated_data: Any,
    nodes_list: str | Sequence[str],
    save_dir: str | Path = DEBUG_RESULT,
    *,
    log_count: bool = False,
    data_num: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callback | None = None,
) -> dict[str, Path]:
    """Draw how the values of nodes are distributed, one picture a node.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        nodes_list: Nodes: calibration nodes of weights and activations, and ordinary nodes.
        save_dir: Folder for `<node>.png`, and `<node>.csv` with the bins.
        log_count: Draw counts on a logarithmic axis, so that rare values are seen.
        data_num: Samples; None for 8, or all where there are fewer.
        memory_bytes: Bytes of activations that are kept at a time.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        Node -> its picture.

    Raises:
        ConfigValueError: A node does not exist, or gives no floating point numbers.
        ModelError: The model cannot be read or run.
        DataError: The data is empty or does not fit.
        MissingPackageError: matplotlib is not installed.
        OutputError: `save_dir` cannot be written.
    """
    check_pictures()
    subject = opened_subject(model_or_file, calibrated_data, data_num, memory_bytes=memory_bytes)
    names = names_given(nodes_list, "nodes_list")
    found = distributions_of(subject, names, progress=progress)
    stems = file_names(names)
    return {d.node: d.save(Path(save_dir), stems[d.node], log_count=log_count) for d in found}


def names_given(names: str | Sequence[str], what: str) -> tuple[str, ...]:
    """Return names as a tuple, each once.

    Raises:
        ConfigValueError: There is none.
    """
    found = [names] if isinstance(names, str) else list(names or ())
    if not found:
        raise ConfigValueError(f"{what} is empty; name one node or several.")
    return tuple(dict.fromkeys(found))


def distributions_of(
    subject: Subject, names: Sequence[str], *, progress: Callback | None = None
) -> list[Distribution]:
    """Count the values of nodes; arguments as for `plot_distribution`."""
    calibrated = subject.calibrated
    tensors = tensors_of(subject)
    known_nodes(calibrated, names, "nodes_list", [*calibrated.nodes, *tensors])
    stages = Progress(progress)
    ends: dict[tuple[str, str], list[float]] = {}
    beyond: dict[str, list[int]] = {}
    with stages.stage("ranges"):
        for name, what, x in _values(subject, names, tensors):
            values = x[np.isfinite(x)]
            low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
            known = ends.setdefault((name, what), [low, high])
            known[:] = [min(known[0], low), max(known[1], high)]
            if name in calibrated.nodes and what in ("float", "input"):
                counted = beyond.setdefault(name, [0, 0])
                counted[0] += _beyond(calibrated.nodes[name], x)
                counted[1] += int(values.size)
    counts = {key: Counted(key[1], *_widened(*e)) for key, e in ends.items()}
    with stages.stage("distributions"):
        for name, what, x in _values(subject, names, tensors):
            counts[name, what].add(x)
    found = []
    for name in names:
        own = tuple(c for (n, _), c in counts.items() if n == name)
        node = calibrated.nodes.get(name)
        threshold = float(node.thresholds.min()) if node is not None else None
        clipped, total = beyond.get(name, [0, 0])
        share = clipped / total if node is not None and total else None
        found.append(Distribution(name, own, threshold, share))
    return found


def _values(
    subject: Subject, names: Sequence[str], tensors: dict[str, str]
) -> Iterator[tuple[str, str, Array]]:
    """Yield (node, what it is, values): of weights once, of the others feed by feed."""
    calibrated = subject.calibrated
    nodes = {n: calibrated.nodes[n] for n in names if n in calibrated.nodes}
    for name, c in nodes.items():
        if c.weight is not None:
            yield name, "float", c.weight
            yield name, "quantized", c.apply(c.weight)
    read = {n: c.tensor for n, c in nodes.items() if c.weight is None}
    given = {n: tensors[n] for n in names if n not in nodes}
    if not read and not given:
        return
    sets = [list(calibrated.nodes)] if given else []
    for seen in looked_into(subject, sets, list(given.values())):
        for name, tensor in read.items():
            yield name, "input", seen.truth[tensor]
        for name, tensor in given.items():
            truth, mine = seen.truth[tensor], seen.mine[0][tensor]
            yield name, "float", truth
            yield name, "quantized", mine
            if truth.shape == mine.shape:
                with np.errstate(invalid="ignore"):
                    yield name, "difference", mine.astype(np.float64) - truth


def _beyond(c: Calibration, x: Array) -> int:
    return cause_of(c, [x]).clipped


def _widened(low: float, high: float) -> tuple[float, float]:
    """Return a range that holds more than one value."""
    if high > low:
        return low, high
    return low - max(1e-6, abs(low) * 1e-3), high + max(1e-6, abs(high) * 1e-3)

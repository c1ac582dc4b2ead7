"""Box plots of the channels of what calibration nodes read: whether one scale fits them all.

The box holds the middle half of the values; the red line is the median, the blue dashed one the mean. Whiskers reach to
the last value within 1.5 boxes of it, points are beyond. Where one channel is much wider than the others, one scale for
all leaves these few steps of the grid.

Source: `get_channelwise_data_distribution` of Horizon's OpenExplorer, as its public documentation describes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.debug.calibrations import Calibration
from calibrant.debug.distribution import names_given
from calibrant.debug.partial import MEMORY_BYTES
from calibrant.debug.pictures import (
    check_pictures,
    file_names,
    new_figure,
    shortened,
    write_picture,
)
from calibrant.debug.samples import Subject, known_nodes, opened_subject
from calibrant.debug.tensors import looked_into
from calibrant.debug.written import DEBUG_RESULT, write_csv
from calibrant.errors import ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.progress import Callback, Progress

__all__ = ["PAGE", "Channels", "channels_of", "get_channelwise_data_distribution"]

Array = npt.NDArray[Any]

#: Channels of one picture, at most.
PAGE = 256

#: Values of one channel that a box is made of, at most: evenly spaced ones of all.
_VALUES = 20_000

#: Points beyond the whiskers that are drawn for each channel.
_POINTS = 50


@dataclass(frozen=True, slots=True)
class Box:
    """One channel [units of the tensor]."""

    low: float
    whisker_low: float
    q1: float
    median: float
    q3: float
    whisker_high: float
    high: float
    mean: float
    points: tuple[float, ...]

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of one calibration node.

    Args:
        node: Its name.
        axis: Axis of the channels.
        boxes: One a channel.
    """

    node: str
    axis: int
    boxes: tuple[Box, ...]

    @property
    def spread(self) -> float:
        """Largest absolute value of the widest channel over that of the median one; inf where that is 0."""
        each = [b.largest for b in self.boxes]
        middle = float(np.median(each))
        return max(each) / middle if middle > 0 else float("inf") if max(each) > 0 else 1.0

    def save(self, folder: Path, stem: str) -> list[Path]:
        """Write the pictures, a page for each 256 channels, and the boxes as CSV; return the pictures."""
        columns = ["channel", *(f for f in Box.__slots__ if f != "points"), "largest"]
        rows = [[i, *(getattr(b, c) for c in columns[1:])] for i, b in enumerate(self.boxes)]
        write_csv(folder / f"{stem}.csv", columns, rows)
        pages = range(0, len(self.boxes), PAGE)
        names = [stem] if len(pages) == 1 else [f"{stem}_{i}" for i in range(len(pages))]
        return [
            write_picture(self._picture(start), folder / f"{name}.png")
            for start, name in zip(pages, names, strict=True)
        ]

    def _picture(self, start: int) -> Any:
        boxes = self.boxes[start : start + PAGE]
        figure = new_figure(min(40.0, max(6.0, 0.16 * len(boxes) + 2)), 4.5)
        axes = figure.add_subplot()
        stats = [
            {
                "med": b.median,
                "q1": b.q1,
                "q3": b.q3,
                "whislo": b.whisker_low,
                "whishi": b.whisker_high,
                "mean": b.mean,
                "fliers": b.points,
            }
            for b in boxes
        ]
        places = list(range(start, start + len(boxes)))
        axes.bxp(
            stats,
            positions=places,
            showmeans=True,
            meanline=True,
            manage_ticks=False,
            medianprops={"color": "red", "linestyle": "-"},
            meanprops={"color": "blue", "linestyle": "--"},
            flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "0.5"},
        )
        axes.set_xlabel(f"channel (axis {self.axis})")
        axes.set_ylabel("value")
        axes.grid(axis="y", alpha=0.3)
        figure.suptitle(
            f"{shortened(self.node)}\nwidest channel: {self.spread:.1f} times the median one",
            fontsize=9,
        )
        return figure


def get_channelwise_data_distribution(
    model_or_file: ModelLike,
    calibrated_data: Any,
    nodes_list: str | Sequence[str],
    save_dir: str | Path = DEBUG_RESULT,
    axis: int | None = None,
    *,
    data_num: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callback | None = None,
) -> dict[str, list[Path]]:
    """Draw a box plot of each channel of what calibration nodes read.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        nodes_list: Calibration nodes.
        save_dir: Folder for `<node>.png` (`<node>_0.png`, … where there are more than 256 channels) and `<node>.csv`.
        axis: Axis of the channels; None for 1 with activations, and for the node's own axis (or 0) with weights.
        data_num: Samples; None for 8, or all where there are fewer.
        memory_bytes: Bytes of activations that are kept at a time.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        Node -> its pictures.

    Raises:
        ConfigValueError: A node does not exist, or the axis is none of what it reads.
        ModelError: The model cannot be read or run.
        DataError: The data is empty or does not fit.
        MissingPackageError: matplotlib is not installed.
        OutputError: `save_dir` cannot be written.
    """
    check_pictures()
    subject = opened_subject(model_or_file, calibrated_data, data_num, memory_bytes=memory_bytes)
    names = names_given(nodes_list, "nodes_list")
    found = channels_of(subject, names, axis, progress=progress)
    stems = file_names(names)
    return {c.node: c.save(Path(save_dir), stems[c.node]) for c in found}


def channels_of(
    subject: Subject,
    names: Sequence[str],
    axis: int | None = None,
    *,
    progress: Callback | None = None,
) -> list[Channels]:
    """Look at the channels of nodes; arguments as for `get_channelwise_data_distribution`."""
    calibrated = subject.calibrated
    known_nodes(calibrated, names, "nodes_list", list(calibrated.nodes))
    nodes = [calibrated.nodes[n] for n in dict.fromkeys(names)]
    rows: dict[str, list[Array]] = {c.name: [] for c in nodes}
    axes: dict[str, int] = {}
    stages = Progress(progress)
    for c in nodes:
        if c.weight is not None:
            axes[c.name] = _axis(c, c.weight.ndim, axis)
            rows[c.name].append(_by_channel(c.weight, axes[c.name]))
    moving = [c for c in nodes if c.weight is None]
    with stages.stage("channels"):
        for seen in looked_into(subject, [], []) if moving else ():
            for c in moving:
                x = seen.truth[c.tensor]
                axes[c.name] = _axis(c, x.ndim, axis)
                rows[c.name].append(_by_channel(x, axes[c.name]))
    return [Channels(c.name, axes[c.name], tuple(_boxes(c, rows[c.name]))) for c in nodes]


def _axis(c: Calibration, rank: int, asked: int | None) -> int:
    if asked is not None:
        if not -rank <= asked < rank:
            raise ConfigValueError(
                f"axis is {asked}; what '{c.name}' reads has rank {rank}, so it is below {rank}."
            )
        return asked % rank
    if rank == 0:
        raise ConfigValueError(f"What '{c.name}' reads is one number, which has no channels.")
    if c.weight is not None:
        return (c.grid.axis or 0) % rank
    return min(1, rank - 1)


def _by_channel(x: Array, axis: int) -> Array:
    """Return values (channels, values)."""
    moved = np.moveaxis(x, axis, 0)
    return moved.reshape(moved.shape[0], -1)


def _boxes(c: Calibration, rows: Sequence[Array]) -> list[Box]:
    count = {r.shape[0] for r in rows}
    if len(count) > 1:
        raise ConfigValueError(
            f"What '{c.name}' reads has another number of channels from sample to sample along this axis; name another one "
            "with axis."
        )
    found = []
    for i in range(count.pop() if count else 0):
        x = np.concatenate([r[i] for r in rows]).astype(np.float64)
        x = x[np.isfinite(x)]
        found.append(_box(x) if x.size else _box(np.zeros(1)))
    return found


def _box(x: npt.NDArray[np.float64]) -> Box:
    low, high, mean = float(x.min()), float(x.max()), float(x.mean())
    some = x if x.size <= _VALUES else x[:: -(-x.size // _VALUES)]
    q1, median, q3 = (float(v) for v in np.percentile(some, (25, 50, 75)))
    reach = 1.5 * (q3 - q1)
    inside = x[(x >= q1 - reach) & (x <= q3 + reach)]
    ends = (float(inside.min()), float(inside.max())) if inside.size else (q1, q3)
    beyond = np.sort(x[(x < ends[0]) | (x > ends[1])])
    if beyond.size > _POINTS:  # the outermost ones of either end
        beyond = np.concatenate([beyond[: _POINTS // 2], beyond[-_POINTS // 2 :]])
    return Box(low, ends[0], q1, median, q3, ends[1], high, mean, tuple(beyond.tolist()))

"""Curves of accumulated error: how far each node's output is from the float model's, with some nodes quantized.

A curve that falls at one node shows a sensitive node; one that falls slowly all along shows errors that add up. With
`average_mode` each value is the mean of all up to it:

    [1.0, 0.9, 0.9, 0.8]  ->  [1.0, 0.95, 0.933, 0.9]

Source: `plot_acc_error` of Horizon's OpenExplorer, as its public documentation describes it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrant.debug.calibrations import Calibrated
from calibrant.debug.distances import one_metric, per_sample
from calibrant.debug.partial import MEMORY_BYTES
from calibrant.debug.pictures import (
    check_pictures,
    new_figure,
    plotly_figure,
    write_page,
    write_picture,
)
from calibrant.debug.samples import Subject, known_nodes, opened_subject
from calibrant.debug.tensors import looked_into, tensors_of
from calibrant.debug.written import DEBUG_RESULT, write_csv
from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.numerics.metrics import Metric
from calibrant.progress import Callback, Progress

__all__ = ["ALL", "Curves", "averaged", "check_lists", "curves_of", "plot_acc_error"]

#: The curve of the model with all calibration nodes on, for reference.
ALL = "all"

KINDS = ("weight", "activation")

#: A step that loses more than this share is marked.
STEP = 0.01

Nodes = Sequence[str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of accumulated error.

    Args:
        metric: What is measured.
        nodes: Ordinary nodes in graph order.
        curves: Name of a curve -> its value at each node.
        samples: Samples that were looked at.
    """

    metric: Metric
    nodes: tuple[str, ...]
    curves: dict[str, list[float]]
    samples: int

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return curve -> node -> value."""
        return {c: dict(zip(self.nodes, v, strict=True)) for c, v in self.curves.items()}

    def steps(self, curve: str) -> list[int]:
        """Return the places at which one step loses more than 1 %: of the value, or of the largest where lower is better."""
        values = self.curves[curve]
        finite = [abs(v) for v in values if math.isfinite(v)]
        largest = max(finite, default=0.0)
        found = []
        for i, (before, now) in enumerate(itertools.pairwise(values), 1):
            lost = self.metric.badness(now) - self.metric.badness(before)
            unit = (
                abs(before) if self.metric.higher_is_better and math.isfinite(before) else largest
            )
            if lost > STEP * unit and lost > 0:
                found.append(i)
        return found

    def save(self, folder: Path) -> list[Path]:
        """Write `accumulate_error.csv`, `.png` and `.html`."""
        stem = folder / "accumulate_error"
        rows = zip(self.nodes, *self.curves.values(), strict=True)
        return [
            write_csv(stem.with_suffix(".csv"), ["node", *self.curves], list(rows)),
            write_picture(self._picture(), stem.with_suffix(".png")),
            write_page(self._page(), stem.with_suffix(".html")),
        ]

    def _picture(self) -> Any:
        figure = new_figure(11, 5)
        axes = figure.add_subplot()
        for number, (name, values) in enumerate(self.curves.items()):
            colour = "0.6" if name == ALL else f"C{number % 10}"
            axes.plot(range(len(values)), values, label=name, color=colour, linewidth=1.2)
            for place in self.steps(name) if name != ALL or len(self.curves) == 1 else []:
                axes.axvline(place, color=colour, linewidth=0.5, linestyle=":")
        axes.set_xlabel("node, in topological order")
        axes.set_ylabel(self.metric.name)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.3)
        figure.suptitle(
            "Accumulated error; dotted lines: one step loses more than 1 %", fontsize=10
        )
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
        return figure

    def _page(self) -> Any:
        figure = plotly_figure()
        for name, values in self.curves.items():
            figure.add_scatter(
                x=list(range(len(values))),
                y=[v if math.isfinite(v) else None for v in values],
                name=name,
                text=list(self.nodes),
                hovertemplate="%{text}<br>%{y}<extra>" + name + "</extra>",
                mode="lines+markers",
                marker={"size": 4},
            )
        figure.update_layout(
            title=f"Accumulated error, {self.samples} samples",
            xaxis_title="node, in topological order",
            yaxis_title=self.metric.name,
        )
        return figure


def plot_acc_error(
    model_or_file: ModelLike,
    calibrated_data: Any,
    quantize_node: Nodes | str | None = None,
    non_quantize_node: Nodes | str | None = None,
    metric: str = "cosine-similarity",
    average_mode: bool = False,
    save_dir: str | Path = DEBUG_RESULT,
    *,
    data_num: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callback | None = None,
) -> dict[str, dict[str, float]]:
    """Draw how errors add up along the network.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        quantize_node: One curve for each entry, with that node alone quantized; an entry that is a list is quantized
            together, and its curve is called `partial_qmodel_0`, `partial_qmodel_1`, …. `weight` and `activation` always stand
            for all nodes of that kind.
        non_quantize_node: One curve for each entry, with all quantized but that node.
        metric: `cosine-similarity`, `mse`, `mae`, `mre`, `sqnr` or `chebyshev`.
        average_mode: Each value is the mean of all up to it.
        save_dir: Folder for `accumulate_error.png`, `.html` (names on hover) and `.csv`.
        data_num: Samples; None for 8, or all where there are fewer.
        memory_bytes: Bytes of activations that are kept at a time.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        Curve -> node -> value, nodes in graph order; the curve `all` has everything quantized.

    Raises:
        ConfigValueError: Neither list is given, a node does not exist, or `non_quantize_node` names a kind.
        ModelError: The model cannot be read or run.
        DataError: The data is empty or does not fit.
        MissingPackageError: matplotlib or plotly is not installed.
        OutputError: `save_dir` cannot be written.
    """
    check_pictures()
    check_lists(quantize_node, non_quantize_node)
    subject = opened_subject(model_or_file, calibrated_data, data_num, memory_bytes=memory_bytes)
    found = curves_of(
        subject,
        quantize_node,
        non_quantize_node,
        one_metric(metric),
        average_mode=average_mode,
        progress=progress,
    )
    found.save(Path(save_dir))
    return found.as_dict()


def check_lists(quantize_node: object, non_quantize_node: object) -> None:
    """Raise where no curve is asked for.

    Raises:
        ConfigValueError: Neither list is given.
    """
    if quantize_node is None and non_quantize_node is None:
        raise ConfigValueError(
            "Neither quantize_node nor non_quantize_node is given; at least one of them says which curves are drawn."
        )


def curves_of(
    subject: Subject,
    quantize_node: Nodes | str | None,
    non_quantize_node: Nodes | str | None,
    metric: Metric,
    *,
    average_mode: bool = False,
    progress: Callback | None = None,
) -> Curves:
    """Compute the curves; arguments as for `plot_acc_error`."""
    sets = _sets(subject.calibrated, quantize_node, non_quantize_node)
    tensors = tensors_of(subject)
    stages = Progress(progress)
    values: dict[str, dict[str, list[float]]] = {c: {} for c in sets}
    samples = 0
    with stages.stage("accumulated error"):
        for seen in looked_into(subject, list(sets.values()), list(tensors.values())):
            size = seen.batch.size
            samples += size
            for curve, mine in zip(sets, seen.mine, strict=True):
                for node, tensor in tensors.items():
                    truth = seen.truth[tensor]
                    if truth.dtype.kind != "f" or not truth.size:
                        continue
                    each = per_sample(metric, truth, mine[tensor], size, rows=seen.rows)
                    values[curve].setdefault(node, []).extend(each)
            stages.step(samples, subject.feeds.samples)
    nodes = tuple(values[ALL])
    curves = {c: [_mean(of[n], metric) for n in nodes] for c, of in values.items()}
    if average_mode:
        curves = {c: averaged(v) for c, v in curves.items()}
    return Curves(metric, nodes, curves, samples)


def averaged(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and all before it; infinite ones are left out where others are not.

    Example:
        >>> [round(v, 3) for v in averaged([1.0, 0.9, 0.9, 0.8])]
        [1.0, 0.95, 0.933, 0.9]
    """
    found: list[float] = []
    total, count = 0.0, 0
    for value in values:
        if not math.isinf(value):
            total, count = total + value, count + 1
        found.append(total / count if count else value)
    return found


def _mean(values: Sequence[float], metric: Metric) -> float:
    counted = [v for v in values if not math.isinf(v) or v != metric.perfect]
    if not counted:
        return metric.perfect
    return sum(counted) / (len(counted) if math.isinf(metric.perfect) else len(values))


def _sets(
    calibrated: Calibrated, quantize: Nodes | str | None, non_quantize: Nodes | str | None
) -> dict[str, frozenset[str]]:
    """Return the calibration nodes that are on for each curve."""
    every = frozenset(calibrated.nodes)
    found: dict[str, frozenset[str]] = {}
    lists = 0
    for what, entries in (("quantize_node", quantize), ("non_quantize_node", non_quantize)):
        if entries is None:
            continue
        given = [entries] if isinstance(entries, str) else list(entries)
        if not given:
            raise ConfigValueError(f"{what} is empty; name one node or several, or leave it out.")
        for entry in given:
            if isinstance(entry, str):
                name, names = entry, [entry]
            elif isinstance(entry, list | tuple):
                name, names, lists = f"partial_qmodel_{lists}", list(entry), lists + 1
            else:
                raise ConfigTypeError(
                    f"{what} holds a {type(entry).__name__}; it holds names of nodes, or lists of names."
                )
            on = _switched(calibrated, names, what)
            if what == "non_quantize_node":
                on = every - on
                name = f"{name} (not quantized)" if name in found else name
            found[name] = on
    found[ALL] = every
    return found


def _switched(calibrated: Calibrated, names: Sequence[str], what: str) -> frozenset[str]:
    on: frozenset[str] = frozenset()
    for name in names:
        if name in KINDS and what == "quantize_node":
            on |= frozenset(calibrated.of_kind(name))
        elif name in KINDS and name not in calibrated.nodes and name not in calibrated.feeders:
            raise ConfigValueError(
                f"non_quantize_node is '{name}', which is a kind; it takes names of nodes. quantize_node takes "
                f"'{KINDS[1 - KINDS.index(name)]}' for all of the other kind."
            )
        else:
            known_nodes(calibrated, [name], what)
            on |= calibrated.switched(name)
    return on

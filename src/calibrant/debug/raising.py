"""What the outputs win when sensitive nodes get a higher type, in the model that is quantized otherwise.

Nodes are raised one after the other in the order of their sensitivity, and stay raised: step k has the k worst nodes in the
higher type. So one reads off how many have to be raised.

Source: `sensitivity_analysis` of Horizon's OpenExplorer, as its public documentation describes it; that nodes are raised
together is our choice, where the public text is silent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibrant.debug.distances import Distances, Figures, one_metric
from calibrant.debug.partial import MEMORY_BYTES
from calibrant.debug.pictures import check_pictures, new_figure, write_picture
from calibrant.debug.raised import check_qtype, raised
from calibrant.debug.ranked import Ranked
from calibrant.debug.samples import Subject, known_nodes, opened_subject
from calibrant.debug.sensitivity import rank_nodes
from calibrant.debug.tensors import looked_into
from calibrant.debug.written import DEBUG_RESULT, write_csv
from calibrant.errors import ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.numerics.metrics import Metric
from calibrant.progress import Callback, Progress

__all__ = ["PICK_THRESHOLD", "Raised", "raise_nodes", "sensitivity_analysis"]

logger = logging.getLogger(__name__)

#: Nodes whose cosine similarity is not above this are sensitive.
PICK_THRESHOLD = 0.999

#: Names of the first and the last step.
BASE, ALL = "base", "all"


@dataclass(frozen=True, slots=True)
class Raised:
    """What was won step by step.

    Args:
        metric: What is measured.
        qtype: The higher type.
        samples: Samples that were looked at.
        steps: Step -> output -> value: `base` with nothing raised, then each node that was raised beside those before it,
            then `all`.
        worst: Step -> the value of the worst output.
        note: Why nothing was raised; empty where something was.
    """

    metric: str
    qtype: str
    samples: int
    steps: dict[str, dict[str, float]]
    worst: dict[str, float]
    note: str = ""

    def save(self, folder: Path) -> list[Path]:
        """Write `sensitivity_analysis.csv` and `.png`."""
        outputs = list(self.steps[BASE])
        rows = [
            [i, step, self.worst[step], *(of[o] for o in outputs)]
            for i, (step, of) in enumerate(self.steps.items())
        ]
        stem = folder / "sensitivity_analysis"
        columns = ["raised", "step", self.metric, *outputs]
        return [
            write_csv(stem.with_suffix(".csv"), columns, rows),
            write_picture(self._picture(), stem.with_suffix(".png")),
        ]

    def _picture(self) -> Any:
        figure = new_figure(8, 4.5)
        axes = figure.add_subplot()
        shown = {s: v for s, v in self.worst.items() if s != ALL or len(self.worst) == 2}
        axes.plot(range(len(shown)), list(shown.values()), marker=".")
        axes.set_xlabel(f"nodes in {self.qtype}, worst first")
        axes.set_ylabel(self.metric)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.3)
        figure.suptitle(f"Raising the most sensitive nodes to {self.qtype}", fontsize=10)
        return figure


def sensitivity_analysis(
    model_or_file: ModelLike,
    calibrated_data: Any,
    metric: str = "cosine-similarity",
    pick_threshold: float | None = None,
    data_num: int | None = 1,
    sensitive_nodes: Sequence[str] | str | None = None,
    qtype: str = "float32",
    output_separated: bool = False,
    save_dir: str | Path = DEBUG_RESULT,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callback | None = None,
) -> dict[str, Any]:
    """Measure what the outputs win when sensitive nodes get a higher type.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        metric: `cosine-similarity`, `mse`, `mae`, `mre`, `sqnr` or `chebyshev`.
        pick_threshold: Without `sensitive_nodes`, ordinary nodes are sensitive whose value is not better than this when each
            alone is quantized. None for 0.999 with `cosine-similarity`; other metrics need one.
        data_num: Samples; None for 8, or all where there are fewer.
        sensitive_nodes: Nodes, the one to raise first in front: calibration nodes, or ordinary nodes, which stand for all
            calibration nodes in front of them.
        qtype: `float32`, `float16` or `int16`.
        output_separated: Return a value for each output of the model, and not the worst alone.
        save_dir: Folder for `sensitivity_analysis.csv` and `.png`.
        memory_bytes: Bytes of activations that are kept at a time.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        Step -> value, or step -> output -> value: `base` with nothing raised, one step for each node that is raised beside
        those before it, and `all`. Where no node is sensitive, `base` and `all` are equal and the log says what was seen.

    Raises:
        ConfigValueError: A metric, a type or a node that does not exist, or a threshold that is missing.
        ModelError: The model cannot be read or run.
        DataError: The data is empty or does not fit.
        MissingPackageError: matplotlib is not installed.
        OutputError: `save_dir` cannot be written.
    """
    check_pictures()
    wanted = one_metric(metric)
    threshold = threshold_of(wanted, pick_threshold, sensitive_nodes)
    subject = opened_subject(model_or_file, calibrated_data, data_num, memory_bytes=memory_bytes)
    found = raise_nodes(
        subject, wanted, threshold, sensitive_nodes=sensitive_nodes, qtype=qtype, progress=progress
    )
    if found.note:
        logger.warning("%s", found.note)
    found.save(Path(save_dir))
    return dict(found.steps) if output_separated else dict(found.worst)


def threshold_of(
    metric: Metric, threshold: float | None, nodes: Sequence[str] | str | None
) -> float:
    """Return the threshold, or the default of the metric.

    Raises:
        ConfigValueError: The metric has none, and nodes are not given either.
    """
    if threshold is not None:
        return threshold
    if metric.name != "cosine-similarity" and not nodes:
        raise ConfigValueError(
            f"pick_threshold is not given. Its default, {PICK_THRESHOLD}, is one of cosine-similarity; for '{metric.name}' "
            "say which value makes a node sensitive, or name sensitive_nodes."
        )
    return PICK_THRESHOLD


def raise_nodes(
    subject: Subject,
    metric: Metric,
    threshold: float = PICK_THRESHOLD,
    *,
    sensitive_nodes: Sequence[str] | str | None = None,
    ranking: Ranked | None = None,
    qtype: str = "float32",
    progress: Callback | None = None,
) -> Raised:
    """Do what `sensitivity_analysis` does, and return all that was found; `ranking` is taken where it is there."""
    check_qtype(qtype)
    note = ""
    if sensitive_nodes:
        given = [sensitive_nodes] if isinstance(sensitive_nodes, str) else list(sensitive_nodes)
        names = known_nodes(subject.calibrated, given, "sensitive_nodes")
    else:
        found = ranking or rank_nodes(subject, metric.name, progress=progress)
        scores = {n.name: n.metrics[metric.name] for n in found.nodes}
        names = tuple(n for n, v in scores.items() if not metric.better(v, threshold))
        if not names:
            worst = found.nodes[0]
            value = worst.metrics[metric.name]
            note = (
                f"No node is sensitive: the worst, '{worst.name}', has {metric.name} {value:.6g} when it alone is quantized, "
                f"which is better than {threshold:g}. With pick_threshold={value!r} it would be raised."
            )
    steps, worst_of = _steps(subject, names, metric, qtype, progress)
    return Raised(metric.name, qtype, subject.feeds.samples, steps, worst_of, note)


def _steps(
    subject: Subject,
    names: Sequence[str],
    metric: Metric,
    qtype: str,
    progress: Callback | None,
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    calibrated = subject.calibrated
    every = frozenset(calibrated.nodes)
    stages = Progress(progress)
    steps: dict[str, dict[str, float]] = {}
    worst: dict[str, float] = {}
    up: frozenset[str] = frozenset()
    with stages.stage("raising nodes"):
        for number, name in enumerate([BASE, *names], 1):
            before = up
            up |= frozenset() if name == BASE else calibrated.switched(name)
            if name == BASE or up != before:
                now = replace(subject, calibrated=raised(calibrated, up, qtype))
                last = _measured(now, every - up if qtype == "float32" else every, metric)
            steps[name], worst[name] = last
            stages.step(number, len(names) + 1)
    steps[ALL], worst[ALL] = last
    return steps, worst


def _measured(
    subject: Subject, on: frozenset[str], metric: Metric
) -> tuple[dict[str, float], float]:
    """Return the metric of each output with some calibration nodes on, and that of the worst."""
    outputs = subject.calibrated.outputs
    distances: Distances | None = None
    total: Figures = {}
    for seen in looked_into(subject, [on], outputs):
        truth = {n: seen.truth[n] for n in outputs}
        if distances is None:
            distances = Distances.of([metric], [truth], rows=seen.rows)
        batch = seen.batch
        figures = distances.figures(truth, seen.mine[0], batch.size, batch.first)
        total = distances.added(total, figures)
    assert distances is not None
    each = {n: distances.value(metric, sums) for n, sums in total.items()}
    return each, distances.values(total)[metric.name]

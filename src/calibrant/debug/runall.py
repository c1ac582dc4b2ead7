"""All of the debug tool in one call, with one folder of results; a part that fails does not stop the others.

    node_sensitivity/           sensitivity_of_weight.log, sensitivity_of_activation.log (.csv, .json, .jsonl)
    data_distribution/          a picture and a table for each of the worst nodes
    channelwise_distribution/   box plots of their channels
    accumulate_error/           curves of accumulated error
    sensitivity_analysis/       what raising sensitive nodes wins
    tensor_analysis/            the tensors of the worst nodes, sample by sample
    collapse_check/             distinct values of each tensor
    index.html, summary.json    all of it on one page, and as values
    graph.json                  the network, for `calibrant report`

Source: `runall` of Horizon's OpenExplorer, as its public documentation describes it; the page, the summary, the
tensors and the check for collapse are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrant.debug.acc_error import Nodes, curves_of
from calibrant.debug.channelwise import channels_of
from calibrant.debug.collapse import look_for_collapse
from calibrant.debug.distances import asked_metrics, one_metric
from calibrant.debug.distribution import distributions_of, names_given
from calibrant.debug.index_page import Part, index_page
from calibrant.debug.partial import MEMORY_BYTES
from calibrant.debug.pictures import check_pictures, file_names
from calibrant.debug.raising import raise_nodes, threshold_of
from calibrant.debug.ranked import Ranked
from calibrant.debug.samples import Subject, opened_subject
from calibrant.debug.sensitivity import KINDS, Interested, rank_nodes
from calibrant.debug.tensor_analysis import analyse_tensors
from calibrant.debug.tensor_analysis import save as save_tensors
from calibrant.debug.written import DEBUG_RESULT, write_json
from calibrant.errors import CalibrantError, ConfigValueError, did_you_mean
from calibrant.graph.load import ModelLike
from calibrant.progress import Callback
from calibrant.report.evidence import GRAPH_FILE, network_of, text_of
from calibrant.save.whole import write_whole

__all__ = ["runall"]

logger = logging.getLogger(__name__)

#: Nodes of each ranking that are looked at closer.
TOP = 5


def runall(
    model_or_file: ModelLike,
    calibrated_data: Any,
    save_dir: str | Path = DEBUG_RESULT,
    ns_metrics: str | Sequence[str] = "cosine-similarity",
    output_node: str | None = None,
    node_type: str | None = None,
    data_num: int | None = 1,
    verbose: bool = False,
    interested_nodes: Interested | None = None,
    dis_nodes_list: Sequence[str] | str | None = None,
    cw_nodes_list: Sequence[str] | str | None = None,
    axis: int | None = None,
    quantize_node: Nodes | str | None = None,
    non_quantize_node: Nodes | str | None = None,
    ae_metric: str = "cosine-similarity",
    average_mode: bool = False,
    pick_threshold: float | None = None,
    sensitive_nodes: Sequence[str] | str | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callback | None = None,
) -> dict[str, Any]:
    """Run all parts of the debug tool: rankings, distributions, channels, curves, and what raising nodes wins.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        save_dir: Folder of the results.
        ns_metrics: Metrics of the rankings; the first one orders.
        output_node: Compare at what this ordinary node gives, and not at the model's outputs.
        node_type: `node`, `weight` or `activation`; None for `weight` and `activation`, one after the other.
        data_num: Samples of all parts; None for 8, or all where there are fewer.
        verbose: Print the rankings.
        interested_nodes: Rank only these nodes; names in a list of their own are quantized together.
        dis_nodes_list: Nodes of the distributions; None for the worst 5 of each ranking (of ordinary nodes also the
            calibration nodes in front of them).
        cw_nodes_list: Calibration nodes of the box plots; None for the same nodes.
        axis: Axis of the channels.
        quantize_node: Curves with these nodes alone quantized; with neither list, `weight` and `activation`.
        non_quantize_node: Curves with all but these nodes quantized.
        ae_metric: Metric of the curves.
        average_mode: Each value of a curve is the mean of all up to it.
        pick_threshold: Ordinary nodes are raised that are not better than this; None for 0.999 with `cosine-similarity`.
        sensitive_nodes: Raise these nodes.
        memory_bytes: Bytes of activations that are kept at a time.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        What stands in `summary.json`: for each part its files, what it found, and why it failed (empty where it did not).

    Raises:
        ConfigValueError: A metric or a node type that does not exist.
        ModelError: The model cannot be read.
        DataError: The data is empty or does not fit.
        MissingPackageError: matplotlib is not installed.
        OutputError: `save_dir` cannot be written.
    """
    check_pictures()
    metrics = asked_metrics(ns_metrics)
    curve_metric = one_metric(ae_metric)
    if node_type is not None and node_type not in KINDS:
        raise ConfigValueError(
            f"node_type is {node_type!r}; it is {', '.join(KINDS)}, or None for weight and activation."
            + did_you_mean(str(node_type), KINDS)
        )
    subject = opened_subject(model_or_file, calibrated_data, data_num, memory_bytes=memory_bytes)
    folder = Path(save_dir)
    run = _Run(folder)
    kinds = ("weight", "activation") if node_type is None else (node_type,)
    rankings: list[Ranked] = []
    with run.part("node_sensitivity") as part:
        for kind in kinds if interested_nodes is None else ("node",):
            with run.kept(part):
                ranked = rank_nodes(
                    subject,
                    [m.name for m in metrics],
                    output_node=output_node,
                    node_type=kind,
                    interested_nodes=interested_nodes,
                    save_dir=folder / part.name,
                    progress=progress,
                )
                rankings.append(ranked)
                part.files += run.inside(ranked.save(folder / part.name))
                part.found[kind] = ranked.content()
                if verbose:
                    ranked.show()
    worst = _worst(subject, rankings)
    with run.part("data_distribution") as part:
        names = names_given(worst if dis_nodes_list is None else dis_nodes_list, "dis_nodes_list")
        stems = file_names(names)
        for d in distributions_of(subject, names, progress=progress):
            part.files += run.inside([d.save(folder / part.name, stems[d.node], log_count=False)])
            part.found[d.node] = {"threshold": d.threshold, "clip_share": d.clip_share}
    with run.part("channelwise_distribution") as part:
        own = [n for n in worst if n in subject.calibrated.nodes]
        names = names_given(own if cw_nodes_list is None else cw_nodes_list, "cw_nodes_list")
        stems = file_names(names)
        for c in channels_of(subject, names, axis, progress=progress):
            part.files += run.inside(c.save(folder / part.name, stems[c.node]))
            part.found[c.node] = {"channels": len(c.boxes), "spread": c.spread}
    with run.part("accumulate_error") as part:
        neither = quantize_node is None and non_quantize_node is None
        curves = curves_of(
            subject,
            ["weight", "activation"] if neither else quantize_node,
            non_quantize_node,
            curve_metric,
            average_mode=average_mode,
            progress=progress,
        )
        part.files += run.inside(curves.save(folder / part.name))
        part.found = {
            "metric": curve_metric.name,
            "last": {c: v[-1] for c, v in curves.curves.items() if v},
            "steps": {c: [curves.nodes[i] for i in curves.steps(c)] for c in curves.curves},
        }
    with run.part("tensor_analysis") as part:
        rows = analyse_tensors(subject, worst, progress=progress)
        part.files += run.inside(save_tensors(rows, folder / part.name))
        part.found = {r.node: {"own": r.own, "cause": r.cause, "sqnr_db": r.sqnr_db} for r in rows}
    with run.part("collapse_check") as part:
        collapse = look_for_collapse(subject, progress=progress)
        part.files += run.inside(collapse.save(folder / part.name))
        part.found = {"first": collapse.first, "message": collapse.message}
    with run.part("sensitivity_analysis") as part:
        threshold = threshold_of(metrics[0], pick_threshold, sensitive_nodes)
        nodes = next((r for r in rankings if r.kind == "node" and interested_nodes is None), None)
        raised = raise_nodes(
            subject,
            metrics[0],
            threshold,
            sensitive_nodes=sensitive_nodes,
            ranking=nodes if output_node is None else None,
            progress=progress,
        )
        part.files += run.inside(raised.save(folder / part.name))
        part.found = {"metric": raised.metric, "steps": raised.worst, "note": raised.note}
    return run.finish(subject, rankings)


def _worst(subject: Subject, rankings: Sequence[Ranked]) -> list[str]:
    """Return the worst nodes of each ranking; of ordinary ones also the calibration nodes in front of them."""
    found: list[str] = []
    calibrated = subject.calibrated
    for ranking in rankings:
        for row in ranking.nodes[:TOP]:
            for name in [row.name] if _is_node(subject, row.name) else row.name.split(","):
                found += [
                    name,
                    *(sorted(calibrated.switched(name)) if name in calibrated.feeders else ()),
                ]
    return list(dict.fromkeys(found))


def _is_node(subject: Subject, name: str) -> bool:
    return name in subject.calibrated.nodes or name in subject.calibrated.feeders


@dataclass(slots=True)
class _Run:
    """The parts of a run, and what came of them."""

    folder: Path
    parts: list[Part] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """Do a part; an error of it is kept and not raised."""
        part = Part(name)
        self.parts.append(part)
        with self.kept(part):
            yield part

    @contextmanager
    def kept(self, part: Part) -> Iterator[None]:
        """Do something for a part; an error is kept and not raised."""
        try:
            yield
        except Exception as e:  # the other parts are worth having
            kind = "" if isinstance(e, CalibrantError) else f"{type(e).__name__}: "
            part.failed = " ".join(filter(None, [part.failed, f"{kind}{e}"]))
            logger.warning("%s failed: %s", part.name, e, exc_info=bool(kind))

    def inside(self, files: Sequence[Path]) -> list[str]:
        """Return paths from the folder on."""
        return [f.relative_to(self.folder).as_posix() for f in files]

    def finish(self, subject: Subject, rankings: Sequence[Ranked]) -> dict[str, Any]:
        """Write the page and the summary, and return the summary."""
        summary = {
            "samples": subject.feeds.samples,
            "calibration_nodes": len(subject.calibrated.nodes),
            "readers": {
                n: list(dict.fromkeys(subject.calibrated.layers_of(n)))
                for n in subject.calibrated.nodes
            },
            "failed": [p.name for p in self.parts if p.failed],
            "parts": {
                p.name: {"failed": p.failed, "files": p.files, "found": p.found}
                for p in self.parts
            },
        }
        write_json(self.folder / "summary.json", summary)
        write_whole(self.folder / GRAPH_FILE, text_of(network_of(subject.calibrated.model)))
        write_whole(
            self.folder / "index.html", index_page(self.parts, rankings, subject.feeds.samples)
        )
        return summary

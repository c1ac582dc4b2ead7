"""Rank nodes by what the model's outputs lose when each alone is quantized, all else float.

    node         an ordinary node: the calibration nodes in front of it are on, of weights and of activations
    weight       a calibration node of a weight
    activation   a calibration node of an activation

Only what lies behind a node is run again. Figures go to disk as they come, so a run that was ended goes on.

Source: `get_sensitivity_of_nodes` of Horizon's OpenExplorer, as its public documentation describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calibrant.analysis.alone.journal import Journal, content_key
from calibrant.debug.causes import Cause, cause_of, joined
from calibrant.debug.distances import Distances, Figures, asked_metrics
from calibrant.debug.partial import MEMORY_BYTES, Partial
from calibrant.debug.ranked import Ranked, RankedNode
from calibrant.debug.samples import Subject, known_nodes, opened_subject
from calibrant.errors import ConfigTypeError, ConfigValueError, ModelError, did_you_mean
from calibrant.graph.digest import digest
from calibrant.graph.load import ModelLike
from calibrant.numerics.metrics import Metric
from calibrant.progress import Callback, Progress

__all__ = ["KINDS", "get_sensitivity_of_nodes", "rank_nodes"]

KINDS = ("node", "weight", "activation")

#: A name, or several that are quantized together.
Interested = Sequence[str | Sequence[str]]


def get_sensitivity_of_nodes(
    model_or_file: ModelLike,
    calibrated_data: Any,
    metrics: str | Sequence[str] = "cosine-similarity",
    output_node: str | None = None,
    node_type: str = "node",
    data_num: int | None = None,
    verbose: bool = False,
    interested_nodes: Interested | None = None,
    save_dir: str | Path | None = None,
    *,
    as_str: bool = False,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callback | None = None,
) -> dict[str, dict[str, Any]]:
    """Rank nodes by what the model's outputs lose when each alone is quantized.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        metrics: One of `cosine-similarity`, `mse`, `mae`, `mre`, `sqnr`, `chebyshev`, or several; the first one orders.
        output_node: Compare at what this ordinary node gives, and not at the model's outputs; it reads through calibration
            nodes.
        node_type: `node`, `weight` or `activation`.
        data_num: Samples; None for 8, or all where there are fewer.
        verbose: Print the table.
        interested_nodes: Only these nodes, of any kind; names in a list of their own are quantized together. `node_type`
            is `node` then.
        save_dir: Folder for `sensitivity_of_<type>.log`, `.csv` and `.json`, and for figures as they come (`.jsonl`).
        as_str: Metrics as texts, as the vendor's tool has them.
        memory_bytes: Bytes of activations that are kept at a time.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        Node -> metric -> value, worst first. Nodes that were quantized together are one key, with commas between.

    Raises:
        ModelError: The model cannot be read or run, or has no node of the kind.
        DataError: The data is empty or does not fit.
        ConfigError: A metric, a node or an option that does not exist.
        OutputError: `save_dir` cannot be written.
    """
    subject = opened_subject(model_or_file, calibrated_data, data_num, memory_bytes=memory_bytes)
    found = rank_nodes(
        subject,
        metrics,
        output_node=output_node,
        node_type=node_type,
        interested_nodes=interested_nodes,
        save_dir=save_dir,
        progress=progress,
    )
    if save_dir is not None:
        found.save(save_dir)
    if verbose:
        found.show()
    return found.as_dict(as_str=as_str)


def rank_nodes(
    subject: Subject,
    metrics: str | Sequence[str] = "cosine-similarity",
    *,
    output_node: str | None = None,
    node_type: str = "node",
    interested_nodes: Interested | None = None,
    save_dir: str | Path | None = None,
    progress: Callback | None = None,
) -> Ranked:
    """Do what `get_sensitivity_of_nodes` does, and return all that was found; arguments are as there."""
    calibrated = subject.calibrated
    wanted = asked_metrics(metrics)
    if node_type not in KINDS:
        raise ConfigValueError(
            f"node_type is {node_type!r}; it is {', '.join(KINDS[:-1])} or {KINDS[-1]}."
            + did_you_mean(str(node_type), KINDS)
        )
    kind = node_type if interested_nodes is None else "node"
    groups = _groups(subject, kind, interested_nodes)
    outputs = _looked_at(subject, output_node)
    partial = subject.partial(outputs)
    journal = Journal(save_dir, f"sensitivity_of_{kind}.jsonl")
    stages = Progress(progress)
    try:
        with stages.stage(f"sensitivity of {kind}s"):
            rows = _measured(partial, groups, wanted, journal, stages)
    finally:
        journal.close()
    order = wanted[0].worst_first([r.metrics[wanted[0].name] for r in rows])
    notes = []
    if calibrated.frozen:
        notes.append(
            f"{len(calibrated.frozen)} weights are integers in the file, such as '{calibrated.frozen[0]}'. What rounding "
            "took of them is lost, so they are float as they are and were not measured. A calibrated model has float "
            "weights ('calibrant quantize … --format horizon' writes one)."
        )
    passes = partial.work.macs / partial.once.macs if partial.once.macs else 0.0
    work = {
        "passes": passes,
        "node_passes": partial.work.nodes / max(1, partial.once.nodes),
        "reused": float(journal.reused),
    }
    return Ranked(
        kind,
        tuple(m.name for m in wanted),
        partial.feeds.samples,
        tuple(rows[i] for i in order),
        work,
        tuple(notes),
    )


def _groups(
    subject: Subject, kind: str, interested: Interested | None
) -> dict[str, tuple[str, ...]]:
    """Return the nodes that are quantized at a time, by the name that stands for them."""
    calibrated = subject.calibrated
    if interested is None:
        names = calibrated.of_kind(kind)
        if not names:
            frozen = (
                " Its weights are integers, which cannot be switched." if calibrated.frozen else ""
            )
            raise ModelError(f"The model has no calibration node for node_type '{kind}'.{frozen}")
        return {n: (n,) for n in names}
    found: dict[str, tuple[str, ...]] = {}
    if isinstance(interested, str):
        interested = [interested]
    for entry in interested:
        if not isinstance(entry, str | list | tuple):
            raise ConfigTypeError(
                f"interested_nodes holds a {type(entry).__name__}; it holds names, or lists of names."
            )
        names = known_nodes(
            calibrated, [entry] if isinstance(entry, str) else entry, "interested_nodes"
        )
        if not names:
            raise ConfigValueError(
                "interested_nodes holds an empty list; name one node or several."
            )
        found[",".join(names)] = names
    if not found:
        raise ConfigValueError(
            "interested_nodes is empty; name one node or several, or leave it out."
        )
    return found


def _looked_at(subject: Subject, output_node: str | None) -> tuple[str, ...]:
    if output_node is None:
        return subject.calibrated.outputs
    calibrated = subject.calibrated
    known_nodes(calibrated, [output_node], "output_node", list(calibrated.feeders))
    node = calibrated.model.graph.node(output_node)
    return tuple(v.name for v in node.outputs if v.name)


def _measured(
    partial: Partial,
    groups: dict[str, tuple[str, ...]],
    metrics: tuple[Metric, ...],
    journal: Journal,
    progress: Progress,
) -> list[RankedNode]:
    calibrated = partial.calibrated
    figures: dict[str, Figures] = {}
    causes: dict[str, Cause] = {}
    distances: Distances | None = None
    keys: Callable[[frozenset[str], int], str] | None = None
    macs: dict[str, float] = {}
    done = 0
    for group in partial.groups():
        truth = partial.truth()
        batches = partial.feeds.batches
        if distances is None or keys is None:
            distances = Distances.of(metrics, truth, rows=partial.feeds.rows)
            keys = _keys(partial, distances)
            size = sum(batches[i].size for i in group)
            macs = {n: partial.macs_of([n]) / size for n in calibrated.ordinary}
        for name, nodes in groups.items():
            on = frozenset().union(*(calibrated.switched(n) for n in nodes))
            for c in sorted(on):
                known = _seen(partial, c)
                causes[c] = causes[c] + known if c in causes else known
            named = [keys(on, i) for i in group]
            missing = [i for i, key in enumerate(named) if not journal.has(key)]
            mine = partial.run(on, missing) if missing else []
            for i, out in zip(missing, mine, strict=True):
                batch = batches[group[i]]
                journal.put(
                    named[i],
                    name,
                    group[i],
                    distances.figures(truth[i], out, batch.size, batch.first),
                )
            for key in named:
                sums = journal.get(key)
                assert sums is not None
                figures[name] = distances.added(figures.get(name, {}), sums)
            done += len(group)
            progress.step(done, len(groups) * len(batches))
    assert distances is not None
    types = {n.name or "": n.op_type for n in calibrated.model.graph}
    return [
        _row(name, nodes, calibrated, figures[name], distances, causes, types, macs)
        for name, nodes in groups.items()
    ]


def _seen(partial: Partial, name: str) -> Cause:
    """Return what a calibration node does to what it reads in the float model."""
    c = partial.calibrated.nodes[name]
    if c.weight is not None:
        return cause_of(c, [c.weight])
    return cause_of(c, [known[c.tensor] for known in partial.values if c.tensor in known])


def _keys(partial: Partial, distances: Distances) -> Callable[[frozenset[str], int], str]:
    """Return a function (calibration nodes that are on, feed) -> key of the figures."""
    calibrated = partial.calibrated
    said = [digest(calibrated.model), *distances.tensors, *(m.name for m in distances.metrics)]
    batches = partial.feeds.batches
    fed = [content_key([str(b.size), str(b.first)], b.feeds) for b in batches]
    grids = {}
    for name, c in calibrated.nodes.items():
        numbers = {"scale": c.grid.scale, "zero": c.grid.zero_point}
        texts = [name, c.qtype, str(c.grid.axis), *(f"{r}:{i}" for r, i in c.readers)]
        grids[name] = content_key(texts, numbers)

    def key(on: frozenset[str], feed: int) -> str:
        return content_key([*said, fed[feed], *(grids[n] for n in sorted(on))], {})

    return key


def _row(
    name: str,
    nodes: tuple[str, ...],
    calibrated: Any,
    figures: Figures,
    distances: Distances,
    causes: dict[str, Cause],
    types: dict[str, str],
    macs: dict[str, float],
) -> RankedNode:
    on = [c for n in nodes for c in sorted(calibrated.switched(n))]
    of = [calibrated.nodes[c] for c in dict.fromkeys(on)]
    readers = dict.fromkeys(r for n in nodes for r in calibrated.layers_of(n))
    seen = [causes[c.name] for c in of]
    count = sum(s.count for s in seen)
    return RankedNode(
        name,
        ",".join(dict.fromkeys(types.get(r, "") for r in readers if types.get(r))),
        ",".join(dict.fromkeys(c.qtype for c in of)),
        distances.values(figures),
        distances.worst_sample(figures),
        sum(macs.get(r, 0.0) for r in readers),
        sum(s.clipped for s in seen) / count if count else 0.0,
        joined(seen),
        {t: {m.name: distances.value(m, s) for m in distances.metrics} for t, s in figures.items()}
        if len(figures) > 1
        else {},
    )

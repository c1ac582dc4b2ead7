"""What a run did, for people and for machines."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.cli._tables import console as _console
from calibrant.cli._tables import escaped as _escaped
from calibrant.cli._tables import table as _table
from calibrant.errors import ConfigValueError, OutputError
from calibrant.report.short import with_parts
from calibrant.runtime.stdout import stdout_to_stderr
from calibrant.text.json_out import json_of

if TYPE_CHECKING:
    from rich.table import Table

    from calibrant.analysis.evaluate import Evaluation

__all__ = [
    "check_folder",
    "check_loudness",
    "print_evaluation",
    "print_json",
    "print_summary",
    "print_warnings",
    "quiet_stdout",
]

#: Layers that are named for each reason to stay in float, and reasons that are told; the rest is counted.
NAMED = 3


def check_folder(folder: Path) -> None:
    """Raise before the work begins where results could not be written after it.

    Raises:
        OutputError: A file is in the way, or the folder or the one around it is not writable.
    """
    around = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not around.is_dir():
        raise OutputError(f"The results cannot be written to '{folder}': '{around}' is a file.")
    try:
        tempfile.TemporaryDirectory(prefix=".calibrant-", dir=around).cleanup()
    except OSError as e:
        raise OutputError(
            f"The results cannot be written to '{folder}': '{around}' is not writable ({e.strerror})."
        ) from e


def check_loudness(*, quiet: bool, verbose: bool) -> None:
    """Raise where both less and more than usual is asked for."""
    if quiet and verbose:
        raise ConfigValueError("--quiet and --verbose are given; one of them can be.")


@contextlib.contextmanager
def quiet_stdout(quiet: bool) -> Iterator[None]:
    """Send what a user's own function prints to stderr, and what its programs print, so that stdout holds JSON alone."""
    if quiet:
        with contextlib.redirect_stdout(sys.stderr), stdout_to_stderr():
            yield
    else:
        yield


def print_json(content: Mapping[str, Any]) -> None:
    """Write one JSON object to stdout; numbers that JSON does not have become text."""
    sys.stdout.write(json_of(content) + "\n")


def print_evaluation(model: str, result: Evaluation) -> None:
    """Write one line, and what was left out of the data."""
    console = _console()
    rate = result.samples / max(result.seconds, 1e-9)
    console.print(
        f"{result.metric} {result.value:.6g}   {model}, {result.samples} samples, {result.seconds:.1f} s "
        f"({rate:.0f} samples/s)"
    )
    for note in result.notes:
        console.print(f"Note: {note}")


def print_summary(summary: Mapping[str, Any], files: Sequence[Path], *, verbose: bool) -> None:
    """Write a readable summary of a quantization.

    Args:
        summary: As in `summary.json`.
        files: What was written.
        verbose: Name each layer in float, each folded batch normalization and each candidate.
    """
    console = _console()
    rows = _table()
    for label, text in _rows(summary):
        rows.add_row(label, text)
    console.print(
        f"[bold]{_escaped(summary['model'])}[/bold] quantized for target {summary['target']}"
    )
    console.print(rows)
    if summary["quality"]["outputs"] or summary["quality"]["not_compared"]:
        console.print(_quality(summary["quality"]))
    else:
        console.print("Not measured: there is no data.")
    if verbose:
        for table in (*_by_node(summary), *_details(summary)):
            console.print(table)
    folder = files[0].parent if files else ""
    console.print(f"Written to {_escaped(str(folder))}: {', '.join(f.name for f in files)}")
    for note in (
        *summary["data"]["notes"],
        *_slower(summary),
        *(n["message"] for n in summary["notes"]),
    ):
        console.print(f"Note: {_escaped(note)}")
    print_warnings(summary)


def print_warnings(summary: Mapping[str, Any]) -> None:
    """Write the warnings of a summary."""
    console = _console()
    for warning in summary["warnings"]:
        console.print(f"[bold red]Warning:[/bold red] {_escaped(warning)}")


def _by_reason(in_float: Sequence[Mapping[str, Any]]) -> str:
    """Return what stays in float and why, shortened: a few layers for each reason, a few reasons."""
    reasons: dict[str, list[str]] = {}
    for layer in in_float:
        reasons.setdefault(layer["reason"], []).append(layer["layer"])
    told = [
        f"{', '.join(names[:NAMED])}{f' and {len(names) - NAMED} more' if len(names) > NAMED else ''}: {reason}"
        for reason, names in list(reasons.items())[:NAMED]
    ]
    return "; ".join(told) + ("; …" if len(reasons) > NAMED else "")


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    layers, passes, size = summary["layers"], summary["passes"], summary["size"]
    in_float = layers["float"]
    data = summary["data"]
    if data["samples"]:
        yield "data", f"{data['samples']} samples in {data['batches']} batches"
    folded = sum(1 for f in passes["folded"] if not f["reason"])
    text = f"{layers['quantized']} quantized, {len(in_float)} left in float"
    yield "layers", text + (f", {folded} batch normalizations folded" if folded else "")
    if in_float:
        yield "in float", _by_reason(in_float)
    chosen = [
        f"{d['stage'].replace('_', ' ')} {d['name']}" for d in summary["decisions"] if d["chosen"]
    ]
    if chosen:
        yield "chosen", ", ".join(chosen)
    if promotion := summary["promotion"]:
        raised = [x["node"] for x in promotion["ranking"] if x["raised"]]
        listed = ", ".join(raised[:6]) + (", …" if len(raised) > 6 else "")
        yield "raised", f"{len(raised)} layers to {promotion['precision']}: {listed or 'none'}"
    search = summary["search"]
    if search is not None and search["scope"] == "layer":
        share = search["nodes_run"] / max(1, search["nodes_of_full_runs"])
        yield (
            "searched",
            f"{search['nodes']} nodes by {search['metric']}, {share:.0%} of the work of whole models",
        )
    if tried := passes["bias_by_rule"]:
        kept = sum(x["kept"] for x in tried)
        yield "biases", f"{kept} corrected by rule, {len(tried) - kept} left"
    if learned := [x for x in passes["rounding_learned"] if not x["reason"]]:
        gain = sum(x["learned"] / max(x["nearest"], 1e-30) for x in learned) / len(learned)
        yield (
            "rounding",
            f"learned in {len(learned)} layers; their squared error is {gain:.0%} of that of rounding to nearest",
        )
    yield (
        "size",
        f"{_bytes(size['float_bytes'])} -> {_bytes(size['deploy_bytes'])} ({size['ratio']:.0%})",
    )
    if few := size["few_levels"]["layers"]:
        yield "weights", _few_levels(size["few_levels"], len(few))
    if operands := summary["compensation"]["operands"]:
        more = summary["compensation"]["more_operators"]
        yield (
            "compensation",
            f"{operands} operands in two 8-bit parts: {more:+d} int8 operators",
        )
    if latency := summary["latency"]:
        yield (
            "latency",
            f"{latency['float_ms']:.3g} ms float -> {latency['quantized_ms']:.3g} ms quantized "
            f"({latency['speedup']:.2f} times as fast) in ONNX Runtime here",
        )
    yield (
        "time",
        f"{summary['time_s']['total']:.1f} s, peak memory {summary['peak_memory_mb']:.0f} MB",
    )


def _slower(summary: Mapping[str, Any]) -> list[str]:
    """Return why the model is slower here, where that is no warning because the model is for another device."""
    text = (summary["latency"] or {}).get("slower", "")
    return [text] if text and text not in summary["warnings"] else []


def _few_levels(few: Mapping[str, Any], layers: int) -> str:
    int8, packed = few["int8_bytes"], few["packed_bytes"]
    return (
        f"{layers} keep few levels: {_bytes(int8)} as int8 -> {_bytes(packed)} as indices and levels "
        f"({packed / int8:.0%})"
    )


def _quality(quality: Mapping[str, Any]) -> Table:
    table = _table("output", "SQNR, dB", "cosine", "largest error", "same top-1")
    for name, q in with_parts(quality["outputs"]):
        agreement = q.get("top1_agreement")
        table.add_row(
            _escaped(name),
            _number(q["sqnr_db"], ".1f"),
            _number(q["cosine"], ".5f"),
            _number(q["max_error"], ".3g"),
            "-" if agreement is None else f"{agreement:.1%}",
        )
    table.caption = f"quantized against float, on {quality['samples']} of the calibration samples"
    table.caption_justify = "left"
    return table


def _details(summary: Mapping[str, Any]) -> Iterator[Table]:
    decisions = _table("tried", "setting", "metric", "score", "chosen", title="Choices")
    for d in summary["decisions"]:
        metric = "SQNR, dB" if d["metric"] == "sqnr" else d["metric"]
        score = _number(d["score"], ".2f" if d["metric"] == "sqnr" else ".6f")
        decisions.add_row(d["stage"], d["name"], metric, score, "yes" if d["chosen"] else "")
    if decisions.row_count:
        yield decisions
    if promotion := summary["promotion"]:
        ranking = _table(
            "layer",
            promotion["metric"],
            "of all multiplications",
            "raised",
            title="What layers lose",
        )
        for x in promotion["ranking"]:
            ranking.add_row(
                _escaped(x["node"]),
                _number(x["score"], ".6f"),
                f"{x['macs']:.1%}",
                promotion["precision"] if x["raised"] else "",
            )
        yield ranking
    if summary["passes"]["rounding_learned"]:
        rounding = _table(
            "layer", "nearest", "learned", "weights changed", title="Squared error by rounding"
        )
        for x in summary["passes"]["rounding_learned"]:
            rounding.add_row(
                _escaped(x["layer"]),
                *([x["reason"], "", ""] if x["reason"] else _learned(x)),
            )
        yield rounding
    if summary["passes"]["bias_by_rule"]:
        biases = _table(
            "layer", "metric", "before", "after", "samples", "corrected", title="Biases by rule"
        )
        for x in summary["passes"]["bias_by_rule"]:
            before = x["reason"] or _six(x["before"])
            after = "" if x["reason"] else _six(x["after"])
            done = "yes" if x["kept"] else ""
            biases.add_row(
                _escaped(x["layer"]), x["metric"], before, after, str(x["samples"]), done
            )
        yield biases
    if summary["size"]["few_levels"]["layers"]:
        few = _table(
            "layer",
            "levels",
            "int8, bytes",
            "indices and levels, bytes",
            "stored as",
            "rounds kept",
            title="Weights of few levels",
        )
        kept = [x["layer"] for x in summary["passes"]["levels_refined"] if x["kept"]]
        for x in summary["size"]["few_levels"]["layers"]:
            few.add_row(
                _escaped(x["layer"]),
                str(x["levels"]),
                str(x["int8_bytes"]),
                str(x["packed_bytes"]),
                x["stored"],
                str(kept.count(x["layer"])),
            )
        yield few
    if summary["layers"]["float"]:
        left = _table("layer", "operator", "reason", title="Left in float")
        for layer in summary["layers"]["float"]:
            left.add_row(_escaped(layer["layer"]), layer["op_type"], _escaped(layer["reason"]))
        yield left
    times = _table("stage", "seconds", title="Time")
    for stage, seconds in summary["time_s"].items():
        times.add_row(stage, f"{seconds:.2f}")
    yield times


def _by_node(summary: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the table of nodes and that of outputs, as Horizon's tools print them."""
    if summary["nodes"]:
        nodes = _table("Node", "Type", "Cosine", "Threshold", "DataType", title="Nodes")
        for n in summary["nodes"]:
            figures = (_six(n["cosine"]), _six(n["threshold"]))
            nodes.add_row(_escaped(n["node"]), _escaped(n["type"]), *figures, n["data_type"])
        yield nodes
    if summary["distances"]:
        columns = ("Output", "Cosine", "L1", "RMSE", "Chebyshev", "Worst sample")
        outputs = _table(*columns, title="Outputs")
        for d in summary["distances"]:
            distances = (_six(d[k]) for k in ("cosine", "l1", "rmse", "chebyshev"))
            outputs.add_row(_escaped(d["name"]), *distances, str(d["worst_sample"]))
        yield outputs


def _six(value: Any) -> str:
    return "--" if value is None else _number(value, ".6f")


def _learned(x: Mapping[str, Any]) -> list[str]:
    return [_number(x["nearest"], ".3g"), _number(x["learned"], ".3g"), f"{x['changed']:.1%}"]


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else str(value)


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"

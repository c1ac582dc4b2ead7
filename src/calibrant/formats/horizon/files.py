"""The stage models of the Horizon tools, and `quant_info.json`.

| file | content |
|---|---|
| `original_float_model.onnx` | the model as it was given |
| `optimized_float_model.onnx` | prepared and folded: its names are those that `node_config` takes. `origin` in its metadata, JSON: node -> nodes of the original that it was made of |
| `calibrated_model.onnx` | float, with calibration nodes (`formats.horizon.calibrated`) |
| `ptq_model.onnx`, `quantized_model.onnx` | the deployable model, under the newer name and the older one |
| `quant_info.json` | `formats.horizon.info` |

Channels that were rescaled, Muls that were put in and float16 belong to calibration; the optimized model
computes what the original computes.

Source: docs/reference/artefacts.md, "Files of --format horizon".
"""

from __future__ import annotations

import json

import onnx_ir as ir

from calibrant.findings import Findings
from calibrant.formats._files import Files, as_json, named
from calibrant.formats.horizon.calibrated import emit_calibrated
from calibrant.formats.horizon.info import horizon_info
from calibrant.graph.load import prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.graph.passes.lift_qdq import lift_quantizers
from calibrant.graph.values import drop_unused_initializers, values_by_name
from calibrant.solution import Built, Solution

__all__ = ["horizon_files", "origins"]

#: Key of the optimized model's metadata.
ORIGIN = "origin"


def horizon_files(solution: Solution, built: Built, findings: Findings, prefix: str) -> Files:
    """Return the stage models and `quant_info.json` of a solution."""
    optimized = _optimized(solution)
    origin = origins(solution.original, optimized)
    optimized.metadata_props[ORIGIN] = json.dumps(origin, ensure_ascii=False)
    calibrated = emit_calibrated(solution.model, solution.plan, solution.params)
    models = {
        "original_float_model.onnx": solution.original,
        "optimized_float_model.onnx": optimized,
        "calibrated_model.onnx": calibrated,
        "ptq_model.onnx": built.deploy,
        "quantized_model.onnx": built.deploy,
    }
    return Files(
        {named(prefix, name): model for name, model in models.items()},
        {named(prefix, "quant_info.json"): as_json(horizon_info(solution, findings, origin))},
    )


def _optimized(solution: Solution) -> ir.Model:
    model = prepare(solution.original)
    lift_quantizers(model)
    if solution.form.fold:
        fuse_batchnorm(model, skip=solution.form.keep_batch_norm)
    for graph in model.graphs():
        drop_unused_initializers(graph)  # weights before they were folded
    return model


def origins(original: ir.Model, optimized: ir.Model) -> dict[str, list[str]]:
    """Say which nodes of a model each node of its optimized form was made of.

    A node that is no longer there belongs to the one whose output took its place, or else to the one behind
    which it stood; one that computed a constant belongs to the reader of the constant. A node without a name is
    called by its first output.

    Returns:
        Node of the optimized model -> nodes of the original, in their order. Empty for a node that no node of
        the original stands behind (those that raising the opset put in).
    """
    there = values_by_name(optimized.graph)
    every = list(original.graph.all_nodes())  # the branch of an If may have taken its place
    producers = {out.name: node for node in every for out in node.outputs}
    owner: dict[ir.Node, str] = {}

    def claim(node: ir.Node, name: str) -> None:
        pending = [node]
        while pending:
            current = pending.pop()
            if current in owner:
                continue
            owner[current] = name
            for value in current.inputs:
                source = value.producer() if value is not None else None
                kept = (
                    value is not None and value.name in there and not _constant(there[value.name])
                )
                if source is not None and not kept:
                    pending.append(source)

    by_name = {n.name: n for n in every if n.name}
    for node in optimized.graph:
        for out in node.outputs:
            if out.name in producers:
                claim(producers[out.name], node.name or "")
        if node.name in by_name:
            claim(by_name[node.name], node.name)
    for node in original.graph:
        before = [v.producer() for v in node.inputs if v is not None]
        known = [owner[p] for p in before if p is not None and p in owner]
        if node not in owner and known:
            owner[node] = known[0]
    found: dict[str, list[str]] = {n.name or "": [] for n in optimized.graph}
    for node in every:
        if node in owner:
            found[owner[node]].append(node.name or node.outputs[0].name or "")
    return found


def _constant(value: ir.Value) -> bool:
    return value.const_value is not None and value.producer() is None

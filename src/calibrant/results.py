"""What a quantization leaves: two models, their parameters, the plan, and a summary; and how it is saved."""

from __future__ import annotations

import csv
import io
import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from calibrant._version import __version__
from calibrant.emit._parts import linear_inputs
from calibrant.emit.few_levels import few_levels
from calibrant.formats import artefacts, check_formats
from calibrant.formats._files import as_json, merged, plain
from calibrant.graph.form import ModelForm
from calibrant.graph.load import unsupported_subgraphs
from calibrant.graph.opset import main_opset
from calibrant.graph.proto import as_proto
from calibrant.plan import ActivationDecision, Plan
from calibrant.plan.parameters import Parameters
from calibrant.record.recording import Recording
from calibrant.report import as_html, as_text
from calibrant.report.latency import local_targets, slower
from calibrant.save.folder import written_together
from calibrant.save.manifest import SUMMARY, files_of_before, with_files
from calibrant.save.size import file_bytes, given_bytes, weight_bytes
from calibrant.stats import Statistics

if TYPE_CHECKING:
    import onnx

    from calibrant.run import NodeChoice, Run, SearchReport
    from calibrant.runtime.measure import Latency

__all__ = [
    "NOT_FOR_ACCURACY",
    "QuantizedModel",
    "compensation_of",
    "plan_table",
    "summarize",
]

#: Names of the two models, without `.onnx`.
MODELS = ("deploy", "fake_quant")

#: What a search node by node found.
CHOICES = "layerwise_search.csv"

#: Said in every file of a run on random values (horizon.md 3.1).
NOT_FOR_ACCURACY = "Calibrated on random values: for structure and speed, not for accuracy."

#: Files over this go beside the model, as ONNX external data (protobuf ends at 2 GiB).
EXTERNAL_BYTES = 1_500_000_000

#: An output below this SQNR, or this cosine, has collapsed [dB].
COLLAPSE_SQNR_DB = 5.0
COLLAPSE_COSINE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """The result of `calibrant.quantize`.

    Args:
        deploy: Standard ONNX with QuantizeLinear and DequantizeLinear.
        fake_quant: Float arithmetic with one function call a quantizer.
        params: Scales and zero points by quantizer, integer weights and biases by layer.
        plan: Where quantizers stand and which rule decided each.
        statistics: What was seen of each tensor.
        summary: What was done and how good it is; plain values, as in `summary.json`.
        choices: What a search node by node found, every candidate of every node.
        record: The content of `record.txt`.
        original: The float model as it was given.
        float_model: The float model that the plan belongs to: prepared, folded, equalized.
        form: What was done to `original` to make it.
    """

    deploy: ir.Model
    fake_quant: ir.Model
    params: Parameters
    plan: Plan
    statistics: Statistics
    summary: dict[str, Any] = field(default_factory=dict)
    choices: tuple[NodeChoice, ...] = ()
    record: Recording = field(default_factory=Recording)
    original: ir.Model | None = None
    float_model: ir.Model | None = None
    form: ModelForm = field(default_factory=ModelForm)

    def __repr__(self) -> str:
        return as_text(self.summary)

    def _repr_html_(self) -> str:
        return as_html(self.summary)

    def to_proto(self) -> onnx.ModelProto:
        """Return the deployed model as `onnx.save` takes it.

        Raises:
            ModelError: It is larger than a message of ONNX can be (2 GiB); `save` writes such models.
        """
        return as_proto(self.deploy)

    def to_bytes(self) -> bytes:
        """Return the deployed model as `onnxruntime.InferenceSession` takes it; errors as for `to_proto`."""
        return bytes(self.to_proto().SerializeToString())

    def save(
        self, directory: str | Path, *, formats: Sequence[str] = (), prefix: str = ""
    ) -> list[Path]:
        """Write every result into a folder.

        `deploy.onnx`, `fake_quant.onnx`, `record.txt`, `record.json`, `plan.json`, `summary.json`, and
        `layerwise_search.csv` where candidates were chosen node by node. All are there or none: a full disk
        or an interrupted run leaves what was there before. The folder holds one run: the files of an earlier
        one go (`summary.json` lists them under `files`), and files of others stay.

        Args:
            directory: The folder; it is made if it is not there.
            formats: Vendors whose files are written as well (`calibrant.formats`).
            prefix: What their names begin with, an underscore behind it; the names above have none.

        Returns:
            The files.

        Raises:
            ConfigValueError: There is no such format, or the prefix is no part of a file's name.
            OutputError: The folder cannot be made or written.
        """
        check_formats(formats, prefix)
        folder = Path(directory)
        more = [artefacts(self, name, prefix) for name in dict.fromkeys(formats)]
        with written_together(folder, instead_of=files_of_before(folder)) as temporary:
            self._write(temporary)
            for files in more:
                for name, model in files.models.items():
                    _save(model, temporary / name)
            for name, text in merged([files.texts for files in more]).items():
                (temporary / name).write_text(text, encoding="utf-8")
            names = sorted({SUMMARY, *(p.name for p in temporary.iterdir())})
            summary = as_json(with_files(self.summary, names))
            (temporary / SUMMARY).write_text(summary, encoding="utf-8")
        return [folder / name for name in names]

    @property
    def _is_random(self) -> bool:
        return bool(self.summary.get("data", {}).get("random"))

    def _write(self, folder: Path) -> None:
        for name, model in zip(MODELS, (self.deploy, self.fake_quant), strict=True):
            _save(model, folder / f"{name}.onnx")
        texts = {
            "record.txt": self.record.text(),
            "record.json": as_json(self.record.content()),
            "plan.json": as_json(plan_table(self.plan, self.params)),
        }
        if self._is_random:
            texts["record.txt"] = f"# {NOT_FOR_ACCURACY}\n{texts['record.txt']}"
            extras = [*self.record.extras, {"calibration": NOT_FOR_ACCURACY}]
            texts["record.json"] = as_json(replace(self.record, extras=extras).content())
        if self.choices:
            texts[CHOICES] = _choices_table(self.choices)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def _choices_table(choices: Sequence[NodeChoice]) -> str:
    """Return a search node by node as CSV; no number where all candidates of a node are equal."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["node", "op", "candidate", "metric", "chosen"])
    for c in choices:
        score = "" if c.score is None else repr(c.score)
        table.writerow([c.node, c.op_type, c.candidate, score, str(c.chosen).lower()])
    return text.getvalue()


def _save(model: ir.Model, path: Path) -> None:
    """Write one model, its weights beside it where the file would be too large."""
    external = f"{path.name}.data" if weight_bytes(model) > EXTERNAL_BYTES else None
    ir.save(model, path, external_data=external)


# ---------------------------------------------------------------------------------------------- plan


def plan_table(plan: Plan, params: Parameters) -> dict[str, Any]:
    """Return every tensor with its type, algorithm, parameters and the rule that decided."""
    tensors: list[dict[str, Any]] = []
    for d in plan.activations:
        p = params.activations[d.id]
        low, high = (end.tolist() for end in p.range)
        tensors.append(
            {
                "tensor": d.tensor,
                "role": "activation",
                "type": _storage_name(d, plan),
                "algorithm": "fixed range" if d.fixed_range else str(d.algorithm),
                "symmetric": d.spec.symmetric,
                "axis": p.axis,
                "scale": p.scale.tolist(),
                "zero_point": p.zero_point.tolist(),
                "range": [low, high],
                "folded_into_weights": d.folded,
                "compensated": d.compensation,
                "readers": [f"{node}:{index}" for node, index in d.users],
                "integer_output_of": d.producer,
                "rule": _rule(d),
            }
        )
    for w in plan.weights:
        layer = params.layers[w.layer]
        tensors.append(
            {
                "tensor": w.weight,
                "role": "weight",
                "type": f"int{w.spec.bits}",
                "algorithm": str(w.algorithm),
                "axis": layer.weight.axis,
                "levels": list(layer.levels) if layer.levels is not None else None,
                "scale": [float(s) for s in np.atleast_1d(layer.weight.scale)],
                "zero_point": 0,
                "compensated": w.compensation,
                "readers": [f"{w.layer}:{w.input_index}"],
                "bias_corrected": layer.bias is not None,
                "rule": dict(w.origin) or "default",
            }
        )
    return {
        "target": plan.target.name,
        "tensors": tensors,
        "layers": [
            {
                "layer": d.node,
                "op_type": d.op_type,
                "quantized": d.quantized,
                "reason": d.reason,
                "settings": {
                    k: v if isinstance(v, (int, float)) else str(v) for k, v in d.settings.items()
                },
                "rule": dict(d.origin) or "default",
            }
            for d in plan.layers
        ],
        "kept_in_integers": list(plan.followers),
        "notes": [asdict(n) for n in plan.notes],
    }


def _storage_name(decision: ActivationDecision, plan: Plan) -> str:
    unsigned = plan.target.unsigned and decision.spec.axis is None
    return f"{'u' if unsigned else ''}int{decision.spec.bits}"


def _rule(decision: ActivationDecision) -> Any:
    if decision.fixed_range is not None:
        return "the operator before it has this range by definition"
    return dict(decision.origin) or "default"


# ------------------------------------------------------------------------------------------- summary


def summarize(source: Any, original: ir.Model, result: QuantizedModel, r: Run) -> dict[str, Any]:
    """Return the summary of a run as plain values."""
    deploy, plan = result.deploy, result.plan
    float_bytes, deploy_bytes = given_bytes(source, original), file_bytes(deploy)
    quantized = [d for d in plan.layers if d.quantized]
    summary: dict[str, Any] = {
        "calibrant": __version__,
        "model": str(source) if isinstance(source, (str, Path)) else "(in memory)",
        "target": plan.target.name,
        "data": {
            "samples": r.samples,
            "batches": r.batches,
            "random": r.recipe.calibration.random,
            "notes": r.data_notes,
        },
        "quality": {
            "samples": r.probe_samples,
            "outputs": {
                q.name: {k: v for k, v in asdict(q).items() if k != "name"} for q in r.quality
            },
            "not_compared": list(r.not_compared),
        },
        "nodes": [asdict(n) for n in r.nodes],
        "distances": [asdict(d) for d in r.distances],
        "decisions": [asdict(c) for c in r.candidates],
        "search": _search(r.search),
        "promotion": asdict(r.promotion) if r.promotion is not None else None,
        "layers": {
            "quantized": len(quantized),
            "float": [
                {"layer": d.node, "op_type": d.op_type, "reason": d.reason}
                for d in plan.layers
                if not d.quantized
            ],
            "kept_in_integers": list(plan.followers),
            "subgraphs_in_float": unsupported_subgraphs(original),
        },
        "passes": {
            "folded": [asdict(f) for f in r.folded],
            "float16": [asdict(i) for i in r.half],
            "equalized": [
                {"source": e.source, "readers": e.readers, "spread": e.spread} for e in r.equalized
            ],
            "balanced": [{"tensor": b.tensor, "layers": b.layers} for b in r.balanced],
            "rounding_learned": [asdict(x) for x in r.learned],
            "levels_refined": [asdict(x) for x in r.refinements],
            "bias_corrected": [asdict(c) for c in r.corrections],
            "bias_by_rule": [asdict(c) for c in r.corrections_by_rule],
        },
        "size": {
            "float_bytes": float_bytes,
            "deploy_bytes": deploy_bytes,
            "ratio": deploy_bytes / max(1, float_bytes),
            "few_levels": few_levels(plan, result.params),
        },
        "compensation": compensation_of(result),
        "opset": {"before": main_opset(original), "after": main_opset(deploy)},
        "time_s": {k: round(v, 4) for k, v in r.seconds.items()},
        "peak_memory_mb": round(_peak_mb(), 1),
        "latency": _latency(r.latency, plan.target.name),
        "notes": [asdict(n) for n in plan.notes],
    }
    summary["warnings"] = _warnings(summary, r) + _lost_tensors(result)
    return plain(summary)  # type: ignore[no-any-return]


def compensation_of(result: QuantizedModel) -> dict[str, int]:
    """Count the operands in two 8-bit parts, and the operators that the deployed model has more for them."""
    plan = result.plan
    ones, twos = (
        sum(bool(linear_inputs(n)) for n in m.graph) for m in (result.fake_quant, result.deploy)
    )
    operands = sum(max(1, len(d.users)) for d in plan.activations if d.compensation)
    operands += sum(w.compensation for w in plan.weights)
    return {"operands": operands, "more_operators": twos - ones}


def _search(report: SearchReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    found = asdict(report)
    rows, work, full = (found.pop(key) for key in ("rows", "work", "full"))
    return {
        **found,
        "nodes": len({row["node"] for row in rows}),
        "nodes_run": work["nodes"],
        "nodes_of_full_runs": full["nodes"],
        "macs_run": work["macs"],
        "macs_of_full_runs": full["macs"],
    }


def _latency(latency: Latency | None, target: str) -> dict[str, Any] | None:
    if latency is None:
        return None
    text = slower(latency.float_ms, latency.quantized_ms, target, local_targets())
    return {**asdict(latency), "speedup": latency.speedup, "slower": text}


def _warnings(summary: dict[str, Any], r: Run) -> list[str]:
    warnings = [NOT_FOR_ACCURACY] if r.recipe.calibration.random else []
    warnings += [
        f"Output '{name}' was not compared: it is no floating point tensor, or its shape depends on the "
        "values before it. What it is computed from was compared where that is a tensor."
        for name in r.not_compared
    ]
    for q in r.quality:
        if not math.isfinite(q.cosine):
            warnings.append(f"Output '{q.name}' of the quantized model is not finite.")
        elif q.sqnr_db < COLLAPSE_SQNR_DB or q.cosine < COLLAPSE_COSINE:
            warnings.append(
                f"Output '{q.name}' has collapsed: SQNR {q.sqnr_db:.1f} dB, cosine {q.cosine:.3f} against "
                "the float model on calibration samples. Do not deploy this model as it is."
            )
        elif q.distinct_share < 0.05:
            warnings.append(
                f"Output '{q.name}' keeps {q.distinct_share:.1%} of its distinct values: it may have "
                "collapsed."
            )
    warnings += [
        f"{i.clipped} constants of node '{i.node}' are beyond the range of float16 and were clipped."
        for i in r.half
        if i.clipped
    ]
    warnings += [
        f"{i.overflows} values at node '{i.node}' are beyond the range of float16 (65504) on calibration samples and "
        "saturate there. Leave it in float32."
        for i in r.half
        if i.overflows
    ]
    if r.latency is not None and summary["target"] in local_targets():
        warnings += filter(None, [summary["latency"]["slower"]])
    warnings += [
        f"The bodies of node '{name}' stay in float."
        for name in summary["layers"]["subgraphs_in_float"]
    ]
    return warnings


def _lost_tensors(result: QuantizedModel) -> list[str]:
    """Tensors so small that the guard of the vendors' kernel made their scale 1, so that all becomes 0."""
    lost = []
    for d in result.plan.activations:
        stats = result.statistics.get(d.tensor)
        if stats is None or not (result.params.activations[d.id].scale == 1.0).all():
            continue
        largest = max(abs(stats.min), abs(stats.max))
        if 0 < largest < 0.5:
            lost.append(
                f"Tensor '{d.tensor}' has values up to {largest:.3g} only: its scale fell below 1.19e-7 "
                "and became 1 (the guard of the min/max kernel), so it is quantized to 0. Leave its readers in float, or use "
                "8 bits."
            )
    return lost


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20

"""The graphs of the Ascend tools, and their quant-info file.

| file | content |
|---|---|
| `fake_quant_model.onnx` | integers in float tensors, standard operators: any ONNX runtime runs it |
| `deploy_model.onnx` | AscendQuant, integer layers, AscendDequant: for the vendor's converter, no ONNX runtime |
| `quant_info.json` | which nodes stand for which layer, with scales and offsets |

Source: docs/reference/artefacts.md, "Files of --format ascend".
"""

from __future__ import annotations

from calibrant.findings import Findings
from calibrant.formats._files import Files, as_json, named
from calibrant.formats.ascend.deploy import emit_ascend_deploy
from calibrant.formats.ascend.fake_quant import emit_ascend_fake_quant
from calibrant.formats.ascend.info import ascend_info
from calibrant.solution import Built, Solution

__all__ = ["ascend_files"]


def ascend_files(solution: Solution, _: Built, findings: Findings, prefix: str) -> Files:
    """Return both graphs and the quant-info file of a solution.

    Raises:
        UnsupportedError: The graphs have no form for what was quantized.
        ModelError: A bias does not fit 32 bits.
    """
    model, plan, params = solution.model, solution.plan, solution.params
    graphs = [
        emit_ascend_fake_quant(model, plan, params),
        emit_ascend_deploy(model, plan, params),
    ]
    folded: dict[str, list[str]] = {}
    for f in findings.passes.folded:
        if not f.reason:
            folded.setdefault(f.layer, []).append(f.batch_norm)
    info = ascend_info(model, plan, params, graphs, folded)
    return Files(
        {
            named(prefix, "fake_quant_model.onnx"): graphs[0].model,
            named(prefix, "deploy_model.onnx"): graphs[1].model,
        },
        {named(prefix, "quant_info.json"): as_json(info)},
    )

"""Runs for the tests of the report: a small network with branches, quantized once, and one whose names are hostile."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import parser

from calibrant.diagnose.evidence import evidence_of
from calibrant.report.evidence import COMMANDS_FILE, Commands, text_of
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import batches, quantize, quantized

#: A name that would end the script or the attribute that it stands in, and run.
HOSTILE = "</script><img src=x onerror='window.hurt=1'>\"&"


@cache
def evidence(name: str) -> dict[str, str]:
    """Return what a report of one of `NETS` shows beyond its summary."""
    _, feeds = NETS[name]()
    line = Commands().with_line(["calibrant", "quantize", "my model.onnx"])
    shown = evidence_of(quantized(name, "generic"), batches(feeds))
    return {COMMANDS_FILE: text_of(line), **shown}


def saved(folder: Path, name: str = "residual") -> Path:
    """Save a run with all that a report shows; the report, too."""
    quantized(name, "generic").save(folder, texts=evidence(name), report=True)
    return folder


@cache
def hostile() -> tuple[QuantizedModel, dict[str, str]]:
    """Quantize a network whose names are markup."""
    model: Any = parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,4] x) => (float[N,4] y) <float[4,4] w> { a = MatMul(x, w)  y = Relu(a) }
        """
    )
    del model.graph.initializer[:]
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(4, 4)).astype(np.float32), "w")
    model.graph.initializer.append(weight)
    model.graph.node[0].name = HOSTILE
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = f"a{HOSTILE}"
    data = [{"x": rng.normal(size=(8, 4)).astype(np.float32)} for _ in range(4)]
    result = quantize(model, data)
    return result, evidence_of(result, data)

"""Compare the outputs of a deployed model with those of the float model, on the probe."""

from __future__ import annotations

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.findings import QualityFindings
from calibrant.runtime.measure import compare, run
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.tap import expose

__all__ = ["quality_of"]


def quality_of(deploy: ir.Model, probe: Probe, runtime: Runtime = CPU) -> QualityFindings:
    """Compare the deployed model's outputs with the float ones.

    Where one cannot be compared (labels, boxes that are left after a selection), the tensors that it is
    selected from are compared besides.
    """
    quality = compare(probe.reference, run(deploy, probe.feeds, runtime=runtime))
    compared = {q.name for q in quality}
    missing = tuple(v.name or "" for v in deploy.graph.outputs if v.name not in compared)
    if missing and not set(probe.scored) <= compared:
        tapped = run(expose(deploy, probe.scored), probe.feeds, runtime=runtime)
        inner = compare(probe.scored_reference, tapped)
        quality += [q for q in inner if q.name not in compared]
    return QualityFindings(probe.samples, tuple(quality), missing)

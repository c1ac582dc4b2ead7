"""Compare the outputs of a deployed model with those of the float model, on the probe, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from calibrant.analysis.collapse import part_qualities
from calibrant.analysis.parts import parts_of
from calibrant.analysis.probe import Probe
from calibrant.findings import QualityFindings
from calibrant.runtime.measure import Answered, OutputQuality, Outputs, compare, run
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.saturation import kernels_are_exact, saturation
from calibrant.runtime.session import in_one_piece
from calibrant.runtime.tap import expose

__all__ = ["quality_of"]

#: Whether kernels of this CPU saturate is seen on so many samples.
SATURATION_SAMPLES = 4


def quality_of(
    deploy: ir.Model,
    probe: Probe,
    runtime: Runtime = CPU,
    *,
    unseen: Outputs | None = None,
    written: bytes | ir.Model | None = None,
) -> QualityFindings:
    """Compare the deployed model's outputs with the float ones.

    The figures are those of kernels that do not saturate; what this CPU's own make of the model is looked at besides.
    Where an output cannot be compared (labels, boxes that are left after a selection), the tensors that it is
    selected from are compared besides.

    Args:
        deploy: The deployed model.
        probe: The samples, and what the float model answers to them.
        runtime: Where it runs.
        unseen: Outputs for the first feeds of the probe, with ranges that do not come from them. The SQNR of parts is
            taken from these, where there are any.
        written: The deployed model as sessions are opened from it (`runtime.session.in_one_piece`), where it is at hand.
    """
    exact = kernels_are_exact(runtime)
    source = written if written is not None else in_one_piece(deploy)
    outputs = run(source, probe.feeds, integers=exact, runtime=runtime)
    quality = _by_part(deploy, probe, probe.reference, outputs)
    few = probe.first_samples(SATURATION_SAMPLES)
    count = len(few.small)
    known = quality if count == len(probe.small) else compare(few.reference, outputs[:count])
    spoilt = saturation(
        source, few.feeds, few.reference, known, samples=few.samples, runtime=runtime
    )
    compared = {q.name for q in quality}
    computed = [v.name or "" for v in deploy.graph.outputs if v.producer() is not None]
    missing = tuple(name for name in computed if name not in compared)
    if missing and not set(probe.scored) <= compared:
        tapped = run(expose(deploy, probe.scored), probe.feeds, integers=exact, runtime=runtime)
        inner = _by_part(deploy, probe, probe.scored_reference, tapped)
        quality += [q for q in inner if q.name not in compared]
    quality = [_for_unseen(q, deploy, probe, unseen or []) for q in quality]
    samples = sum(b.size for b in probe.small[: len(unseen or [])])
    return QualityFindings(probe.samples, tuple(quality), missing, tuple(spoilt), samples)


def _by_part(
    deploy: ir.Model, probe: Probe, reference: Answered, outputs: Outputs
) -> list[OutputQuality]:
    found = compare(reference, outputs)
    parts = {q.name: parts_of(deploy, q.name, [r[q.name] for r in reference]) for q in found}
    sizes: Sequence[int] = [b.size for b in probe.small]
    by_name = part_qualities(reference, outputs, parts, sizes=sizes)
    return [replace(q, parts=by_name[q.name]) for q in found]


def _for_unseen(
    q: OutputQuality, deploy: ir.Model, probe: Probe, unseen: Outputs
) -> OutputQuality:
    """Return an output whose parts have their SQNR for samples that were not seen."""
    if not unseen or q.name not in unseen[0] or q.name not in probe.reference[0]:
        return q
    reference = probe.reference[: len(unseen)]
    parts = {q.name: parts_of(deploy, q.name, [r[q.name] for r in probe.reference])}
    sizes = [b.size for b in probe.small[: len(unseen)]]
    found = part_qualities(reference, unseen, parts, sizes=sizes).get(q.name, ())
    by_name = {p.name: p.sqnr_db for p in found}
    own = (replace(p, sqnr_db=by_name.get(p.name, p.sqnr_db)) for p in q.parts)
    return replace(q, parts=tuple(own))

"""All checks, in the order in which their answers matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.data.open import open_data
from calibrant.diagnose.triage.finding import Finding
from calibrant.diagnose.triage.integers import check_integers
from calibrant.diagnose.triage.layout import check_layout
from calibrant.diagnose.triage.likeness import check_likeness
from calibrant.diagnose.triage.masks import Mask, check_masks
from calibrant.diagnose.triage.overflow import check_overflow
from calibrant.diagnose.triage.parity import check_parity
from calibrant.diagnose.triage.samples import check_samples
from calibrant.diagnose.triage.shared import check_shared
from calibrant.diagnose.triage.sketch import sketch
from calibrant.errors import DataError
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.measure import run
from calibrant.runtime.runtime import Runtime
from calibrant.tuning.samples import Samples
from calibrant.tuning.solved import Solved

__all__ = ["triage"]

#: Samples that the float model is compared on with its reference.
PARITY_SAMPLES = 16


def triage(
    solved: Solved,
    samples: Samples,
    masks: list[Mask],
    *,
    evaluation: Any = None,
    reference: Any = None,
    preprocess: str | Path | None = None,
    runtime: Runtime,
) -> list[Finding]:
    """Return what the checks saw; nothing where nothing is wrong.

    Args:
        solved: How the model is quantized now.
        samples: Its calibration data.
        masks: Quantizers that would have to carry a mask.
        evaluation: Samples like those of real use, or None.
        reference: Outputs that the float model should give to the calibration data, by name (a mapping or an .npz file), or
            another ONNX file of the network. None for none.
        preprocess: File that says how stored samples become inputs.
        runtime: Where models run.

    Raises:
        DataError: Evaluation data or reference does not fit the model.
        ModelError: A model does not run.
    """
    probe, original = solved.probe, solved.solution.original
    assert probe is not None
    data = sketch(samples.first())
    found: list[Finding] = []
    if reference is not None:
        found += _parity(original, probe, reference, preprocess, runtime)
    found += check_layout(data)
    if evaluation is not None:
        stream = open_data(evaluation, model_inputs(original), preprocess=preprocess)
        found += check_likeness(data, sketch(iter(stream)))
    found += check_samples(data, samples.total)
    found += check_integers(data, solved.solution.plan, {m.tensor for m in masks})
    found += check_masks(masks)
    found += check_overflow(solved, probe.small[:2], runtime)
    found += check_shared(solved)
    return sorted(found, key=lambda f: -f.confidence)


def _parity(
    original: ir.Model,
    probe: Probe,
    reference: Any,
    preprocess: str | Path | None,
    runtime: Runtime,
) -> Iterator[Finding]:
    feeds, size = [], 0
    for batch in probe.small:
        if size >= PARITY_SAMPLES:
            break
        feeds.append(batch.feeds)
        size += batch.size
    mine = run(original, feeds, runtime=runtime)
    if isinstance(reference, str | Path) and Path(reference).suffix == ".onnx":
        return check_parity(mine, run(str(reference), feeds, runtime=runtime))
    if isinstance(reference, str | Path):
        try:
            with np.load(reference, allow_pickle=False) as file:
                reference = dict(file)
        except (OSError, ValueError) as e:
            raise DataError(f"The reference '{reference}' cannot be read: {e}") from e
    if not hasattr(reference, "keys"):
        return check_parity(mine, run(reference, feeds, runtime=runtime))
    return check_parity(mine, [reference])

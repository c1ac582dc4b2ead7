"""Outputs part by part: their figures for the summary, and the warning where one has collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.analysis.parts import Part
from calibrant.runtime.part_quality import PartQuality, collapse_warnings, quality_of_part

__all__ = ["collapsed", "part_qualities", "part_rows"]

Array = npt.NDArray[Any]
Outputs = Sequence[Mapping[str, Array]]


def part_qualities(
    reference: Outputs,
    outputs: Outputs,
    parts: Mapping[str, Sequence[Part]],
    *,
    sizes: Sequence[int] | None = None,
) -> dict[str, tuple[PartQuality, ...]]:
    """Return what each part of each tensor is like in the quantized model.

    Args:
        reference: Tensors of the float model, one mapping for each run.
        outputs: The same of the quantized model.
        parts: Parts by tensor. Tensors that are not floating point numbers, or that came out in another shape, are left
            out: their values have no partners.
        sizes: Samples in each run, where the first axis holds them; None: each run is one sample.
    """
    found = {}
    for name, of in parts.items():
        pairs = [
            (np.asarray(a[name]), np.asarray(b[name]))
            for a, b in zip(reference, outputs, strict=True)
        ]
        if any(a.dtype.kind != "f" or a.shape != b.shape for a, b in pairs):
            continue
        found[name] = tuple(
            quality_of_part(p.name, ((p.take(a), p.take(b)) for a, b in pairs), _rows(p, sizes))
            for p in of
        )
    return found


def part_rows(qualities: Mapping[str, Sequence[PartQuality]]) -> dict[str, list[dict[str, Any]]]:
    """Return the figures as plain values, as the summary lists them: by tensor, one mapping for each part."""
    return {name: [asdict(p) for p in of] for name, of in qualities.items()}


def collapsed(
    reference: Outputs,
    outputs: Outputs,
    parts: Mapping[str, Sequence[Part]],
    *,
    sizes: Sequence[int] | None = None,
) -> list[str]:
    """Return a sentence for each part that has collapsed; arguments as for `part_qualities`."""
    qualities = part_qualities(reference, outputs, parts, sizes=sizes)
    return [text for name, of in qualities.items() for text in collapse_warnings(name, of)]


def _rows(part: Part, sizes: Sequence[int] | None) -> Sequence[int] | None:
    """Return sizes where a part leaves the samples together."""
    return None if any(axis == 0 for axis, _ in part.where) else sizes

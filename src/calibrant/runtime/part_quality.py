"""Measure one part of an output against the float model's, and say whether it has collapsed.

A part has collapsed where it says nothing of its input any more, or nothing that is right:

1. it holds one value, where the float model's differ;
2. it hardly moves from one sample to the next, where the float model's does: less than a tenth as far;
3. its error is as large as the float model's values spread around their mean: one value throughout would be as near;
4. its SQNR is below 5 dB, or its cosine similarity below 0.9;
5. it keeps less than 5 % of the distinct values (256 at most): it may have collapsed.

A part in which the float model gives one value throughout has nothing to lose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "COLLAPSE_COSINE",
    "COLLAPSE_DISTINCT",
    "COLLAPSE_SQNR_DB",
    "PartQuality",
    "collapse_warnings",
    "quality_of_part",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: A part below this SQNR, this cosine, or this share of distinct values has collapsed, or may have.
COLLAPSE_SQNR_DB = 5.0
COLLAPSE_COSINE = 0.9
COLLAPSE_DISTINCT = 0.05

#: What moves less than a tenth as far as it should from sample to sample stands still (a hundredth in energy) …
_STILL = 0.01
#: … unless the samples are too much alike to say so: the float model moves 30 dB less than its values spread, which is
#: about what 8 bits lose.
_ALIKE = 1e-3

#: Values looked at for distinct ones: so many of a run, and so many runs.
_LOOKED_AT = 4096, 8


@dataclass(frozen=True, slots=True)
class PartQuality:
    """One part of an output of the quantized model beside the float one.

    Args:
        name: Name of the part; the output's own where it is all of it.
        sqnr_db: 10 log10(sum a**2 / sum (a - b)**2) over all samples [dB]; inf where equal, -inf where not finite.
        cosine: Cosine similarity of all samples at once; NaN where not finite.
        max_error: Largest absolute difference; inf where not finite.
        distinct_share: Distinct values over those of the float model, or over 256 where these are more.
        constant: Whether the float model gives one value throughout, so that the figures say little.
        collapsed: How it has collapsed, in words; empty where it has not.
    """

    name: str
    sqnr_db: float
    cosine: float
    max_error: float
    distinct_share: float
    constant: bool
    collapsed: str


def collapse_warnings(output: str, parts: Iterable[PartQuality]) -> list[str]:
    """Return a sentence for each part of an output that has collapsed, or may have."""
    found = []
    for p in parts:
        place = "" if p.name == output else f" in part '{p.name}'"
        if p.collapsed:
            found.append(
                f"Output '{output}' has collapsed{place}: {p.collapsed}. Do not deploy this model as it is."
            )
        elif not p.constant and p.distinct_share < COLLAPSE_DISTINCT:
            found.append(
                f"Output '{output}' keeps {p.distinct_share:.1%} of its distinct values{place}: it may have collapsed."
            )
    return found


def quality_of_part(
    name: str, pairs: Iterable[tuple[Array, Array]], sizes: Sequence[int] | None = None
) -> PartQuality:
    """Compare a part.

    Args:
        name: Its name.
        pairs: Its values in the float model and in the quantized one, run by run, of one shape each.
        sizes: Samples in each run, where the first axis holds them; None: each run is one sample.
    """
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in pairs]
    sums = _Sums()
    for a, b in pairs:
        sums.add(a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1))
    constant = not sums.most[0] > sums.least[0]
    distinct = [_distinct([pair[i] for pair in pairs]) for i in (0, 1)]
    share = min(1.0, distinct[1] / min(256, max(1, distinct[0])))
    if not math.isfinite(sums.error):
        reason = "" if constant else "it holds values that are not finite"
        return PartQuality(name, -math.inf, math.nan, math.inf, share, constant, reason)
    reason = "" if constant else _reason(sums, pairs, sizes)
    return PartQuality(name, sums.sqnr_db, sums.cosine, sums.largest, share, constant, reason)


@dataclass(slots=True)
class _Sums:
    """Sums over all values: of the float model's first, of the quantized model's second."""

    count: int = 0
    total: float = 0.0
    power: list[float] = field(default_factory=lambda: [0.0, 0.0])
    least: list[float] = field(default_factory=lambda: [math.inf, math.inf])
    most: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])
    product: float = 0.0
    error: float = 0.0
    largest: float = 0.0

    def add(self, a: Floats, b: Floats) -> None:
        """Add values; where the float model's are not finite (a mask of -inf), there is nothing to compare."""
        if not (said := np.isfinite(a)).all():
            a, b = a[said], b[said]
        self.count += a.size
        self.total += float(a.sum())
        self.product += float((a * b).sum())
        difference = a - b
        self.error += float((difference * difference).sum())
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        for i, x in enumerate((a, b)):
            self.power[i] += float((x * x).sum())
            self.least[i] = min(self.least[i], float(x.min(initial=math.inf)))
            self.most[i] = max(self.most[i], float(x.max(initial=-math.inf)))

    @property
    def sqnr_db(self) -> float:
        if self.error == 0:
            return math.inf
        return 10 * math.log10(self.power[0] / self.error) if self.power[0] else -math.inf

    @property
    def cosine(self) -> float:
        norms = math.sqrt(self.power[0]) * math.sqrt(self.power[1])
        return min(1.0, self.product / norms) if norms else float(self.power[0] == self.power[1])

    @property
    def spread(self) -> float:
        """Sum of squares of the float model's values around their mean."""
        return max(0.0, self.power[0] - self.total**2 / max(1, self.count))


def _reason(sums: _Sums, pairs: Sequence[tuple[Array, Array]], sizes: Sequence[int] | None) -> str:
    """Return in which way a part has collapsed, or nothing."""
    low, high = sums.least[0], sums.most[0]
    sqnr, cosine = sums.sqnr_db, sums.cosine
    figures = f"SQNR {sqnr:.1f} dB, cosine {cosine:.3f} against the float model"
    if not sums.most[1] > sums.least[1]:
        return f"it is {sums.least[1]:.4g} throughout, where the float model gives {low:.4g} to {high:.4g}"
    said = [np.isfinite(a) for a, _ in pairs]
    moved = [
        _movement([np.where(f, pair[i], 0) for f, pair in zip(said, pairs, strict=True)], sizes)
        for i in (0, 1)
    ]
    if moved[0] > _ALIKE * sums.spread and moved[1] < _STILL * moved[0]:
        return (
            f"it is next to the same for every sample, where the float model's is not ({figures})"
        )
    if sums.error >= sums.spread:
        return f"one value throughout would be as near to the float model ({figures})"
    return figures if sqnr < COLLAPSE_SQNR_DB or cosine < COLLAPSE_COSINE else ""


def _movement(arrays: Sequence[Array], sizes: Sequence[int] | None) -> float:
    """Return the sum of squares around the mean of each place over the samples; 0 where there is no second sample."""
    first: Floats | None = None
    total: Floats | float = 0.0
    squares = count = 0.0
    for i, x in enumerate(arrays):
        whole = sizes is None or x.shape[:1] != (sizes[i],)
        rows = x[None] if whole else x
        if not len(rows):
            continue
        first = rows[0].astype(np.float64) if first is None else first
        if rows.shape[1:] != first.shape:
            return 0.0
        difference = rows - first
        count += len(rows)
        total = total + difference.sum(axis=0)
        squares += float((difference**2).sum())
    if first is None or count < 2:
        return 0.0
    return max(0.0, squares - float(np.sum(np.square(total))) / count)


def _distinct(arrays: Sequence[Array]) -> int:
    values, runs = _LOOKED_AT
    looked_at = [np.ravel(x)[:values] for x in arrays[:runs]]
    return int(np.unique(np.concatenate(looked_at)).size) if looked_at else 0

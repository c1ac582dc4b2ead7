"""Scores of a quantized model: by part, and over all parts. `analysis.better` says which of two is better.

For each sample i and part p, signal S and error E are sums of squares of the float model's values and of the
differences. The SQNR of a part is 10 log10(sum_i S / sum_i E), limited to [-20, 120] dB: below, nothing is left that
could be lost; above lies the rounding of float32. A score is the mean over the parts, whatever their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.analysis.parts import Part
from calibrant.runtime.measure import SQNR_LIMITS

__all__ = ["SampleScores", "Score", "sample_scores"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Outputs = Sequence[Mapping[str, Array]]


@dataclass(frozen=True, slots=True, eq=False)
class SampleScores:
    """What a candidate lost, sample by sample and part by part.

    Args:
        parts: Names of the parts.
        signal: Sums of squares of the float model's values (samples, parts).
        error: Sums of squares of the differences (samples, parts); inf where the candidate's are not finite.
        least: Least value of the float model in each part (parts,).
        most: Its largest value (parts,).
    """

    parts: tuple[str, ...]
    signal: Floats
    error: Floats
    least: Floats
    most: Floats

    @classmethod
    def joined(cls, scores: Sequence[SampleScores]) -> SampleScores:
        """Put samples together.

        Raises:
            ValueError: There are none, or the parts differ.
        """
        if len({s.parts for s in scores}) != 1:
            raise ValueError("Scores of no samples, or of different parts, cannot be joined.")
        return cls(
            scores[0].parts,
            np.concatenate([s.signal for s in scores]),
            np.concatenate([s.error for s in scores]),
            np.min([s.least for s in scores], axis=0),
            np.max([s.most for s in scores], axis=0),
        )

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.signal)

    @property
    def varies(self) -> npt.NDArray[np.bool_]:
        """Whether the float model's values of a part differ from each other (parts,)."""
        return np.asarray(self.most > self.least)

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """The parts that a mean is taken over: those that vary, and all where none does (parts,)."""
        return self.varies if self.varies.any() else np.ones(len(self.parts), dtype=bool)

    @property
    def sqnr_db(self) -> Floats:
        """SQNR of each part over all samples (parts,), limited to [-20, 120]; -inf where it is not finite [dB]."""
        signal, error = self.signal.sum(axis=0), self.error.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = 10 * np.log10(signal / error)
        values = np.where(error == 0, np.inf, np.where(signal == 0, -np.inf, values))
        return np.where(np.isfinite(error), np.clip(values, *SQNR_LIMITS), -np.inf)


def sample_scores(
    reference: Outputs,
    outputs: Outputs,
    parts: Mapping[str, Sequence[Part]],
    *,
    sizes: Sequence[int] | None = None,
) -> SampleScores:
    """Return what a candidate's outputs lost.

    Where the float model's values are not finite (a mask of -inf), there is nothing to lose, and they are left out.

    Args:
        reference: Tensors of the float model, one mapping for each run.
        outputs: The same of the candidate. A tensor that is missing equals the float model's; one that came out in
            another shape is as bad as can be.
        parts: Parts by tensor; these tensors are compared.
        sizes: Samples in each run. Where the first axis of all tensors has this length, and no part selects on it, its
            rows are the samples; else the run is one sample. None: each run is one sample.
    """
    names = [p.name for of in parts.values() for p in of]
    on_rows = any(axis == 0 for of in parts.values() for p in of for axis, _ in p.where)
    signal: list[Floats] = []
    error: list[Floats] = []
    least, most = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for i, (ref, out) in enumerate(zip(reference, outputs, strict=True)):
        rows = 1
        if sizes is not None and not on_rows:
            shapes = [np.shape(ref[n])[:1] for n in parts]
            rows = sizes[i] if all(s == (sizes[i],) for s in shapes) else 1
        s, e = np.zeros((rows, len(names))), np.zeros((rows, len(names)))
        column = 0
        for name, of in parts.items():
            a, b = np.asarray(ref[name]), np.asarray(out.get(name, ref[name]))
            for part in of:
                x = part.take(a).astype(np.float64)
                y = (
                    part.take(b).astype(np.float64)
                    if a.shape == b.shape
                    else np.full(x.shape, np.inf)
                )
                s[:, column], e[:, column] = _energies(x.reshape(rows, -1), y.reshape(rows, -1))
                finite = np.isfinite(x)
                x = x if finite.all() else x[finite]
                least[column] = min(least[column], x.min(initial=np.inf))
                most[column] = max(most[column], x.max(initial=-np.inf))
                column += 1
        signal.append(s)
        error.append(e)
    empty = np.zeros((0, len(names)))
    return SampleScores(
        tuple(names),
        np.concatenate([empty, *signal]),
        np.concatenate([empty, *error]),
        least,
        most,
    )


def _energies(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return sums of squares by row: of the float values, and of the differences."""
    said, answered = np.isfinite(x), np.isfinite(y)
    broken: npt.NDArray[np.bool_] = np.zeros(len(x), dtype=np.bool_)
    if not said.all() or not answered.all():
        broken = np.asarray((said & ~answered).any(axis=1))
        x, y = np.where(said, x, 0), np.where(said & answered, y, 0)
    difference = y - x
    return _squares(x), np.where(broken, np.inf, _squares(difference))


def _squares(x: Floats) -> Floats:
    """Return the sum of squares of each row."""
    return np.asarray(np.einsum("ij,ij->i", x, x))


@dataclass(frozen=True, slots=True)
class Score:
    """How good a quantized model is.

    Args:
        db: Mean SQNR over the parts that vary [dB]; -inf where one is not finite, which is the worst there is.
        parts: SQNR of each part that counts [dB], limited to [-20, 120].
        constant: Parts in which the float model gives one value throughout: they say nothing, and do not count unless
            there is no other.
        metric: What a task metric says, or None where there is none.
    """

    db: float
    parts: dict[str, float]
    constant: tuple[str, ...] = ()
    metric: float | None = None

    @classmethod
    def of(cls, samples: SampleScores, *, metric: float | None = None) -> Score:
        """Return the score of a candidate over all its samples."""
        values, counted = samples.sqnr_db, samples.counted
        parts = {n: float(v) for n, v, c in zip(samples.parts, values, counted, strict=True) if c}
        constant = [n for n, v in zip(samples.parts, samples.varies, strict=True) if not v]
        db = float(np.mean(list(parts.values()))) if parts else SQNR_LIMITS[1]
        return cls(db, parts, tuple(constant), metric)

"""Calibration data against evaluation data: range, mean, channel order, 0 to 255 against 0 to 1, normalized twice or not.

Data that was prepared in another way has another mean and spread. With m, s of the calibration data and M, S of the other,
samples are alike where s / S lies near 1 and m near M. Where they are not, known steps of preparation x -> (x * scale - mean) /
std are tried on the calibration data, forward and backward: one that makes both alike is what was forgotten, or done twice.

Colours are swapped where the first and the last differ in mean, by more than chance, and the other way round in the other data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from calibrant.analysis.preparations import KNOWN
from calibrant.diagnose.triage.finding import Finding
from calibrant.diagnose.triage.sketch import Array, Sketch

__all__ = ["check_likeness"]

#: Spreads that differ by more than this factor, or means by more than so many spreads, are not alike …
_FACTOR, _SHIFT = 2.0, 1.0
#: … and these are.
_NEAR_FACTOR, _NEAR_SHIFT = 1.6, 0.6

#: Standard errors by which a difference of two colours is no chance.
_ERRORS = 4.0


def check_likeness(data: Sequence[Sketch], evaluation: Sequence[Sketch]) -> Iterator[Finding]:
    """Compare calibration data with evaluation data, input by input."""
    others = {s.name: s for s in evaluation}
    for mine in data:
        other = others.get(mine.name)
        if other is None or not (mine.is_float and other.is_float):
            continue
        if min(x.size for x in (*mine.samples, *other.samples)) < 2:
            continue
        one, two = mine.by_channel(), other.by_channel()
        if one is None or two is None or one[0].shape[1] != two[0].shape[1]:
            continue
        yield from list(_colours(mine.name, one, two)) or _scale(mine.name, one, two)


def _pooled(found: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return mean and standard deviation of each channel over all samples."""
    means, deviations = found
    mean = means.mean(axis=0)
    return mean, np.sqrt((deviations**2).mean(axis=0) + means.var(axis=0))


def _scale(name: str, one: tuple[Array, Array], two: tuple[Array, Array]) -> Iterator[Finding]:
    (m, s), (mean, std) = _pooled(one), _pooled(two)
    if not ((s > 0).any() and (std > 0).any()) or _alike(m, s, mean, std, _FACTOR, _SHIFT):
        return
    numbers = (
        f"Input '{name}' has mean {m.mean():.3g} and spread {s.mean():.3g} in the calibration data, {mean.mean():.3g} and "
        f"{std.mean():.3g} in the evaluation data"
    )
    for known in [k for k in KNOWN if len(k.mean) in (1, len(m))]:
        for forward in (True, False):
            changed = known.forward(m, s) if forward else known.backward(m, s)
            if not _alike(*changed, mean, std, _NEAR_FACTOR, _NEAR_SHIFT):
                continue
            what = "is missing" if forward else "was done once too often"
            yield Finding(
                "likeness",
                "data",
                f"{numbers}: {known.name} {what} in the calibration data.",
                "Prepare the calibration data as the evaluation data; these lines of a preprocessing file do it.",
                0.95,
                (name,),
                known.lines(forward=forward),
            )
            return
    factor = float(s.mean() / std.mean()) if std.mean() > 0 else np.inf
    far = max(factor, 1 / factor if factor else np.inf)
    yield Finding(
        "likeness",
        "data",
        f"{numbers}.",
        "Prepare both in the same way, and take calibration samples like those of real use.",
        0.9 if far > 4 else 0.7,
        (name,),
    )


def _alike(m: Array, s: Array, mean: Array, std: Array, factor: float, shift: float) -> bool:
    """Whether mean and spread of each channel agree, but for those of other data of the same kind."""
    unit = max(float(std.mean()), 1e-30)
    ratio = float(s.mean()) / unit
    return 1 / factor <= ratio <= factor and float(np.abs(m - mean).mean()) <= shift * unit


def _colours(name: str, one: tuple[Array, Array], two: tuple[Array, Array]) -> Iterator[Finding]:
    """Compare the order of three colours; where they are swapped, the data is alike the other way round."""
    if one[0].shape[1] != 3:
        return
    (m, s), other = _pooled(one), _pooled(two)
    if not _alike(m[::-1], s[::-1], *other, _FACTOR, _SHIFT):
        return
    found = []
    for means in (one[0], two[0]):
        difference = means[:, 0] - means[:, 2]
        if len(difference) < 2:
            return
        error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
        found.append((float(difference.mean()), error))
    (a, ea), (b, eb) = found
    if a * b < 0 and abs(a) > _ERRORS * ea and abs(b) > _ERRORS * eb:
        yield Finding(
            "channel order",
            "data",
            f"In the calibration data channel 0 of input '{name}' lies {a:+.3g} against channel 2, in the evaluation data "
            f"{b:+.3g}: the colours seem to be swapped (RGB, BGR).",
            "Read both in the order of colours that the network was trained with.",
            0.85,
            (name,),
            "color: BGR  # or RGB, whichever the network takes",
        )

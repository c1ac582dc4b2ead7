"""Samples that teach nothing: constant, black, copies of each other, or too few."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from calibrant.diagnose.triage.finding import Finding
from calibrant.diagnose.triage.sketch import Array, Sketch

__all__ = ["check_samples"]

#: Fewer values of an input than these are numbers of their own (a size, an id), not a signal.
_SIGNAL = 16

#: So many different samples show the ranges of most networks; fewer than the second number hardly of any.
_ENOUGH, _FEW = 16, 4

#: Share of samples from which on it is no accident.
_MANY = 0.25


def check_samples(data: Sequence[Sketch], total: int | None) -> Iterator[Finding]:
    """Look at the samples one by one.

    Args:
        data: What is known of each input.
        total: How many samples the data has; None where that is not known.
    """
    signals = [s for s in data if s.is_float and s.samples[0].size >= _SIGNAL]
    for s in signals:
        yield from _constant(s)
    whole = signals or list(data)
    if not whole:
        return
    count = max(len(s.samples) for s in whole)
    keys = [_key([s.samples[i] for s in whole if i < len(s.samples)]) for i in range(count)]
    different = len(set(keys))
    if different < count:
        copies = count - different
        sure = 0.95 if copies >= _MANY * count else 0.6
        yield Finding(
            "duplicates",
            "data",
            f"{copies} of {count} samples are copies of others.",
            "Take different samples: a copy shows no range that the first did not show.",
            sure,
        )
    if different < _ENOUGH and (total is None or total <= count):
        yield Finding(
            "few samples",
            "data",
            f"There {'is' if different == 1 else 'are'} {different} different sample{'s' * (different > 1)}.",
            f"Give {_ENOUGH} to 128 samples that show what the network will see; ranges of few samples clip others.",
            0.9 if different < _FEW else 0.6,
        )


def _constant(data: Sketch) -> Iterator[Finding]:
    count = len(data.samples)
    flat = [x for x in data.samples if float(x.max()) == float(x.min())]
    black = sum(float(x.max()) == 0.0 for x in flat)
    for name, found in (("black", black), ("constant", len(flat) - black)):
        if found:
            what = "0 throughout" if name == "black" else "one value throughout"
            yield Finding(
                f"{name} samples",
                "data",
                f"{found} of {count} samples of input '{data.name}' are {what}.",
                "Look at how they were read: such samples show no range.",
                0.95 if found >= _MANY * count else 0.7,
                (data.name,),
            )


def _key(arrays: Sequence[Array]) -> bytes:
    digest = hashlib.sha256()
    for x in arrays:
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.digest()

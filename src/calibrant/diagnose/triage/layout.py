"""Images whose channels were reshaped to another place and not moved there.

Neighbouring pixels of an image are alike: the mean difference at a distance of 1 is smaller than at a distance of 3. Where (H, W, 3)
was reshaped to (3, H, W), neighbours are of different colours, and values 3 apart are neighbouring pixels of one colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from calibrant.diagnose.triage.finding import Finding
from calibrant.diagnose.triage.sketch import Array, Sketch

__all__ = ["check_layout"]

#: Differences at the distance of the channels, over those of neighbours, below which values are interleaved.
_INTERLEAVED = 0.75

_SIDE = 8


def check_layout(data: Sequence[Sketch]) -> Iterator[Finding]:
    """Look whether colours are interleaved in images that are to have them one after the other."""
    for s in data:
        shape = s.samples[0].shape
        if not s.same_shapes or len(shape) != 3 or shape[0] not in (3, 4):
            continue
        if min(shape[1:]) < _SIDE:
            continue
        rows = np.stack(s.samples).reshape(len(s.samples), -1).astype(np.float64)
        near, far = _rough(rows, 1), _rough(rows, shape[0])
        if near > 0 and far < _INTERLEAVED * near:
            yield Finding(
                "layout",
                "data",
                f"Values of input '{s.name}' that lie {shape[0]} apart are more alike than neighbours ({far:.3g} against "
                f"{near:.3g}): the channels are interleaved, as in NHWC.",
                "Move the axis of the channels (transpose), do not reshape; a preprocessing file does it with these lines.",
                0.9,
                (s.name,),
                "source_layout: NHWC\nlayout: NCHW",
            )


def _rough(rows: Array, distance: int) -> float:
    return float(np.abs(rows[:, distance:] - rows[:, :-distance]).mean())

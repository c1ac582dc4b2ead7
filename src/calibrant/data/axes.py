"""Where the samples of data lie: on axis 0 of every input, or one feed at a time.

| first dimensions of the inputs | example | samples lie |
|---|---|---|
| free, or one number above 1 | `[n, 3, 8, 8]` beside `[n, 4]` | on axis 0 |
| different numbers, or free beside a number above 1 | `[1, 2]` beside `[3]` | one feed at a time |
| 1, alone or beside free; free with different names, or none | `[time, 576]` beside `[1, 1, 128]` | as the data shows |

One feed at a time, a feed is a sample, of whatever shape: one file a feed, one item of a list or a stream, or an
array with an axis of feeds in front. Where the data has to show it, axis 0 counts samples if all inputs have
equally many there; else each feed is one sample.

An input without dimensions is the same number for every sample of a batch and has no say in this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibrant.data.batch import InputInfo

__all__ = ["SampleAxis", "feeds_hint", "rows_of", "sample_axis"]


@dataclass(frozen=True, slots=True)
class SampleAxis:
    """What the inputs of a model allow.

    Args:
        on_axis: Samples may lie on axis 0 of every input.
        by_feed: A feed may be a sample of its own.
        fixed: Samples in every batch where they lie on axis 0; None where that is free.
    """

    on_axis: bool
    by_feed: bool
    fixed: int | None

    @property
    def forms(self) -> tuple[bool, ...]:
        """The values that `by_feed` of an input may have, in the order of trial."""
        return (*((False,) if self.on_axis else ()), *((True,) if self.by_feed else ()))


def sample_axis(inputs: Sequence[InputInfo]) -> SampleAxis:
    """Tell from the shapes of a model's inputs where samples may lie.

    Example:
        >>> import numpy as np
        >>> time, state = ("x", ("time", 576)), ("h", (1, 1, 128))
        >>> inputs = [InputInfo(name, shape, np.dtype(np.float32)) for name, shape in (time, state)]
        >>> sample_axis(inputs)
        SampleAxis(on_axis=True, by_feed=True, fixed=1)
    """
    first = [i.shape[0] for i in inputs if i.shape]
    fixed = {d for d in first if isinstance(d, int)}
    free = [d for d in first if not isinstance(d, int)]
    if len(fixed) > 1 or (free and fixed - {1}):
        return SampleAxis(on_axis=False, by_feed=True, fixed=None)
    one_name = len(set(free)) <= 1 and None not in free
    open_ = fixed == {1} or (len(free) > 1 and not one_name)
    return SampleAxis(on_axis=True, by_feed=open_, fixed=next(iter(fixed), None))


def rows_of(inputs: Sequence[InputInfo], *, by_feed: bool) -> tuple[InputInfo, ...]:
    """Return the inputs as arrays of data have them: with an axis of feeds in front, or as they are."""
    if not by_feed:
        return tuple(inputs)
    return tuple(
        InputInfo(i.name, None if i.shape is None else ("feeds", *i.shape), i.dtype, by_feed=True)
        for i in inputs
    )


def feeds_hint(inputs: Sequence[InputInfo]) -> str:
    """Say how data is given where inputs need not share an axis of samples; empty where they do."""
    if not sample_axis(inputs).by_feed or all(i.dims[:1] in ((), (1,)) for i in inputs):
        return ""
    listed = ", ".join(str(i) for i in inputs)
    return (
        f" The model's inputs ({listed}) need not share an axis of samples, so a feed can be a sample: give a folder "
        "with one .npz file a feed, a list of dicts, or a .npz file whose arrays have an axis of feeds in front."
    )

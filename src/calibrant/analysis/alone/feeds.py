"""The samples that layers are measured on, in feeds of a few, so that some can be looked at before the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from calibrant.data.batch import Batch
from calibrant.errors import DataError

__all__ = ["Feeds", "take_feeds"]

#: Samples and bytes of inputs in a feed, at most.
FEED, FEED_BYTES = 16, 4 * 2**20

#: Feeds, at the least, where there are enough samples: the first of them decide which layers are worth the rest.
PARTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Feeds:
    """Samples in feeds.

    Args:
        batches: One batch a feed.
        rows: Whether the rows of a feed are samples, and feeds may be cut.
        given: The batches as the data has them.
    """

    batches: tuple[Batch, ...]
    rows: bool
    given: tuple[Batch, ...]

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(b.size for b in self.batches)

    def first(self, share: int = PARTS) -> int:
        """Return how many feeds hold one part of so many of the samples; all of them where they cannot be parted."""
        wanted, seen = math.ceil(self.samples / share), 0
        for i, batch in enumerate(self.batches, 1):
            seen += batch.size
            if seen >= wanted:
                return i
        return len(self.batches)

    def cut(self, samples: int) -> Feeds:
        """Return the same samples in feeds of so many, at most."""
        return replace(self, batches=tuple(_cut(self.batches, samples)))

    @property
    def uncut(self) -> Feeds:
        """The same samples, in batches as the data has them."""
        return Feeds(self.given, False, self.given)


def take_feeds(stream: Iterator[Batch], samples: int | None, *, free: bool) -> Feeds:
    """Take the first samples of calibration data, or all.

    Args:
        stream: The data; no more of it is read than is taken.
        samples: How many; None for all.
        free: The model takes batches of any size.

    Raises:
        DataError: There is no data.
    """
    taken: list[Batch] = []
    count = 0
    for batch in stream:
        cuts = free and not batch.whole and samples is not None
        left = samples - count if cuts and samples is not None else batch.size
        taken.append(batch.part(0, left) if left < batch.size else batch)
        count += taken[-1].size
        if samples is not None and count >= samples:
            break
    if not taken:
        raise DataError("The data is empty: it yields no batch.")
    found = Feeds(tuple(taken), free and not any(b.whole for b in taken), tuple(taken))
    if not found.rows:
        return found
    each = max(1, sum(x.nbytes for x in taken[0].feeds.values()) // max(1, taken[0].size))
    return found.cut(max(1, min(FEED, FEED_BYTES // each, math.ceil(count / PARTS))))


def _cut(batches: Sequence[Batch], samples: int) -> Iterator[Batch]:
    for batch in batches:
        for start in range(0, batch.size, samples):
            yield batch.part(start, start + samples)

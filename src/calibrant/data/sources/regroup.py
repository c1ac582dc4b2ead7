"""Cut and join the feeds of a stream to batches of a fixed number of samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from calibrant.data.batch import AnyArray
from calibrant.data.sources.feeds import Feed
from calibrant.errors import DataError

__all__ = ["regroup"]


def regroup(feeds: Iterable[Feed], size: int | None, *, source: str) -> Iterator[Feed]:
    """Yield feeds of a fixed number of samples; the last one may have fewer.

    At most one feed and the samples of one result are held. Where the shape of samples, or a number that they share,
    changes from one feed to the next, the result before it ends early. A feed that is a sample of its own stays
    alone.

    Args:
        feeds: Feeds of any size.
        size: Samples in a result; None leaves the feeds as they are, but for those that hold several whole feeds.
        source: Their source, for messages.

    Raises:
        DataError: References of neighbouring feeds do not fit together.
    """
    held: list[Feed] = []
    count = 0
    for feed in feeds:
        if held and (feed.whole or _form(held[0]) != _form(feed)):
            yield _join(held, source)
            held, count = [], 0
        if feed.whole:
            yield from (_cut(feed, i, i + 1) for i in range(feed.size))
            continue
        if size is None:
            yield feed
            continue
        start = 0
        while start < feed.size:
            stop = min(feed.size, start + size - count)
            held.append(_cut(feed, start, stop))
            count += stop - start
            start = stop
            if count == size:
                yield _join(held, source)
                held, count = [], 0
    if held:
        yield _join(held, source)


def _form(feed: Feed) -> list[object]:
    """What feeds that are joined have in common: shapes and types of samples, and numbers that these share."""
    return [a.item() if a.ndim == 0 else (a.shape[1:], a.dtype) for a in feed.inputs.values()]


def _cut(feed: Feed, start: int, stop: int) -> Feed:
    if (start, stop) == (0, feed.size):
        return feed
    return Feed(
        {n: a if a.ndim == 0 else a[start:stop] for n, a in feed.inputs.items()},
        {n: a[start:stop] for n, a in feed.extras.items()},
        stop - start,
        feed.whole,
    )


def _join(feeds: Sequence[Feed], source: str) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    shared = [n for n in feeds[0].extras if all(n in f.extras for f in feeds)]
    try:
        return Feed(
            {n: _joined([f.inputs[n] for f in feeds]) for n in feeds[0].inputs},
            {n: _joined([f.extras[n] for f in feeds]) for n in shared},
            sum(f.size for f in feeds),
        )
    except ValueError as e:
        raise DataError(f"{source}: labels of neighbouring feeds do not fit together: {e}.") from e


def _joined(parts: Sequence[AnyArray]) -> AnyArray:
    return parts[0] if parts[0].ndim == 0 else np.concatenate(parts)
